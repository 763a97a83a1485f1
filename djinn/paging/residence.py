"""Where the bytes of one session lie, and what is asked for them. Plain data: the ledger and what works on it change it. Pure.

A session's bytes are parts: one for each layer's keys and values, one for each kept hidden state. A part's live bytes
are the first `live` bytes of its extent on the device, and the same bytes in order over its extents in the host pool.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from typing import ClassVar, Literal, Protocol

from djinn.errors import DjinnError
from djinn.states import Machine
from djinn.tiers.extents import Extent

Key = int | str  # a layer, from 0, or the name of a kept hidden state
Moving = Literal["in", "across", "out", "spill", "fetch"]
_serials = itertools.count()


class Gate(Protocol):
    """Holds the compute until a part is back on the device."""

    def hold(self) -> None: ...


@dataclass
class Part:
    device: Extent | None = None  # changed by `Body.put` and `Body.leave` alone
    host: list[Extent] = field(default_factory=list)
    live: int = 0  # bytes that hold something
    clean: int = 0  # leading bytes that the host copy holds too
    issued: int = 0  # leading bytes whose copy to the host has at least been queued
    dropped_by: frozenset[str] = frozenset()  # keys of sessions that need it no longer: of forks others may still
    dropped: bool = False  # all of them have: given back when no copy needs it

    @property
    def host_room(self) -> int:
        return sum(extent.size for extent in self.host)


@dataclass
class Body:
    """The bytes of one session, or of several after a fork, until one of them runs on."""

    sharers: list[Residence] = field(default_factory=list)
    parts: dict[Key, Part] = field(default_factory=dict)
    device_bytes: int = 0  # of all parts' places on the device: asked for of everybody whenever room is made
    here: bool = False  # the device holds every live byte
    moving: Moving | None = None  # what changes its place now
    pins: int = 0  # copies under way that read or write it: it may not be freed
    leaving: int = 0  # of these, copies that a fork makes of it to run on by itself: it may not be moved, nor written
    # Copying it off the device failed: tried again for requests behind this number, or when it is parked anew.
    stays: int = -1
    epoch: int = 0  # counts rewinds, after which a copy queued before says nothing
    disk_bytes: int = 0  # its only copy is a file with this many live bytes
    durable: bool = False  # that file is its session's durable one: counted there, and kept when it has been read
    serial: int = field(default_factory=lambda: next(_serials))  # names that file
    _sums: dict[str, int] = field(default_factory=dict, repr=False)

    def summed(self, what: str, count: Callable[[Iterable[Part]], int]) -> int:
        """What `count` gives of all parts, counted once until one changes: it is asked of every session under the lock."""
        if what not in self._sums:
            self._sums[what] = count(self.parts.values())
        return self._sums[what]

    def touch(self) -> None:
        """A part's live bytes or its places in the host pool have changed, or a part came or went."""
        self._sums.clear()

    @property
    def live_bytes(self) -> int:
        return self.summed("live", lambda parts: sum([part.live for part in parts]))

    @property
    def host_bytes(self) -> int:
        return self.summed("host", lambda parts: sum([part.host_room for part in parts]))

    @property
    def dirty_bytes(self) -> int:
        """Bytes that an eviction would still have to copy."""
        return sum([part.live - part.issued for part in self.parts.values() if part.live > part.issued])

    @property
    def readable(self) -> bool:
        """Whether every live byte lies still in memory: where `here` says, or in the host pool while it leaves or comes back."""
        if self.moving == "in":  # paused again before it is back, what it wrote there is at first nowhere else
            return all(part.clean >= part.live for part in self.parts.values())
        return self.moving != "across" and (not self.disk_bytes or self.moving == "spill")

    @property
    def top(self) -> int:
        """Where the highest of its parts on the device starts."""
        return self.summed("top", lambda parts: max((part.device.start for part in parts if part.device), default=0))

    def put(self, part: Part, extent: Extent) -> None:
        """Where the part lies on the device from now on."""
        self.device_bytes += extent.size - (part.device.size if part.device else 0)
        part.device = extent
        self._sums.pop("top", None)

    def leave(self, parts: Collection[Part]) -> list[Extent]:
        """The places on the device of these parts, which have none from now on."""
        places = [part.device for part in parts if part.device]
        for part in parts:
            part.device = None
        self.device_bytes -= sum([place.size for place in places])
        self._sums.pop("top", None)
        return places

    def items(self) -> Iterator[tuple[Key, Part]]:
        return iter(self.parts.items())


@dataclass
class Saved:
    """A durable file of a session: what comes back after a crash, until the next one is written."""

    nbytes: int  # of the file
    current: bool = True  # the session stands as it was written: its pages need no other copy


@dataclass
class Saving:
    """A session that is to be written to a durable file. It may not be touched meanwhile."""

    residence: Residence
    nbytes: int  # of the file
    # Called with the pages, and with what is to be called when they are written.
    write: Callable[[Iterable[Iterable[memoryview]], Callable[[Exception | None], None]], None]
    then: Callable[[DjinnError | None], None]  # called once: it is durable, or why not
    begun: bool = False
    abandoned: bool = False  # it was closed meanwhile


@dataclass
class Residence:
    key: str
    machine: Machine
    body: Body = field(default_factory=Body)
    waiting: Request | None = None  # it is wanted on the device
    intended: bool = False  # somebody looks at it: a resume is likely soon
    read: bool = False  # somebody waits to read its bytes in the host pool
    granted: bool = False  # a request has all that it needs and has not ended
    released: bool = False
    lost: DjinnError | None = None  # a copy of what it holds failed: it is over, or will be when its run is
    gates: dict[Key, Gate] = field(default_factory=dict)  # of the parts that are on their way back
    resident: threading.Event = field(default_factory=threading.Event)  # all of it is on the device
    awaited: list[Callable[[], None]] = field(default_factory=list)  # called once, when it is resident or lost
    stamps: dict[str, int] = field(default_factory=dict)  # ready, resident: of the last grant, ns
    saved: Saved | None = None
    saving: Saving | None = None

    def __post_init__(self) -> None:
        self.body.sharers.append(self)

    def arrived(self) -> None:
        """Under the lock: all of it is on the device, or never will be (`lost`)."""
        self.resident.set()
        awaited, self.awaited = self.awaited, []
        for call in awaited:
            call()


@dataclass
class Request:
    """What a session must have on the device before it may run."""

    residence: Residence
    need: dict[Key, int]  # bytes of every part that must be there
    number: int  # order of arrival
    resumed: bool  # it holds bytes already
    order: tuple[Key, ...] = ()  # in which its parts are needed; the rest after them
    first: frozenset[Key] | None = None  # it may run when these are there, the others follow; None: when all are
    then: Callable[[DjinnError | None], None] = lambda refusal: None  # called once: granted, or why not
    here: bool = False  # when it was asked for, the device held all of it
    lifted: bool = False  # somebody has gone up to the device to make room in the host pool for it

    HEAD_START: ClassVar[int] = 64

    @property
    def rank(self) -> int:
        """Who is on the device before who must come back, so that nobody comes back in the place of one that was about to
        run; resumed before new. Nobody is overtaken by more than 64, a new one by more than 128, that came after it.
        """
        return self.number - self.HEAD_START * (self.resumed + (self.resumed and self.here))
