import itertools
import json
import shutil
from concurrent.futures import BrokenExecutor, Executor, Future
from dataclasses import asdict

import numpy as np
import pandas as pd
import pytest

from cadenza_lib.chain.pipeline import ChainSettings
from cadenza_lib.core.errors import CadenzaError, CorpusError, ParameterError
from cadenza_lib.core.paths import DATA
from cadenza_lib.data.corpus import Corpus
from cadenza_lib.data.opening import open_corpus
from cadenza_lib.data.tiny import tiny_corpus
from cadenza_lib.scoring import evaluation, kept, sweep
from cadenza_lib.scoring.sweep import Sweep, candidate_of, grid, search_and_test, simplex_grid
from cadenza_lib.separation.separators import load

MODELS = ["oracle", "mixture"]  # which need no network


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return str(tiny_corpus(tmp_path_factory.mktemp("tiny")))


@pytest.fixture
def pairs(corpus):
    return search_and_test(Corpus(corpus), "train", "train", 0, 0)[0]


def test_a_sweep_scores_what_an_evaluation_scores(corpus, pairs, tmp_path):
    candidate = ChainSettings(model_weights=(0.7, 0.3), mixture_weight=0.15, output_level_db=-6.0)
    ours = Sweep(corpus, MODELS, tmp_path / "sweep", progress=False).scores([candidate], pairs)
    settings = evaluation.Settings(corpus, "train", tuple(MODELS), **asdict(candidate))
    separators = [load(name) for name in MODELS]
    full = evaluation.evaluate(Corpus(corpus), separators, settings, pairs.pairs, tmp_path / "full", progress=False)
    assert len(ours) == len(full) == 2
    assert (ours["set"] == "search").all()
    assert candidate_of(ours.iloc[0]) == candidate
    scores = ["left_score", "right_score", "score"]
    np.testing.assert_allclose(ours[scores], full[scores], rtol=0, atol=1e-6)  # as for `bases`
    assert ours[["scene", "song", "listener"]].equals(full[["scene", "song", "listener"]])


class _StopAfterError(Exception):
    pass


def test_a_sweep_that_was_stopped_goes_on_and_gives_the_same_table(corpus, pairs, quick_score, tmp_path, monkeypatch):
    candidates = grid(simplex_grid(2, 2), [0.0, 0.15], [-6.0, 0.0])
    whole = Sweep(corpus, MODELS, tmp_path / "whole", progress=False).scores(candidates, pairs)
    assert len(quick_score) == len(whole) == 12 * 2

    append = kept.append_row
    left = itertools.count(10, -1)

    def stop_after_ten(path, row):
        if next(left) == 0:
            raise _StopAfterError
        append(path, row)

    monkeypatch.setattr(kept, "append_row", stop_after_ten)
    stopped = Sweep(corpus, MODELS, tmp_path / "stopped", progress=False)
    with pytest.raises(_StopAfterError):
        stopped.scores(candidates, pairs)
    monkeypatch.setattr(kept, "append_row", append)
    with (tmp_path / "stopped" / "scores.csv").open("a") as file:
        file.write('train,"[0.5, 0.5]",0.1')  # what a kill in the middle of a write leaves
    quick_score.clear()
    resumed = Sweep(corpus, MODELS, tmp_path / "stopped", progress=False).scores(candidates, pairs)
    assert len(quick_score) == 12 * 2 - 10
    pd.testing.assert_frame_equal(resumed, whole, check_exact=True)


def test_what_has_been_scored_is_not_scored_again(corpus, pairs, quick_score, tmp_path):
    candidate = ChainSettings(
        model_weights=(1 / 3, 2 / 3), mixture_weight=0.1
    )  # numbers that a table must keep to the last bit
    for _ in range(2):
        table = Sweep(corpus, MODELS, tmp_path, progress=False).scores([candidate, candidate], pairs)
    assert len(table) == 4
    assert len(quick_score) == 2


@pytest.mark.usefixtures("quick_score")
def test_an_executor_gives_the_same_table(corpus, pairs, tmp_path):
    from concurrent.futures import ThreadPoolExecutor

    candidates = grid([(1.0, 0.0), (0.5, 0.5)], [0.0, 0.3])
    alone = Sweep(corpus, MODELS, tmp_path / "alone", progress=False).scores(candidates, pairs)
    with ThreadPoolExecutor(1) as executor:
        shared = Sweep(corpus, MODELS, tmp_path / "shared", executor=executor, progress=False).scores(candidates, pairs)
    pd.testing.assert_frame_equal(shared, alone, check_exact=True)


@pytest.mark.usefixtures("quick_score")
def test_another_sweep_is_not_mixed_in(corpus, tmp_path):
    Sweep(corpus, MODELS, tmp_path, progress=False)
    with pytest.raises(ParameterError, match=r"holds results with identities .*; choose another"):
        Sweep(corpus, MODELS[::-1], tmp_path, progress=False)


def test_two_copies_of_one_model_are_refused(corpus, tmp_path):
    for suffix in (".safetensors", ".json"):
        shutil.copy(DATA / f"demo_openunmix{suffix}", tmp_path / f"best{suffix}")
    models = ["oracle", "demo_openunmix", str(tmp_path / "best.safetensors")]
    with pytest.raises(ParameterError, match=r"demo_openunmix and .*best\.safetensors hold the same weights"):
        Sweep(corpus, models, tmp_path / "sweep", progress=False)


