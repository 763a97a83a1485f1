"""Facts about resume latency: pauses in prefill, Djinn evicted, the arena full."""

from __future__ import annotations

from evaluation.facts import Absent, Combined, Facts
from evaluation.resumes import medians, phase_of

FACTS = Facts()


def _medians(combined: Combined, system: str, interval: str) -> dict[int, float]:
    found = medians(combined["resume"][system], "prefill", "cold", interval)
    if not found:
        raise Absent(f"{system} has no {interval} for pauses in prefill")
    return found


def _listed(by_layer: dict[int, float], unit: str) -> str:
    return ", ".join(f"L={layer}: {by_layer[layer]:.3g}{unit}" for layer in sorted(by_layer))


@FACTS.needs("djinn_resume")
def ready_flatness(combined: Combined) -> tuple[float, str]:
    by_layer = _medians(combined, "djinn", "ready_ms")
    if len(by_layer) < 2:
        raise Absent(f"only the layers {sorted(by_layer)} were measured: resume.layers needs two or more")
    return max(by_layer.values()) / min(by_layer.values()), "median ready, " + _listed(by_layer, " ms")


@FACTS.needs("recompute")
def recompute_growth(combined: Combined) -> tuple[float, str]:
    by_layer = _medians(combined, "recompute", "ready_ms")
    if len(by_layer) < 2:
        raise Absent(f"only the layers {sorted(by_layer)} were measured: resume.layers needs two or more")
    return by_layer[max(by_layer)] / by_layer[min(by_layer)], "median ready, " + _listed(by_layer, " ms")


def _ratios(combined: Combined, baseline: str, interval: str) -> dict[int, dict[str, float]]:
    rows = combined["comparisons"].get("prefill", {}).get("cold", {}).get(baseline, {})
    found = {int(layer): row[interval] for layer, row in rows.items() if row.get(interval)}
    if not found:
        raise Absent(f"{baseline} and djinn share no layer with {interval} for pauses in prefill")
    return found


def _deepest(combined: Combined, baseline: str, interval: str) -> tuple[float, str]:
    found = _ratios(combined, baseline, interval)
    layer = max(found)
    spread = f"at L={layer}, 95 % interval {found[layer]['low']:.3g} to {found[layer]['high']:.3g}"
    theirs, ours = _medians(combined, baseline, interval)[layer], _medians(combined, "djinn", interval)[layer]
    return found[layer]["ratio"], f"{theirs:.3g} ms / {ours:.3g} ms {spread}"


def _worst(combined: Combined, baseline: str, interval: str) -> tuple[float, str]:
    found = _ratios(combined, baseline, interval)
    layer = min(found, key=lambda each: found[each]["ratio"])
    spread = f"95 % interval {found[layer]['low']:.3g} to {found[layer]['high']:.3g}"
    every = _listed({each: found[each]["ratio"] for each in found}, "")
    return found[layer]["ratio"], f"smallest over L, at L={layer} ({spread}); {every}"


@FACTS.needs("recompute", "djinn_resume")
def recompute_over_djinn_ready(combined: Combined) -> tuple[float, str]:
    return _deepest(combined, "recompute", "ready_ms")


@FACTS.needs("recompute", "djinn_resume")
def recompute_over_djinn_logits(combined: Combined) -> tuple[float, str]:
    return _deepest(combined, "recompute", "logits_ms")


@FACTS.needs("manual_full", "djinn_resume")
def manual_full_over_djinn_ready(combined: Combined) -> tuple[float, str]:
    return _worst(combined, "manual_full", "ready_ms")


@FACTS.needs("manual_full", "djinn_resume")
def manual_full_over_djinn_logits(combined: Combined) -> tuple[float, str]:
    return _worst(combined, "manual_full", "logits_ms")


def _middle(combined: Combined, number: str) -> tuple[float, str]:
    by_layer = _medians(combined, "djinn", "ready_ms")
    layer = sorted(by_layer)[len(by_layer) // 2]
    row = phase_of(combined["resume"]["djinn"], "prefill", "cold")[str(layer)]
    ready = row["intervals"]["ready_ms"]
    return (
        ready[number],
        f"L={layer}, cold, arena full, idle otherwise; n={ready['n']}, "
        f"p50 {ready['median']:.3g} ms, p95 {ready['p95']:.3g} ms",
    )


@FACTS.needs("djinn_resume")
def ready_p50_ms(combined: Combined) -> tuple[float, str]:
    return _middle(combined, "median")


@FACTS.needs("djinn_resume")
def ready_p95_ms(combined: Combined) -> tuple[float, str]:
    return _middle(combined, "p95")
