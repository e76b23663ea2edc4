import pytest

from cadenza_lib.analysis.output_stages import compare_stages
from cadenza_lib.chain.pipeline import ChainSettings
from cadenza_lib.data.opening import open_corpus
from cadenza_lib.data.tiny import tiny_corpus
from cadenza_lib.scoring.sweep import Sweep, search_and_test

LEVELS_DB = (0.0, -12.0)


@pytest.fixture(scope="module")
def stages(tmp_path_factory):
    root = tiny_corpus(tmp_path_factory.mktemp("stages") / "corpus")
    sweep = Sweep(str(root), ["oracle", "mixture"], root.parent / "sweep", progress=False)
    pairs = search_and_test(open_corpus(str(root)), "train", "train", 0, 0)
    asked = (["oracle", "mixture"], ["limiter", "compressor"], LEVELS_DB, ChainSettings(prescription="none"))
    return sweep, pairs, compare_stages(sweep, *pairs, *asked)


def test_each_stage_has_the_level_that_was_best_on_other_songs(stages):
    sweep, (searched, _), table = stages
    for system, weights in (("oracle", (1.0, 0.0)), ("mixture", (0.0, 1.0))):
        row = table[(table["system"] == system) & (table["stage"] == "limiter")].iloc[0]
        tried = [
            ChainSettings(model_weights=weights, prescription="none", output_stage="limiter", output_level_db=level_db)
            for level_db in LEVELS_DB
        ]
        means = [sweep.scores([candidate], searched)["score"].mean() for candidate in tried]
        assert row["level_db"] == LEVELS_DB[means.index(max(means))]


def test_the_reference_of_a_compressor_goes_through_it_and_the_official_output_is_what_all_are_compared_with(stages):
    _, (_, held_out), table = stages
    whole = table[table["severity"] == "all"].set_index(["system", "stage"])
    assert whole.loc[("oracle", "compressor"), ["reference", "haaqi"]].tolist() == ["same", pytest.approx(1, abs=5e-3)]
    assert set(whole.xs("limiter", level="stage")["reference"]) == {"linear"}
    assert (whole.xs("hard_clip, 0 dB", level="stage")["difference"] == 0).all()
    assert set(whole["n_pairs"]) == {len(held_out.pairs)}
