"""Tidy tables of scores, their means, and the paper's tables beside ours.

A tidy table has one row per system, scene, listener and ear, with all that describes them. Scores that are missing stay
in it as NaN and are left out of every mean; `describe` says how many they are. What is inferred from such a table is
in `statistics`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from cadenza_lib.analysis.statistics import mean_interval, usable
from cadenza_lib.chain.pipeline import OFFICIAL
from cadenza_lib.core.conventions import EARS, STEMS
from cadenza_lib.core.errors import CorpusError, ParameterError
from cadenza_lib.data.audiograms import read_audiograms
from cadenza_lib.data.listeners import Listener, audiogram_identity, audiogram_table, ear_table
from cadenza_lib.data.opening import open_corpus
from cadenza_lib.scoring.evaluation import AUDIOGRAM, Settings, read_scores, read_settings, scores_path
from cadenza_lib.scoring.pairs import EAR_COLUMNS
from cadenza_lib.training.files import read_result

__all__ = [
    "PAPER_ASYMMETRIC_LISTENER",
    "PAPER_DATA_SIZE",
    "add_scene_and_ear_columns",
    "clipping_note",
    "data_size_table",
    "describe",
    "ear_columns",
    "featured_listener",
    "gain_table",
    "listeners_and_gains_db",
    "music",
    "summary_table",
    "system_label",
    "threshold_columns",
    "tidy_table",
]

PAPER_ASYMMETRIC_LISTENER = "L5000"
"""The paper's example: left ear near 40 dB HL from 500 to 2000 Hz and HAAQI 0.87, right ear above 70 and 0.22."""

PAPER_DATA_SIZE = {100: 0.6766, 200: 0.6792, 300: 0.6781, 400: 0.6785, 800: 0.6796}
"""Table 1 of the paper: validation HAAQI by number of training scenes, of which the official set has 400."""

_PAPER_OFFICIAL_SCENES = 400
_CLIPPED_OFTEN = 0.1  # share of a pair's samples


def system_label(settings: Settings) -> str:
    """Return a short name of what was evaluated: its label, or the system and whatever departs from the official chain.

    >>> system_label(Settings("twin", "valid", "oracle", mixture_weight=0.15, output_level_db=-6.0))
    'oracle, w = 0.15, -6 dB'

    >>> system_label(Settings("twin", "valid", "/study/finetune/24-0/best.safetensors", output_stage="soft_clip"))
    '24-0/best, soft_clip'
    """
    if settings.label:
        return settings.label
    parts = [settings.name]
    if settings.mixture_weight:
        parts.append(f"w = {settings.mixture_weight:g}" + " of the downmix" * (settings.mixture_into == "downmix"))
    if settings.wiener_exponent:
        parts.append(f"Wiener {settings.wiener_exponent:g}")
    if settings.output_level_db:
        parts.append(f"{settings.output_level_db:g} dB")
    if settings.prescription != OFFICIAL.prescription:
        parts.append(f"prescription {settings.prescription}")
    if settings.output_stage != OFFICIAL.output_stage:
        parts.append("no clip" if settings.output_stage == "none" else settings.output_stage)
    if settings.reference != OFFICIAL.reference:
        parts.append(f"reference {settings.reference}")
    return ", ".join(parts)


