"""Which bytes of the arena are what, as tensors. Views only, no copies.

A slab holds one session's keys and values of one layer, `[capacity, 2, kv_heads, head_dim]`: token after token, so that
its live tokens are one run of bytes however much room there is behind them.
"""

from __future__ import annotations

import torch

from djinn.paging.residence import Body, Part, Residence
from djinn.paging.transfers import Moves
from djinn.sizes import KVShape
from djinn.tiers.pools import Pool


class Layout:
    def __init__(self, shape: KVShape, arena: Pool, host: Pool) -> None:
        self.shape, self.arena, self.host = shape, arena, host
        self.dtype: torch.dtype = getattr(torch, shape.dtype)

    def slabs(self, residence: Residence) -> list[torch.Tensor]:
        """For each layer `[capacity, 2, kv_heads, head_dim]` on the device."""
        s, views = self.shape, []
        for layer in range(s.layers):
            extent = residence.body.parts[layer].device
            capacity = extent.size // s.layer_token_bytes
            views.append(self.arena.view(extent, self.dtype, capacity, 2, s.kv_heads, s.head_dim))
        return views

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
