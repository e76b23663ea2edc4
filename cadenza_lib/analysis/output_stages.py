"""Output stages compared: each at the level that was best on search songs, scored on others.

Not in the paper, whose files clip hard at the level that the prescription gives. HAAQI models rated quality and not
preference: across the systems of Cadenza 1 and Cadenza 2 it correlated 0.34 (n = 8) and 0.56 (n = 10) with the ratings
of a listening panel.
"""

from collections.abc import Sequence
from dataclasses import replace

import pandas as pd

from cadenza_lib.analysis.comparisons import compare
from cadenza_lib.chain.pipeline import ChainSettings
from cadenza_lib.core.conventions import EARS
from cadenza_lib.data.listeners import SEVERITY_CLASSES, better_ear_pta_db_hl, severity_class
from cadenza_lib.scoring.pairs import EAR_COLUMNS
from cadenza_lib.scoring.sweep import PairSet, Sweep, best_of, grid

__all__ = ["compare_stages"]

_OFFICIAL = "hard_clip, 0 dB"


def compare_stages(
    sweep: Sweep,
    searched: PairSet,
    held_out: PairSet,
    systems: Sequence[str],
    stages: Sequence[str],
    levels_db: Sequence[float],
    base: ChainSettings,
) -> pd.DataFrame:
    """Choose the level of each output stage on some songs, and score it on others, beside the official output.

    Parameters
    ----------
    sweep
        Corpus and models.
    searched, held_out
        Pairs to choose levels on, and to report on.
    systems
        Names of the models, for the table; each is scored alone.
    stages
        Names of output stages. "compressor" and "compressor_with_gain" change dynamics on purpose and are compared with
        the true stems through the same stage, all others with what the prescription makes of them.
    levels_db
        Levels before the stage to choose from.
    base
        The chain otherwise.

    Returns
    -------
    pandas.DataFrame
        A row per severity class of the better ear ("all" last), system and stage: severity, system, stage, level_db,
        reference, then the columns of `compare` against the official output on the held-out pairs, and the means over
        ears of `EAR_COLUMNS`.
    """
    tables = []
    for place, system in enumerate(systems):
        weights = tuple(float(place == other) for other in range(sweep.n_models))
        alone = replace(base, model_weights=weights, output_level_db=0.0, output_stage="hard_clip", reference="linear")
        chosen = {_OFFICIAL: alone}
        for stage in stages:
            reference = "same" if stage.startswith("compressor") else "linear"
            settings = replace(alone, output_stage=stage, reference=reference)
            levels = grid([weights], [base.mixture_weight], levels_db, settings)
            chosen[stage] = best_of(sweep.scores(levels, searched))
        rows = [sweep.scores([candidate], held_out).assign(stage=stage) for stage, candidate in chosen.items()]
        tables.append(_by_severity(pd.concat(rows), sweep, held_out).assign(system=system))
    table = pd.concat(tables, ignore_index=True)
    first = ["severity", "system", "stage", "level_db", "reference"]
    return table[[*first, *table.columns.drop(first)]]


def _by_severity(scores: pd.DataFrame, sweep: Sweep, held_out: PairSet) -> pd.DataFrame:
    """Return what `compare` gives for each class and for all, with the means of what describes the outputs."""
    listeners = sweep.split(held_out.split).listeners
    classes = {name: severity_class(better_ear_pta_db_hl(listener)) for name, listener in listeners.items()}
    scores = scores.assign(severity=scores["listener"].map(classes))
    for column in EAR_COLUMNS:
        scores[column] = scores[[f"{ear}_{column}" for ear in EARS]].mean(axis=1)
    groups = {name: scores[scores["severity"] == name] for name, _ in SEVERITY_CLASSES} | {"all": scores}
    tables = []
    for severity, group in groups.items():
        if not group.empty:
            table = compare(group, "stage", {"stage": _OFFICIAL})
            described = group.groupby("stage", sort=False)
            table["level_db"] = table["stage"].map(described["output_level_db"].first())
            table["reference"] = table["stage"].map(described["reference"].first())
            for column in EAR_COLUMNS:
                table[column] = table["stage"].map(described[column].mean())
            tables.append(table.assign(severity=severity))
    return pd.concat(tables, ignore_index=True)
