"""A small decoder, in memory: its model, what drives it, and a cache whose unwritten places are NaN."""

from __future__ import annotations

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from djinn.model.executor import Executor
from djinn.model.slabs import SlabCache

DEPTH, HEADS, HEAD_DIM, TOKENS, ROOM = 8, 4, 16, 40, 64  # tokens of a prompt, and of a slab
SMALL = {
    "vocab_size": 97,
    "hidden_size": HEADS * HEAD_DIM,
    "intermediate_size": 96,
    "num_hidden_layers": DEPTH,
    "num_attention_heads": HEADS,
}


def model(family: str = "llama", **more: object) -> PreTrainedModel:
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **(SMALL | {"num_key_value_heads": HEADS} | more))
    return AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)


def build(dtype: torch.dtype = torch.float32, **more: object) -> Executor:
    return Executor(model(**more).to(dtype))


def fresh(executor: Executor) -> SlabCache:
    heads = executor.model.config.num_key_value_heads
    cache = SlabCache(DEPTH)
    cache.bind(torch.full((DEPTH, ROOM, 2, heads, HEAD_DIM), float("nan"), dtype=executor.model.dtype))
    return cache
