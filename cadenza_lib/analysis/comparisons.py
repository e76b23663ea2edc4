"""Systems compared on the same pairs: means, differences with intervals, and the paper's Table 2.

Scene, song and listener move a score far more than a system does, and all systems meet the same ones. So differences
are taken pair by pair, with intervals over listeners and songs.
"""

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cadenza_lib.analysis.statistics import mean_interval
from cadenza_lib.analysis.tables import music, system_label
from cadenza_lib.core.errors import ParameterError
from cadenza_lib.scoring.evaluation import read_scores, read_settings
from cadenza_lib.training.files import read_config

__all__ = [
    "PAPER_SYSTEMS",
    "compare",
    "optimum_sentence",
    "paper_haaqi",
    "paper_table",
    "system_scores",
    "target_table",
]

PAPER_SYSTEMS = {
    "Baseline Hybrid Demucs": {"valid": 0.6677, "test": 0.5697},
    "Baseline Open-Unmix": {"valid": 0.5963, "test": 0.5113},
    "Official-USTC": {"valid": 0.6870, "test": 0.5923},
    "Supplementation-USTC": {"valid": 0.6878, "test": 0.5929},
}
"""Table 2 of the paper: HAAQI by system and split; evaluations are recognised by these labels."""

_REFERENCE = "Baseline Hybrid Demucs"


def compare(scores: pd.DataFrame, by: str | Sequence[str], reference: Mapping[str, Any]) -> pd.DataFrame:
    """Return the mean HAAQI of each system and its difference from a reference, with 95 % intervals.

    They are over listeners and songs.

    Parameters
    ----------
    scores
        A row per system and pair: scene, song, listener, score, and the columns that distinguish systems.
    by
        These columns.
    reference
        Their values for the system that all are compared with.

    Returns
    -------
    pandas.DataFrame
        In the order of `scores`: `by`, n_pairs, n_listeners, n_songs, haaqi, ci_low, ci_high, difference,
        difference_low, difference_high. One listener, or one song, has no intervals.

    Raises
    ------
    ParameterError
        If systems were not scored on the same pairs, a score is missing, or no system is the reference.
    """
    by = [by] if isinstance(by, str) else list(by)
    groups = {key: group.set_index(["scene", "listener"])["score"] for key, group in scores.groupby(by, sort=False)}
    pairs = next(iter(groups.values())).index
    song_of_scene = music(scores.drop_duplicates("scene").set_index("scene")["song"])
    for key, group in groups.items():
        if len(group) != len(pairs) or not group.index.isin(pairs).all():
            raise ParameterError(f"{key} was scored on other pairs than the rest; score all on the same ones.")
    reference_key = tuple(reference[name] for name in by)
    if reference_key not in groups:
        raise ParameterError(f"There are no scores of the reference {reference_key}; it is one of {list(groups)}.")
    values = np.column_stack([group.loc[pairs].to_numpy() for group in groups.values()])  # (pair, system)
    if missing := int(np.isnan(values).sum()):
        raise ParameterError(
            f"{missing} of {values.size} scores are missing; score these pairs, or leave them out of all."
        )
    differences = values - groups[reference_key].loc[pairs].to_numpy()[:, None]
    listener = pairs.get_level_values("listener").to_series()
    song = song_of_scene.loc[pairs.get_level_values("scene")]
    table = pd.DataFrame(list(groups), columns=by)
    table = table.assign(n_pairs=len(pairs), n_listeners=listener.nunique(), n_songs=song.nunique())
    table["haaqi"] = values.mean(0)
    table[["ci_low", "ci_high"]] = mean_interval(values, listener, song).T
    table["difference"] = differences.mean(0)
    table[["difference_low", "difference_high"]] = mean_interval(differences, listener, song).T
    return table


