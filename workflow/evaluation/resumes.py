"""The resume experiments side by side: intervals by phase, temperature and layer, and their ratios."""

from __future__ import annotations

from typing import Any

from evaluation.summary import crossover, ratio, resampled_medians, summarise

INTERVALS = ("ready_ms", "first_layer_ms", "logits_ms", "resident_ms", "client_ms")
COMPARED = ("ready_ms", "first_layer_ms", "logits_ms", "resident_ms")
PHASES = ("prefill", "decode")
TEMPERATURES = ("cold", "warm")
Cases = list[dict[str, Any]]


def summarise_cases(system: str, cases: Cases) -> dict[str, Any]:
    """phase → temperature → layer (as text) → bytes and interval summaries (ms)."""
    table: dict[str, Any] = {}
    for case in cases:
        row = table.setdefault(case["phase"], {}).setdefault(case["temperature"], {})
        layer = str(case["layer"])
        if layer in row:
            raise KeyError(f"{system} has two cases for {case['phase']}, {case['temperature']}, layer {layer}")
        intervals = {interval: summarise(values) for interval in INTERVALS if (values := samples_of(case, interval))}
        row[layer] = {"bytes": case["bytes"], "intervals": intervals}
    return table


def samples_of(case: dict[str, Any], interval: str) -> list[float]:
    """The samples (ms) of one interval; a system that has no such interval gives none."""
    return [sample[interval] for sample in case["samples"] if sample.get(interval) is not None]


def phase_of(system: dict[str, Any], phase: str, temperature: str) -> dict[str, Any]:
    """A system's layers in one phase; a baseline is neither cold nor warm and has "none"."""
    kinds = system.get(phase, {})
    return kinds.get(temperature) or kinds.get("none") or {}


def medians(system: dict[str, Any], phase: str, temperature: str, interval: str) -> dict[int, float]:
    """Median (ms) by layer, of the layers that have the interval."""
    rows = phase_of(system, phase, temperature)
    return {
        int(layer): row["intervals"][interval]["median"] for layer, row in rows.items() if interval in row["intervals"]
    }


def crossovers(resume: dict[str, Any]) -> dict[str, Any]:
    """interval → temperature of Djinn → where recompute becomes the slower of the two (prefill pauses)."""
    if "djinn" not in resume or "recompute" not in resume:
        return {}
    return {
        interval: {
            temperature: crossover(
                medians(resume["djinn"], "prefill", temperature, interval),
                medians(resume["recompute"], "prefill", temperature, interval),
            )
            for temperature in TEMPERATURES
        }
        for interval in ("ready_ms", "logits_ms")
    }


def compare(cases: dict[str, Cases]) -> dict[str, Any]:
    """phase → temperature of Djinn → baseline → layer → interval → {ratio, low, high}."""
    drawn: dict[tuple[str, int, str], Any] = {}

    def draws(system: str, case: dict[str, Any], interval: str) -> Any:
        key = (system, id(case), interval)
        if key not in drawn:
            name = f"{system}/{case['phase']}/{case['temperature']}/{case['layer']}/{interval}"
            drawn[key] = resampled_medians(samples_of(case, interval), name)
        return drawn[key]

    table: dict[str, Any] = {}
    for ours in cases.get("djinn", []):
        for baseline, listed in cases.items():
            match = [case for case in listed if (case["phase"], case["layer"]) == (ours["phase"], ours["layer"])]
            if baseline == "djinn" or not match:
                continue
            theirs = match[0]
            row = {
                interval: ratio(
                    samples_of(theirs, interval),
                    samples_of(ours, interval),
                    draws(baseline, theirs, interval),
                    draws("djinn", ours, interval),
                )
                for interval in COMPARED
                if samples_of(theirs, interval) and samples_of(ours, interval)
            }
            place = table.setdefault(ours["phase"], {}).setdefault(ours["temperature"], {}).setdefault(baseline, {})
            place[str(ours["layer"])] = row
    return table
