"""Tidy tables of scores, their means, and the paper's tables beside ours.

A tidy table has one row per system, scene, listener and ear, and all that is known of it. Scores that are missing stay
in it as NaN and are left out of every mean; `describe` tells how many they are. What is inferred from such a table is
in `inference`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from cadenza_lib.analysis.statistics import bootstrap_interval, bootstrap_weights, percentiles, usable
from cadenza_lib.chain.pipeline import OFFICIAL
from cadenza_lib.core.conventions import EARS, STEMS
from cadenza_lib.core.errors import CorpusError, ParameterError
from cadenza_lib.data.listeners import Listener, audiogram_identity, audiogram_table, ear_table, load_listeners
from cadenza_lib.data.opening import open_corpus
from cadenza_lib.scoring.evaluation import AUDIOGRAM, EAR_COLUMNS, Settings, read_scores, read_settings, scores_path
from cadenza_lib.training.finetuning import read_result

__all__ = [
    "ASYMMETRY_DB",
    "PAPER_ASYMMETRIC_LISTENER",
    "PAPER_DATA_SIZE",
    "data_size_table",
    "describe",
    "ear_columns",
    "featured_listener",
    "gain_table",
    "known_columns",
    "listeners_and_gains_db",
    "summary_table",
    "system_label",
    "threshold_column",
    "threshold_columns",
    "tidy_table",
]

PAPER_ASYMMETRIC_LISTENER = "L5000"
"""The paper's example: left ear near 40 dB HL from 500 to 2000 Hz and HAAQI 0.87, right ear above 70 and 0.22."""

ASYMMETRY_DB = 15.0
"""Difference of the pure-tone averages from which a listener counts as asymmetric, in dB; a usual clinical bound."""

PAPER_DATA_SIZE = {100: 0.6766, 200: 0.6792, 300: 0.6781, 400: 0.6785, 800: 0.6796}
"""Table 1 of the paper: validation HAAQI by number of training scenes, of which the official set has 400."""

_PAPER_OFFICIAL_SCENES = 400


def system_label(settings: Settings) -> str:
    """Return a short name of what was evaluated: its label, or the system and whatever departs from the official chain.

    >>> system_label(Settings("demo", "valid", "oracle", mixture_weight=0.15, output_level_db=-6.0))
    'oracle, w = 0.15, -6 dB'

    >>> system_label(Settings("demo", "valid", "/study/finetune/24-0/best.safetensors", output_stage="soft_clip"))
    '24-0/best, soft_clip'
    """
    if settings.label:
        return settings.label
    parts = [settings.name]
    if settings.mixture_weight:
        parts.append(f"w = {settings.mixture_weight:g}" + " of the downmix" * (settings.mixture_into == "downmix"))
    if settings.output_level_db:
        parts.append(f"{settings.output_level_db:g} dB")
    if settings.prescription != OFFICIAL.prescription:
        parts.append(f"prescription {settings.prescription}")
    if settings.output_stage != OFFICIAL.output_stage:
        parts.append("no clip" if settings.output_stage == "none" else settings.output_stage)
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
        Columns: system, scene, song, listener, ear, haaqi, `evaluation.EAR_COLUMNS`, and those of `known_columns`. NaN
        where unknown.

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
    for given in [score_dirs] if isinstance(score_dirs, str | Path) else score_dirs:
        path, scores = scores_path(given), read_scores(given)
        if scores.empty:
            raise CorpusError(f"{path} has no rows yet; let the evaluation finish.")
        unknown = scores.loc[~scores["listener"].isin(list(listeners)), "listener"]
        if len(unknown):
            line, name = next(unknown.items())
            alike = [other for other in listeners if other.lower() == name.lower()]
            raise CorpusError(
                f"{path}, line {line} has the listener {name!r}, who is not in this split"
                f"{f' (it has {alike[0]!r})' if alike else ''}; give the corpus and split that were evaluated."
            )
        for name, audiogram in zip(scores["listener"], scores.get(AUDIOGRAM, ()), strict=False):
            if audiogram != audiogram_identity(listeners[name]):
                raise CorpusError(
                    f"{path} was computed for other thresholds of listener {name!r} than are given; evaluate again, or "
                    f"give the listeners that were evaluated."
                )
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
    key = ["system", "scene", "listener", "ear"]
    if table.duplicated(key).any():
        twice = table.loc[table.duplicated(key), "system"].iloc[0]
        raise ParameterError(
            f"Scores called {twice!r} were given twice; name each evaluation once, and each checkpoint differently."
        )
    table = known_columns(table, listeners, gains_db)
    first = ["system", "scene", "song", "listener", "ear", "haaqi"]
    return table[[*first, *table.columns.drop(first)]]


