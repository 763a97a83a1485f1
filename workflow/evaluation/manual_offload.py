"""Manual offload: what an engineer writes by hand to keep a paused session off the device, in three ways.

activation: the hidden state in host memory; the KV stays on the device and takes its memory there. full: hidden state and
KV in host memory allocated once (pinned on CUDA), copied back whole in one copy each, then on. pageable: `.to("cpu")`
tensor by tensor and `.to(device)` back, which allocates each time: what people write. In prefill the KV of layers 1..L
exists; in decode that of every layer, and all of it is needed before the session can go on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from transformers import Cache, DynamicCache

from djinn.model.load import load_model
from evaluation.continuation import Case, Layers, Pass, Restore, SessionCache, make_cases, measure_case
from evaluation.prompts import load_prompts

MODES = ("activation", "full", "pageable")
Progress = Callable[[str], None]


def measure(settings: Any, progress: Progress, mode: str) -> dict[str, Any]:
    """mode: one of MODES."""
    torch.set_num_threads(settings.threads)
    loaded = load_model(**vars(settings.model), device=settings.device)
    wanted = settings.resume
    with torch.inference_mode():
        layers = Layers(loaded.model)
        results = []
        for case in make_cases(
            loaded.model, load_prompts(settings.model, len(wanted.layers), wanted.prompt_tokens), wanted.layers
        ):
            progress(f"manual offload, {mode}: {case.phase} pause at layer {case.layer}")
            capacity = wanted.prompt_tokens + (case.phase == "decode")
            held = SessionCache(loaded.facts, capacity, loaded.model.lm_head.weight)
            session = Paused(layers, held, case)
            restore, before, moved = getattr(session, mode)()
            results.append(
                measure_case(
                    layers, case, restore, before, (wanted.warmup, wanted.samples), moved, kv_moves=mode != "activation"
                )
            )
    return {"system": f"manual_{mode}", "prompt_tokens": wanted.prompt_tokens, "cases": results}


class Paused:
    """A session run to its breakpoint: its hidden state, its KV in `held`, and how each mode brings them back."""

    def __init__(self, layers: Layers, held: SessionCache, case: Case) -> None:
        self.layers, self.held, self.case = layers, held, case
        self.used = case.used(layers.depth)
        held.poison()
        cache = held.start([0] * layers.depth)
        if case.phase == "decode":
            hidden, given = layers.begin(Pass(case.prompt, 0))
            layers.run(hidden, given, cache, 0, layers.depth)
        hidden, self.given = layers.begin(case.step)
        self.hidden = layers.run(hidden, self.given, cache, 0, case.layer)
        self.filled = sum(tokens > 0 for tokens in self.used)  # layers with KV: 1..L in prefill, all in decode

    def activation(self) -> tuple[Restore, Callable[[], None], int]:
        host, device = _host_buffer(self.hidden), torch.empty_like(self.hidden)

        def restore() -> tuple[torch.Tensor, dict[str, Any], Cache]:
            device.copy_(host, non_blocking=True)
            return device, self.given, self.held.start(self.used)

        def before() -> None:
            device.fill_(float("nan"))
            if self.case.phase == "prefill":
                self.held.poison(self.case.layer)

        return restore, before, host.nbytes

    def full(self) -> tuple[Restore, Callable[[], None], int]:
        host, device = _host_buffer(self.hidden), torch.empty_like(self.hidden)
        kept = _host_buffer(self.held.buffer[: self.filled])

        def restore() -> tuple[torch.Tensor, dict[str, Any], Cache]:
            device.copy_(host, non_blocking=True)
            self.held.buffer[: self.filled].copy_(kept, non_blocking=True)
            return device, self.given, self.held.start(self.used)

        def before() -> None:
            device.fill_(float("nan"))
            self.held.poison()

        return restore, before, host.nbytes + kept.nbytes

    def pageable(self) -> tuple[Restore, Callable[[], None], int]:
        # copy=True is what moving between two devices does anyway; on a CPU, "device" and host are the same one.
        place = self.layers.device
        host = self.hidden.to("cpu", copy=True)
        slots = self.held.start(self.used).layers[: self.filled]
        kept = [tuple(t[:, :, : slot.used].to("cpu", copy=True) for t in (slot.keys, slot.values)) for slot in slots]

        def restore() -> tuple[torch.Tensor, dict[str, Any], Cache]:
            cache = DynamicCache()
            for number, (keys, values) in enumerate(kept):
                cache.update(keys.to(place, copy=True), values.to(place, copy=True), number)
            return host.to(place, copy=True), self.given, cache

        return restore, self.held.poison, host.nbytes + sum(keys.nbytes + values.nbytes for keys, values in kept)


def _host_buffer(source: torch.Tensor) -> torch.Tensor:
    """A contiguous copy of `source` in host memory, pinned where the source is on a CUDA device."""
    host = torch.empty(source.shape, dtype=source.dtype, pin_memory=source.device.type == "cuda")
    return host.copy_(source)
