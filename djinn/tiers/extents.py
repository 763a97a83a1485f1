"""A first-fit allocator of extents in one address range. Pure: it hands out numbers, it holds no memory.

Everything is a multiple of one unit, so that a hole is never too small to be of use to somebody.
"""

from __future__ import annotations

import bisect
import itertools
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

ALIGNMENT = 256  # bytes: what vectorised copies and attention kernels want of a row's start


class Extent(NamedTuple):  # made and compared by the thousand: cheaper than a frozen dataclass
    start: int
    size: int  # bytes, a multiple of the unit

    @property
    def end(self) -> int:
        return self.start + self.size


class Extents:
    """Free list of `capacity` bytes. Neighbouring free extents are one, so a drained range is whole again."""

    def __init__(self, capacity: int, unit: int = ALIGNMENT) -> None:
        self.unit = unit
        self.capacity = capacity // unit * unit
        self.free_bytes = self.capacity
        self._free = [Extent(0, self.capacity)] if self.capacity else []

    def rounded(self, nbytes: int) -> int:
        """`nbytes` rounded up to what an extent can have."""
        return -(-nbytes // self.unit) * self.unit

    def room(self, sizes: Iterable[int]) -> int:
        """Bytes of one extent for each size (bytes)."""
        return sum([self.rounded(size) * count for size, count in Counter(sizes).items()])  # of few sizes, as a rule

    def take(self, *sizes: int) -> list[Extent] | None:
        """One extent for each size (bytes), or None and nothing taken if they do not all fit."""
        rounded = [self.rounded(size) for size in sizes]
        total = sum(rounded)
        if total > self.free_bytes:
            return None
        whole = self._first(total)
        if whole is not None:  # side by side: quickly taken, and one run of bytes to copy
            start = self._cut(whole, total).start
            ends = list(itertools.accumulate(rounded, initial=start))
            return [Extent(at, size) for at, size in zip(ends, rounded, strict=False)]
        starts, rooms = [hole.start for hole in self._free], [hole.size for hole in self._free]
        taken, at, last = [], 0, 0
        for size in rounded:  # in line, no call for each and no hole made anew: a resume waits for it
            at = 0 if size < last else at  # else no hole before it holds as much as the last one took
            while at < len(rooms) and rooms[at] < size:
                at += 1
            if at == len(rooms):
                return None
            taken.append(Extent(starts[at], size))
            starts[at] += size
            rooms[at] -= size
            last = size
        self._free = [Extent(start, room) for start, room in zip(starts, rooms, strict=True) if room]
        self.free_bytes -= total
        return taken

    def fits(self, *sizes: int) -> bool:
        """Whether `take` would succeed."""
        taken = self.take(*sizes)
        self.give(*(taken or ()))
        return taken is not None

    def lowest(self, size: int) -> int:
        """Where the first hole that holds `size` bytes (a multiple of the unit) starts; behind everything if none does."""
        at = self._first(size)
        return self.capacity if at is None else self._free[at].start

    def take_below(self, nbytes: int, limit: int) -> Extent | None:
        """The lowest place for `nbytes` that starts below the address `limit`."""
        size = self.rounded(nbytes)
        at = self._first(size)
        return self._cut(at, size) if at is not None and self._free[at].start < limit else None

    def take_hole_under(self, extent: Extent, at_least: int = 0) -> Extent | None:
        """All of the hole that ends where `extent` begins; None where none of `at_least` bytes does."""
        at = bisect.bisect(self._free, extent) - 1
        hole = self._free[at] if at >= 0 else None
        if hole is None or hole.end != extent.start or hole.size < at_least:
            return None
        return self._cut(at, hole.size)

    def take_scattered(self, nbytes: int) -> list[Extent] | None:
        """Extents of `nbytes` in all, one where a hole is large enough; None if the free bytes do not suffice."""
        left, taken = self.rounded(nbytes), []
        if left > self.free_bytes:
            return None
        while left:
            at = self._first(left)
            if at is None:
                at = max(range(len(self._free)), key=lambda i: self._free[i].size)
            taken.append(self._cut(at, min(left, self._free[at].size)))
            left -= taken[-1].size
        return taken

    def _first(self, size: int) -> int | None:
        """Which hole is the first that holds `size` bytes."""
        for at, hole in enumerate(self._free):
            if hole.size >= size:
                return at
        return None

    def _cut(self, at: int, size: int) -> Extent:
        hole = self._free[at]
        if hole.size > size:
            self._free[at] = Extent(hole.start + size, hole.size - size)
        else:
            del self._free[at]
        self.free_bytes -= size
        return Extent(hole.start, size)

    def extend(self, extent: Extent, nbytes: int) -> Extent | None:
        """`extent` grown in place to `nbytes`, or None where what lies behind it is taken."""
        more = self.rounded(nbytes) - extent.size
        at = bisect.bisect(self._free, extent)
        hole = self._free[at] if at < len(self._free) else None
        if hole is None or hole.start != extent.end or hole.size < more:
            return None
        self._cut(at, more)
        return Extent(extent.start, extent.size + more)

    def give(self, *extents: Extent) -> None:
        """Return extents; raises ValueError if any of one is free already (an account that does not balance)."""
        start = end = 0  # of a run of those that lie side by side: they go back as one
        for at, size in sorted(extents):
            if at != end:
                self._give(start, end)
                start = at
            end = at + size
        self._give(start, end)

    def _give(self, start: int, end: int) -> None:
        if start == end:
            return
        extent = Extent(start, end - start)
        at = bisect.bisect(self._free, extent)
        left = self._free[at - 1] if at else None
        right = self._free[at] if at < len(self._free) else None
        if (left and left.end > extent.start) or (right and extent.end > right.start):
            raise ValueError(f"{extent} is free already")
        self.free_bytes += extent.size
        if right and extent.end == right.start:
            extent = Extent(extent.start, extent.size + self._free.pop(at).size)
        if left and left.end == extent.start:
            self._free.pop(at - 1)
            at, extent = at - 1, Extent(left.start, left.size + extent.size)
        self._free.insert(at, extent)
