"""What the paper found, beside what is found here: each claim with its difference, its interval and a verdict in words.

Systems are recognised by the labels of their evaluations; the study `twin.yaml` gives them.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from cadenza_lib.analysis.comparisons import PAPER_SYSTEMS, compare
from cadenza_lib.analysis.tables import PAPER_ASYMMETRIC_LISTENER, PAPER_DATA_SIZE
from cadenza_lib.core.tables import read_table

__all__ = ["fall_table", "findings_table"]

BASELINE, TUNED, FUSED = "Baseline Hybrid Demucs", "Fine-tuned", "Fused targets"
_TABLES = {system: dict(haaqi) for system, haaqi in PAPER_SYSTEMS.items()} | {
    TUNED: {"valid": PAPER_DATA_SIZE[400]},
    f"{TUNED}, 24 scenes": {"valid": PAPER_DATA_SIZE[100]},
    f"{TUNED}, 192 scenes": {"valid": PAPER_DATA_SIZE[800]},
}
"""HAAQI in the paper's Tables 1 and 2, by system and split; the twin has 24 scenes where the challenge has 100."""


class Claim(NamedTuple):
    """That one system is better than another."""

    better: str
    worse: str
    words: str
    by_the_paper: bool = True


PAPER_CLAIMS = (
    Claim(BASELINE, "Baseline Open-Unmix", "Hybrid Demucs is better than Open-Unmix"),
    Claim("Official-USTC", BASELINE, "Fine-tuning and fusion improve on the baseline"),
    Claim(TUNED, BASELINE, "Fine-tuning at the ears improves on the baseline"),
    Claim(TUNED, "Control", "Fine-tuning at the ears improves more than as many steps on dry songs", False),
    Claim(f"{TUNED}, 192 scenes", f"{TUNED}, 24 scenes", "Eight times as many scenes improve"),
    Claim("Supplementation-USTC", "Official-USTC", "Supplementing the training scenes improves further"),
    *(
        Claim(f"{TUNED}, {target}", TUNED, f"The target {target} is better than the stems", False)
        for target in ("downmix", "normalised", "amplified", "joint")
    ),
    Claim(FUSED, TUNED, "Fusing models of different targets improves on one", False),
    Claim("Fused architectures", FUSED, "Fusing different architectures improves on fusing targets", False),
    Claim("Official-USTC", FUSED, "A share of 0.15 of the mixture improves", False),
    Claim(f"{FUSED}, masks", "Official-USTC", "Masks are better than the share of the mixture", False),
)
"""What the paper claims or rests on; where it has no number, the claim is one of this project."""


def claims_table(scores: pd.DataFrame) -> pd.DataFrame:
    """Return for each claim whether it holds here.

    Parameters
    ----------
    scores
        As from `comparisons.system_scores`.

    Returns
    -------
    pandas.DataFrame
        split, claim, paper_difference (on validation where the paper has no test, NaN where it has none), difference,
        difference_low, difference_high, verdict: "holds" or "is reversed" if the 95 % interval leaves out 0, or else
        "undecided". Claims about systems that are not there are left out.
    """
    rows = []
    for split, group in scores.groupby("split", sort=False):
        for claim in PAPER_CLAIMS:
            both = group[group["system"].isin([claim.better, claim.worse])]
            if both["system"].nunique() < 2:
                continue
            table = compare(both, "system", {"system": claim.worse}).set_index("system")
            names = ["difference", "difference_low", "difference_high"]
            ((mean, low, high),) = table.loc[[claim.better], names].to_numpy(float).tolist()
            rows.append(
                (split, claim.words, _paper_difference(claim, str(split)), mean, low, high, _verdict(low, high))
            )
    names = ["split", "claim", "paper_difference", "difference", "difference_low", "difference_high", "verdict"]
    return pd.DataFrame(rows, columns=names)


def fall_table(scores: pd.DataFrame) -> pd.DataFrame:
    """Return how much lower each system scores on split "test" than on "valid", which have other songs and listeners.

    Returns
    -------
    pandas.DataFrame
        system, valid, test, fall, fall_low, fall_high (95 % over listeners and songs; the two splits are independent),
        paper_fall (NaN where the paper has none). Systems that lack a split are left out.
    """
    rows = []
    for system, group in scores.groupby("system", sort=False):
        splits = {split: part for split, part in group.groupby("split") if split in ("valid", "test")}
        if len(splits) == 2:
            tables = [compare(splits[split], "system", {"system": system}).iloc[0] for split in ("valid", "test")]
            fall = tables[0]["haaqi"] - tables[1]["haaqi"]
            half = np.hypot(*[(table["ci_high"] - table["ci_low"]) / 2 for table in tables])
            paper = PAPER_SYSTEMS.get(str(system), {"valid": np.nan, "test": np.nan})
            means = [table["haaqi"] for table in tables]
            rows.append((system, *means, fall, fall - half, fall + half, paper["valid"] - paper["test"]))
    return pd.DataFrame(rows, columns=["system", "valid", "test", "fall", "fall_low", "fall_high", "paper_fall"])