def known_columns(
    table: pd.DataFrame,
    listeners: Mapping[str, Listener],
    gains_db: Mapping[str, Mapping[str, float]] | None = None,
) -> pd.DataFrame:
    """Add what is known of scenes and ears to a table with columns scene, song, listener and ear.

    These are music, gain_vocals_db to gain_other_db (NaN without `gains_db`), the columns of `listeners.ear_table`, and
    threshold_250_hz_db_hl and so on for each frequency that was measured in anyone (NaN where not in this listener).
    The challenge calls a song at the ears `<music>-<head position>`; the same music from other angles is no other song
    for any statistics, so these use `music`.
    """
    table = table.assign(music=table["song"].str.replace(r"-hlp_\d+$", "", regex=True))
    for stem in STEMS:
        gains = {scene: float(gain[stem]) for scene, gain in (gains_db or {}).items()}
        table[f"gain_{stem}_db"] = table["scene"].map(gains).astype(float)
    heard = [listeners[name] for name in table["listener"].unique()]
    thresholds = audiogram_table(heard).pivot(index=["listener", "ear"], columns="frequency", values="threshold_db_hl")
    thresholds.columns = [threshold_column(float(frequency)) for frequency in thresholds.columns]
    ears = ear_table(heard).merge(thresholds.reset_index(), on=["listener", "ear"])
    return table.merge(ears, on=["listener", "ear"], validate="many_to_one")


def threshold_column(frequency: float) -> str:
    """Return the name of the column with the threshold at a frequency in Hz.

    >>> threshold_column(500.0)
    'threshold_500_hz_db_hl'
    """
    return f"threshold_{frequency:g}_hz_db_hl"


