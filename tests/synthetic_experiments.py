"""MADE-UP results of the seed's other experiments, for the tests of the analysis. No number here was measured."""

from __future__ import annotations

from typing import Any

FACTORS = (0.0, 0.5, 0.9, 1.0, 1.5, 2.0)
PAIRS = 50


def made_up_experiments() -> dict[str, dict[str, Any]]:
    """rule → result."""
    return {
        "steering": steering(),
        "breakpoints": breakpoints(),
        "checkpoint_cost": checkpoint_cost(),
        "dispatch": dispatch(),
        "concurrent": concurrent(),
        "traced": traced(),
        "zero_change": zero_change(),
    }


def wave(middle: float, count: int, width: float = 0.02) -> list[float]:
    """`count` values around `middle`, the same every time."""
    return [middle * (1 + width * ((7 * i) % 11 - 5) / 5) for i in range(count)]


def steering() -> dict[str, Any]:
    def prompt(factor: float, number: int) -> dict[str, float]:
        changed = 0.31 * abs(factor - 1) * (1 + 0.05 * number)
        return {
            "changed_argmax": changed,
            "changed_logits": float(factor != 1),
            "relative_l2": changed / 2,
            "kl": changed**2,
            "hook_max_abs": 0.0,
            "hook_top1": 1.0,
        }

    return {
        "enabled": True,
        "layer": 15,
        "modification_type": "scale",
        "factor": 0.9,
        "positions": 2048,
        "sweep": [{"factor": f, "by_prompt": [prompt(f, n) for n in range(-1, 2)]} for f in FACTORS],
        "resume_ms": {"unedited": wave(100.0, PAIRS), "edited": wave(100.4, PAIRS)},
    }


def breakpoints() -> dict[str, Any]:
    def model(name: str, layers: tuple[int, ...]) -> dict[str, Any]:
        row = {"tokens": 1280, "as_uninterrupted": [64] * 20, "as_generate": [64] * 20, "bit_equal": 20}
        apart = {"near_ties": 0, "different": 0, "max_abs_logit_diff": 1e-5}
        one = {"positions": 127, **apart, "control": apart}
        return {
            "facts": {"name": name, "source": "random", "dtype": "float32"},
            "prompts": 20,
            "layers": [{"layer": layer, **row} for layer in layers],
            "plain": {"tokens": 1280, "as_generate": [64] * 20, "positions": [one] * 20},
        }

    models = {"campaign": model("smollm2-135m", (8, 15, 20, 22)), "gpt2": model("gpt2-small", (3, 6, 9))}
    return {"prompt_tokens": 64, "new_tokens": 64, "models": models}


def checkpoint_cost() -> dict[str, Any]:
    return {
        "prompt_tokens": 512,
        "checkpoints": 30,
        "prefill_ms": {"without": wave(150.0, PAIRS), "with": wave(151.8, PAIRS)},
        "drained_ms": wave(6.0, PAIRS),
        "drained_bytes": [29_491_200] * PAIRS,
        "behind_bytes": [28_000_000] * PAIRS,
        "parked_ms": wave(0.2, PAIRS),
        "interference": {
            "prefill_ms": {"alone": wave(150.0, PAIRS), "beside": wave(170.0, PAIRS, 0.08)},
            "decode_ms": {"alone": wave(35.0, PAIRS), "beside": wave(41.0, PAIRS, 0.1)},
            "decode_passes": 3,
            "copied_bytes": [900_000_000] * PAIRS,
            "busy": [0.8, 0.85, 0.9],
        },
    }


def dispatch() -> dict[str, Any]:
    kinds = ("prefill", "resume", "resume_with_activation")
    return {
        "prompt_tokens": 512,
        "layer": 15,
        "same_clock": True,
        "idle_ms": {kind: wave(0.2, 30) for kind in kinds},
        "busy_ms": {kind: wave(0.9, 30) for kind in kinds},
        "fetch": {"bytes": 1_179_648, "ms": wave(1.5, 30)},
        "loaded": {
            "ready_ms": wave(3.0, 30),
            "logits_ms": wave(400.0, 30),
            "prefills": 40,
            "tokens": 900,
        },
    }


def concurrent() -> dict[str, Any]:
    rows = [
        {"layer": layer, "paused_ns": 10, "resumed_ns": 20, "tokens_equal": 16, "bit_equal": True}
        for layer in (1, 5, 9, 13, 18, 22, 26, 30)
    ]
    return {"prompt_tokens": 512, "new_tokens": 16, "clients": rows, "paused_at_once": True}


def traced() -> dict[str, Any]:
    steps = [
        ("open a session", 30, 76),
        ("run with a checkpoint at the layer", 4_300, 196_900),
        ("fetch the activation", 98, 1_179_800),
        ("go on from the layer with the changed one", 1_179_900, 196_900),
        ("run and stop at the layer", 4_300, 153),
        ("go on from the stop", 182, 196_900),
    ]
    return {
        "prompt_tokens": 512,
        "layer": 15,
        "factor": 0.9,
        "steps": [{"step": step, "up_bytes": up, "down_bytes": down, "ms": 10.0} for step, up, down in steps],
        "activation_bytes": 1_179_648,
        "logits_bytes": 196_608,
        "stayed_bytes": 12_386_304,
        "stop_equals_checkpoint": True,
        "changed_logits": 0.99,
    }


def zero_change() -> dict[str, Any]:
    def run(arena: int, restores: int) -> dict[str, Any]:
        return {
            "output_sha256": "a" * 64,
            "output_bytes": 1400,
            "lines": ["0.1 5 6 7"] * 16,
            "arena_bytes": arena,
            "evictions": restores,
            "evicted_bytes": restores * 11_000_000,
            "restores": restores,
            "restored_bytes": restores * 11_000_000,
        }

    return {
        "script": "long_sessions.py",
        "script_sha256": "b" * 64,
        "sessions": 8,
        "prompt_tokens": 512,
        "new_tokens": 16,
        "kv_bytes": 100_000_000,
        "runs": {"roomy": run(120_000_000, 0), "tight": run(45_000_000, 11)},
    }
