"""What is to be copied to change where a session lies. Pure.

`begin_*` of `placements` and `evictions` changes the accounts and returns a Transfer; who calls it must call the transfer's
`end` when the copies are done.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from djinn.paging.residence import Key
from djinn.tiers.extents import Extent

TOGETHER = 8  # parts that are queued as one, and waited for as one


class Piece(NamedTuple):
    """One copy: byte addresses in the pools that its direction names."""

    source: int
    destination: int
    nbytes: int


Moves = list[tuple[Key, list[Piece]]]


@dataclass
class Transfer:
    """Copies of one session in one direction, in order; `end` must be called when the last has completed.

    cancel: instead of `end`, where a copy failed and its source is whole still: the session is where it was. None: it is
    lost, and must be released before `end`.
    """

    direction: str  # in: host to device; out: device to host; across: on the device
    moves: Moves
    end: Callable[[], None]
    cancel: Callable[[], None] | None = None
    problem: Exception | None = None  # of the first copy that failed

    @property
    def nbytes(self) -> int:
        return sum(piece.nbytes for _, pieces in self.moves for piece in pieces)


def groups(moves: Moves, alone: int) -> Iterator[Moves]:
    """The moves in order, in groups to be queued as one, since each group costs the threads some 15 µs of Python's lock.

    The first `alone` stand by themselves: somebody waits for each. Towards the end groups become smaller: the compute
    follows behind the copies, and what is left of it when the last has landed is one part's.
    """
    at = 0
    while at < len(moves):
        count = 1 if at < alone else max(1, min(TOGETHER, (len(moves) - at) // 2))
        yield moves[at : at + count]
        at += count


def runs(extents: list[Extent], start: int, end: int) -> list[tuple[int, int, int]]:
    """(offset in the part, address in the pool, bytes) of the part's bytes start..end over its host extents."""
    runs, at = [], 0
    for extent in extents:
        low, high = max(start, at), min(end, at + extent.size)
        if low < high:
            runs.append((low, extent.start + low - at, high - low))
        at += extent.size
    return runs
