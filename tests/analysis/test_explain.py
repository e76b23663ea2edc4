"""What a difference between two splits is made of: known effects, all orders, and scores by the whole chain."""

import itertools
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import soundfile
from torch import Tensor

from cadenza_lib.analysis import explain
from cadenza_lib.analysis.explain import FACTORS, THROUGH, divide, explain_difference
from cadenza_lib.analysis.findings import fall_table
from cadenza_lib.chain.pipeline import ChainSettings, enhance, reference_remix
from cadenza_lib.core.errors import CorpusError, ParameterError
from cadenza_lib.data.corpus import AtEarSong, Corpus
from cadenza_lib.data.listeners import BISGAARD_FREQUENCIES, BISGAARD_THRESHOLDS_DB_HL, listener_entry
from cadenza_lib.data.tiny import tiny_corpus
from cadenza_lib.scoring.pairs import score

ROUNDING = 1e-12
HAAQI_TOLERANCE = 1e-5
"""The resampler rounds to 20 bits, so where a song is scaled first, some samples have another last bit of 16."""

N_PAIRS = 12


def entry_of(name: str, *ears: str) -> dict[str, Any]:
    """Return a listener with two standard audiograms as the challenge's files hold it."""
    return listener_entry(name, BISGAARD_FREQUENCIES, *(BISGAARD_THRESHOLDS_DB_HL[ear] for ear in ears))


