"""Who goes when memory is needed. Pure: no torch, no clock, no lock."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Candidate:
    """A session on the device that stands still."""

    key: str
    wanted: bool  # a request waits for it, behind the one that needs the room
    parked: bool  # told to wait (IO_WAIT): its owner expects it to go
    stopped_ns: int  # since when it has been stopped
    host_bytes: int  # what its copy would take in the host pool


def choose_victim(candidates: Iterable[Candidate], host_free_bytes: int) -> Candidate | None:
    """The next to be evicted: not wanted before wanted, parked before merely stopped, then the one stopped longest.

    None if none fits the host.
    """
    fitting = (c for c in candidates if c.host_bytes <= host_free_bytes)
    return min(fitting, key=lambda c: (c.wanted, not c.parked, c.stopped_ns), default=None)
