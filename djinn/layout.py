"""Which bytes of a pool are what: a session's slabs and kept hidden states as tensors. Views only, no copies.

On the device a session has a slab for each layer, `[2, capacity, kv_heads, head_dim]`, and an extent for each kept hidden
state. In the host pool it is packed: hidden states first, then the live keys and values from layer 1 up.
"""

from __future__ import annotations

import torch

from djinn.residence import Residence
from djinn.sizes import KVShape
from djinn.tiers.extents import Extent
from djinn.tiers.pools import Pool

Part = str | tuple[int, int]  # a kept state's name, or (layer, 0 for keys | 1 for values)


class Layout:
    def __init__(self, shape: KVShape, device: Pool, host: Pool) -> None:
        self.shape, self.device, self.host = shape, device, host
        self.dtype: torch.dtype = getattr(torch, shape.dtype)

    def slabs(self, residence: Residence) -> list[torch.Tensor]:
        """For each layer `[2, capacity, kv_heads, head_dim]` on the device."""
        s = self.shape
        return [
            self.device.view(slab, self.dtype, 2, residence.capacity, s.kv_heads, s.head_dim)
            for slab in residence.slabs
        ]

    def hidden(self, residence: Residence, name: str) -> torch.Tensor:
        """A kept hidden state `(1, rows, hidden_size)`: on the device, or in the host pool while evicted."""
        kept = residence.kept[name]
        if kept.device:
            return self.device.view(kept.device, self.dtype, 1, kept.rows, self.shape.hidden_size)
        return dict(self._packed(residence, residence.host))[name]

    def pairs(self, residence: Residence, packed: Extent) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """(host, device) views of everything live, in the order of `packed`, its extent in the host pool."""
        pairs, slabs = [], self.slabs(residence)
        for part, host in self._packed(residence, packed):
            if isinstance(part, str):
                pairs.append((host, self.hidden(residence, part)))
            else:
                layer, half = part
                pairs.append((host, slabs[layer][half, : residence.lengths[layer]]))
        return pairs

    def _packed(self, residence: Residence, packed: Extent) -> list[tuple[Part, torch.Tensor]]:
        s, at = self.shape, packed.start // self.dtype.itemsize
        flat, parts = self.host.bytes.view(self.dtype), []
        for name, kept in residence.kept.items():
            if not kept.filled:
                continue
            count = kept.rows * s.hidden_size
            parts.append((name, flat[at : at + count].view(1, kept.rows, s.hidden_size)))
            at += count
        for layer, length in enumerate(residence.lengths):
            for half in (0, 1) if length else ():
                count = length * s.kv_heads * s.head_dim
                parts.append(((layer, half), flat[at : at + count].view(length, s.kv_heads, s.head_dim)))
                at += count
        return parts