def tidy_table(
    score_dirs: Path | str | Sequence[Path | str],
    listeners: Mapping[str, Listener],
    gains_db: Mapping[str, Mapping[str, float]] | None = None,
) -> pd.DataFrame:
    """Return one row per system, scene, listener and ear.

    Parameters
    ----------
    score_dirs
        Directory of an evaluation, or several, or tables of scores with the official columns. A table
        without `settings.json` beside it, such as the challenge publishes, is named after its file, or after its
        directory if it is called `scores.csv`.
    listeners
        The split's listeners by id.
    gains_db
        Gain of each stem by scene, as from `listeners_and_gains_db`.

    Returns
    -------
    pandas.DataFrame
        Columns: system, scene, song, listener, ear, haaqi, `pairs.EAR_COLUMNS`, and those of
        `add_scene_and_ear_columns`. NaN where unknown.

    Raises
    ------
    CorpusError
        If a table is missing or empty, or has a listener who is not among `listeners` or had another audiogram.
    ParameterError
        If there is no table, or two have the same name.
    """
    if not score_dirs:
        raise ParameterError("No scores were given; name at least one directory that 03_evaluate wrote.")
    tables = []
    for source in [score_dirs] if isinstance(score_dirs, str | Path) else score_dirs:
        path, scores = scores_path(source), read_scores(source)
        _check_listeners(path, scores, listeners)
        for ear in EARS:
            tables.append(
                scores[["scene", "song", "listener"]].assign(
                    system=_label(path),
                    ear=ear,
                    haaqi=scores[f"{ear}_score"],
                    **{name: scores.get(f"{ear}_{name}", np.nan) for name in EAR_COLUMNS},
                )
            )
    table = pd.concat(tables, ignore_index=True)
    repeated = table.duplicated(["system", "scene", "listener", "ear"])
    if repeated.any():
        raise ParameterError(
            f"Scores called {table['system'][repeated].iloc[0]!r} were given twice; name each evaluation once, and "
            f"each checkpoint differently."
        )
    table = add_scene_and_ear_columns(table, listeners, gains_db)
    first = ["system", "scene", "song", "listener", "ear", "haaqi"]
    return table[[*first, *table.columns.drop(first)]]


def add_scene_and_ear_columns(
    table: pd.DataFrame,
    listeners: Mapping[str, Listener],
    gains_db: Mapping[str, Mapping[str, float]] | None = None,
) -> pd.DataFrame:
    """Return a table with columns scene, song, listener and ear, with what describes its scenes and ears added.

    These are music, gain_vocals_db to gain_other_db (NaN without `gains_db`), the columns of `listeners.ear_table`, and
    threshold_250_hz_db_hl and so on for each frequency that was measured in anyone (NaN where not in this listener).
    """
    table = table.assign(music=music(table["song"]))
    for stem in STEMS:
        gains = {scene: float(gain[stem]) for scene, gain in (gains_db or {}).items()}
        table[f"gain_{stem}_db"] = table["scene"].map(gains).astype(float)
    people = [listeners[name] for name in table["listener"].unique()]
    thresholds = audiogram_table(people).pivot(index=["listener", "ear"], columns="frequency", values="threshold_db_hl")
    thresholds.columns = [f"threshold_{frequency:g}_hz_db_hl" for frequency in thresholds.columns]
    ears = ear_table(people).merge(thresholds.reset_index(), on=["listener", "ear"])
    return table.merge(ears, on=["listener", "ear"], validate="many_to_one")


def music(songs: pd.Series) -> pd.Series:
    """Return the music of songs at the ears, which the challenge calls `<music>-<head position>`.

    The same music from other angles is no other song for any statistics.
    """
    return songs.str.replace(r"-hlp_\d+$", "", regex=True)


def threshold_columns(table: pd.DataFrame) -> list[str]:
    """Return the names of the columns with thresholds, by frequency."""
    return [name for name in table.columns if name.startswith("threshold_")]


def listeners_and_gains_db(
    corpus: str, split: str, listeners_file: str = ""
) -> tuple[Mapping[str, Listener], Mapping[str, Mapping[str, float]]]:
    """Return the listeners of a split by id, and the gain of each stem by scene.

    Parameters
    ----------
    corpus, split
        As for `data.open_corpus`; without a corpus, "", the gains are unknown.
    listeners_file
        Audiograms in the place of the split's listeners; see `data.read_audiograms`.

    Raises
    ------
    ParameterError
        If neither is given.
    """
    if not corpus and not listeners_file:
        raise ParameterError("There are no audiograms: give the corpus that was evaluated, or a listeners file.")
    if not corpus:
        return read_audiograms(listeners_file), {}
    data = open_corpus(corpus)
    chosen = data.split(split)
    gains_db = {name: data.gains[scene.gain] for name, scene in chosen.scenes.items()}
    return read_audiograms(listeners_file) if listeners_file else chosen.listeners, gains_db


