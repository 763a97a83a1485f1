"""nnsight: the same model wrapped, a layer read and edited inside a trace, left with `tracer.stop()`.

It has no way back in by itself. What it has is `skip`, which hands a value on instead of running a module: with the cache
of the first trace, and with positions and a mask given by hand (a cache whose layers are of two lengths misleads the
model's own), a second trace goes on where the first was left. That is its best, so that is what is probed.
"""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import torch
from nnsight import NNsight
from transformers import Cache, DynamicCache

from evaluation.contenders.contender import FACTOR, Evidence, Job, refusal
from evaluation.contenders.continuing import keep, kept
from evaluation.contenders.hooks import Hooks

Tensor = torch.Tensor


class NNsightPeer(Hooks):
    """Its sessions are the caller's caches on the device: the workload and what parking is are those of plain hooks."""

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        self.sight = NNsight(self.model)

    def versions(self) -> dict[str, str]:
        return {"nnsight": version("nnsight"), **super().versions()}

    def _new(self) -> DynamicCache:
        return DynamicCache(config=self.model.config)

    def _traced(self, ids: Tensor, cache: Cache) -> Tensor:
        with self.sight.trace(ids, past_key_values=cache, use_cache=True, logits_to_keep=1):
            logits = self.sight.lm_head.output.save()
        return logits[:, -1]

    def _scaled(self, prompt: list[int]) -> Tensor:
        ids, below, cache = self.ids(prompt), self.job.layer - 1, self._new()
        with self.sight.trace(ids, past_key_values=cache, use_cache=True, logits_to_keep=1):
            self.sight.model.layers[below].output *= FACTOR
            logits = self.sight.lm_head.output.save()
        return logits[:, -1]

    def _left(self, prompt: list[int]) -> tuple[Tensor, Cache]:
        """The hidden state behind layer L and the cache of the layers that ran."""
        ids, below, cache = self.ids(prompt), self.job.layer - 1, self._new()
        with self.sight.trace(ids, past_key_values=cache, use_cache=True, logits_to_keep=1) as tracer:
            hidden = self.sight.model.layers[below].output.save()
            tracer.stop()
        return hidden, cache

    def _gone_on(self, prompt: list[int], hidden: Tensor, cache: Cache, **given: Tensor) -> Tensor:
        ids, layers = self.ids(prompt), self.job.layer
        with self.sight.trace(ids, past_key_values=cache, use_cache=True, logits_to_keep=1, **given):
            for below in range(layers):
                self.sight.model.layers[below].skip(hidden)
            logits = self.sight.lm_head.output.save()
        return logits[:, -1]

    def _by_hand(self, tokens: int) -> dict[str, Tensor]:
        """What the model cannot derive from such a cache: positions `(1, tokens)` and the causal mask `(1, 1, tokens, tokens)`."""
        mask = torch.ones(tokens, tokens, dtype=torch.bool, device=self.place).tril()[None, None]
        return {"position_ids": torch.arange(tokens, device=self.place)[None], "attention_mask": mask}

    def continued(self, warmup: int, samples: int) -> dict[str, list[float]]:
        times = []
        for number in range(warmup + samples):
            cache, first = self._prefilled(self.job.prompts[number % len(self.job.prompts)])
            times.append(self.ms(lambda cache=cache, first=first: self._traced(self.ids([first]), cache).cpu()))
        return {"resident": times[warmup:]}

    def edited(self, warmup: int, samples: int) -> dict[str, list[float]]:
        return self.in_turn(
            warmup,
            samples,
            plain=lambda prompt: self.whole(prompt).cpu(),
            hook=lambda prompt: self.hooked(prompt).cpu(),
            own=lambda prompt: self._scaled(prompt).cpu(),
        )

    def stop(self) -> Evidence:
        prompt, other, layer = self.job.prompts[0], self.job.prompts[1], self.job.layer
        with self.counting() as ran:
            hidden, cache = self._left(prompt)
            assert ran == list(range(1, layer + 1)), ran
            self.whole(other)
            between = len(ran)
            alone = refusal(lambda: self._gone_on(prompt, hidden, cache), RuntimeError)
            hidden, cache = self._left(prompt)
            begun = len(ran)
            logits = self._gone_on(prompt, hidden, cache, **self._by_hand(len(prompt)))
            above = ran[begun:]
        assert between == layer + self.depth, ran
        difference = float((logits.float() - self.whole(prompt).float()).abs().max())
        seen = (
            f"tracer.stop(), another prompt, then a second trace that skips: layers {min(above)} to {max(above)} run, "
            f"max |Δlogit| {difference:.3g}; positions and mask must be given by hand, without them it is refused"
        )
        right = above == list(range(layer + 1, self.depth + 1))
        return Evidence("yes" if right and difference == 0 else "partly" if right else "no", seen, alone)

    def edit(self) -> Evidence:
        return self.compare_edit(self._scaled(self.job.prompts[0]), self.job.prompts[0])

    def exact(self) -> Evidence:
        """Left in a prefill, gone on with, and decoded from there."""
        prompt, new = self.job.prompts[0], self.job.new_tokens
        cache, first = self._prefilled(prompt)
        whole = [first, *self._decoded(cache, first, new)]
        hidden, cache = self._left(prompt)
        self.whole(self.job.prompts[1])
        logits = self._gone_on(prompt, hidden, cache, **self._by_hand(len(prompt)))
        same = torch.equal(logits, self.whole(prompt))
        first = int(logits.argmax())
        tokens = [first, *self._decoded(cache, first, new)] == whole
        seen = f"left in a prefill and gone on with by skip: logits bit-equal: {same}, {new + 1} tokens equal: {tokens}"
        return Evidence("yes" if same and tokens else "partly" if tokens else "no", seen)

    def _decoded(self, cache: Cache, token: int, new: int) -> list[int]:
        tokens = []
        for _ in range(new):
            token = int(self._traced(self.ids([token]), cache).argmax())
            tokens.append(token)
        return tokens

    def leave(self, folder: Path) -> None:
        hidden, cache = self._left(self.job.prompts[0])
        kv = torch.stack([torch.stack((layer.keys, layer.values)) for layer in cache.layers[: self.job.layer]])
        keep(folder, hidden=hidden, kv=kv)

    def come_back(self, folder: Path) -> Evidence:
        session, prompt, cache = kept(folder, self.place), self.job.prompts[0], self._new()
        for number, (keys, values) in enumerate(session["kv"]):
            cache.update(keys, values, number)
        logits = self._gone_on(prompt, session["hidden"], cache, **self._by_hand(len(prompt)))
        same = torch.equal(logits, self.whole(prompt))
        return Evidence(
            "yes" if same else "no", f"by a safetensors file of its own, read in a new process; bit-equal: {same}"
        )


SYSTEM = NNsightPeer
