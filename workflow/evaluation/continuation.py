"""What every baseline of the resume experiment shares: the model's own layers from L on, one session's cache, the stamps.

The baselines are written as a careful engineer would write them by hand for a Llama-type model: the KV cache of the one
session in work lies in one allocated buffer (layer first), so that its layers move in one copy; a prefill needs no mask
(causal), nor does a decode step of one row. Their logits are compared bit for bit with the plain uninterrupted forward.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from transformers import Cache, DynamicCache
from transformers.cache_utils import CacheLayerMixin

from djinn.errors import UnsupportedModel

Tensor = torch.Tensor


class Slot(CacheLayerMixin):
    """One layer's keys and values, written in place into buffers that were allocated before."""

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        super().__init__()
        self.keys, self.values, self.used, self.is_initialized = keys, values, 0, True

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing to do: the buffers are there."""

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        end = self.used + key_states.shape[-2]
        self.keys[:, :, self.used : end] = key_states
        self.values[:, :, self.used : end] = value_states
        self.used = end
        return self.keys[:, :, :end], self.values[:, :, :end]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.used + query_length, 0

    def get_seq_length(self) -> int:
        return self.used

    def get_max_length(self) -> int:
        return self.keys.shape[-2]


class SessionCache:
    """One session's KV in one device buffer `(layers, 2, 1, kv_heads, capacity, head_dim)`."""

    def __init__(self, facts: dict[str, Any], capacity: int, like: torch.nn.Parameter) -> None:
        shape = (facts["layers"], 2, 1, facts["kv_heads"], capacity, facts["head_dim"])
        self.buffer = torch.empty(shape, dtype=like.dtype, device=like.device)

    def start(self, used: list[int]) -> Cache:
        """A transformers cache over the buffer whose layers hold the first `used[layer]` tokens."""
        cache = Cache(layers=[Slot(layer[0], layer[1]) for layer in self.buffer])
        for slot, tokens in zip(cache.layers, used, strict=True):
            slot.used = tokens
        return cache

    def poison(self, first_layer: int = 0) -> None:
        """What is not restored must not be there by chance: NaN from `first_layer` on."""
        self.buffer[first_layer:].fill_(float("nan"))


@dataclass(frozen=True)
class Pass:
    """One forward pass: its input ids `(1, rows)` and the position of the first of them."""

    ids: Tensor
    start: int


class Layers:
    """A Llama-type model, layer by layer. Raises UnsupportedModel for another."""

    def __init__(self, model: Any) -> None:
        if not hasattr(getattr(model, "model", None), "rotary_emb"):
            raise UnsupportedModel(
                f"{type(model).__name__}: these baselines run models of the Llama type layer by layer. Djinn's own rules run "
                "it: snakemake djinn_resume breakpoints"
            )
        self.body, self.head = model.model, model.lm_head
        self.depth = len(self.body.layers)
        self.device = model.device

    def begin(self, step: Pass) -> tuple[Tensor, dict[str, Any]]:
        """Embedding, and what every layer is given beside the hidden state."""
        hidden = self.body.embed_tokens(step.ids)
        return hidden, self.tables(step, hidden)

    def tables(self, step: Pass, hidden: Tensor) -> dict[str, Any]:
        positions = torch.arange(step.start, step.start + step.ids.shape[1], device=self.device)[None]
        rotary = self.body.rotary_emb(hidden, position_ids=positions)
        return {"position_ids": positions, "position_embeddings": rotary, "attention_mask": None}

    def run(self, hidden: Tensor, given: dict[str, Any], cache: Cache, first: int, last: int) -> Tensor:
        """Layers first+1..last (counted from 1)."""
        for layer in self.body.layers[first:last]:
            hidden = layer(hidden, past_key_values=cache, use_cache=True, **given)
        return hidden

    def logits(self, hidden: Tensor) -> Tensor:
        """Last-token logits on the host, `(1, vocabulary)`."""
        return self.head(self.body.norm(hidden[:, -1:]))[:, -1].to("cpu")


