"""The accounts of every session's bytes in three tiers: who holds what, who waits, what is given back. Pure.

Where bytes lie is changed by `placements`, `evictions` and `spills`. While a copy reads or writes a body it is pinned, and
nothing of it is free for others before it has ended. Bytes in the host pool that the device holds too are duplicates,
counted apart, and given back first when room is short.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from djinn.errors import IllegalMove
from djinn.paging.residence import Body, Key, Part, Request, Residence, Saving
from djinn.states import END, State
from djinn.tiers.extents import Extent, Extents


class Ledger:
    def __init__(self, device: Extents, host: Extents, disk_bytes: int = 0) -> None:
        self.device, self.host = device, host
        self.disk_capacity, self.disk_free = disk_bytes, disk_bytes
        self.residences: dict[str, Residence] = {}
        self.spill_failed = -1  # its file system failed a write: tried again for requests behind this number
        self.waiting: list[Request] = []
        self.closing: set[int] = set()  # bodies of nobody any more, until the copies under way have ended
        self.newest = 0  # number of the last that asked for room
        self.saving: list[Saving] = []  # not begun yet
        self.more_host: Callable[[], bool] = lambda: False  # whether the host pool is still being made ready

    @property
    def free(self) -> tuple[int, int, int]:
        """Bytes that nobody has: of the arena, the host pool, the disk."""
        return self.device.free_bytes, self.host.free_bytes, self.disk_free

    # -- sessions -----------------------------------------------------------------------------------

    def open(self, residence: Residence) -> None:
        self.residences[residence.key] = residence

    def bodies(self) -> Collection[Body]:
        """Those of all sessions, each once, however many share it."""
        return {residence.body.serial: residence.body for residence in self.residences.values()}.values()

    def request(self, request: Request) -> None:
        """The session is wanted on the device: it waits until it is granted or refused."""
        request.here = request.residence.body.here
        request.residence.waiting = request
        self.newest = max(self.newest, request.number)
        self.waiting.append(request)
        self.waiting.sort(key=lambda r: r.rank)

    def withdraw(self, request: Request) -> None:
        """Granted, refused or closed: it waits no longer."""
        residence = request.residence
        self.waiting.remove(request)
        residence.waiting = None
        if residence.machine.state is State.RESTORING and residence.body.here:
            residence.machine.move(State.IO_WAIT)  # refused when it had just come back: it may leave again

    def refuse(self, request: Request) -> None:
        """Withdraw it; what its parts grew by for it, where they lie, is for others."""
        self.withdraw(request)
        if not request.residence.body.moving:  # else a copy may read behind the live bytes, where they lay before
            self._trim(request.residence.body)

    def let_in(self, request: Request) -> None:
        """The session may run: what it needs is on the device, or comes behind gates."""
        self.withdraw(request)
        request.residence.granted, request.residence.intended = True, False
        request.residence.body.stays = -1
        self.changed(request.residence)

    def holds(self, request: Request) -> bool:
        """Whether all that it needs is on the device, for it alone: no copy of a fork that has left reads there still."""
        body = request.residence.body
        return body.here and body.moving != "across" and not body.leaving and not self.missing(request)

    def whole(self, request: Request) -> dict[Key, int]:
        """The need, and whatever else of the session is alive: it moves as a whole."""
        key, body = request.residence.key, request.residence.body
        return {k: p.live for k, p in body.items() if p.live and key not in p.dropped_by} | request.need

    def missing(self, request: Request) -> dict[Key, int]:
        """Parts (and their bytes) for which new places must be taken."""
        body, whole = request.residence.body, self.whole(request)
        if len(body.sharers) > 1 or not body.device_bytes:
            return whole
        return {
            key: nbytes
            for key, nbytes in whole.items()
            if not (p := body.parts.get(key)) or not p.device or p.device.size < nbytes
        }

    def changed(self, residence: Residence) -> None:
        """It is no longer what its durable file says."""
        if residence.saved:
            residence.saved.current = False

    def fork(self, parent: Residence, child: Residence) -> None:
        """`child` shares the parent's bytes until one of them runs on. Nothing is copied."""
        if parent.waiting or parent.granted or parent.machine.state in END:
            raise IllegalMove(f"the session is {parent.machine.state}: only a stopped one can be forked")
        if parent.body.durable or parent.saving:  # the file is one session's alone
            raise IllegalMove("the session lies in its durable file: read its activation or resume it, then fork it")
        child.body = parent.body
        for part in child.body.parts.values():
            if parent.key in part.dropped_by:
                part.dropped_by |= {child.key}
        child.body.sharers.append(child)
        self.open(child)

    def release(self, residence: Residence) -> None:
        """Give back everything, now or when the copies under way have ended."""
        if residence.waiting:
            self.withdraw(residence.waiting)
        self.residences.pop(residence.key, None)
        residence.released, residence.granted = True, False
        residence.body.sharers.remove(residence)
        if not residence.body.sharers:
            self.closing.add(residence.body.serial)
        self.settle(residence.body)

    def stopped(self, residence: Residence) -> None:
        """Its run is over: places beyond the live bytes are for others, and it may be evicted."""
        residence.granted = False
        self._trim(residence.body)

    def _trim(self, body: Body) -> None:
        """Give back places beyond the live bytes.

        Paused in a pass over few tokens, the layers above keep the unit that these will need when it goes on: without it
        the session would have to move as a whole.
        """
        longest = max((part.live for key, part in body.items() if isinstance(key, int)), default=0)
        tails = []
        for key, part in body.items():
            if part.device:
                pending = isinstance(key, int) and longest - part.live < self.device.unit
                kept, (start, size) = self.device.rounded(longest if pending else part.live), part.device
                if not kept:
                    tails += body.leave([part])  # a place of no bytes would be moved into holes like any other
                elif kept < size:
                    body.put(part, Extent(start, kept))
                    tails.append(Extent(start + kept, size - kept))
        self.device.give(*tails)  # at once: those of layers that hold nothing yet lie side by side

    def set_live(self, residence: Residence, key: Key, live: int) -> None:
        """`live` bytes of a part hold something now. Fewer than before: it was rewound, its copies are worth that much."""
        part = residence.body.parts[key]
        if live < max(part.live, part.issued):
            residence.body.epoch += 1
            part.clean, part.issued = min(part.clean, live), min(part.issued, live)
        part.live = live
        residence.body.touch()

    def drop(self, residence: Residence, key: Key) -> None:
        """A kept state is no longer needed."""
        self.changed(residence)
        residence.body.parts[key].dropped_by |= {residence.key}
        self.settle(residence.body)

    def room(self, body: Body) -> int:
        """Bytes of the arena that its live bytes take."""
        return body.summed("room", lambda parts: self.device.room(part.live for part in parts))

    def host_need(self, body: Body) -> int:
        """Bytes of the host pool that all of it would take beyond what it has there."""
        return sum(max(0, self.host.rounded(part.live) - part.host_room) for part in body.parts.values())

    # -- freeing -------------------------------------------------------------------------------------

    def unpin(self, body: Body) -> None:
        """A copy that read or wrote it has ended."""
        body.pins -= 1
        self.settle(body)

    def settle(self, body: Body) -> None:
        """Give back what nobody needs any more, unless a copy under way does."""
        self._agree(body)
        if body.pins or (body.sharers and body.disk_bytes):  # a file's parts stay in step with it
            return
        over = [body.parts.pop(key) for key in [key for key, part in body.items() if part.dropped or not body.sharers]]
        self.free_device(body, over)
        self.free_host(body, over)
        if not body.sharers:
            self.leave_disk(body)
            body.here = False
            self.closing.discard(body.serial)

    def _agree(self, body: Body) -> None:
        """What all sessions of the body have dropped is needed by none; not while one is written, whose record names it still."""
        given_up = [part for part in body.parts.values() if part.dropped_by and not part.dropped]
        if not given_up or any(sharer.saving for sharer in body.sharers):
            return
        keys = {sharer.key for sharer in body.sharers}
        for part in given_up:
            if part.dropped_by >= keys:
                part.dropped = True
                for sharer in body.sharers:
                    self.changed(sharer)

    def give_disk(self, nbytes: int) -> None:
        self.disk_free += nbytes
        self.spill_failed = -1

    def leave_disk(self, body: Body) -> None:
        """Its only copy is in a file no longer."""
        if body.disk_bytes and not body.durable:
            self.give_disk(body.disk_bytes)
        body.disk_bytes, body.durable = 0, False

    def free_device(self, body: Body, parts: Collection[Part]) -> None:
        self.device.give(*body.leave(parts))

    def free_host(self, body: Body, parts: Collection[Part]) -> None:
        body.touch()
        for part in parts:
            self.host.give(*part.host)
            part.host, part.clean, part.issued = [], 0, 0
