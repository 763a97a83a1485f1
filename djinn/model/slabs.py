"""A transformers Cache whose keys and values lie in slabs that somebody else owns.

A slab is one session's KV of one layer: `[capacity, 2, kv_heads, head_dim]`, token after token, so that the live tokens
are one run of bytes, and attention reads them in place through a transposed view.

While a pass runs, every layer reports the length from before the pass: masks and positions come out the same whether
the pass starts at layer 0 or goes on above a breakpoint, where the lower layers already hold the new tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Protocol

import numpy as np
import torch
from transformers.cache_utils import Cache, CacheLayerMixin

from djinn.errors import UnsupportedModel


class Gate(Protocol):
    """Holds what computes from now on until a layer's older tokens are back on the device."""

    def hold(self) -> None: ...


class Position:
    """Where a session's pass stands; one for all its layers."""

    past = 0  # tokens before the running pass
    counted = True  # whether its tokens count as held once it has been queued


class SlabLayer(CacheLayerMixin):
    is_sliding = False  # a sliding layer keeps every token too; its mask does the sliding

    def __init__(self, position: Position, index: int) -> None:
        super().__init__()
        self.position = position
        self.slabs: Sequence[torch.Tensor] | None = None  # of all the session's layers, while it is bound
        self.index = index  # of this one
        self._slab: torch.Tensor | None = None
        self.length = 0  # tokens held now
        self.gate: Gate | None = None  # its older tokens are on their way back to the device
        self.written: Callable[[int], None] | None = None  # told the length, when the pass has written its tokens
        self.is_initialized = True

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        pass  # the pager bound the slab before the pass

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args, **kwargs
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write `(1, kv_heads, n, head_dim)` behind the past and return keys and values `(1, kv_heads, past + n, head_dim)`."""
        end = self.past + key_states.shape[2]
        if key_states.shape[1::2] != self.slab.shape[2:] or value_states.shape != key_states.shape:
            raise UnsupportedModel(
                f"a layer keeps keys {tuple(key_states.shape)} and values {tuple(value_states.shape)}, "
                f"the config says (kv_heads, head_dim) = {tuple(self.slab.shape[2:])} for both"
            )
        room = self.claim(key_states.shape[2])
        room[:, 0] = key_states[0].transpose(0, 1)
        room[:, 1] = value_states[0].transpose(0, 1)
        self.wrote(key_states.shape[2])
        return self.slab[:end, 0].transpose(0, 1)[None], self.slab[:end, 1].transpose(0, 1)[None]

    @property
    def slab(self) -> torch.Tensor:
        """`[capacity, 2, kv_heads, head_dim]`, while it is bound."""
        if self._slab is None:
            self._slab = self.slabs[self.index]
        return self._slab

    def bind(
        self,
        slabs: Sequence[torch.Tensor] | None = None,
        gate: Gate | None = None,
        written: Callable[[int], None] | None = None,
    ) -> None:
        self.slabs, self._slab, self.gate, self.written = slabs, None, gate, written

    @property
    def past(self) -> int:
        """Tokens before the running pass."""
        return self.position.past

    def claim(self, tokens: int) -> torch.Tensor:
        """Where the pass's keys and values go, `(tokens, 2, kv_heads, head_dim)`; those before them are there from now on."""
        self.pass_gate()
        return self.slab[self.past : self.past + tokens]

    def pass_gate(self) -> None:
        if self.gate:
            self.gate.hold()
            self.gate = None

    def wrote(self, tokens: int) -> None:
        """The pass has queued what writes so many tokens behind its past."""
        if not self.position.counted:
            return
        self.length = self.past + tokens
        if self.written:
            self.written(self.length)

    def get_seq_length(self) -> int:
        return self.past

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.past + query_length, 0

    def get_max_length(self) -> int:
        return -1


class SlabCache(Cache):
    """One session's cache. `bind` gives it its slabs, `unbind` takes them away; lengths stay."""

    def __init__(self, layers: int) -> None:
        self.position = Position()
        super().__init__(layers=[SlabLayer(self.position, index) for index in range(layers)])
        self._gated = False  # there may be gates
        self._addresses: np.ndarray | None = None

    def bind(
        self,
        slabs: Sequence[torch.Tensor],
        gates: Mapping[int, Gate] = {},
        written: Callable[[int, int], None] | None = None,
        addresses: np.ndarray | None = None,
    ) -> None:
        """`slabs`: for each layer `[capacity, 2, kv_heads, head_dim]`, taken when a pass first wants it. gates: before layers whose
        tokens are on their way.

        written: called with (layer from 0, tokens) when a pass has written them. addresses: of the slabs, where they are known.
        """
        if len(slabs) != len(self.layers):
            raise ValueError(f"{len(slabs)} slabs for {len(self.layers)} layers")
        self._addresses, self._gated = addresses, bool(gates)
        for index, layer in enumerate(self.layers):
            layer.bind(slabs, gates.get(index), partial(written, index) if written else None)

    def unbind(self) -> None:
        self._addresses, self._gated = None, False
        for layer in self.layers:
            layer.bind()

    def begin(self, past: int, counted: bool = True) -> None:
        """A pass over tokens from position `past` starts, or goes on. counted: its tokens are the session's; else `count_one`
        makes them so, when it is known that the session wants them."""
        self.position.past, self.position.counted = past, counted

    def wrote_one(self, start: int, stop: int) -> None:
        """The pass has queued what writes one token in the layers start..stop-1. Nobody is told: one is never written through."""
        if self.position.counted:
            length = self.position.past + 1
            for layer in self.layers[start:stop]:
                layer.length = length

    def count_one(self) -> None:
        """The token of the last pass, which went through all layers, is the session's."""
        self.position.counted = True
        self.wrote_one(0, len(self.layers))

    @property
    def addresses(self) -> np.ndarray:
        """Where each layer's slab begins, int64 `(layers,)`, while the cache is bound."""
        if self._addresses is None:
            self._addresses = np.array([layer.slab.data_ptr() for layer in self.layers])
        return self._addresses

    @property
    def gated(self) -> bool:
        """Whether some layer's older tokens are on their way. Asked before every pass over one token."""
        self._gated = self._gated and any(layer.gate for layer in self.layers)
        return self._gated

    @property
    def lengths(self) -> list[int]:
        """Live tokens of each layer; they differ while the session is paused."""
        return [layer.length for layer in self.layers]
