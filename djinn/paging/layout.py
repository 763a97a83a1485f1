"""Which bytes of the arena are what, as tensors. Views only, no copies.

A slab holds one session's keys and values of one layer, `[capacity, 2, kv_heads, head_dim]`: token after token, so that
its live tokens are one run of bytes however much room there is behind them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from djinn.paging.residence import Body, Part, Residence
from djinn.paging.transfers import Moves
from djinn.sizes import KVShape
from djinn.tiers.extents import Extent
from djinn.tiers.pools import Pool


class Slabs(Sequence[torch.Tensor]):
    """One session's slabs on the device, layer by layer, each made when it is asked for: three tensors a slab, 0.3 ms for forty
    layers between READY and the first kernel, and decoding wants their addresses alone."""

    def __init__(self, shape: KVShape, arena: Pool, dtype: torch.dtype, extents: Sequence[Extent]) -> None:
        self._shape, self._arena, self._dtype, self._extents = shape, arena, dtype, extents

    def __len__(self) -> int:
        return len(self._extents)

    def __getitem__(self, layer: int) -> torch.Tensor:
        s, extent = self._shape, self._extents[layer]
        return self._arena.view(extent, self._dtype, extent.size // s.layer_token_bytes, 2, s.kv_heads, s.head_dim)

    @property
    def addresses(self) -> np.ndarray:
        """Where each begins, int64 `(layers,)`."""
        return self._arena.bytes.data_ptr() + np.array([extent.start for extent in self._extents])


class Layout:
    def __init__(self, shape: KVShape, arena: Pool, host: Pool) -> None:
        self.shape, self.arena, self.host = shape, arena, host
        self.dtype: torch.dtype = getattr(torch, shape.dtype)

    def slabs(self, residence: Residence) -> Slabs:
        """For each layer `[capacity, 2, kv_heads, head_dim]` on the device."""
        parts = residence.body.parts
        return Slabs(self.shape, self.arena, self.dtype, [parts[layer].device for layer in range(self.shape.layers)])

    def hidden(self, residence: Residence, name: str, rows: int) -> torch.Tensor:
        """A kept hidden state `(1, rows, hidden_size)` on the device, where its session has been let in or stands."""
        part = residence.body.parts[name]
        return self.arena.view(part.device, self.dtype, 1, rows, self.shape.hidden_size)

    def hidden_wherever(self, residence: Residence, name: str, rows: int) -> torch.Tensor:
        """The same from the device, or from the host pool while it is evicted or on its way back (copied, if in pieces)."""
        if residence.body.here:
            return self.hidden(residence, name, rows)
        pieces = [self.host.at(extent.start, extent.size) for extent in residence.body.parts[name].host]
        whole = pieces[0] if len(pieces) == 1 else torch.cat(pieces)
        return whole[: self.shape.hidden_bytes(rows)].view(self.dtype).view(1, rows, self.shape.hidden_size)

    def copies(self, direction: str, moves: Moves) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """(destination, source) as bytes, for a transfer `in`, `out` or `across`."""
        source = self.host if direction == "in" else self.arena
        to = self.host if direction == "out" else self.arena
        return [(to.at(p.destination, p.nbytes), source.at(p.source, p.nbytes)) for _, pieces in moves for p in pieces]

    def host_pages(self, body: Body) -> list[list[torch.Tensor]]:
        """The live bytes in the host pool, part after part, each in pieces: what a file of them holds."""
        return [self._pieces(part) for part in body.parts.values() if part.live]

    def _pieces(self, part: Part) -> list[torch.Tensor]:
        found, left = [], part.live
        for extent in part.host:
            count = min(left, extent.size)
            if count:
                found.append(self.host.at(extent.start, count))
            left -= count
        return found
