"""What happens next to the memory: who is let in, who goes, what is dropped. Pure: it reads and moves the ledger alone.

Order of the waiting: resumed before new (see Request.rank), and memory goes to the first that lacks some, so that nobody
starves behind smaller ones; who lacks nothing is let in at once. Restores begin as late as keeps the copies busy: whom one
puts out is then chosen knowing everybody who has asked meanwhile. To make room: copies that cost nothing first (sessions
whose bytes the host holds already), then the parked, then those that nobody looks at, then one that is large enough
alone, then the one stopped longest. Sessions that are waited for go last, and only for one that waits before them.
In the host pool, duplicates go first, then who rests on a durable file, then who is written to the disk.
"""

from __future__ import annotations

from collections.abc import Iterator

from djinn.errors import DjinnError, OutOfMemory, StorageError
from djinn.paging import evictions, placements, saves, spills
from djinn.paging.decisions import Fetch, Grant, Move, Refuse, RefuseRead, RefuseSave, Save, Spill, Step, Yielded
from djinn.paging.ledger import Ledger
from djinn.paging.residence import Body, Moving, Request, Residence
from djinn.sizes import format_bytes
from djinn.states import STOPPED, State

AHEAD = 1 << 28  # bytes on their way in, from which on no other restore begins: 5 ms of a PCIe 5 link


def next_step(book: Ledger, ahead: int = AHEAD) -> Step | None:
    """The next thing to do, begun in the ledger; None when there is nothing until something ends."""
    blocked = False
    for request in book.waiting:
        body = request.residence.body
        if book.holds(request):
            return Grant(request)
        if blocked or body.moving or body.pins:
            continue
        step = _make_room(book, request, ahead)
        if step:
            return step
        blocked = True
    return _park(book) or _save(book) or (None if blocked else _read(book) or _prefetch(book))


def _make_room(book: Ledger, request: Request, ahead: int) -> Step | None:
    residence, body = request.residence, request.residence.body
    total = sum(map(book.device.rounded, book.whole(request).values()))
    if total > book.device.capacity:
        whole = format_bytes(book.device.capacity)
        error = (
            f"the session needs {format_bytes(total)}, the whole arena has {whole}: start with a larger device_budget"
        )
        return Refuse(request, OutOfMemory(error))
    if not body.here and body.live_bytes and _bytes(book, "in") >= ahead:
        return None
    parts = book.missing(request).values()
    missing = sum(map(book.device.rounded, parts))
    if not body.disk_bytes:
        may_fit = missing <= book.device.free_bytes or body.here  # it may grow where it is
        if may_fit and (placed := placements.begin_place(book, request)):
            return Move(placed, residence, request)
    elif book.device.fits(*parts):  # room up there first: fetched too early it would stand in the way of who must go
        if fetched := spills.begin_fetch(book, residence):
            return Fetch(fetched)
        return _host_room(book, request) or _wait_or_refuse(book, request, total)
    if book.device.free_bytes >= missing and (compacted := _compact(book)):
        return compacted
    coming = _bytes(book, "out")
    if coming and book.device.free_bytes + coming >= missing:
        return None
    if not request.resumed and not _may_join(book, total):
        return _wait_or_refuse(book, request, total)
    victim = None
    for victim in _victims(book, request, missing - book.device.free_bytes - coming):
        if evicted := evictions.begin_evict(book, victim):
            return Move(evicted, victim)
    if victim and (step := _host_room(book, request)):
        return step
    return _wait_or_refuse(book, request, total)


def _compact(book: Ledger) -> Move | None:
    """The free bytes would do if they lay together: move somebody who stands still."""
    for body in _bodies(book):
        still = _may_leave(body) and not body.pins and all(map(_stands_still, body.sharers))
        if still and (moved := placements.begin_compact(book, body.sharers[0])):
            return Move(moved, body.sharers[0])
    return None


