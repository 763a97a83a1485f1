"""What is to be copied to change where a session lies. Pure.

`begin_*` of `placements` and `evictions` changes the accounts and returns a Transfer; who calls it must call the transfer's
`end` when the copies are done.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from djinn.paging.residence import Key
from djinn.tiers.extents import Extent


class Piece(NamedTuple):
    """One copy: byte addresses in the pools that its direction names."""

    source: int
    destination: int
    nbytes: int


@dataclass
class Transfer:
    """Copies of one session in one direction, in order; `end` must be called when the last has completed.

    cancel: instead of `end`, where a copy failed and its source is whole still: the session is where it was. None: it is
    lost, and must be released before `end`.
    """

    direction: str  # in: host to device; out: device to host; across: on the device
    moves: list[tuple[Key, list[Piece]]]
    end: Callable[[], None]
    cancel: Callable[[], None] | None = None
    problem: Exception | None = None  # of the first copy that failed

    @property
    def nbytes(self) -> int:
        return sum(piece.nbytes for _, pieces in self.moves for piece in pieces)


def runs(extents: list[Extent], start: int, end: int) -> list[tuple[int, int, int]]:
    """(offset in the part, address in the pool, bytes) of the part's bytes start..end over its host extents."""
    runs, at = [], 0
    for extent in extents:
        low, high = max(start, at), min(end, at + extent.size)
        if low < high:
            runs.append((low, extent.start + low - at, high - low))
        at += extent.size
    return runs
