"""The whole DAG once at smoke scale, in a copy with a space in its path; then again, with nothing to do."""

from __future__ import annotations

import json

import pytest
from workflow_copy import copy_workflow, snakemake

from evaluation.peers import PEERS

SMOKE = ("--config", "scale=smoke")
RULES = (
    "provision",
    "eager",
    "recompute",
    "manual_activation",
    "manual_full",
    "manual_pageable",
    "djinn_resume",
    "oversubscription",
    "steering",
    *(f"peer_{system}" for system in PEERS),
    "workload",
)


@pytest.mark.slow
def test_the_whole_workflow_at_smoke_scale(tmp_path):
    top = copy_workflow(tmp_path)
    snakemake(top, *SMOKE)
    results = top / "results" / "smoke"
    raws = {rule: json.loads((results / "raw" / f"{rule}.json").read_text()) for rule in RULES}
    campaign = json.loads((results / "campaign.json").read_text())
    assert {raw["campaign"] for raw in raws.values()} == {campaign["id"]}
    assert raws["provision"]["result"]["server"]["left"] is True
    assert all(case["logits_bit_equal"] for rule in RULES[2:6] for case in raws[rule]["result"]["cases"])
    parked = raws["oversubscription"]["result"]
    assert parked["completed"] == parked["bit_equal"] == parked["sessions"]
    assert parked["barrier"]["demand_over_budget"] > 1
    for figure in ("figure6_memory_virtualization", "figure7_resume_latency"):
        assert all((results / "figures" / f"{figure}.{kind}").stat().st_size > 0 for kind in ("pdf", "png", "csv"))
    assert json.loads((results / "claims.json").read_text()) and (top / "results" / "mlflow.db").exists()
    log = (results / "logs" / "oversubscription.log").read_text()
    assert "barrier" in log  # what a person saw is kept
    assert "Nothing to be done" in snakemake(top, *SMOKE)
