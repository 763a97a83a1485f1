"""A first-fit allocator of extents in one address range. Pure: it hands out numbers, it holds no memory."""

from __future__ import annotations

import bisect
from dataclasses import dataclass

ALIGNMENT = 256  # bytes: what vectorised copies and attention kernels want of a row's start


@dataclass(frozen=True, order=True)
class Extent:
    start: int
    size: int  # bytes, a multiple of ALIGNMENT

    @property
    def end(self) -> int:
        return self.start + self.size


def aligned(nbytes: int) -> int:
    """`nbytes` rounded up to what an extent can have."""
    return -(-nbytes // ALIGNMENT) * ALIGNMENT


class Extents:
    """Free list of `capacity` bytes. Neighbouring free extents are one, so a drained range is whole again."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity // ALIGNMENT * ALIGNMENT
        self._free = [Extent(0, self.capacity)] if self.capacity else []

    @property
    def free_bytes(self) -> int:
        return sum(extent.size for extent in self._free)

    def take(self, *sizes: int) -> list[Extent] | None:
        """One extent for each size (bytes), or None and nothing taken if they do not all fit."""
        before, taken = list(self._free), []
        for size in map(aligned, sizes):
            at = next((i for i, extent in enumerate(self._free) if extent.size >= size), None)
            if at is None:
                self._free = before
                return None
            hole = self._free.pop(at)
            taken.append(Extent(hole.start, size))
            if hole.size > size:
                self._free.insert(at, Extent(hole.start + size, hole.size - size))
        return taken

    def give(self, extent: Extent) -> None:
        """Return an extent; raises ValueError if any of it is free already (an account that does not balance)."""
        at = bisect.bisect(self._free, extent)
        left = self._free[at - 1] if at else None
        right = self._free[at] if at < len(self._free) else None
        if (left and left.end > extent.start) or (right and extent.end > right.start):
            raise ValueError(f"{extent} is free already")
        if right and extent.end == right.start:
            extent = Extent(extent.start, extent.size + self._free.pop(at).size)
        if left and left.end == extent.start:
            self._free.pop(at - 1)
            at, extent = at - 1, Extent(left.start, left.size + extent.size)
        self._free.insert(at, extent)
