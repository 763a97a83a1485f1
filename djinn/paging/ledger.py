"""The accounts of every session's bytes in three tiers. Pure: extents and states, no tensors, no threads.

Every change of place is begun and ended. In between the bytes are pinned: nothing that a copy reads or writes is free for
others before the copy has ended. `begin_*` returns what to copy; who calls it must call `end_*` when that is done.
Bytes in the host pool that the device holds too are duplicates, counted apart, and given back first when room is short.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from djinn.errors import IllegalMove
from djinn.paging.residence import Body, Key, Part, Request, Residence
from djinn.states import END, STOPPED, State
from djinn.tiers.extents import Extent, Extents


@dataclass(frozen=True)
class Piece:
    """One copy: byte addresses in the pools that its direction names."""

    source: int
    destination: int
    nbytes: int


@dataclass
class Transfer:
    """Copies of one session in one direction, in order; `end` must be called when the last has completed."""

    direction: str  # in: host to device; out: device to host; across: on the device
    moves: list[tuple[Key, list[Piece]]]
    end: Callable[[], None]

    @property
    def nbytes(self) -> int:
        return sum(piece.nbytes for _, pieces in self.moves for piece in pieces)


class Ledger:
    def __init__(self, device: Extents, host: Extents, disk_bytes: int = 0) -> None:
        self.device, self.host = device, host
        self.disk_capacity, self.disk_free = disk_bytes, disk_bytes
        self.residences: dict[str, Residence] = {}
        self.waiting: list[Request] = []
        self.more_host: Callable[[], bool] = lambda: False  # whether the host pool is still being made ready

    # -- sessions -----------------------------------------------------------------------------------

    def open(self, residence: Residence) -> None:
        self.residences[residence.key] = residence

    def request(self, request: Request) -> None:
        """The session is wanted on the device: it waits until it is granted or refused."""
        request.residence.waiting = request
        self.waiting.append(request)
        self.waiting.sort(key=lambda r: r.rank)

    def withdraw(self, request: Request) -> None:
        """Refused, granted or closed: it waits no longer."""
        self.waiting.remove(request)
        request.residence.waiting = None

    def let_in(self, request: Request) -> None:
        """The session may run: what it needs is on the device, or comes behind gates."""
        self.withdraw(request)
        request.residence.granted, request.residence.intended = True, False

    def holds(self, request: Request) -> bool:
        """Whether all that it needs is on the device, for it alone."""
        body = request.residence.body
        return body.here and body.moving != "across" and not self.missing(request)

    def whole(self, request: Request) -> dict[Key, int]:
        """The need, and whatever else of the session is alive: it moves as a whole."""
        return {k: p.live for k, p in request.residence.body.items() if p.live and not p.dropped} | request.need

    def missing(self, request: Request) -> dict[Key, int]:
        """Parts (and their bytes) for which new places must be taken."""
        body = request.residence.body
        return {
            key: nbytes
            for key, nbytes in self.whole(request).items()
            if len(body.sharers) > 1 or not (p := body.parts.get(key)) or not p.device or p.device.size < nbytes
        }

    def fork(self, parent: Residence, child: Residence) -> None:
        """`child` shares the parent's bytes until one of them runs on. Nothing is copied."""
        if parent.waiting or parent.granted or parent.machine.state in END:
            raise IllegalMove(f"the session is {parent.machine.state}: only a stopped one can be forked")
        child.body = parent.body
        child.body.sharers.append(child)
        self.open(child)

    def release(self, residence: Residence) -> None:
        """Give back everything, now or when the copies under way have ended."""
        if residence.waiting:
            self.withdraw(residence.waiting)
        self.residences.pop(residence.key, None)
        residence.released = True
        residence.body.sharers.remove(residence)
        self._settle(residence.body)

    def stopped(self, residence: Residence) -> None:
        """Its run is over: places beyond the live bytes are for others, and it may be evicted."""
        residence.granted = False
        for part in residence.body.parts.values():
            if part.device:
                part.device = self.device.trim(part.device, part.live)

    def set_live(self, residence: Residence, key: Key, live: int) -> None:
        """`live` bytes of a part hold something now. Fewer than before: it was rewound, its copies are worth that much."""
        part = residence.body.parts[key]
        if live < max(part.live, part.issued):
            residence.body.epoch += 1
            part.clean, part.issued = min(part.clean, live), min(part.issued, live)
        part.live = live

    def drop(self, residence: Residence, key: Key) -> None:
        """A kept state is no longer needed."""
        if len(residence.body.sharers) == 1:  # else the others may need it
            residence.body.parts[key].dropped = True
            self._settle(residence.body)

    # -- device: bring in, grow, come apart ---------------------------------------------------------------

    def begin_place(self, request: Request) -> Transfer | None:
        """Take room on the device for all of the need at once; None, and nothing taken, where it does not fit."""
        residence, old = request.residence, request.residence.body
        shared = len(old.sharers) > 1
        if not shared and old.here:
            self._grow_in_place(old, request.need)
        missing = self.missing(request)
        extents = self.device.take(*missing.values())
        if extents is None:
            return None
        new = Body() if shared else old
        across = old.here
        left: list[Extent] = []
        moves = []
        for key, extent in zip(missing, extents, strict=True):
            part = old.parts.get(key) or Part()
            if part.live:
                moves.append((key, self._pieces(part, extent, across)))
            if shared:
                new.parts[key] = Part(extent, live=part.live)
            else:
                if part.device:
                    left.append(part.device)
                part.device = extent
                new.parts[key] = part
        moves.sort(key=lambda move: request.order.index(move[0]) if move[0] in request.order else len(request.order))
        if shared:
            old.sharers.remove(residence)
            residence.body = new
            new.sharers.append(residence)
        if residence.machine.state is State.HOST:
            residence.machine.move(State.RESTORING)
        if not moves:
            new.here = True
            for extent in left:
                self.device.give(extent)
            return Transfer("in", [], lambda: None)
        old.pins += 1
        new.pins += shared
        old.leaving += shared
        new.moving = "across" if across else "in"
        return Transfer(new.moving, moves, partial(self._end_place, new, old, left))

    def _end_place(self, new: Body, old: Body, left: list[Extent]) -> None:
        for extent in left:
            self.device.give(extent)
        new.moving, new.here = None, True
        for residence in new.sharers:
            if residence.machine.state is State.RESTORING and not residence.waiting:
                residence.machine.move(State.IO_WAIT)  # it was brought unasked
        if new is not old:
            old.leaving -= 1
            self._unpin(new)
        self._unpin(old)

    def _grow_in_place(self, body: Body, need: dict[Key, int]) -> None:
        for key, nbytes in need.items():
            part = body.parts.get(key)
            if part and part.device and part.device.size < nbytes:
                part.device = self.device.extend(part.device, nbytes) or part.device

    def begin_compact(self, residence: Residence) -> Transfer | None:
        """Move parts down into holes, so that free bytes come to lie together; None if none can move."""
        body = residence.body
        moves, left = [], []
        for key, part in body.items():
            if part.device and (lower := self.device.take_below(part.device.size, part.device.start)):
                moves.append((key, [Piece(part.device.start, lower.start, part.live)]))
                left.append(part.device)
                part.device = lower
        if not moves:
            return None
        body.moving = "across"
        body.pins += 1
        return Transfer("across", moves, partial(self._end_place, body, body, left))

    def _pieces(self, part: Part, to: Extent, across: bool) -> list[Piece]:
        if across:
            return [Piece(part.device.start, to.start, part.live)]
        return [Piece(host, to.start + at, n) for at, host, n in _runs(part.host, 0, part.live)]

    # -- device to host -------------------------------------------------------------------------------

    def host_need(self, body: Body) -> int:
        """Bytes of the host pool that an eviction would take beyond what the duplicates hold."""
        return sum(max(0, self.host.rounded(p.live) - p.host_room) for p in body.parts.values())

    def begin_evict(self, residence: Residence) -> Transfer | None:
        """Copy what the host does not hold yet and free the device when that is done; None if the host has no room."""
        body = residence.body
        if self.host_need(body) > self.host.free_bytes:
            return None
        for sharer in body.sharers:
            self._leave_stop(sharer)
            sharer.machine.move(State.EVICTING)
        moves = [(key, self._mirror(part, part.live)) for key, part in body.items() if part.live > part.issued]
        body.moving = "out"
        body.pins += 1
        upto = {key: part.live for key, part in body.items()}
        return Transfer("out", moves, partial(self._end_evict, body, upto, body.epoch))

    def _end_evict(self, body: Body, upto: dict[Key, int], epoch: int) -> None:
        body.moving = None
        self._mark_clean(body, upto, epoch)
        if body.sharers and all(sharer.machine.state is State.EVICTING for sharer in body.sharers):
            for sharer in body.sharers:
                sharer.machine.move(State.HOST)
            body.here = False
            for part in body.parts.values():
                self._free_device(part)
        self._unpin(body)

    def begin_mirror(self, residence: Residence, key: Key, live: int) -> Transfer | None:
        """Write-through: copy a part's first `live` bytes, which its run has just written; None where the host is short."""
        body = residence.body
        part = body.parts[key]
        if live <= part.issued or self.host.rounded(live) - part.host_room > self.host.free_bytes:
            return None
        moves = [(key, self._mirror(part, live))]
        body.pins += 1
        return Transfer("out", moves, partial(self._end_mirror, body, key, live, body.epoch))

    def _end_mirror(self, body: Body, key: Key, live: int, epoch: int) -> None:
        self._mark_clean(body, {key: live}, epoch)
        self._unpin(body)

    def _mirror(self, part: Part, upto: int) -> list[Piece]:
        short = self.host.rounded(upto) - part.host_room
        if short > 0:
            part.host += self.host.take_scattered(short)
        pieces = [Piece(part.device.start + at, host, n) for at, host, n in _runs(part.host, part.issued, upto)]
        part.issued = upto
        return pieces

    @staticmethod
    def _mark_clean(body: Body, upto: dict[Key, int], epoch: int) -> None:
        if epoch == body.epoch:
            for key, live in upto.items():
                if key in body.parts:
                    body.parts[key].clean = max(body.parts[key].clean, live)

    # -- host: duplicates, and the disk behind it --------------------------------------------------------

    def yield_duplicate(self, residence: Residence) -> None:
        """Give back the host copy of bytes that the device holds."""
        body = residence.body
        if body.pins or not body.here:
            raise IllegalMove("a copy under way needs these bytes, or they are the only ones")
        for part in body.parts.values():
            self._free_host(part)

    def begin_spill(self, residence: Residence) -> Body | None:
        """Its bytes go from the host pool to a file; `end_spill` when it is written. None if the disk budget is short."""
        body = residence.body
        if body.live_bytes > self.disk_free:
            return None
        self.disk_free -= body.live_bytes
        body.disk_bytes = body.live_bytes
        body.moving = "spill"
        body.pins += 1
        return body

    def end_spill(self, body: Body) -> None:
        body.moving = None
        for sharer in body.sharers:
            sharer.machine.move(State.DISK)
        for part in body.parts.values():
            self._free_host(part)
        self._unpin(body)

    def begin_fetch(self, residence: Residence) -> Body | None:
        """Its bytes come back from the file to the host pool; None if there is no room."""
        body = residence.body
        if sum(self.host.rounded(p.live) for p in body.parts.values()) > self.host.free_bytes:
            return None
        for part in body.parts.values():
            part.host = self.host.take_scattered(part.live) or []
        body.moving = "fetch"
        body.pins += 1
        return body

    def cancel_spill(self, body: Body) -> None:
        """The file could not be written: the bytes stay where they are, and nothing more goes to the disk."""
        body.moving = None
        body.disk_bytes = self.disk_free = 0
        self._unpin(body)

    def end_fetch(self, body: Body) -> None:
        body.moving = None
        self.disk_free += body.disk_bytes
        body.disk_bytes = 0
        for part in body.parts.values():
            part.clean = part.issued = part.live
        for sharer in body.sharers:
            sharer.machine.move(State.HOST)
        self._unpin(body)

    # -- freeing -------------------------------------------------------------------------------------

    def _unpin(self, body: Body) -> None:
        body.pins -= 1
        self._settle(body)

    def _settle(self, body: Body) -> None:
        """Give back what nobody needs any more, unless a copy under way does."""
        if body.pins or (body.sharers and body.disk_bytes):  # a file's parts stay in step with it
            return
        for key in [key for key, part in body.items() if part.dropped or not body.sharers]:
            part = body.parts.pop(key)
            self._free_device(part)
            self._free_host(part)
        if not body.sharers:
            self.disk_free += body.disk_bytes
            body.disk_bytes, body.here = 0, False

    def _free_device(self, part: Part) -> None:
        if part.device:
            self.device.give(part.device)
            part.device = None

    def _free_host(self, part: Part) -> None:
        for extent in part.host:
            self.host.give(extent)
        part.host, part.clean, part.issued = [], 0, 0

    @staticmethod
    def _leave_stop(residence: Residence) -> None:
        if residence.machine.state in STOPPED:
            residence.machine.move(State.IO_WAIT)


def _runs(extents: list[Extent], start: int, end: int) -> list[tuple[int, int, int]]:
    """(offset in the part, address in the pool, bytes) of the part's bytes start..end over its host extents."""
    runs, at = [], 0
    for extent in extents:
        low, high = max(start, at), min(end, at + extent.size)
        if low < high:
            runs.append((low, extent.start + low - at, high - low))
        at += extent.size
    return runs
