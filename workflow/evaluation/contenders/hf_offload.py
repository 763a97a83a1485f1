"""transformers' own offload: `DynamicCache(offloading=True)` keeps one layer or two on the device, the rest on the host."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from transformers import DynamicCache

from evaluation.contenders.by_hand import Local
from evaluation.contenders.contender import Evidence, Job, Unable, refusal, said
from evaluation.contenders.continuing import greedy


class HFOffload(Local):
    def __init__(self, job: Job) -> None:
        super().__init__(job)
        try:
            self.forward(self.ids(job.prompts[0][:8]), self._cache())
        except (AssertionError, RuntimeError, AttributeError) as error:
            if self.place.type == "cuda":
                raise
            raise Unable(f"DynamicCache(offloading=True) on {job.device}: {said(error)}") from error

    def _cache(self) -> DynamicCache:
        return DynamicCache(config=self.model.config, offloading=True)

    def _prefilled(self, number: int) -> tuple[DynamicCache, int]:
        cache = self._cache()
        return cache, int(self.forward(self.ids(self.job.prompts[number % len(self.job.prompts)]), cache).argmax())

    def workload(self, sessions: int) -> dict[str, Any]:
        """Every session's cache is offloaded as it is written; they decode one after another, as this cache is made for one."""
        self.wait()
        began = time.perf_counter()
        held = [self._prefilled(number) for number in range(sessions)]
        self.wait()
        barrier = time.perf_counter()
        off = sum(t.nbytes for cache, _ in held for t in self._tensors(cache) if t.device.type == "cpu")
        tokens = [[first, *greedy(self, cache, first, self.job.new_tokens)] for cache, first in held]
        ended = time.perf_counter()
        parts = {"prefill": barrier - began, "decode": ended - barrier}
        return {"seconds": ended - began, "tokens": tokens, "paused": True, "parts": parts, "off_device_bytes": off}

    def _tensors(self, cache: DynamicCache) -> list[torch.Tensor]:
        return [tensor for layer in cache.layers for tensor in (layer.keys, layer.values)]

    def continued(self, warmup: int, samples: int) -> dict[str, list[float]]:
        times = []
        for number in range(warmup + samples):
            cache, first = self._prefilled(number)
            times.append(self.ms(lambda cache=cache, first=first: self.forward(self.ids([first]), cache).cpu()))
        return {"offloaded": times[warmup:]}

    def stop(self) -> Evidence:
        return self.stop_with_a_hook()

    def edit(self) -> Evidence:
        prompt = self.job.prompts[0]
        with self.scaling() as fired:
            logits = self.forward(self.ids(prompt), self._cache())
        assert fired == [len(prompt)], fired
        return self.compare_edit(logits, prompt)

    def park(self) -> Evidence:
        cache, _ = self._prefilled(0)
        tensors = self._tensors(cache)
        here = sum(tensor.nbytes for tensor in tensors if tensor.device == self.place)
        every = sum(tensor.nbytes for tensor in tensors)
        seen = f"{here} of {every} bytes of a waiting session's KV stay on the device, the rest is moved whether needed or not"
        return Evidence("partly" if here < every / 4 else "no", f"{seen}; between tokens only")

    def exact(self) -> Evidence:
        plain = DynamicCache(config=self.model.config)
        first = int(self.forward(self.ids(self.job.prompts[0]), plain).argmax())
        cache, mine = self._prefilled(0)
        new = self.job.new_tokens
        same = first == mine and greedy(self, cache, mine, new) == greedy(self, plain, first, new)
        return Evidence("partly" if same else "no", f"between tokens only: tokens {'equal' if same else 'differ'}")

    def leave(self, folder: Path) -> None:
        """Nothing of its own reaches a disk: `come_back` shows what pickling the cache ends with."""

    def come_back(self, folder: Path) -> Evidence:
        cache, _ = self._prefilled(0)
        refused = refusal(lambda: torch.save(cache, folder / "cache.pt"), TypeError, RuntimeError, AttributeError)
        return Evidence("no", "its cache holds a CUDA stream and cannot be written", refused)


SYSTEM = HFOffload
