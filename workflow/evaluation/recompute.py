"""Recompute: nothing is kept of a paused session, so everything below the breakpoint is done again.

A pause in prefill at L costs the embedding and L layers over the whole prompt, which rebuilds their KV. A pause in decode
costs the whole prefill (every layer's KV is needed to go on) and L layers of the one new token.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from djinn.model.load import load_model
from evaluation.continuation import Case, Layers, Pass, SessionCache, make_cases, measure_case
from evaluation.prompts import load_prompts

Progress = Callable[[str], None]


def measure(settings: Any, progress: Progress) -> dict[str, Any]:
    torch.set_num_threads(settings.threads)
    loaded = load_model(**vars(settings.model), device=settings.device)
    wanted = settings.resume
    with torch.inference_mode():
        layers = Layers(loaded.model)
        held = SessionCache(loaded.facts, wanted.prompt_tokens + 1, loaded.model.lm_head.weight)
        results = []
        for case in make_cases(
            loaded.model, load_prompts(settings.model, len(wanted.layers), wanted.prompt_tokens), wanted.layers
        ):
            progress(f"recompute: {case.phase} pause at layer {case.layer}")
            results.append(_measure(layers, held, case, (wanted.warmup, wanted.samples)))
    return {"system": "recompute", "prompt_tokens": wanted.prompt_tokens, "cases": results}


def _measure(layers: Layers, held: SessionCache, case: Case, counts: tuple[int, int]) -> dict[str, Any]:
    def restore() -> tuple[torch.Tensor, dict[str, Any], Any]:
        cache = held.start([0] * layers.depth)
        if case.phase == "decode":
            hidden, given = layers.begin(Pass(case.prompt, 0))
            layers.run(hidden, given, cache, 0, layers.depth)
        hidden, given = layers.begin(case.step)
        return layers.run(hidden, given, cache, 0, case.layer), given, cache

    return measure_case(layers, case, restore, held.poison, counts, moved=0)