@pytest.mark.usefixtures("quick_score")
def test_a_table_of_something_else_is_refused(corpus, pairs, tmp_path):
    Sweep(corpus, MODELS, tmp_path, progress=False).scores([ChainSettings(model_weights=(1.0, 0.0))], pairs)
    path = tmp_path / "scores.csv"
    path.write_text(path.read_text().replace(",stems,", ",perhaps,"))
    with pytest.raises(CorpusError, match=r"scores\.csv is not a table of scores .*repair it, or sweep into another"):
        Sweep(corpus, MODELS, tmp_path, progress=False)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "is not valid JSON"),
        ('{"corpus": "de', "is not valid JSON"),
        ("[]", "does not hold settings of results .*; choose another"),
        ('{"corpus": "twin"}', "does not hold settings of results .*; choose another"),
        ('{"corpus": NaN}', "corpus is nan, which is not a finite number"),
    ],
)
def test_damaged_settings_are_refused_in_one_sentence(corpus, tmp_path, text, sentence):
    (tmp_path / "sweep.json").write_text(text)
    with pytest.raises(CadenzaError, match=rf"{tmp_path}/sweep\.json .*{sentence}"):
        Sweep(corpus, MODELS, tmp_path, progress=False)


class _Dead(Executor):
    """Breaks now, or with the result."""

    def __init__(self, when):
        self.when = when

    def submit(self, *_):
        future = Future()
        future.set_exception(BrokenExecutor("A process was terminated abruptly."))
        return future if self.when == "later" else future.result()


@pytest.mark.parametrize("when", ["now", "later"])
def test_a_process_that_dies_is_told_in_one_sentence(corpus, pairs, tmp_path, when):
    dead = Sweep(corpus, MODELS, tmp_path, executor=_Dead(when), progress=False)
    with pytest.raises(ParameterError, match=rf"scored for {tmp_path} died, .*fewer jobs, which goes on"):
        dead.scores([ChainSettings(model_weights=(1.0, 0.0))], pairs)


@pytest.mark.usefixtures("quick_score")
def test_what_another_process_has_scored_since_is_not_scored_again(corpus, pairs, tmp_path):
    ours, theirs = (Sweep(corpus, MODELS, tmp_path, progress=False) for _ in range(2))
    candidates = grid(simplex_grid(2, 1), [0.0])
    theirs.scores(candidates[:1], pairs)
    table = ours.scores(candidates, pairs)
    with (tmp_path / "scores.csv").open() as file:
        rows = file.read().splitlines()
    assert len(rows) == len(set(rows)) == 1 + len(table)


def test_search_and_held_out_pairs_share_no_song(corpus):
    for data, test_split in ((Corpus(corpus), "train"), (open_corpus("twin"), "test")):
        split = "train" if test_split == "train" else "valid"
        on, held_out = search_and_test(data, split, test_split, 2, 2)
        assert (on.name, held_out.name) == ("search", "held-out")
        songs = [{data.split(part.split).scenes[pair.scene].music for pair in part.pairs} for part in (on, held_out)]
        assert not songs[0] & songs[1]
        assert len(on.pairs) == len(held_out.pairs) == 2


def test_splits_that_share_a_song_are_refused(corpus):
    data = Corpus(corpus)
    data._splits["copy"] = data.split("train")
    data.__class__ = type("TwoSplits", (Corpus,), {"splits": property(lambda _: ["copy", "train"])})
    with pytest.raises(CorpusError, match="Splits 'train' and 'copy' share 'Tiny 1'; choose others"):
        search_and_test(data, "train", "copy", 1, 1)


@pytest.mark.parametrize("values", [{"mixture_weights": []}, {"mixture_weights": [0.1, 0.1]}, {"output_levels_db": []}])
def test_a_grid_of_nothing_or_of_something_twice_is_an_error(values):
    with pytest.raises(ParameterError, match="must hold at least one value, and each once"):
        grid(**{"model_weights": [(1.0, 0.0)], "mixture_weights": [0.0]} | values)
    with pytest.raises(ParameterError, match=r"model_weights \[\[1.0\], \[1.0\]\] must hold"):
        grid([[1.0], [1.0]], [0.0])


def test_a_simplex_grid_has_all_multiples_and_nothing_else():
    weights = simplex_grid(3, 4)
    assert len(set(weights)) == len(weights) == 15  # (4 + 2) over 2
    assert all(sum(row) == 1 and min(row) >= 0 for row in weights)
    with pytest.raises(ParameterError, match="at least 1 model and 1 interval, not 2 and 0"):
        simplex_grid(2, 0)


def test_candidates_survive_a_table(tmp_path):
    candidates = [
        ChainSettings(model_weights=(1 / 3, 2 / 3), mixture_weight=0.1),
        ChainSettings(
            model_weights=((0.1, 0.9), (0.9, 0.1)), mixture_weight=0.2, output_level_db=-3.0, output_stage="none"
        ),
        ChainSettings(model_weights=(0.0, 1.0), output_stage="compressor", reference="same"),
    ]
    rows = [asdict(candidate) | {"model_weights": json.dumps(candidate.model_weights)} for candidate in candidates]
    pd.DataFrame(rows, columns=list(sweep.CANDIDATE_COLUMNS)).to_csv(tmp_path / "x.csv")
    table = pd.read_csv(tmp_path / "x.csv")
    assert [candidate_of(row) for _, row in table.iterrows()] == candidates
