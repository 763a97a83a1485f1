"""What the systems of the comparison gave, as `combined.json` holds it: medians, paired ratios, capabilities, reasons."""

from __future__ import annotations

from typing import Any

from evaluation.peers import PEERS
from evaluation.summary import paired, summarise

Results = dict[str, dict[str, Any]]


def peers_section(results: Results) -> dict[str, Any]:
    """system → what its own rule gave, samples summarised (ms), edits as ratios to the plain pass of the same round."""
    return {system: _peer(results[f"peer_{system}"]) for system in PEERS if f"peer_{system}" in results}


def _peer(result: dict[str, Any]) -> dict[str, Any]:
    if not result["ran"]:
        return result
    continued, edited = result["continued"], result["edited"]
    plain = edited["ms"].get("plain")
    return result | {
        "continued": {
            "ms": {what: summarise(samples) for what, samples in continued["ms"].items()},
            "unable": continued["unable"],
        },
        "edited": {
            "ms": {way: summarise(samples) for way, samples in edited["ms"].items()},
            "over_plain": {
                way: paired(samples, plain) for way, samples in edited["ms"].items() if plain and way != "plain"
            },
            "unable": edited["unable"],
        },
    }


def workload_section(result: dict[str, Any] | None) -> dict[str, Any] | None:
    """The workload with each system's total (s) and its ratio to Djinn's, round by round, as far as both have rounds."""
    if result is None:
        return None
    ours = result["systems"]["djinn"]["seconds"]
    systems = {
        system: row
        | {
            "total": summarise(row["seconds"]) if row["seconds"] else None,
            "over_djinn": _ratio(row["seconds"], ours) if row["seconds"] else None,
        }
        for system, row in result["systems"].items()
    }
    return result | {"systems": systems}


def _ratio(theirs: list[float], ours: list[float]) -> dict[str, float | int]:
    both = min(len(theirs), len(ours))
    return paired(theirs[:both], ours[:both])
