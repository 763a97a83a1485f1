"""The seed's other experiments as `combined.json` holds them: shares, medians, and paired differences and ratios."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from evaluation import lengths
from evaluation.summary import paired, paired_difference, summarise

Result = dict[str, Any]


def _breakpoints(result: Result) -> Result:
    """Tokens that were the same, by layer, and what plain transformers says of the uninterrupted ones."""
    return result | {"models": {which: _of_model(model) for which, model in result["models"].items()}}


def _of_model(model: Result) -> Result:
    positions, plain = model["plain"]["positions"], model["plain"]
    layers = {
        str(row["layer"]): {
            "tokens": row["tokens"],
            "accuracy": sum(row["as_uninterrupted"]) / row["tokens"],
            "accuracy_to_plain": sum(row["as_generate"]) / row["tokens"],
            "bit_equal": row["bit_equal"],
        }
        for row in model["layers"]
    }
    controls = [one["control"] for one in positions if "control" in one]  # not in raw files of before it was measured
    return {
        "facts": model["facts"],
        "prompts": model["prompts"],
        "layers": layers,
        "plain": {"positions": sum(one["positions"] for one in positions)}
        | _apart(positions)
        | {
            "tokens": plain["tokens"],
            "as_generate": sum(plain["as_generate"]),
            "control": _apart(controls) if controls else None,
        },
    }


def _apart(counts: list[Result]) -> Result:
    """The prompts' counts of `plain.apart` together."""
    return {
        **{key: sum(one[key] for one in counts) for key in ("near_ties", "different")},
        "max_abs_logit_diff": max(one["max_abs_logit_diff"] for one in counts),
    }


def _steering(result: Result) -> Result:
    """Every factor's means over the prompts (the hook's difference: the largest), and the edited resume's cost."""
    if not result["enabled"]:
        return result
    sweep = []
    for row in result["sweep"]:
        found = row["by_prompt"]
        means = {key: float(np.mean([one[key] for one in found])) for key in found[0] if key != "hook_max_abs"}
        sweep.append({"factor": row["factor"], **means, "hook_max_abs": max(one["hook_max_abs"] for one in found)})
    times = result["resume_ms"]
    return result | {
        "sweep": sweep,
        "resume_ms": {way: summarise(samples) for way, samples in times.items()},
        "edited_over_unedited": paired(times["edited"], times["unedited"]),
        "by_pair": _ratios(times["edited"], times["unedited"]),
    }


def _checkpoint_cost(result: Result) -> Result:
    """dispatch_ms: one checkpoint's share of the paired difference; share_of_prefill: the same over the plain prefill."""
    times, beside = result["prefill_ms"], result["interference"]
    each = {way: [ms / result["checkpoints"] for ms in samples] for way, samples in times.items()}
    # Older raw files know only how long parking took, and call that drained_ms.
    parked, drained = ("parked_ms", "drained_ms") if "parked_ms" in result else ("drained_ms", None)
    by = {"prefill": 1.0, "decode": 1.0}
    if "decode_passes" not in beside:  # older: the time of DECODED - 1 passes divided by DECODED tokens
        by["decode"] = lengths.DECODED / (lengths.DECODED - 1)
    return {
        "prompt_tokens": result["prompt_tokens"],
        "checkpoints": result["checkpoints"],
        "prefill_ms": {way: summarise(samples) for way, samples in times.items()},
        "dispatch_ms": paired_difference(each["with"], each["without"]),
        "parked_ms": summarise(result[parked]),
        "drained_ms": drained and summarise(result[drained]),
        "drained_bytes": summarise(result["drained_bytes"]),
        "behind_bytes": drained and summarise(result["behind_bytes"]),
        "interference": {
            what: {
                "alone_ms": summarise([by[what] * ms for ms in beside[f"{what}_ms"]["alone"]]),
                "beside_ms": summarise([by[what] * ms for ms in beside[f"{what}_ms"]["beside"]]),
                "slowdown": paired(beside[f"{what}_ms"]["beside"], beside[f"{what}_ms"]["alone"]),
                "by_pair": _ratios(beside[f"{what}_ms"]["beside"], beside[f"{what}_ms"]["alone"]),
            }
            for what in ("prefill", "decode")
        },
        "copied_bytes": summarise(beside["copied_bytes"]),
        "busy": summarise(beside["busy"]),
    }


def _ratios(over: list[float], under: list[float]) -> list[float]:
    return sorted(a / b for a, b in zip(over, under, strict=True))


def _dispatch(result: Result) -> Result:
    loaded, fetched = result["loaded"], result["fetch"]
    return result | {
        **{
            state: result[state] and {kind: summarise(samples) for kind, samples in result[state].items()}
            for state in ("idle_ms", "busy_ms")
        },
        "fetch": {
            "bytes": fetched["bytes"],
            "ms": summarise(fetched["ms"]),
            "GBps": summarise([fetched["bytes"] / ms / 1e6 for ms in fetched["ms"]]),
        },
        "loaded": loaded | {key: summarise(loaded[key]) for key in ("ready_ms", "logits_ms")},
    }


def _concurrent(result: Result) -> Result:
    rows = result["clients"]
    return result | {
        "clients": len(rows),
        "layers": [row["layer"] for row in rows],
        "as_alone": sum(row["bit_equal"] and row["tokens_equal"] == result["new_tokens"] for row in rows),
    }


def _traced(result: Result) -> Result:
    """by_step, and the whole steered round trip (its four steps) both ways."""
    steered = result["steps"][:4]
    return result | {
        "steered_bytes": sum(step["up_bytes"] + step["down_bytes"] for step in steered),
        "checkpointed_down_bytes": steered[1]["down_bytes"],
    }


def _zero_change(result: Result) -> Result:
    """The outputs by their hash; the lines themselves stay in the raw file."""
    roomy, tight = (result["runs"][name] for name in ("roomy", "tight"))
    runs = {name: {key: value for key, value in run.items() if key != "lines"} for name, run in result["runs"].items()}
    same = sum(a == b for a, b in zip(roomy["lines"], tight["lines"], strict=True))
    return result | {
        "runs": runs,
        "lines": len(roomy["lines"]),
        "lines_equal": same,
        "identical": roomy["output_sha256"] == tight["output_sha256"],
    }


SECTIONS: dict[str, Callable[[Result], Result]] = {
    "steering": _steering,
    "breakpoints": _breakpoints,
    "checkpoint_cost": _checkpoint_cost,
    "dispatch": _dispatch,
    "concurrent": _concurrent,
    "traced": _traced,
    "zero_change": _zero_change,
}
EXPERIMENTS = tuple(SECTIONS)


def experiments(results: dict[str, Result]) -> dict[str, Result | None]:
    """rule → its section, None for one that has not run."""
    return {rule: make(results[rule]) if rule in results else None for rule, make in SECTIONS.items()}
