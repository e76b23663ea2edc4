from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cadenza_lib.analysis import findings

N_LISTENERS = 60
PAPER = {
    "Baseline Hybrid Demucs": 0.0,
    "Baseline Open-Unmix": -0.07,
    "Official-USTC": 0.02,
    "Supplementation-USTC": 0.02,
}


def _scores(effects: dict[str, float], split: str = "valid", level: float = 0.5) -> pd.DataFrame:
    """Return scores of systems that differ by known effects, on songs and listeners that differ much more."""
    generator = np.random.default_rng(0)
    pairs = [(f"scene_{(j + 20 * i) % 60}", f"L{j}") for j in range(N_LISTENERS) for i in range(3)]
    base = level + generator.uniform(-0.3, 0.3, len(pairs))
    tables = []
    for system, effect in effects.items():
        score = base + effect + generator.normal(0, 0.02, len(pairs))
        tables.append(pd.DataFrame(pairs, columns=["scene", "listener"]).assign(score=score, system=system))
    scores = pd.concat(tables, ignore_index=True).assign(split=split)
    return scores.assign(song=scores["scene"] + "-hlp_0001")


def test_claims_hold_or_not_by_the_interval_of_the_difference():
    table = findings.claims_table(_scores(PAPER)).set_index("claim")
    assert table["verdict"].tolist() == ["holds", "holds", "undecided"]
    assert table["paper_difference"].tolist() == pytest.approx([0.0714, 0.0193, 0.0008])  # Table 2 of the paper
    turned = findings.claims_table(_scores({system: -effect for system, effect in PAPER.items()}))
    assert turned["verdict"].tolist() == ["is reversed", "is reversed", "undecided"]
    assert findings.claims_table(_scores({"mixture": 0.0})).empty


@pytest.mark.parametrize(("split", "supplemented"), [("valid", 0.0008), ("test", 0.0006)])
def test_the_papers_difference_is_that_of_the_split_or_else_of_validation(split, supplemented):
    sizes = {"Fine-tuned": 0.01, "Fine-tuned, 24 scenes": 0.01, "Fine-tuned, 192 scenes": 0.01, "Control": 0.0}
    table = findings.claims_table(_scores(PAPER | sizes, split)).set_index("claim")["paper_difference"]
    assert table["Supplementing the training scenes improves further"] == pytest.approx(supplemented)
    assert table["Fine-tuning at the ears improves on the baseline"] == pytest.approx(0.6785 - 0.6677)  # Tables 1 and 2
    assert table["Eight times as many scenes improve"] == pytest.approx(0.6796 - 0.6766)  # Table 1
    assert np.isnan(table["Fine-tuning at the ears improves more than as many steps on dry songs"])


def test_the_fall_between_splits_has_an_interval_over_both():
    scores = pd.concat([_scores(PAPER, "valid", 0.6), _scores(PAPER, "test", 0.5)])
    table = findings.fall_table(scores).set_index("system")
    row = table.loc["Baseline Hybrid Demucs"]
    assert row["fall"] == pytest.approx(0.1, abs=1e-12)  # the same noise in both
    assert row["paper_fall"] == pytest.approx(0.6677 - 0.5697)
    one = (row["fall_high"] - row["fall_low"]) / np.sqrt(2)  # two splits of equal width
    alone = findings.compare(scores[scores["split"] == "valid"], "system", {"system": "Baseline Hybrid Demucs"}).iloc[0]
    assert one == pytest.approx(alone["ci_high"] - alone["ci_low"])
    assert findings.fall_table(_scores(PAPER)).empty


def test_all_findings_stand_in_one_table(tmp_path: Path):
    (tmp_path / "mixture_weight.csv").write_text(
        "mixture_weight,output_stage,haaqi,difference,difference_low,difference_high\n"
        "0.0,hard_clip,0.5,0,0,0\n0.2,hard_clip,0.53,0.03,0.01,0.05\n0.5,none,0.9,0.4,0.3,0.5\n"
    )
    (tmp_path / "correlations.csv").write_text(
        "system,predictor,pearson_r,ci_low,ci_high\na,low_db_hl,-0.5,-0.7,0.1\na,pta_db_hl,-0.9,-1,-0.8\n"
    )
    (tmp_path / "featured_listener.csv").write_text("system,ear,haaqi\na,left,0.8\na,right,0.3\n")
    scores = pd.concat([_scores(PAPER, "valid", 0.6), _scores(PAPER, "test", 0.5)])
    table = findings.findings_table(scores, str(tmp_path), str(tmp_path)).set_index("finding")
    here = table["here"].to_dict()
    assert here["The best share of the mixture, 0.2 (paper: 0.15), improves on none (search set)"] == 0.03
    assert here["HAAQI falls with the loss from 500 to 2000 Hz: -r, a"] == 0.5
    assert here["Two ears differ for the same music: 0.80 and 0.30 (L5000: 0.87 and 0.22)"] == pytest.approx(0.5)
    assert table["verdict"].tolist() == ["holds", "holds", "undecided", "holds", "undecided", "no interval", "holds"]
    assert len(findings.findings_table(scores[scores["split"] == "test"])) == 3