def _victims(book: Ledger, request: Request, short: int) -> Iterator[Residence]:
    """One session of each body that may be evicted for `request`, best first; last of all itself, to come back into a larger
    place. A resume waits for this: who is clean and large enough is looked for before all others are put in order.
    """
    candidates = [
        body.sharers[0]
        for body in _bodies(book)
        if body is not request.residence.body
        and request.number > body.stays
        and all(_stands_still(s) and (not s.waiting or s.waiting.rank > request.rank) for s in body.sharers)
        and _may_leave(body)
    ]

    def known(residence: Residence) -> tuple:
        return residence.machine.state is not State.IO_WAIT, residence.intended, residence.machine.history[-1][1]

    candidates.sort(key=known)
    for residence in candidates:
        body = residence.body
        if not residence.waiting and body.device_bytes >= short and not body.dirty_bytes:
            yield residence
            break

    def order(residence: Residence) -> tuple:
        body, (not_parked, intended, stopped_at) = residence.body, known(residence)
        waits = residence.waiting is not None
        return waits, body.dirty_bytes > 0, not_parked, intended, body.device_bytes < short, stopped_at

    yield from sorted(candidates, key=order)
    own = request.residence.body
    if _may_leave(own) and request.number > own.stays and all(map(_stands_still, own.sharers)):
        yield request.residence


def _may_leave(body: Body) -> bool:
    return body.here and not body.moving and not body.leaving and any(part.device for part in body.parts.values())


def _stands_still(residence: Residence) -> bool:
    return not residence.granted and residence.machine.state in STOPPED | {State.IO_WAIT}


