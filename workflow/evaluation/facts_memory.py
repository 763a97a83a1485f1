"""Facts about memory: the oversubscription, and where PyTorch eager ran out."""

from __future__ import annotations

from typing import Any

from djinn.sizes import format_bytes
from evaluation.facts import Absent, Combined, Facts

FACTS = Facts()


@FACTS.needs("oversubscription")
def sessions(combined: Combined) -> tuple[float, str]:
    over = combined["oversubscription"]
    return over["sessions"], f"{over['prompt_tokens']} prompt tokens each"


@FACTS.needs("oversubscription")
def demand_over_budget(combined: Combined) -> tuple[float, str]:
    over = combined["oversubscription"]
    return over["barrier"]["demand_over_budget"], (
        f"demand {format_bytes(over['barrier']['demand_bytes'])} at the barrier, "
        f"weights {format_bytes(over['weights_bytes'])} included, on a budget of "
        f"{format_bytes(over['budget_bytes'])}; {over['sessions']} sessions of {over['prompt_tokens']} tokens"
    )


@FACTS.needs("oversubscription")
def demand_gb(combined: Combined) -> tuple[float, str]:
    over = combined["oversubscription"]
    return over["barrier"]["demand_bytes"] / 1e9, f"budget {format_bytes(over['budget_bytes'])}"


@FACTS.needs("oversubscription")
def off_device_gb(combined: Combined) -> tuple[float, str]:
    over = combined["oversubscription"]
    copied = format_bytes(over["moved"]["evicted_bytes"])
    return _off(over) / 1e9, f"off the device at the barrier; {copied} counted at the copies over the whole run"


@FACTS.needs("oversubscription")
def off_device_fraction(combined: Combined) -> tuple[float, str]:
    over = combined["oversubscription"]
    held = _off(over)
    live = format_bytes(held + over["barrier"]["device_bytes"])
    out, back = (format_bytes(over["moved"][f"{way}_bytes"]) for way in ("evicted", "restored"))
    return over["barrier"]["off_device_fraction"], (
        f"{format_bytes(held)} of {live} of KV at the barrier; over the whole run {out} out and {back} back"
    )


def _off(over: dict[str, Any]) -> int:
    return over["barrier"]["host_bytes"] + over["barrier"]["disk_bytes"]


@FACTS.needs("oversubscription")
def process_peak_gb(combined: Combined) -> tuple[float, str]:
    over = combined["oversubscription"]
    if over["process_peak_bytes"] is None:
        raise Absent("the server's process could not be read from here (it runs elsewhere, or its pid is hidden)")
    return over["process_peak_bytes"] / 1e9, (
        f"largest of {len(over['timeline'])} readings of the server's process, whose arena is taken at its start: a flat line "
        "alone is no evidence"
    )


@FACTS.needs("oversubscription")
def completed(combined: Combined) -> tuple[float, str]:
    over = combined["oversubscription"]
    return (
        over["completed"],
        f"{over['completed']} of {over['sessions']} sessions generated {over['new_tokens']} tokens each "
        "after the barrier",
    )


@FACTS.needs("oversubscription")
def bit_equal(combined: Combined) -> tuple[float, str]:
    over = combined["oversubscription"]
    return (
        over["bit_equal"],
        f"{over['bit_equal']} of {over['sessions']} sessions gave the tokens and last logits "
        "of the same session run alone",
    )


@FACTS.needs("oversubscription")
def total_s(combined: Combined) -> tuple[float, str]:
    over = combined["oversubscription"]
    parts = over["seconds"]
    return parts["total"], (
        f"{over['sessions']} sessions: prefill {parts['prefill']:.3g} s, "
        f"restore wait {parts['restore_wait']:.3g} s, decode {parts['decode']:.3g} s"
    )


@FACTS.needs("eager")
def eager_best_sessions(combined: Combined) -> tuple[float, str]:
    eager = combined["eager"]
    each = ", ".join(f"{setting['name']} {setting['sessions']}" for setting in eager["settings"])
    return eager["best_sessions"], f"sessions alive at the real out-of-memory error: {each}"


@FACTS.needs("eager")
def eager_fairness(combined: Combined) -> tuple[float, str]:
    eager = combined["eager"]
    return (
        eager["best_live_over_headroom"],
        f"live KV / (budget - weights) when the best setting ({eager['best']}) died, "
        f"of {format_bytes(eager['headroom_bytes'])}",
    )
