"""One family in one dtype, with what its tests need: the unpaused run, fresh slabs, poison and a watch on the layers.

DJINN_TEST_DEVICE=cuda:0 make test ARGS=tests/test_families.py    # the same on a card
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from families import VOCABULARY, Family
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache

from djinn.model.executor import Executor
from djinn.model.layers import kv_shape
from djinn.model.slabs import SlabCache

DEVICE = torch.device(os.environ.get("DJINN_TEST_DEVICE", "cpu"))
TOKENS = 64
LATER = 30  # the second place of pauses in decode: the pass over this generated token


def build(family: Family, dtype: torch.dtype) -> torch.nn.Module:
    """Random weights so large that attention is far from uniform and the chosen token is clearly the best."""
    config = AutoConfig.for_model(family.model_type, **family.config)
    model = AutoModelForCausalLM.from_config(config, dtype=dtype).eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(family.seed)
    for parameter in model.parameters():
        if parameter.dim() >= 2:
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 1.5 / min(parameter.shape[-2:]) ** 0.5)
    return model.to(DEVICE)


class Subject:
    """One family in one dtype: plain generate, then the executor's own unpaused run of the same 64 tokens."""

    def __init__(self, family: Family, dtype: str) -> None:
        self.family, self.dtype = family, dtype
        torch.backends.cuda.enable_cudnn_sdp(False)  # as in the server
        model = build(family, getattr(torch, dtype))
        self.prompt = torch.randint(3, VOCABULARY, (1, family.prompt), generator=torch.Generator().manual_seed(1)).to(
            DEVICE
        )
        model.generation_config.eos_token_id, model.generation_config.pad_token_id = None, 0
        self.plain_tokens = self.generated(model)
        self.plain_logits = model(input_ids=self.prompt, use_cache=True).logits
        self.shape = kv_shape(model)
        self.executor = Executor(model)
        self.depth = self.executor.depth
        self._generate()

    def generated(self, model: torch.nn.Module, **cache: DynamicCache) -> torch.Tensor:
        tokens = model.generate(self.prompt, do_sample=False, max_new_tokens=TOKENS, **cache)
        return tokens[0, self.family.prompt :]

    def same(self, plain: torch.Tensor) -> int:
        return sum(a.item() == b.item() for a, b in zip(self.tokens, plain, strict=True))

    def _generate(self) -> None:
        run, n = self.executor.run, self.family.prompt
        cache = self.fresh()
        self.logits = [run(cache, self.prompt, 0).logits]  # [k]: of the pass over the k-th generated token
        self.tokens = [self.logits[0][:, -1].argmax(-1, keepdim=True)]  # [k - 1]: that token
        for k in range(1, TOKENS):
            if k == LATER:
                self.before_later = self.copied(cache)
            self.logits.append(run(cache, self.tokens[-1], n + k - 1).logits)
            self.tokens.append(self.logits[-1][:, -1].argmax(-1, keepdim=True))

    def fresh(self) -> SlabCache:
        """Slabs of NaN: whatever is read before it was written shows."""
        heads, head_dim = self.shape
        cache = SlabCache(self.depth)
        shape, dtype = (self.depth, self.family.prompt + TOKENS, 2, heads, head_dim), getattr(torch, self.dtype)
        cache.bind(torch.full(shape, torch.nan, dtype=dtype, device=DEVICE))
        return cache

    def copied(self, cache: SlabCache) -> SlabCache:
        copy = SlabCache(self.depth)
        copy.bind([layer.slab.clone() for layer in cache.layers])
        return copy

    @contextmanager
    def poisoned(self) -> Iterator[list[torch.nn.Parameter]]:
        """Hands out the parameters of each layer and, last, those behind all layers; puts back what became NaN of them."""
        layers = [list(layer.parameters()) for layer in self.executor.layers]
        parts = [*layers, self._tail({p.data_ptr() for layer in layers for p in layer})]
        kept = [[p.clone() for p in part] for part in parts]
        try:
            yield parts
        finally:
            for part, old in zip(parts, kept, strict=True):
                for parameter, value in zip(part, old, strict=True):
                    parameter.copy_(value)

    def _tail(self, in_layers: set[int]) -> list[torch.nn.Parameter]:
        """The final norm and the head, as far as they are not the embedding too."""
        order: list[tuple[str, int]] = []
        leaves = [m for m in self.executor.model.modules() if not list(m.children()) and list(m.parameters())]
        hooks = [
            m.register_forward_hook(lambda m, *_: order.extend(p.data_ptr() for p in m.parameters())) for m in leaves
        ]
        self.executor.run(self.fresh(), self.prompt, 0)
        for hook in hooks:
            hook.remove()
        last = max(index for index, pointer in enumerate(order) if pointer in in_layers)
        behind = set(order[last + 1 :]) - set(order[: last + 1])
        return [p for p in self.executor.model.parameters() if p.data_ptr() in behind]

    @contextmanager
    def watched(self) -> Iterator[set[int]]:
        """The numbers of the layers of which any part ran."""
        ran: set[int] = set()
        hooks = [
            part.register_forward_hook(lambda *_, number=number: ran.add(number))
            for number, layer in enumerate(self.executor.layers, 1)
            for part in layer.children()
        ]
        try:
            yield ran
        finally:
            for hook in hooks:
                hook.remove()