def threshold_columns(table: pd.DataFrame) -> list[str]:
    """Return the columns with thresholds, by frequency."""
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
        A `listeners.*.json` in the place of the split's listeners.

    Raises
    ------
    ParameterError
        If neither is given.
    """
    if not corpus and not listeners_file:
        raise ParameterError("There are no audiograms: give the corpus that was evaluated, or a listeners file.")
    data = open_corpus(corpus) if corpus else None
    scenes = data.split(split).scenes if data else {}
    gains_db = {name: data.gains[scene.gain] for name, scene in scenes.items()} if data else {}
    if listeners_file or not data:
        return load_listeners(listeners_file), gains_db
    return data.split(split).listeners, gains_db


def describe(table: pd.DataFrame) -> str:
    """Say in one or two sentences what a tidy table holds."""
    counts = {name: table[name].nunique() for name in ("system", "listener", "music", "scene")}
    said = ", ".join(
        f"{count} {'song' if name == 'music' else name}{'s' if count != 1 else ''}" for name, count in counts.items()
    )
    missing = int(table["haaqi"].isna().sum())
    silent = int((table["loudness_lufs"] == -np.inf).sum()) if "loudness_lufs" in table else 0
    left_out = f", {missing} of them missing and left out" if missing else ""
    of_silence = f", {silent} of them of a silent signal" if silent else ""
    unmeasured = int(table["pta_db_hl"].isna().sum())
    of_unknown = f", {unmeasured} of them of ears without a pure-tone average" if unmeasured else ""
    return f"{said}, {len(table)} scores of ears{left_out}{of_silence}{of_unknown}."


def featured_listener(table: pd.DataFrame, wanted: str = PAPER_ASYMMETRIC_LISTENER) -> tuple[str, str]:
    """Return the listener whose two ears are compared, and a sentence about who it is.

    That is `wanted` if there, else the most asymmetric one.
    """
    if wanted in set(table["listener"]):
        return wanted, f"Listener {wanted}, the paper's example, is in these scores."
    asymmetry_db = table.groupby("listener", sort=False)["asymmetry_db"].first()
    if asymmetry_db.isna().all():
        name = str(asymmetry_db.index[0])
        return name, f"The paper's listener {wanted} is not in these scores; shown is {name}: no asymmetry is known."
    name = str(asymmetry_db.abs().idxmax())
    return name, (
        f"The paper's listener {wanted} is not in these scores; shown is {name}, the most asymmetric one "
        f"(right minus left pure-tone average {asymmetry_db[name]:+.1f} dB)."
    )


def ear_columns(table: pd.DataFrame, listener: str) -> pd.DataFrame:
    """Return the two ears of a listener side by side, by system: loss in dB HL, mean HAAQI and clipped share."""
    rows = table[table["listener"] == listener]
    means = rows.groupby(["system", "ear"], sort=False)[["pta_db_hl", "low_db_hl", "haaqi", "clipped_share"]].mean()
    return means.assign(n_scenes=rows.groupby(["system", "ear"], sort=False)["haaqi"].count()).reset_index()


def summary_table(table: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Return the mean HAAQI of each system with a 95 % interval over listeners, in the order of the table.

    Columns: system, n_pairs, n_listeners, n_left_out, haaqi, ci_low, ci_high, clipped_share. Missing scores are left
    out: n_left_out counts the ears. One listener has no interval.
    """

    def mean(rows: pd.DataFrame) -> float:
        return float(rows["haaqi"].mean())

    rows = []
    for system, every in table.groupby("system", sort=False):
        group = every.dropna(subset="haaqi")
        low, high = bootstrap_interval(group, mean, seed)
        rows.append(
            {
                "system": system,
                "n_pairs": len(group.drop_duplicates(["scene", "listener"])),
                "n_listeners": group["listener"].nunique(),
                "n_left_out": len(every) - len(group),
                "haaqi": mean(group),
                "ci_low": low,
                "ci_high": high,
                "clipped_share": group["clipped_share"].mean(),
            }
        )
    return pd.DataFrame(rows)


def gain_table(table: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Return mean HAAQI by the gain of each stem with 95 % intervals over listeners, by system.

    The other stems of a scene have gains of their own, and few scenes have each gain: differences between neighbouring
    gains are as much differences between songs.

    Returns
    -------
    pandas.DataFrame
        Columns: system, stem, gain_db, n_ears, n_listeners, haaqi, ci_low, ci_high. Empty where gains are unknown.
    """
    found = []
    for stem in STEMS:
        known = usable(table, [f"gain_{stem}_db"])
        for (system, gain_db), rows in known.groupby(["system", f"gain_{stem}_db"], sort=False):
            haaqi = rows["haaqi"].to_numpy(float)
            resampled = [weights @ haaqi / weights.sum(1) for weights in bootstrap_weights(rows["listener"], seed)]
            size = (len(rows), rows["listener"].nunique())
            limits = percentiles(np.concatenate(resampled)) if size[1] > 1 else (np.nan, np.nan)
            found.append((system, stem, gain_db, *size, haaqi.mean(), *limits))
    columns = ["system", "stem", "gain_db", "n_ears", "n_listeners", "haaqi", "ci_low", "ci_high"]
    return pd.DataFrame(found, columns=columns)


def data_size_table(run_dirs: Sequence[Path | str]) -> pd.DataFrame:
    """Return validation HAAQI by the size of the training set, the paper's Table 1 beside ours.

    The paper's row with the same share of the official training set is put beside each of ours.

    Parameters
    ----------
    run_dirs
        Directories of finished runs of `finetune.finetune`, which differ in `n_scenes` and in seeds.

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
    beside = [paper.get(share, (np.nan, np.nan)) for share in table["share"]]
    table[["paper_n_scenes", "paper_haaqi"]] = beside
    return table


def _label(path: Path) -> str:
    """Return what a table of scores is called."""
    if path.name != "scores.csv":
        return path.stem
    folder = path.parent
    return system_label(read_settings(folder)) if (folder / "settings.json").exists() else folder.resolve().name