def describe(table: pd.DataFrame) -> str:
    """Return one sentence about what a tidy table holds."""
    counts = {name: table[name].nunique() for name in ("system", "listener", "music", "scene")}
    sizes = [f"{n} {'song' if name == 'music' else name}{'s' if n != 1 else ''}" for name, n in counts.items()]
    subsets = {
        "missing and left out": table["haaqi"].isna(),
        "of a silent signal": table.get("loudness_lufs", pd.Series(dtype=float)) == -np.inf,
        "of ears without a pure-tone average": table["pta_db_hl"].isna(),
    }
    remarks = [f", {rows.sum()} of them {name}" for name, rows in subsets.items() if rows.any()]
    return f"{', '.join(sizes)}, {len(table)} scores of ears{''.join(remarks)}."


def clipping_note(score_dir: Path | str) -> str:
    """Return how many samples of an evaluation lie beyond full scale before the output stage.

    Raises
    ------
    CorpusError
        If there is no score, or the table does not have clipped shares, such as one that the challenge publishes.
    """
    scores, columns = read_scores(score_dir), [f"{ear}_clipped_share" for ear in EARS]
    if scores.empty or not set(columns) <= set(scores):
        raise CorpusError(f"{scores_path(score_dir)} has no clipped shares; give the directory of a 03_evaluate run.")
    share = scores[columns].mean(axis=1)
    often = 100 * (share > _CLIPPED_OFTEN).mean()
    return (
        f"{len(share)} pairs with {100 * share.mean():.1f} % of their samples clipped on average, and more than "
        f"{100 * _CLIPPED_OFTEN:g} % in {often:.0f} % of the pairs"
    )


def featured_listener(table: pd.DataFrame, preferred: str = PAPER_ASYMMETRIC_LISTENER) -> tuple[str, str]:
    """Return the listener whose two ears are compared, and a sentence about the choice.

    That is the preferred one if these scores have it, else the most asymmetric one.
    """
    if preferred in set(table["listener"]):
        return preferred, f"Listener {preferred}, the paper's example, is in these scores."
    asymmetry_db = table.groupby("listener", sort=False)["asymmetry_db"].first()
    absent = f"The paper's listener {preferred} is not in these scores; shown is"
    if asymmetry_db.isna().all():
        name = str(asymmetry_db.index[0])
        return name, f"{absent} {name}: no asymmetry is known."
    name = str(asymmetry_db.abs().idxmax())
    difference_db = f"right minus left pure-tone average {asymmetry_db[name]:+.1f} dB"
    return name, f"{absent} {name}, the most asymmetric one ({difference_db})."


def ear_columns(table: pd.DataFrame, listener: str) -> pd.DataFrame:
    """Return the two ears of a listener side by side, by system: loss in dB HL, mean HAAQI and clipped share."""
    ears = table[table["listener"] == listener].groupby(["system", "ear"], sort=False)
    means = ears[["pta_db_hl", "low_db_hl", "haaqi", "clipped_share"]].mean()
    return means.assign(n_scenes=ears["haaqi"].count()).reset_index()


def summary_table(table: pd.DataFrame) -> pd.DataFrame:
    """Return the mean HAAQI of each system with a 95 % interval over listeners and songs.

    Columns: system, n_pairs, n_listeners, n_left_out, haaqi, ci_low, ci_high, clipped_share. Systems keep the order of
    the table. Missing scores are left out: n_left_out counts the ears. One listener, or one song, has no interval.
    """
    rows = []
    for system, group in table.groupby("system", sort=False):
        scored = group.dropna(subset="haaqi")
        n_pairs = len(scored.drop_duplicates(["scene", "listener"]))
        size = (n_pairs, scored["listener"].nunique(), len(group) - len(scored))
        limits = mean_interval(scored["haaqi"].to_numpy(float), scored["listener"], scored["music"])
        rows.append((system, *size, scored["haaqi"].mean(), *limits, scored["clipped_share"].mean()))
    columns = ["system", "n_pairs", "n_listeners", "n_left_out", "haaqi", "ci_low", "ci_high", "clipped_share"]
    return pd.DataFrame(rows, columns=columns)


