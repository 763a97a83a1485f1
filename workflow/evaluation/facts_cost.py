"""Facts about what it costs: checkpoints and their neighbours, dispatch, resumes under load, bytes on the wire."""

from __future__ import annotations

from typing import Any

from djinn.sizes import format_bytes
from evaluation.facts import Absent, Combined, Facts

FACTS = Facts()
BUSY = 0.8  # MEASURES: how busy the copy engines must be for an interference to count
PROMISED = 0.01  # the claims' target


@FACTS.needs("checkpoint_cost")
def checkpoint_dispatch_ms(combined: Combined) -> tuple[float, str]:
    cost = combined["checkpoint_cost"]
    each = cost["dispatch_ms"]
    return each["high"], (
        f"upper 95 % bound of the paired difference of a prefill of {cost['prompt_tokens']} tokens with and without "
        f"{cost['checkpoints']} checkpoints, divided by their number; {each['n']} pairs, median {each['difference']:.3f} ms, "
        f"lower bound {each['low']:.3f} ms; {_drained(cost)}"
    )


def _drained(cost: dict[str, Any]) -> str:
    """Where the bytes went. Older campaigns do not say how much was copied before the session was parked."""
    moved = format_bytes(round(cost["drained_bytes"]["median"]))
    parked = f"{cost['parked_ms']['median']:.2f} ms after it was parked (median)"
    if cost["drained_ms"] is None:
        return f"{moved} were copied behind the prefill and by parking, all in host memory {parked}"
    behind = format_bytes(round(cost["behind_bytes"]["median"]))
    return (
        f"{behind} of {moved} were copied before the session was parked, the last copy ended "
        f"{cost['drained_ms']['median']:.2f} ms after the logits (median), all in host memory {parked}"
    )


@FACTS.needs("checkpoint_cost")
def checkpoint_share(combined: Combined) -> tuple[float, str]:
    cost = combined["checkpoint_cost"]
    each, prefill = cost["dispatch_ms"], cost["prefill_ms"]["without"]["median"]
    return each["high"] / prefill, (
        f"upper 95 % bound, {each['high']:.3f} ms of a prefill of {prefill:.1f} ms, for one checkpoint; "
        f"median {100 * each['difference'] / prefill:.2f} %, lower bound {100 * each['low'] / prefill:.2f} %"
    )


def _slowdown(combined: Combined, what: str) -> tuple[float, str]:
    cost = combined["checkpoint_cost"]
    found, busy = cost["interference"][what], cost["busy"]["median"]
    ratio = found["slowdown"]
    # More copies could slow it more; a bound that is too high stays so.
    if busy < BUSY and ratio["high"] - 1 < PROMISED:
        raise Absent(f"copies ran {100 * busy:.4g} % of the time, MEASURES asks for {100 * BUSY:.0f} %")
    enough = "" if busy >= BUSY else f" (MEASURES asks for {100 * BUSY:.0f} %: this load could not keep them as busy)"
    return ratio["high"] - 1, (
        f"upper 95 % bound of {ratio['n']} pairs; median {100 * (ratio['ratio'] - 1):+.1f} %, {found['alone_ms']['median']:.1f} ms "
        f"alone, {found['beside_ms']['median']:.1f} ms beside copies; copies ran {100 * busy:.4g} % of that time{enough}, "
        f"{format_bytes(round(cost['copied_bytes']['median']))} in each pair"
    )


@FACTS.needs("checkpoint_cost")
def prefill_slowdown(combined: Combined) -> tuple[float, str]:
    return _slowdown(combined, "prefill")


@FACTS.needs("checkpoint_cost")
def decode_slowdown(combined: Combined) -> tuple[float, str]:
    return _slowdown(combined, "decode")


def _dispatch(combined: Combined, state: str) -> tuple[float, str]:
    kinds = combined["dispatch"][state]
    if kinds is None:
        raise Absent("the server's clock is not this machine's (config: server): client and server cannot be compared")
    each = ", ".join(f"{kind.replace('_', ' ')} {ms['median']:.3g} (p95 {ms['p95']:.3g})" for kind, ms in kinds.items())
    return kinds["prefill"]["median"], f"client's call → accepted, medians in ms of {kinds['prefill']['n']}: {each}"


@FACTS.needs("dispatch")
def dispatch_idle_ms(combined: Combined) -> tuple[float, str]:
    value, detail = _dispatch(combined, "idle_ms")
    fetched = combined["dispatch"]["fetch"]
    return value, (
        f"{detail}; fetching an activation of {format_bytes(fetched['bytes'])}: {fetched['ms']['median']:.2f} ms, "
        f"{fetched['GBps']['median']:.2g} GB/s"
    )


@FACTS.needs("dispatch")
def dispatch_busy_ms(combined: Combined) -> tuple[float, str]:
    value, detail = _dispatch(combined, "busy_ms")
    return value, f"{detail}; a prefill in flight and eight sessions decoding"


@FACTS.needs("dispatch")
def loaded_ready_p95_ms(combined: Combined) -> tuple[float, str]:
    found = combined["dispatch"]["loaded"]
    ready = found["ready_ms"]
    return ready["p95"], (
        f"L={combined['dispatch']['layer']}, evicted, {combined['dispatch']['prompt_tokens']} tokens, a prefill always in "
        f"flight and eight sessions decoding; n={ready['n']}, p50 {ready['median']:.3g} ms, p95 {ready['p95']:.3g} ms"
    )


def _traced_kv_bytes(combined: Combined) -> int:
    """By MEASURES' arithmetic: what the server's table says (older raw files: `kv_bytes`) has the hidden state in it."""
    return combined["traced"]["prompt_tokens"] * combined["raw"]["traced"]["weights"]["kv_bytes_per_token"]


@FACTS.needs("traced")
def down_over_logits(combined: Combined) -> tuple[float, str]:
    traced = combined["traced"]
    down = traced["checkpointed_down_bytes"]
    return down / traced["logits_bytes"], (
        f"{down:,} B came down the wire for a checkpointed prefill of {traced['prompt_tokens']} tokens, the last token's "
        f"logits are {traced['logits_bytes']:,} B; its KV, {format_bytes(_traced_kv_bytes(combined))}, stayed"
    )


@FACTS.needs("traced")
def kv_over_wire(combined: Combined) -> tuple[float, str]:
    traced, kv = combined["traced"], _traced_kv_bytes(combined)
    steps = "; ".join(
        f"{step['step']}: {step['up_bytes']:,} B up, {step['down_bytes']:,} B down" for step in traced["steps"]
    )
    return 2 * kv / traced["steered_bytes"], (
        f"shipping the session's KV there and back would be 2 · {format_bytes(kv)}, the steered round trip "
        f"was {format_bytes(traced['steered_bytes'])}: {steps}"
    )
