"""Decode many sessions in one pass: one token each, every session's keys and values where they lie.

The model runs on `(rows, 1)` ids; only attention is done row by row, by the model's own attention function over that
row's slab. So nothing is gathered or padded but the rows themselves, sessions of any lengths go together, and a row's
attention is what it would be alone. With a fixed number of rows the matrix products have one shape whoever is there, and
a row's bits do not depend on its neighbours: that is what deterministic decoding rests on.

Cost: a call of the attention function for each live row and layer. Serves the families whose attention goes through
transformers' AttentionInterface; the load probe finds out (`batches`), the others decode one by one.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.cache_utils import Cache, CacheLayerMixin
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from djinn.model.layers import FORWARD_FAILURES, plain_ids, text_config, windows
from djinn.model.slabs import SlabCache

OWN, NAME = "sdpa", "djinn"  # the attention that is replaced, and the one that looks whether rows are decoded


@dataclass(frozen=True)
class Joining:
    """Rows of a pass that have the same layers behind them, and what came of these; none of it where there are none."""

    layer: int
    rows: slice
    hidden: torch.Tensor | None  # (rows, 1, hidden_size)

    def to(self, others: torch.Tensor) -> torch.Tensor:
        """All rows of the pass behind that layer, these among them."""
        together = others.clone()
        together[self.rows] = self.hidden
        return together


def joinings(starts: Sequence[int], hidden: Sequence[torch.Tensor | None] | None) -> list[Joining]:
    """starts: of each row, in rising order. hidden: `(1, 1, hidden_size)` of each that has layers behind it."""
    found, at = [], 0
    for layer, same in itertools.groupby(starts):
        rows = slice(at, at + len(list(same)))
        found.append(Joining(layer, rows, torch.cat(list(hidden[rows])) if layer else None))
        at = rows.stop
    return found


class RowsLayer(CacheLayerMixin):
    """One layer of every row's cache. `rows[i]` is row i's keys and values after the pass's token was written, None of one that
    has this layer behind it."""

    is_sliding = False

    def __init__(self, index: int, caches: Sequence[SlabCache], starts: Sequence[int]) -> None:
        super().__init__()
        self._layers = [
            cache.layers[index] if start <= index else None for cache, start in zip(caches, starts, strict=True)
        ]
        self.rows: list[tuple[torch.Tensor, torch.Tensor] | None] = []
        self.is_initialized = True

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        pass

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args, **kwargs
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write `(rows, kv_heads, 1, head_dim)` to each live row's slab; rows beyond them are padding."""
        self.rows = [
            None if layer is None else layer.update(key_states[row : row + 1], value_states[row : row + 1])
            for row, layer in enumerate(self._layers)
        ]
        return key_states, value_states

    def get_seq_length(self) -> int:
        return 0

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return query_length, 0

    def get_max_length(self) -> int:
        return -1


class RowsCache(Cache):
    """The caches of the live rows, first rows first."""

    def __init__(self, caches: Sequence[SlabCache], starts: Sequence[int], depth: int) -> None:
        super().__init__(layers=[RowsLayer(index, caches, starts) for index in range(depth)])


# .cache: the RowsCache of this thread's pass. .told: in a trial, the window (or None) that each attention call was given.
_running = threading.local()


@contextmanager
def rows_attended(cache: RowsCache) -> Iterator[None]:
    """Inside, this thread's attention is done row by row over `cache`."""
    _running.cache = cache
    try:
        yield
    finally:
        _running.cache = None


def use_row_attention(model: PreTrainedModel, depth: int) -> bool:
    """Let `model` attend through here; False, and nothing changed, where its layers do not attend by torch's SDPA.

    Found by trying: a pass over a few tokens must come through here once a layer, with the bits it had before. A row is given
    no mask, so attention itself must be told of every window that the config names (Doge, Llama 4 and others leave it to the
    mask), and the cache tells no length, by which Llama 4 sets its temperature.
    """
    config = text_config(model)
    if config._attn_implementation != OWN or getattr(config, "attn_temperature_tuning", False):
        return False
    AttentionInterface.register(NAME, _attend)
    AttentionMaskInterface.register(NAME, AttentionMaskInterface()[OWN])
    ids = torch.tensor([plain_ids(config)[:3]], device=model.device)
    told: list[int | None] = []
    with torch.inference_mode():
        try:
            before = model(input_ids=ids, use_cache=False).logits
            config._attn_implementation = NAME
            _running.told = told
            same = torch.equal(model(input_ids=ids, use_cache=False).logits, before)
        except FORWARD_FAILURES:  # the load probe says what is wrong with such a model
            same = False
        finally:
            _running.told = None
    if same and len(told) == depth and windows(config) <= set(told):
        return True
    config._attn_implementation = OWN
    return False


def _attend(module: torch.nn.Module, query, key, value, attention_mask, **kwargs):
    cache: RowsCache | None = getattr(_running, "cache", None)
    if cache is None:
        if getattr(_running, "told", None) is not None:
            _running.told.append(kwargs.get("sliding_window"))
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    window, outs = kwargs.get("sliding_window"), {}
    for row, held in enumerate(cache.layers[module.layer_idx].rows):
        if held is None:
            continue
        keys, values = held
        if window is not None:  # one query sees the last `window` tokens: no mask is needed for it
            keys, values = keys[:, :, -window:], values[:, :, -window:]
        outs[row] = sdpa_attention_forward(module, query[row : row + 1], keys, values, None, **kwargs)[0]
    nothing = torch.zeros_like(next(iter(outs.values())))
    return torch.cat([outs.get(row, nothing) for row in range(query.shape[0])]), None