def gain_table(table: pd.DataFrame) -> pd.DataFrame:
    """Return mean HAAQI by the gain of each stem with 95 % intervals over listeners and songs, by system.

    The other stems of a scene have gains of their own, and few scenes have each gain: differences between neighbouring
    gains are as much differences between songs.

    Returns
    -------
    pandas.DataFrame
        Columns: system, stem, gain_db, n_ears, n_listeners, haaqi, ci_low, ci_high. Empty where gains are unknown.
    """
    means = []
    for stem in STEMS:
        column = f"gain_{stem}_db"
        for (system, gain_db), rows in usable(table, [column]).groupby(["system", column], sort=False):
            haaqi = rows["haaqi"].to_numpy(float)
            limits = mean_interval(haaqi, rows["listener"], rows["music"])
            means.append((system, stem, gain_db, len(rows), rows["listener"].nunique(), haaqi.mean(), *limits))
    columns = ["system", "stem", "gain_db", "n_ears", "n_listeners", "haaqi", "ci_low", "ci_high"]
    return pd.DataFrame(means, columns=columns)


def data_size_table(run_dirs: Sequence[Path | str]) -> pd.DataFrame:
    """Return validation HAAQI by the size of the training set, the paper's Table 1 beside ours.

    The paper's row with the same share of the official training set is put beside each of ours.

    Parameters
    ----------
    run_dirs
        Directories of finished runs of `training.finetune`, which differ in `n_scenes` and in seeds.

    Returns
    -------
    pandas.DataFrame
        Columns: n_scenes, share (of the split's own scenes), n_runs, haaqi_before, haaqi (mean over runs of the best
        checkpoint), sd (over runs, NaN for one), paper_n_scenes, paper_haaqi (NaN where the paper has none).

    Raises
    ------
    ParameterError
        If no run is given, or one has no validation HAAQI.
    CorpusError
        If a run is not finished.
    """
    if not run_dirs:
        raise ParameterError("No runs were given; name at least one directory that 02_finetune wrote.")
    rows = []
    for folder in run_dirs:
        result = read_result(folder)
        if result.haaqi_best is None:
            raise ParameterError(f"{folder} has no validation HAAQI; train with n_valid_pairs above 0.")
        share = result.n_scenes / result.n_split_scenes
        rows.append((result.n_scenes, share, result.haaqi_before, result.haaqi_best))
    runs = pd.DataFrame(rows, columns=["n_scenes", "share", "haaqi_before", "haaqi"])
    table = runs.groupby(["n_scenes", "share"], as_index=False).agg(
        n_runs=("haaqi", "size"), haaqi_before=("haaqi_before", "mean"), haaqi=("haaqi", "mean"), sd=("haaqi", "std")
    )
    paper = {number / _PAPER_OFFICIAL_SCENES: (number, haaqi) for number, haaqi in PAPER_DATA_SIZE.items()}
    table[["paper_n_scenes", "paper_haaqi"]] = [paper.get(share, (np.nan, np.nan)) for share in table["share"]]
    return table


def _check_listeners(path: Path, scores: pd.DataFrame, listeners: Mapping[str, Listener]) -> None:
    """Refuse an empty table, unknown listeners, and listeners who had other audiograms."""
    if scores.empty:
        raise CorpusError(f"{path} has no rows yet; let the evaluation finish.")
    for line, name in scores["listener"].items():
        if name not in listeners:
            alike = "".join(f" (it has {other!r})" for other in listeners if other.lower() == name.lower())
            raise CorpusError(
                f"{path}, line {line} has the listener {name!r}, who is not in this split{alike}; give the corpus and "
                f"split that were evaluated."
            )
    for name, audiogram in zip(scores["listener"], scores.get(AUDIOGRAM, ()), strict=False):
        if audiogram != audiogram_identity(listeners[name]):
            raise CorpusError(
                f"{path} was computed for other thresholds of listener {name!r} than are given; evaluate again, or "
                f"give the listeners that were evaluated."
            )


def _label(path: Path) -> str:
    """Return what a table of scores is called."""
    if path.name != "scores.csv":
        return path.stem
    folder = path.parent
    return system_label(read_settings(folder)) if (folder / "settings.json").exists() else folder.resolve().name