def _may_join(book: Ledger, asking: int) -> bool:
    """Whether, a new session let in, one more could still step aside: else none that is evicted could come back.

    Each tier is taken to hold whole sessions of the largest size, which is what it holds at worst.
    """
    sizes = [asking, *(sum(book.device.rounded(p.live) for p in body.parts.values()) for body in _bodies(book))]
    largest = max(sizes)
    tiers = (book.device.capacity, book.host.capacity, book.disk_capacity)
    return sum(sizes) + largest <= sum(capacity // largest * largest for capacity in tiers)


def _host_room(book: Ledger, request: Request) -> Step | None:
    """Make some room in the host pool: a duplicate given back, else somebody's bytes written to the disk."""
    for body in _bodies(book):
        if body.here and not body.pins and not body.moving and body.has_host_copy:
            evictions.yield_duplicate(book, body.sharers[0])
            return Yielded()

    def order(residence: Residence) -> tuple:
        asks = residence.body is request.residence.body  # last of all: it makes room for who must go before it
        costs = not saves.rests_on_file(residence)
        return asks, residence.waiting is not None, residence.intended, costs, residence.machine.history[-1][1]

    cold = [
        body.sharers[0]
        for body in _bodies(book)
        if body.has_host_copy
        and not body.here
        and not body.moving
        and not body.pins
        and all(not s.waiting or s.waiting.rank >= request.rank for s in body.sharers)
    ]
    for residence in sorted(cold, key=order):
        if saves.rests_on_file(residence):
            saves.put_out(book, residence)
            return Yielded()
        if book.spill_failed < request.number and (spilled := spills.begin_spill(book, residence)):
            return Spill(spilled)
    return None


def _wait_or_refuse(book: Ledger, request: Request, total: int) -> Refuse | None:
    error = _full(book, total)
    return Refuse(request, error) if error else None


def _full(book: Ledger, total: int) -> OutOfMemory | None:
    """There is no room, and nothing is under way that could make some."""
    runs = any(residence.granted for residence in book.residences.values())
    if runs or book.more_host() or any(body.pins for body in _bodies(book)):
        return None
    refuses = " but failed the last write" if book.spill_failed >= 0 else ""
    return OutOfMemory(
        f"no room for {format_bytes(total)}: arena {format_bytes(book.device.free_bytes)} of "
        f"{format_bytes(book.device.capacity)} free, host pool {format_bytes(book.host.free_bytes)} of "
        f"{format_bytes(book.host.capacity)} free, disk {format_bytes(book.disk_free)} of "
        f"{format_bytes(book.disk_capacity)} free{refuses}. Close a session, or start with a larger host_budget or disk_budget"
    )


def _park(book: Ledger) -> Move | None:
    """The eviction that a park asked for, while there is room in the host pool."""
    for residence in book.residences.values():
        body = residence.body
        if (
            residence.machine.state is State.IO_WAIT
            and not (residence.intended and not residence.saving)
            and _may_leave(body)
            and body.stays < 0
            and all(s.machine.state is State.IO_WAIT and not s.waiting and not s.granted for s in body.sharers)
            and (evicted := evictions.begin_evict(book, residence))
        ):
            return Move(evicted, residence)
    return None


def _save(book: Ledger) -> Step | None:
    """Write durable files, or make room in the host pool for who passes it on the way there."""
    for saving in book.saving:
        residence, body = saving.residence, saving.residence.body
        if body.moving or body.pins or body.leaving:
            continue
        if error := saves.short(book, saving):
            return RefuseSave(saving, error)
        if saves.lies_still(body):
            saves.begin(book, saving)
            return Save(saving)
        if error := _never(book, body):
            return RefuseSave(saving, error)
        if step := _host_room(book, _last(book, residence)):
            return step
        if error := _full(book, body.live_bytes):
            return RefuseSave(saving, error)
    return None


def _last(book: Ledger, residence: Residence) -> Request:
    """For who needs room in the host pool, and takes nobody's place who is waited for."""
    return Request(residence, {}, book.newest, resumed=False)


def _read(book: Ledger) -> Step | None:
    """Bring a session from the disk for somebody who waits to read it."""
    for residence in book.residences.values():
        body = residence.body
        if not residence.read or residence.waiting or body.pins or residence.machine.state is not State.DISK:
            continue
        if fetched := spills.begin_fetch(book, residence):
            return Fetch(fetched)
        if step := _host_room(book, _last(book, residence)):
            return step
        if error := _full(book, body.live_bytes):
            return RefuseRead(body, error)
    return None


def _never(book: Ledger, body: Body) -> DjinnError | None:
    """Why a session on the device will not reach the host pool, whoever leaves it."""
    if body.stays >= 0:
        return StorageError("copying the session off the device failed: it stays there: park it again")
    whole = sum(book.host.rounded(part.live) for part in body.parts.values())
    if whole > book.host.capacity and not book.more_host():
        has = format_bytes(book.host.capacity)
        return OutOfMemory(
            f"the session takes {format_bytes(whole)} on its way to its file, the host pool has {has}: "
            "start with a larger host_budget"
        )
    return None


def _prefetch(book: Ledger) -> Move | Fetch | None:
    """Bring back, into room that is free anyway, a session that somebody looks at."""
    for residence in book.residences.values():
        body = residence.body
        if residence.intended and not residence.waiting and len(body.sharers) == 1 and not body.pins:
            if residence.machine.state is State.DISK and (fetched := spills.begin_fetch(book, residence)):
                return Fetch(fetched)
            need = {key: part.live for key, part in body.items() if part.live}
            request = Request(residence, need, number=0, resumed=True)
            if residence.machine.state is State.HOST and (placed := placements.begin_place(book, request)):
                return Move(placed, residence)
    return None


def _bytes(book: Ledger, moving: Moving) -> int:
    """Of the arena, on their way so."""
    return sum(body.device_bytes for body in _bodies(book) if body.moving == moving)


def _bodies(book: Ledger) -> Iterator[Body]:
    seen: set[int] = set()
    for residence in book.residences.values():
        if id(residence.body) not in seen:
            seen.add(id(residence.body))
            yield residence.body
