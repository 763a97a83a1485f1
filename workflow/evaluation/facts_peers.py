"""Facts about the other systems: the workload of many sessions, theirs over Djinn's, round by round."""

from __future__ import annotations

from functools import partial
from typing import Any

from evaluation.facts import Absent, Combined, Facts

FACTS = Facts()


def _row(combined: Combined, system: str) -> dict[str, Any]:
    row = combined["workload"]["systems"][system]
    if row["unable"]:
        raise Absent(f"{system} did not run: {row['unable']}")
    return row


def _ratio(over: dict[str, Any], under: dict[str, Any], rounds: int, low: float, high: float) -> str:
    totals = f"{over['total']['median']:.1f} s against {under['total']['median']:.1f} s"
    return f"{totals}, {rounds} rounds, ratio {low:.2f}–{high:.2f}"


def _tried(combined: Combined, system: str) -> str:
    """Its setting, and how many of those offered it was chosen from: a slow start may leave no time for others."""
    peer = combined["peers"].get(system)
    if peer is None:
        return f"its setting is not known: raw/peer_{system}.json is missing"
    tried = sum(row["seconds"] is not None for row in peer["tuning"])
    return f"its setting: {peer['setting'] or 'as shipped'}, {tried} of {peer['settings_offered']} tried"


def _over_djinn(combined: Combined, system: str) -> tuple[float, str]:
    theirs, ours = _row(combined, system), _row(combined, "djinn")
    ratio = theirs["over_djinn"]
    told = _ratio(theirs, ours, ratio["n"], ratio["low"], ratio["high"])
    return ratio["ratio"], f"{told}; {_tried(combined, system)}"


for _system in ("handswap_pageable", "handswap_pinned", "hf_batching"):
    FACTS[f"{_system}_over_djinn"] = (("workload",), partial(_over_djinn, system=_system))


@FACTS.needs("workload")
def djinn_over_vllm(combined: Combined) -> tuple[float, str]:
    theirs, ours = _row(combined, "vllm"), _row(combined, "djinn")
    ratio = theirs["over_djinn"]
    told = _ratio(ours, theirs, ratio["n"], 1 / ratio["high"], 1 / ratio["low"])
    return 1 / ratio["ratio"], f"{told}; {_tried(combined, 'vllm')}"