def optimum_sentence(scores: pd.DataFrame) -> str:
    """Return a sentence that says whether HAAQI has its maximum at a mixture weight inside the range that was tried.

    Parameters
    ----------
    scores
        A row per mixture weight and pair: mixture_weight, scene, listener, score.
    """
    means = scores.groupby("mixture_weight")["score"].mean()
    best = float(means.index[int(means.argmax())])
    ends = [float(end) for end in (means.index.min(), means.index.max()) if end != best]
    table = compare(scores, "mixture_weight", {"mixture_weight": best}).set_index("mixture_weight")
    columns = ["difference", "difference_low", "difference_high"]
    differences = []
    for end in ends:
        mean, low, high = table.loc[end, columns].to_numpy()
        differences.append(f"{-mean:+.4f} [{-high:+.4f}, {-low:+.4f}] against w = {end:g}")
    inside = "inside the range" if len(ends) == 2 else "at the border of the range, so there is no interior optimum"
    clear = (table.loc[ends, "difference_high"] < 0).all()
    doubt = "" if clear else "; an interval that contains 0 means that these pairs do not decide"
    return (
        f"HAAQI is highest, {means.max():.4f}, at w = {best:g}, {inside}: {', '.join(differences)} (95 % over "
        f"listeners and songs){doubt}."
    )


def system_scores(score_dirs: Sequence[Path | str]) -> pd.DataFrame:
    """Return the scores of evaluations: split, system (its label), and the columns of `scores.csv`.

    Raises
    ------
    ParameterError
        If none is given, or two have the same split and label.
    CorpusError
        If a directory holds no evaluation.
    """
    tables: dict[tuple[str, str], pd.DataFrame] = {}
    for folder in score_dirs:
        settings = read_settings(folder)
        key = settings.split, system_label(settings)
        if key in tables:
            raise ParameterError(f"{key[1]!r} was given twice for split {key[0]!r}; name each evaluation once.")
        tables[key] = read_scores(folder).assign(split=key[0], system=key[1])
    if not tables:
        raise ParameterError("No scores were given; name at least one directory that 03_evaluate wrote.")
    return pd.concat(tables.values(), ignore_index=True)


def paper_table(scores: pd.DataFrame) -> pd.DataFrame:
    """Return Table 2 of the paper beside ours.

    Parameters
    ----------
    scores
        As from `system_scores`; systems are recognised by the labels of `PAPER_SYSTEMS`, others (such as bounds) stay.

    Returns
    -------
    pandas.DataFrame
        split, what `compare` gives against the Hybrid Demucs baseline, paper_haaqi, paper_difference (NaN where the
        paper has none).
    """
    tables = []
    for split, group in scores.groupby("split", sort=False):
        table = compare(group, "system", {"system": _REFERENCE})
        table.insert(0, "split", split)
        table["paper_haaqi"] = [paper_haaqi(system, split) for system in table["system"]]
        table["paper_difference"] = table["paper_haaqi"] - paper_haaqi(_REFERENCE, split)
        tables.append(table)
    return pd.concat(tables, ignore_index=True)


def target_table(score_dirs: Sequence[Path | str]) -> pd.DataFrame:
    """Return HAAQI by training target, and the difference from the network that training began with.

    Parameters
    ----------
    score_dirs
        Directories of evaluations: of one network that was not trained by `finetune`, the start, and of checkpoints of
        runs that differ in targets and seeds, all on the same pairs.

    Returns
    -------
    pandas.DataFrame
        target ("start", or the targets of the runs), n_seeds, sd (of the mean HAAQI over seeds; NaN for one), and what
        `compare` gives for scores that are averaged over seeds first.

    Raises
    ------
    ParameterError
        If there is no start, an evaluation is of several models, or pairs differ.
    CorpusError
        If a directory holds no evaluation.
    """
    tables = []
    for folder in score_dirs:
        system = read_settings(folder).system
        if not isinstance(system, str):
            raise ParameterError(f"{folder} is an evaluation of {len(system)} models; give those of one network each.")
        config = Path(system).parent / "config.json"
        target = " + ".join(read_config(config).targets) if config.is_file() else "start"
        tables.append(read_scores(folder).assign(target=target, run=str(folder)))
    scores = pd.concat(tables, ignore_index=True)
    runs = scores.groupby(["target", "run"], sort=False)["score"].mean().groupby("target", sort=False)
    averaged = scores.groupby(["target", "scene", "song", "listener"], sort=False)["score"].mean().reset_index()
    table = compare(averaged, "target", {"target": "start"})
    table.insert(1, "n_seeds", table["target"].map(runs.size()))
    table.insert(2, "sd", table["target"].map(runs.std()))
    return table


def paper_haaqi(system: Hashable, split: Hashable) -> float:
    """Return the HAAQI of a system in the paper's Table 2, NaN where it has none."""
    return PAPER_SYSTEMS.get(str(system), {}).get(str(split), np.nan)
