"""What happens next to the memory: who is let in, and what is moved so that the next can be. Pure: it changes the ledger alone.

Order of the waiting: resumed before new (see Request.rank), and memory goes to the first that lacks some, so that nobody
starves behind smaller ones; who lacks nothing is let in at once. Restores begin as late as keeps the copies busy: whom one
puts out is then chosen (`victims`) knowing everybody who has asked meanwhile. Room for the next is made while one comes back,
so that copies go both ways at once. Holes of the arena are pushed together where nobody would have to leave then or nobody can, and
before anybody is refused.
"""

from __future__ import annotations

from collections.abc import Callable

from djinn.paging import background, evictions, placements, spills
from djinn.paging.admission import full, may_join, too_large
from djinn.paging.decisions import Evicted, Fetch, Grant, Move, Refuse, Step
from djinn.paging.ledger import Ledger
from djinn.paging.placements import begin_compact, begin_slide
from djinn.paging.residence import Body, Moving, Request, Residence
from djinn.paging.transfers import Transfer
from djinn.paging.victims import first_to_the_host, host_room, lift, may_leave, victims, yield_somebody

AHEAD = 1 << 28  # bytes behind the restore at hand, from which on no other begins: 5 ms of a PCIe 5 link


def next_step(book: Ledger, ahead: int = AHEAD) -> Step | None:
    """The next thing to do, begun in the ledger; None when there is nothing until something ends."""
    for request in book.waiting:  # before anybody's eviction: one of these could be chosen for it
        if book.holds(request):
            return Grant(request)
    blocked = False
    for request in book.waiting:
        body = request.residence.body
        if blocked or body.moving or body.pins:
            continue
        step = _make_room(book, request, ahead)
        if step:
            return step
        blocked = True
    if step := background.park(book) or background.save(book):
        return step
    return background.read(book, blocked) or (None if blocked else background.prefetch(book))


def _make_room(book: Ledger, request: Request, ahead: int) -> Step | None:
    residence, body = request.residence, request.residence.body
    total = book.device.room(book.whole(request).values())
    if error := too_large(book, total):
        return Refuse(request, error)
    if body.here:
        placements.grow(book, request)
    parts = book.missing(request).values()
    missing = book.device.room(parts)
    if not body.here and body.live_bytes and _enough_under_way(book, ahead):
        if missing <= book.device.free_bytes:
            return None
    elif not body.disk_bytes:
        if missing <= book.device.free_bytes and (placed := placements.begin_place(book, request)):
            return Move(placed, residence, request)
    elif book.device.fits(*parts):  # room up there first: fetched too early it would stand in the way of who must go
        if fetched := spills.begin_fetch(book, residence):
            return Fetch(fetched, residence.key)
        return host_room(book, request) or lift(book, request, missing) or _wait_or_refuse(book, request, total)
    elif first_to_the_host(book, request) and (fetched := spills.begin_fetch(book, residence)):
        return Fetch(fetched, residence.key)
    in_holes = book.device.free_bytes >= missing
    somebody_leaves = in_holes and request.resumed and _wanted(book) > book.device.free_bytes
    if in_holes and not somebody_leaves and (compacted := _compact(book)):
        return compacted
    coming = _bytes(book, "out")
    if coming and book.device.free_bytes + coming >= missing:
        return None
    if not request.resumed and not may_join(book, total):
        return _wait_or_refuse(book, request, total)
    victim = short = None
    for victim in victims(book, request, missing - book.device.free_bytes - coming):
        if somebody_leaves and victim.waiting:
            break
        if step := evictions.evict(book, victim):
            at_once = isinstance(step, Evicted) and not body.disk_bytes and book.device.free_bytes >= missing
            placed = placements.begin_place(book, request) if at_once else None
            return Move(placed, residence, request, evicted=1) if placed else step
        short = victim  # of room in the host pool
    if somebody_leaves and short and (yielded := yield_somebody(book)):
        return yielded
    if somebody_leaves and (compacted := _compact(book)):
        return compacted
    if victim and (step := host_room(book, request)):
        return step
    if in_holes and not _bytes(book, "across") and (slid := _slide(book)):
        return slid
    return _wait_or_refuse(book, request, total)


def _wanted(book: Ledger) -> int:
    """Bytes of all who wait and are not on the device."""
    away = [body for body in book.bodies() if not body.here and not body.moving]
    return sum(body.live_bytes for body in away if any(sharer.waiting for sharer in body.sharers))


def _enough_under_way(book: Ledger, ahead: int) -> bool:
    """Of restores: one, and behind it as many bytes as are copied until the next can be begun."""
    coming = sorted(body.device_bytes for body in book.bodies() if body.moving == "in")
    return sum(coming[:-1]) >= ahead


def _compact(book: Ledger) -> Move | None:
    """The free bytes would do if they lay together. Who lies highest goes first into the holes: everybody above a hole would
    else pass through it, one behind the other, and a hundred moves went by before 600 MB lay together in 54 GB.
    """
    return _move_down(book, begin_compact, _at_rest(book)[::-1])


def _slide(book: Ledger) -> Move | None:
    """The same where the holes are too small for anybody: the lowest first, so that the hole above it grows."""
    return _move_down(book, begin_slide, _at_rest(book))


def _at_rest(book: Ledger) -> list[Body]:
    """Who is on the device, does not run and may be moved, the lowest first."""
    still = [b for b in book.bodies() if may_leave(b) and not b.pins and not any(s.granted for s in b.sharers)]
    return sorted(still, key=lambda body: body.top)


def _move_down(book: Ledger, begin: Callable[[Ledger, Residence], Transfer | None], bodies: list[Body]) -> Move | None:
    """The first of them that can."""
    for body in bodies:
        if moved := begin(book, body.sharers[0]):
            return Move(moved, body.sharers[0])
    return None


def _wait_or_refuse(book: Ledger, request: Request, total: int) -> Refuse | None:
    error = full(book, total)
    return Refuse(request, error) if error else None


def _bytes(book: Ledger, moving: Moving) -> int:
    """Of the arena, on their way so."""
    return sum(body.device_bytes for body in book.bodies() if body.moving == moving)
