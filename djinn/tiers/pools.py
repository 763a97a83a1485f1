"""Memory taken once at start: the device arena and the host pool. Nothing is allocated on the request path.

Cost: one allocation each. The host pool of a CUDA server is pinned, at about 1.5 GB/s on the card it was measured on,
so it is pinned at start and never on a request.
"""

from __future__ import annotations

import torch

from djinn.tiers.extents import Extent, Extents


class Pool:
    """`capacity` bytes on one device, handed out as extents. Not thread-safe: the pager holds the lock."""

    def __init__(self, capacity: int, device: torch.device, pinned: bool = False) -> None:
        self.extents = Extents(capacity)
        self.bytes = torch.empty(self.extents.capacity, dtype=torch.uint8, device=device, pin_memory=pinned)

    @property
    def capacity(self) -> int:
        return self.extents.capacity

    def view(self, extent: Extent, dtype: torch.dtype, *shape: int) -> torch.Tensor:
        """The start of `extent` as a tensor of `shape`; no copy."""
        count = torch.Size(shape).numel() * dtype.itemsize
        return self.bytes[extent.start : extent.start + count].view(dtype).view(*shape)