@dataclass(frozen=True)
class Case:
    """A pause after `layer` layers, in the prefill of `prompt` or in the first new token's pass."""

    phase: str
    layer: int
    prompt: Tensor  # (1, tokens), on the device
    token: Tensor  # (1, 1), the first new token
    reference: Tensor  # last-token logits of the uninterrupted pass, on the host

    @property
    def step(self) -> Pass:
        """The pass that is paused."""
        return Pass(self.prompt, 0) if self.phase == "prefill" else Pass(self.token, self.prompt.shape[1])

    def used(self, depth: int) -> list[int]:
        """Tokens that each layer's KV holds at the pause."""
        tokens = self.prompt.shape[1]
        below, above = (tokens, 0) if self.phase == "prefill" else (tokens + 1, tokens)
        return [below if layer < self.layer else above for layer in range(depth)]


def make_cases(model: Any, prompts: list[list[int]], layers: list[int]) -> list[Case]:
    """Both phases at each layer, one prompt a layer, with the plain model's own logits to compare with."""
    cases = []
    for prompt, layer in zip(prompts, layers, strict=True):
        ids = torch.tensor([prompt], device=model.device)
        cache = DynamicCache(config=model.config)
        prefill = model(ids, past_key_values=cache, use_cache=True, logits_to_keep=1).logits[:, -1]
        token = prefill.argmax(-1, keepdim=True)
        decode = model(token, past_key_values=cache, use_cache=True, logits_to_keep=1).logits[:, -1]
        for phase, reference in (("prefill", prefill), ("decode", decode)):
            cases.append(Case(phase, layer, ids, token, reference.to("cpu")))
    return sorted(cases, key=lambda case: case.phase, reverse=True)


Restore = Callable[[], tuple[Tensor, dict[str, Any], Cache]]


class Timer:
    """Stamps on one monotonic clock; on CUDA the device is idle at each of them."""

    def __init__(self, device: torch.device) -> None:
        self._wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None

    def now(self) -> float:
        """Milliseconds."""
        self._wait()
        return time.perf_counter_ns() / 1e6


def resume(
    layers: Layers, layer: int, restore: Restore, timer: Timer, kv_moves: bool
) -> tuple[dict[str, float | None], Tensor]:
    """One resume: MEASURES' intervals (ms) and the logits. kv_moves: False where the KV never left the device."""
    accepted = timer.now()
    hidden, given, cache = restore()
    ready = timer.now()
    if layer == layers.depth:
        logits = layers.logits(hidden)
        first = done = timer.now()
    else:
        hidden = layers.run(hidden, given, cache, layer, layer + 1)
        first = timer.now()
        logits = layers.logits(layers.run(hidden, given, cache, layer + 1, layers.depth))
        done = timer.now()
    sample = {
        "ready_ms": ready - accepted,
        "first_layer_ms": first - ready,
        "logits_ms": done - accepted,
        "resident_ms": ready - accepted if kv_moves else None,
        "client_ms": None,
    }
    return sample, logits


def measure_case(
    layers: Layers,
    case: Case,
    restore: Restore,
    before: Callable[[], None],
    counts: tuple[int, int],
    moved: int,
    kv_moves: bool = True,
) -> dict[str, Any]:
    """One case of a raw result. before: undoes the last resume (untimed); counts: (warm-up, samples); moved: bytes restored."""
    timer, samples, different = Timer(layers.device), [], 0.0
    warmup, wanted = counts
    equal = True
    for _ in range(warmup + wanted):
        before()
        sample, logits = resume(layers, case.layer, restore, timer, kv_moves)
        samples.append(sample)
        equal = equal and torch.equal(logits, case.reference)
        different = max(different, float((logits.float() - case.reference.float()).abs().max()))
    return {
        "phase": case.phase,
        "temperature": "none",
        "layer": case.layer,
        "bytes": moved,
        "logits_bit_equal": equal,
        "logits_max_abs_diff": different,
        "samples": samples[warmup:],
    }
