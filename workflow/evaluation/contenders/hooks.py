"""PyTorch eager with forward hooks and one DynamicCache a session, everything on the device: the parking lot."""

from __future__ import annotations

import pickle
import time
from pathlib import Path
from typing import Any

import torch
from transformers import Cache, DynamicCache

from djinn.sizes import format_bytes
from evaluation.contenders.by_hand import Local
from evaluation.contenders.contender import FACTOR, Evidence, Unable, refusal
from evaluation.contenders.continuing import greedy, kv_bytes
from evaluation.continuation import Layers, Pass


class Hooks(Local):
    def workload(self, sessions: int) -> dict[str, Any]:
        prompts, new = self.job.prompts[:sessions], self.job.new_tokens
        need = sum((len(prompt) + new) * self.facts["kv_bytes_per_token"] for prompt in prompts)
        if need > self.job.kv_room:
            raise Unable(
                f"{sessions} sessions keep {format_bytes(need)} of KV on the device, the budget leaves "
                f"{format_bytes(self.job.kv_room)}; the rule eager raises N to the real out-of-memory error"
            )
        self.wait()
        began = time.perf_counter()
        held = [self._prefilled(prompt) for prompt in prompts]
        self.wait()
        barrier = time.perf_counter()
        tokens = [[first, *greedy(self, cache, first, new)] for cache, first in held]
        ended = time.perf_counter()
        return {
            "seconds": ended - began,
            "tokens": tokens,
            "paused": True,
            "parts": {"prefill": barrier - began, "decode": ended - barrier},
            "off_device_bytes": 0,
        }

    def _prefilled(self, prompt: list[int]) -> tuple[Cache, int]:
        cache = DynamicCache(config=self.model.config)
        return cache, int(self.forward(self.ids(prompt), cache).argmax())

    def continued(self, warmup: int, samples: int) -> dict[str, list[float]]:
        times = []
        for number in range(warmup + samples):
            cache, first = self._prefilled(self.job.prompts[number % len(self.job.prompts)])
            times.append(self.ms(lambda cache=cache, first=first: self.forward(self.ids([first]), cache).cpu()))
        return {"resident": times[warmup:]}

    def stop(self) -> Evidence:
        return self.stop_with_a_hook()

    def edit(self) -> Evidence:
        """Its own way is the hook; held against a loop over the layers that scales between two of them."""
        prompt, layers = self.job.prompts[0], Layers(self.model)
        hidden, given = layers.begin(Pass(self.ids(prompt), 0))
        cache = DynamicCache(config=self.model.config)
        below = layers.run(hidden, given, cache, 0, self.job.layer)
        by_loop = layers.logits(layers.run(below * FACTOR, given, cache, self.job.layer, self.depth))
        return self.compare_edit(by_loop.to(self.place), prompt)

    def park(self) -> Evidence:
        cache, _ = self._prefilled(self.job.prompts[0])
        device = sum(t.nbytes for layer in cache.layers for t in (layer.keys, layer.values) if t.device == self.place)
        assert device == kv_bytes(cache) > 0
        return Evidence(
            "no",
            f"{device} of {device} bytes of a waiting session's KV stay on the device until its own code moves them",
        )

    def exact(self) -> Evidence:
        """Put aside between two tokens while another session works: inside a pass it cannot be."""
        prompt, new = self.job.prompts[0], self.job.new_tokens
        cache, first = self._prefilled(prompt)
        whole = greedy(self, cache, first, new)
        cache, first = self._prefilled(prompt)
        begun = greedy(self, cache, first, 2)
        self.whole(self.job.prompts[1])
        rest = greedy(self, cache, begun[-1], new - 2)
        same = [*begun, *rest] == whole
        return Evidence("partly" if same else "no", f"between tokens only: tokens {'equal' if same else 'differ'}")

    def leave(self, folder: Path) -> None:
        cache, first = self._prefilled(self.job.prompts[0])
        torch.save((cache, first), folder / "session.pt")

    def come_back(self, folder: Path) -> Evidence:
        """The pickle that people write. It is read as code may be run: torch's safe reading refuses it."""
        refused = refusal(lambda: torch.load(folder / "session.pt"), pickle.UnpicklingError)
        cache, first = torch.load(folder / "session.pt", weights_only=False, map_location=self.place)
        again, mine = self._prefilled(self.job.prompts[0])
        new = self.job.new_tokens
        same = first == mine and greedy(self, cache, first, new) == greedy(self, again, mine, new)
        seen = f"between tokens, by a pickle of the cache (weights_only=False): tokens {'equal' if same else 'differ'}"
        return Evidence("partly" if same else "no", seen, refused)


SYSTEM = Hooks
