"""The plain model in this process: what a resume's floors and the baselines written by hand run on.

Built on the evaluation's own baselines. Each way is a function that takes one sample: the intervals of MEASURES in ms.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch
from transformers import DynamicCache

from benchmarks.metal.setting import Setting
from djinn.model.load import load_model
from evaluation.continuation import Case, Layers, Restore, SessionCache, Timer, resume
from evaluation.manual_offload import Paused

Sample = Callable[[], dict[str, float | None]]


class Local:
    def __init__(self, setting: Setting) -> None:
        torch.set_grad_enabled(False)  # of this process: nothing here trains
        if setting.device == "cpu":
            torch.set_num_threads(1)
        loaded = load_model(
            setting.model, source="random", dtype=setting.dtype, device=setting.device, seed=setting.seed
        )
        self.model, self.facts = loaded.model, loaded.facts
        self.layers = Layers(self.model)
        self.device = self.model.device
        self.timer = Timer(self.device)

    def case(self, prompt: np.ndarray, layer: int) -> Case:
        """A pause in the prefill of `prompt` after `layer` layers, with the plain model's own logits."""
        ids = torch.from_numpy(prompt)[None].to(self.device)
        logits = self.forward(ids)
        return Case("prefill", layer, ids, logits.argmax(-1, keepdim=True), logits.to("cpu"))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Last-token logits `(1, vocabulary)` of a fresh pass with transformers' own cache."""
        cache = DynamicCache(config=self.model.config)
        return self.model(ids, past_key_values=cache, use_cache=True, logits_to_keep=1).logits[:, -1]

    def prefill_ms(self, prompt: np.ndarray) -> float:
        """One plain prefill to logits on the host."""
        ids = torch.from_numpy(prompt)[None].to(self.device)
        began = self.timer.now()
        self.forward(ids).to("cpu")
        return self.timer.now() - began

    def ways(self, case: Case) -> dict[str, Sample]:
        """compute: the layers that are left, alone; recompute; full: KV and hidden state copied back whole from pinned memory."""
        held = SessionCache(self.facts, case.prompt.shape[1], self.model.lm_head.weight)
        paused = Paused(self.layers, held, case)
        full, wipe, _ = paused.full()

        def compute() -> tuple:
            return paused.hidden, paused.given, held.start(paused.used)

        def recompute() -> tuple:
            cache = held.start([0] * self.layers.depth)
            hidden, given = self.layers.begin(case.step)
            return self.layers.run(hidden, given, cache, 0, case.layer), given, cache

        def taking(restore: Restore, before: Callable[[], None] = lambda: None) -> Sample:
            def sample() -> dict[str, float | None]:
                before()
                intervals, logits = resume(self.layers, case.layer, restore, self.timer, kv_moves=True)
                if not torch.equal(logits, case.reference):
                    worst = float((logits.float() - case.reference.float()).abs().max())
                    intervals["differs_by"] = worst
                return intervals

            return sample

        return {"compute": taking(compute), "recompute": taking(recompute), "manual": taking(full, wipe)}


def copies(device: torch.device, nbytes: int, queued: int, rounds: int) -> dict[str, list[float]]:
    """GB/s of pinned copies, one of `nbytes` each round and as many of `queued` bytes: out, back, and both at once (each way)."""
    cuda = device.type == "cuda"
    host = [torch.zeros(nbytes, dtype=torch.uint8, pin_memory=cuda) for _ in range(2)]
    card = [torch.zeros(nbytes, dtype=torch.uint8, device=device) for _ in range(2)]
    streams = [torch.cuda.Stream(), torch.cuda.Stream()] if cuda else []
    wait = torch.cuda.synchronize if cuda else lambda: None

    def parts(size: int) -> list[slice]:
        return [slice(start, min(start + size, nbytes)) for start in range(0, nbytes, size)]

    def out(size: int) -> None:
        for part in parts(size):
            host[0][part].copy_(card[0][part], non_blocking=True)

    def back(size: int) -> None:
        for part in parts(size):
            card[1][part].copy_(host[1][part], non_blocking=True)

    def both(size: int) -> None:
        for stream, way in zip(streams, (out, back), strict=True):
            with torch.cuda.stream(stream):
                way(size)

    ways = {
        "copy.out": lambda: out(nbytes),
        "copy.back": lambda: back(nbytes),
        "copy.out.queued": lambda: out(queued),
        "copy.back.queued": lambda: back(queued),
        **({"copy.both": lambda: both(nbytes)} if cuda else {}),
    }
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(-1, rounds):
        for name, way in ways.items():
            wait()
            began = time.perf_counter()
            way()
            wait()
            if number >= 0:
                rates[name].append(nbytes / (time.perf_counter() - began) / 1e9)
    return rates


def gemms(local: Local, tokens: int) -> Callable[[], None]:
    """One pass's matrix products alone, fused as well as they can be: q, k and v in one, gate and up in one; no attention."""
    layer = local.layers.body.layers[0]
    a, m = layer.self_attn, layer.mlp
    qkv = torch.cat([a.q_proj.weight, a.k_proj.weight, a.v_proj.weight])
    gate_up = torch.cat([m.gate_proj.weight, m.up_proj.weight])
    # Other numbers than zeros: a card draws less power for zeros and runs them faster.
    hidden = torch.randn(tokens, qkv.shape[1], dtype=qkv.dtype, device=local.device)
    wide = torch.randn(tokens, m.down_proj.weight.shape[1], dtype=qkv.dtype, device=local.device)

    def once() -> None:
        for _ in range(local.layers.depth):
            torch.nn.functional.linear(hidden, qkv)
            torch.nn.functional.linear(hidden, a.o_proj.weight)
            torch.nn.functional.linear(hidden, gate_up)
            torch.nn.functional.linear(wide, m.down_proj.weight)

    return once


def timed(local: Local, call: Callable[[], object], rounds: int) -> list[float]:
    times = []
    for number in range(-2, rounds):
        began = local.timer.now()
        call()
        if number >= 0:
            times.append(local.timer.now() - began)
        else:
            local.timer.now()
    return times


def read_rate(device: torch.device, nbytes: int, rounds: int) -> list[float]:
    """GB/s at which the device's memory is read and written by a copy inside it, both counted."""
    source = torch.zeros(nbytes, dtype=torch.uint8, device=device)
    to = torch.empty_like(source)
    timer, rates = Timer(device), []
    for number in range(-2, rounds):
        began = timer.now()
        to.copy_(source)
        took = timer.now() - began
        if number >= 0:
            rates.append(2 * nbytes / took / 1e6)
    return rates
