"""The single numbers that claims point to: every fact, or null and the reason."""

from __future__ import annotations

from typing import Any

from evaluation import facts_cost, facts_fidelity, facts_memory, facts_peers, facts_resume
from evaluation.facts import Absent

EVERY = {
    name: fact
    for module in (facts_memory, facts_resume, facts_fidelity, facts_cost, facts_peers)
    for name, fact in module.FACTS.items()
}


def headlines(combined: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """name → {value, detail, reason, source}; every fact is there, with null where it could not be had."""
    table: dict[str, dict[str, Any]] = {}
    for name, (rules, function) in EVERY.items():
        entry: dict[str, Any] = {"value": None, "detail": None, "reason": None, "source": list(rules)}
        absent = [rule for rule in rules if rule not in combined["raw"]]
        if absent:
            entry["reason"] = ", ".join(f"raw/{rule}.json" for rule in absent) + " is missing: the rule has not run"
        else:
            try:
                entry["value"], entry["detail"] = function(combined)
            except Absent as error:
                entry["reason"] = str(error)
        table[name] = entry
    return table