def findings_table(scores: pd.DataFrame, fusion_run: str = "", listener_run: str = "") -> pd.DataFrame:
    """Return what the paper found, beside what is found here, in the order of its argument.

    Parameters
    ----------
    scores
        As from `comparisons.system_scores`; claims are judged on split "test" where there is one.
    fusion_run, listener_run
        Directories of `04_fusion_sweep` and of `05_haaqi_vs_audiogram`, for the share of the mixture and for what the
        audiogram explains; "" without.

    Returns
    -------
    pandas.DataFrame
        finding, paper, here, low, high (95 %), verdict. The numbers are differences in HAAQI, unless the finding says
        what else.
    """
    splits = scores["split"].unique()
    judged = claims_table(scores[scores["split"] == ("test" if "test" in splits else splits[0])])
    judged = judged.drop(columns="split").set_axis(["finding", "paper", "here", "low", "high", "verdict"], axis=1)
    rows = [
        *(_share_of(Path(fusion_run)) if fusion_run else ()),
        *(_audiogram_of(Path(listener_run)) if listener_run else ()),
    ]
    falls = fall_table(scores).set_index("system")
    if BASELINE in falls.index:
        (fall,) = falls.loc[[BASELINE], ["paper_fall", "fall", "fall_low", "fall_high"]].to_numpy(float).tolist()
        rows.append(("The baseline falls from validation to test", *fall))
    others = pd.DataFrame(rows, columns=["finding", "paper", "here", "low", "high"])
    others["verdict"] = [_verdict(low, high) for low, high in zip(others["low"], others["high"], strict=True)]
    return pd.concat([judged, others], ignore_index=True) if len(others) else judged


def _paper_difference(claim: Claim, split: str) -> float:
    better, worse = (_TABLES.get(system, {}) for system in (claim.better, claim.worse))
    for where in (split, "valid"):
        if claim.by_the_paper and where in better and where in worse:
            return better[where] - worse[where]
    return np.nan


def _verdict(low: float, high: float) -> str:
    if np.isnan(low):
        return "no interval"
    return "holds" if low > 0 else "is reversed" if high < 0 else "undecided"


_Finding = tuple[str, float, float, float, float]


def _share_of(folder: Path) -> Iterable[_Finding]:
    """Yield what the share of the mixture does on the search set, with the output stage of the sweep."""
    names = ("mixture_weight", "haaqi", "difference", "difference_low", "difference_high")
    table = read_table(folder / "mixture_weight.csv", (*names, "output_stage"), names, "run 04_fusion_sweep again")
    table = table[table["output_stage"] == table["output_stage"].iloc[0]]
    best = table.loc[table["haaqi"].idxmax()]
    words = f"The best share of the mixture, {best['mixture_weight']:g} (paper: 0.15), improves on none (search set)"
    yield words, np.nan, best["difference"], best["difference_low"], best["difference_high"]


def _audiogram_of(folder: Path) -> Iterable[_Finding]:
    """Yield how HAAQI falls with the loss at low frequencies, and the two ears of the asymmetric listener."""
    names = ("pearson_r", "ci_low", "ci_high")
    columns = ("system", "predictor", *names)
    table = read_table(folder / "correlations.csv", columns, names, "run 05_haaqi_vs_audiogram again")
    row = table[table["predictor"] == "low_db_hl"].iloc[-1]
    words = f"HAAQI falls with the loss from 500 to 2000 Hz: -r, {row['system']}"
    yield words, np.nan, -row["pearson_r"], -row["ci_high"], -row["ci_low"]
    ears = read_table(
        folder / "featured_listener.csv", ("system", "ear", "haaqi"), ("haaqi",), "run 05_haaqi_vs_audiogram again"
    )
    last = ears[ears["system"] == row["system"]]["haaqi"]
    scored = f"{last.max():.2f} and {last.min():.2f} ({PAPER_ASYMMETRIC_LISTENER}: 0.87 and 0.22)"
    words = f"Two ears differ for the same music: {scored}"
    yield words, 0.65, last.max() - last.min(), np.nan, np.nan
