"""Facts about what stays the same: paused sessions' tokens, concurrent clients, a script under memory pressure; and steering."""

from __future__ import annotations

from typing import Any

from djinn.sizes import format_bytes
from evaluation.facts import Absent, Combined, Facts

FACTS = Facts()
SEED_LAYER, SEED_FACTOR = 20, 0.9


def _accuracy(combined: Combined, which: str, layer: int | None = None) -> tuple[float, str]:
    """The smallest share of tokens that were the uninterrupted session's, over the layers measured."""
    model = combined["breakpoints"]["models"][which]
    layers = model["layers"] if layer is None else {str(layer): model["layers"].get(str(layer))}
    if None in layers.values():
        raise Absent(f"layer {layer} was not measured (breakpoints.layers: {', '.join(model['layers'])})")
    tokens, equal = (sum(row[key] for row in layers.values()) for key in ("tokens", "bit_equal"))
    sessions = model["prompts"] * len(layers)
    return min(row["accuracy"] for row in layers.values()), (
        f"{_described(model)}, paused and parked at layer {', '.join(layers)}, in prefill and in decode: {tokens} tokens; "
        f"{equal} of {sessions} sessions end in bit-equal logits"
    )


def _described(model: dict[str, Any]) -> str:
    facts = model["facts"]
    return f"{facts['name']} ({facts['source']} weights, {facts['dtype']})"


@FACTS.needs("breakpoints")
def token_accuracy(combined: Combined) -> tuple[float, str]:
    return _accuracy(combined, "campaign")


@FACTS.needs("breakpoints")
def token_accuracy_layer_20(combined: Combined) -> tuple[float, str]:
    return _accuracy(combined, "campaign", SEED_LAYER)


@FACTS.needs("breakpoints")
def token_accuracy_gpt2(combined: Combined) -> tuple[float, str]:
    return _accuracy(combined, "gpt2")


@FACTS.needs("breakpoints")
def plain_agreement(combined: Combined) -> tuple[float, str]:
    model = combined["breakpoints"]["models"]["campaign"]
    plain = model["plain"]
    decided, control = plain["positions"] - plain["near_ties"], plain["control"]
    if not decided:
        raise Absent(f"all {plain['positions']} positions are near ties: no best token can be held against another")
    itself = (
        f"; plain transformers with eager attention against itself with the usual one: {control['different']} with another "
        f"best token, {control['near_ties']} near ties, max |Δlogit| {control['max_abs_logit_diff']:.2g}"
        if control
        else ""
    )
    return (decided - plain["different"]) / decided, (
        f"{plain['positions']} positions of {_described(model)}: {plain['different']} with another best token, "
        f"{plain['near_ties']} near ties left out, max |Δlogit| {plain['max_abs_logit_diff']:.2g}; "
        f"{plain['as_generate']} of {plain['tokens']} tokens are those of generate(){itself}"
    )


@FACTS.needs("concurrent")
def concurrent_clients(combined: Combined) -> tuple[float, str]:
    found = combined["concurrent"]
    return found["clients"], f"layers {', '.join(map(str, found['layers']))}"


@FACTS.needs("concurrent")
def concurrent_as_alone(combined: Combined) -> tuple[float, str]:
    found = combined["concurrent"]
    at_once = "all paused at once" if found["paused_at_once"] else "NOT all paused at once, so none counts"
    return found["as_alone"] if found["paused_at_once"] else 0, (
        f"{found['as_alone']} of {found['clients']} clients, {at_once} at layers {', '.join(map(str, found['layers']))}, "
        f"got the {found['new_tokens']} tokens and last logits of the same session alone"
    )


@FACTS.needs("zero_change")
def zero_change_lines(combined: Combined) -> tuple[float, str]:
    found = combined["zero_change"]
    tight, roomy = found["runs"]["tight"], found["runs"]["roomy"]
    if not tight["restores"]:
        raise Absent("the tight run restored nothing: it was not under memory pressure")
    return found["lines_equal"] / found["lines"], (
        f"{found['script']} (SHA-256 {found['script_sha256'][:12]}) twice: {roomy['output_bytes']} bytes of output, "
        f"{'identical' if found['identical'] else 'NOT identical'}; {found['sessions']} sessions, "
        f"{format_bytes(found['kv_bytes'])} of KV, on an arena of {format_bytes(roomy['arena_bytes'])} "
        f"({roomy['restores']} restores) and of {format_bytes(tight['arena_bytes'])} ({tight['restores']} restores)"
    )


def _steering(combined: Combined) -> dict[str, Any]:
    steering = combined["steering"]
    if not steering["enabled"]:
        raise Absent("activation_steering.enabled is false in the config")
    return steering


def _factor(steering: dict[str, Any], factor: float) -> dict[str, float]:
    return next(row for row in steering["sweep"] if row["factor"] == factor)


@FACTS.needs("steering")
def steering_changed_share(combined: Combined) -> tuple[float, str]:
    steering = _steering(combined)
    row = _factor(steering, SEED_FACTOR)
    return row["changed_argmax"], (
        f"share of {steering['positions']} argmax positions changed by factor {SEED_FACTOR} at layer {steering['layer']}; "
        f"of all logits {row['changed_logits']:.3g} changed, by {100 * row['relative_l2']:.2f} % of their length (L2); "
        f"mean KL {row['kl']:.3g} nats"
    )


@FACTS.needs("steering")
def steering_control_share(combined: Combined) -> tuple[float, str]:
    steering = _steering(combined)
    return _factor(steering, 1.0)[
        "changed_logits"
    ], f"share of logits changed by factor 1.0 at layer {steering['layer']}"


@FACTS.needs("steering")
def steering_hook_difference(combined: Combined) -> tuple[float, str]:
    steering = _steering(combined)
    worst = max(steering["sweep"], key=lambda row: row["hook_max_abs"])
    agreement = min(row["hook_top1"] for row in steering["sweep"])
    return worst["hook_max_abs"], (
        f"max |Δlogit| to a forward hook doing the same edit, the largest of {len(steering['sweep'])} factors "
        f"(at {worst['factor']:g}), {steering['positions']} positions each; same best token at {100 * agreement:.2f} % or more"
    )


@FACTS.needs("steering")
def steering_cost(combined: Combined) -> tuple[float, str]:
    steering = _steering(combined)
    ratio, times = steering["edited_over_unedited"], steering["resume_ms"]
    return ratio["high"], (
        f"upper 95 % bound of {ratio['n']} pairs in turn; median {ratio['ratio']:.3f}, lower bound {ratio['low']:.3f}; "
        f"{times['edited']['median']:.1f} ms edited, {times['unedited']['median']:.1f} ms not (request → logits)"
    )