def described(n_pairs: int = N_PAIRS) -> pd.DataFrame:
    """Return pairs of which each listener and each song has several."""
    numbers = np.arange(n_pairs)
    return pd.DataFrame({"listener": numbers % 4, "song": numbers // 3})


def divided(score_of: Callable[..., Any]) -> pd.Series:
    """Return contributions to the difference of scores from a formula of level, hearing, songs, stage and system."""
    level, hearing, stage, system = np.indices((2, 2, 2, 2))
    values = [score_of(level, hearing, songs, stage, system) for songs in (0, 1)]
    scores = [np.broadcast_to(each, (N_PAIRS, 2, 2, 2, 2)) for each in values]
    return divide(scores, [described()] * 2).set_index(["factor", "through"])["contribution"]


def test_additive_effects_are_found() -> None:
    found = divided(
        lambda lev, hear, songs, stage, sys: 1 - stage * (0.1 * lev + 0.2 * hear) - 0.3 * sys - 0.04 * songs
    )
    expected = {
        ("level of the songs", "output stage"): -0.1,
        ("hearing of the listeners", "output stage"): -0.2,
        ("songs and what is left", "neither"): -0.04,
        ("all", "output stage"): -0.3,
        ("all", "neither"): -0.04,
        **{(factor, "all"): value for factor, value in zip(FACTORS, (-0.1, -0.2, -0.04, -0.34), strict=True)},
    }
    assert found[list(expected)].to_list() == pytest.approx(list(expected.values()), abs=ROUNDING)
    assert found.drop(list(expected)).abs().max() < ROUNDING  # such as the 0.3 that both splits lose by the separation


def test_an_interaction_is_shared_equally_by_those_who_make_it() -> None:
    found = divided(lambda lev, hear, songs, stage, sys: -0.06 * lev * hear * stage - 0.04 * songs * stage * sys)
    expected = {
        ("level of the songs", "output stage"): -0.03,
        ("hearing of the listeners", "output stage"): -0.03,
        ("songs and what is left", "output stage"): -0.02,
        ("songs and what is left", "separation"): -0.02,
    }
    assert found[list(expected)].to_list() == pytest.approx(list(expected.values()), abs=ROUNDING)
    inner = found.drop([*((factor, "all") for factor in FACTORS), *(("all", way) for way in THROUGH[:-1])])
    assert inner.drop(list(expected)).abs().max() < ROUNDING


def by_all_orders(scores: list[np.ndarray], factor: int, way: int) -> float:
    """Return a contribution by exchanging in every order: factors and, in between, output stage and separation."""
    means = np.stack([each.mean(0) for each in scores], axis=2)  # (level, hearing, songs, stage, system)

    def effect(players: int, player: int, value: Callable[[tuple[int, ...]], float]) -> float:
        changes = []
        for order in itertools.permutations(range(players)):
            before = [int(order.index(other) < order.index(player)) for other in range(players)]
            after = [there or other == player for other, there in enumerate(before)]
            changes.append(value(tuple(map(int, after))) - value(tuple(before)))
        return float(np.mean(changes))

    def part(exchanged: tuple[int, ...]) -> float:
        if way == 2:
            return means[*exchanged, 0, 0]
        return effect(2, way, lambda there: means[*exchanged, *there])

    return effect(3, factor, part)


def test_contributions_are_averages_over_all_orders_and_add_up() -> None:
    rng = np.random.default_rng(0)
    scores = [rng.uniform(size=(N_PAIRS, 2, 2, 2, 2)) for _ in range(2)]
    table = divide(scores, [described()] * 2)
    grid = table["contribution"].to_numpy().reshape(4, 4)
    expected = [[by_all_orders(scores, factor, way) for way in range(3)] for factor in range(3)]
    np.testing.assert_allclose(grid[:3, :3], expected, rtol=0, atol=ROUNDING)
    np.testing.assert_allclose(grid[3], grid[:3].sum(0), rtol=0, atol=ROUNDING)
    np.testing.assert_allclose(grid[:, 3], grid[:, :3].sum(1), rtol=0, atol=ROUNDING)
    measured = scores[1][:, 1, 1, 1, 1].mean() - scores[0][:, 0, 0, 1, 1].mean()
    assert grid[3, 3] == pytest.approx(measured, abs=ROUNDING)
    np.testing.assert_allclose(table["share"], table["contribution"] / measured, rtol=1e-9)

    swapped = divide([np.flip(each, (1, 2)) for each in reversed(scores)], [described()] * 2)
    np.testing.assert_allclose(swapped["contribution"], -table["contribution"], rtol=0, atol=ROUNDING)


def test_the_whole_difference_has_the_interval_of_the_fall() -> None:
    rng = np.random.default_rng(0)
    scores = [rng.uniform(size=(N_PAIRS, 2, 2, 2, 2)) for _ in range(2)]
    last = divide(scores, [described()] * 2).iloc[-1]
    rows = [
        described().astype(str).assign(split=split, system="net", score=values, scene=[f"s{i}" for i in range(N_PAIRS)])
        for split, values in (("valid", scores[0][:, 0, 0, 1, 1]), ("test", scores[1][:, 1, 1, 1, 1]))
    ]
    fall = fall_table(pd.concat(rows)).iloc[0]
    expected = [-fall[name] for name in ("fall", "fall_high", "fall_low")]
    assert last[["contribution", "low", "high"]].to_list() == pytest.approx(expected, abs=ROUNDING)


@pytest.fixture(scope="module")
def two_splits(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """Return a corpus with a split "soft": the songs of "train" 6.02 dB softer, for two listeners who hear worse."""
    root = tiny_corpus(tmp_path_factory.mktemp("corpus") / "tiny", 0.5)
    shutil.copytree(root / "audio/music/train", root / "audio/music/soft")
    for path in root.glob("audio/music/soft/*/*.wav"):
        samples, rate = soundfile.read(path)
        soundfile.write(path, samples / 2, rate, subtype="FLOAT")
    metadata = root / "metadata"
    for kind in ("musdb18", "scenes", "scene_listeners", "listeners"):
        content = (metadata / f"{kind}.train.json").read_text().replace("train/", "soft/")
        (metadata / f"{kind}.soft.json").write_text(content)
    people = {name: entry_of(name, *ears) for name, ears in (("A", ("N3", "N3")), ("B", ("N5", "N4")))}
    (metadata / "listeners.soft.json").write_text(json.dumps(people))
    return Corpus(root)


def explained(corpus: Corpus, out_dir: Path, system: str = "mixture", n_pairs: int = 1, **options: Any) -> pd.DataFrame:
    return explain_difference(
        str(corpus.root), system, ["train", "soft"], n_pairs, out_dir, device="cpu", progress=False, **options
    )


def test_every_kept_score_is_that_of_the_whole_chain_with_the_song_scaled(
    two_splits: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def separate(song: AtEarSong) -> Tensor:
        return 0.6 * song.stems + 0.1 * song.mixture

    monkeypatch.setattr(explain, "load", lambda *_: separate)
    settings = ChainSettings(mixture_weight=0.15, wiener_exponent=1.5, output_level_db=3.0)
    table = explained(two_splits, tmp_path, settings=settings)
    (path,) = tmp_path.glob("scores.*.csv")
    rows = pd.read_csv(path)
    assert len(rows) == 24  # of both pairs: with the stage two levels, without it one; two listeners, two sets of stems
    # By the better ear: N1 of B before N2 of A in "train", and N3 of A before N4 of B in "soft".
    ranks = {"train": ["B", "A"], "soft": ["A", "B"]}
    for row in rows.itertuples():
        split = two_splits.split(row.split)
        scene = split.scenes[row.scene]
        song, gains_db = two_splits.at_ear_song(split, scene), two_splits.gains_db(scene)
        name = ranks[row.hearing][ranks[row.split].index(row.listener)]
        listener = two_splits.split(row.hearing).listeners[name]
        gain = 10 ** (row.level_db / 20)
        scaled = replace(song, stems=song.stems * gain, mixture=song.mixture * gain)
        stems = separate(scaled) if row.stems == "estimated" else scaled.stems
        chain = replace(settings, output_stage=row.output_stage)
        chain = chain if row.stems == "estimated" else replace(chain, mixture_weight=0.0, wiener_exponent=0.0)
        output = enhance(scaled, [stems], gains_db, listener, chain)
        expected = score(output, reference_remix(scaled, gains_db), listener, row.scene)
        assert row.score == pytest.approx(expected.mean, abs=HAAQI_TOLERANCE)
    staged = rows[rows["output_stage"] == "hard_clip"]
    assert staged.groupby("split")["level_db"].unique().map(sorted).to_dict() == {
        "soft": [0, 6.02],
        "train": [-6.02, 0],
    }
    official = staged[(staged["split"] == staged["hearing"]) & (staged["level_db"] == 0) & (staged["stems"] != "true")]
    means = official.set_index("split")["score"]
    assert table["contribution"].iloc[-1] == pytest.approx(means["soft"] - means["train"], abs=ROUNDING)


def test_a_stopped_run_goes_on_and_changed_listeners_are_scored_again(
    two_splits: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick_score: list[Any]
) -> None:
    corpus = Corpus(shutil.copytree(two_splits.root, tmp_path / "corpus"))
    expected = explained(corpus, tmp_path / "whole", n_pairs=4)
    n_scores = len(quick_score)
    assert n_scores == 2 * 4 * 12
    original, quick_score[:] = explain.PairBases, []

    def stopping(*arguments: Any) -> Any:
        if len(quick_score) >= n_scores // 3:
            raise KeyboardInterrupt
        return original(*arguments)

    monkeypatch.setattr(explain, "PairBases", stopping)
    with pytest.raises(KeyboardInterrupt):
        explained(corpus, tmp_path / "out", n_pairs=4)
    monkeypatch.setattr(explain, "PairBases", original)
    resumed = explained(corpus, tmp_path / "out", n_pairs=4)
    assert len(quick_score) == n_scores
    pd.testing.assert_frame_equal(resumed, expected, rtol=ROUNDING)

    path = corpus.metadata / "listeners.soft.json"
    people = json.loads(path.read_text()) | {"B": entry_of("B", "N6", "N6")}
    path.write_text(json.dumps(people))
    explained(corpus, tmp_path / "out", n_pairs=4)
    (table,) = (tmp_path / "out").glob("scores.*.csv")
    rows = pd.read_csv(table)
    # Those in which the B of "soft" hears: their own pairs and those of the counterpart, the A of "train".
    heard_by_b = rows[
        (rows["hearing"] == "soft") & (rows["listener"] == rows["split"].map({"soft": "B", "train": "A"}))
    ]
    assert len(quick_score) - n_scores == len(heard_by_b) > 0


@pytest.mark.usefixtures("quick_score")
def test_pairs_of_the_twin_are_explained(tmp_path: Path) -> None:
    table = explain_difference("twin", "mixture", ["valid", "test"], 1, tmp_path, progress=False)
    assert table["factor"].drop_duplicates().to_list() == list(FACTORS)
    grid = table["contribution"].to_numpy().reshape(4, 4)
    np.testing.assert_allclose(grid[3], grid[:3].sum(0), rtol=0, atol=ROUNDING)
    assert table["low"].isna().all()  # one listener
    (path,) = tmp_path.glob("scores.*.csv")
    levels_db = pd.read_csv(path).groupby("split")["level_db"].agg("max")
    assert levels_db["valid"] == pytest.approx(6.0, abs=2 * 2 * 1.3)  # of two songs, with a deviation of 1.3 LU


def test_what_cannot_be_compared_is_refused(two_splits: Corpus, tmp_path: Path) -> None:
    for splits in (["train"], ["train", "train"], ["train", "soft", "train"]):
        with pytest.raises(ParameterError, match="name two different ones"):
            explain_difference(str(two_splits.root), "mixture", splits, 1, tmp_path / "out")
    with pytest.raises(ParameterError, match="The reference 'same' depends on the level"):
        explained(two_splits, tmp_path / "out", settings=ChainSettings(reference="same"))
    with pytest.raises(ParameterError, match="n_pairs 99 must lie between 0"):
        explained(two_splits, tmp_path / "out", n_pairs=99)
    corpus = Corpus(shutil.copytree(two_splits.root, tmp_path / "corpus"))
    people = json.loads((corpus.metadata / "listeners.soft.json").read_text())
    for key in ("audiogram_cfs", "audiogram_levels_l", "audiogram_levels_r"):
        people["A"][key] = people["A"][key][:6]  # to 1.5 kHz
    (corpus.metadata / "listeners.soft.json").write_text(json.dumps(people))
    with pytest.raises(ParameterError, match="Listener 'A' of split 'soft' has no rank"):
        explained(corpus, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("quick_score")
def test_damaged_scores_are_refused(two_splits: Corpus, tmp_path: Path) -> None:
    explained(two_splits, tmp_path)
    (path,) = tmp_path.glob("scores.*.csv")
    lines = path.read_text().splitlines()
    cells = lines[1].split(",")
    cells[8] = "good"
    path.write_text("\n".join([lines[0], ",".join(cells), *lines[2:], ""]))
    with pytest.raises(CorpusError, match="score is 'good', but a number is expected"):
        explained(two_splits, tmp_path)
