"""The whole DAG once at smoke scale, in a copy with a space in its path; then again, with nothing to do."""

from __future__ import annotations

import json

import pytest
from workflow_copy import copy_workflow, snakemake

from evaluation.combine import RESUME_RULES, RULES
from evaluation.figures import FIGURES

SMOKE = ("--config", "scale=smoke")


@pytest.mark.slow
def test_the_whole_workflow_at_smoke_scale(tmp_path):
    top = copy_workflow(tmp_path)
    snakemake(top, *SMOKE)
    results = top / "results" / "smoke"
    raws = {rule: json.loads((results / "raw" / f"{rule}.json").read_text()) for rule in RULES}
    campaign = json.loads((results / "campaign.json").read_text())
    assert {raw["campaign"] for raw in raws.values()} == {campaign["id"]}
    assert raws["provision"]["result"]["server"]["left"] is True
    assert all(
        case["logits_bit_equal"]
        for rule in RESUME_RULES
        if rule != "djinn_resume"
        for case in raws[rule]["result"]["cases"]
    )
    parked = raws["oversubscription"]["result"]
    assert parked["completed"] == parked["bit_equal"] == parked["sessions"]
    assert parked["barrier"]["demand_over_budget"] > 1
    for model in raws["breakpoints"]["result"]["models"].values():
        assert all(row["bit_equal"] == model["prompts"] for row in model["layers"])
    found = json.loads((results / "combined.json").read_text())
    assert found["concurrent"]["as_alone"] == found["concurrent"]["clients"]
    assert found["zero_change"]["identical"] and found["zero_change"]["runs"]["tight"]["restores"] > 0
    assert found["traced"]["stop_equals_checkpoint"]
    for figure in FIGURES.values():
        assert all((results / "figures" / f"{figure}.{kind}").stat().st_size > 0 for kind in ("pdf", "png", "csv"))
    assert json.loads((results / "claims.json").read_text()) and (top / "results" / "mlflow.db").exists()
    log = (results / "logs" / "oversubscription.log").read_text()
    assert "barrier" in log  # what a person saw is kept
    assert "Nothing to be done" in snakemake(top, *SMOKE)
