"""Onto the device from the host pool, and to another place on the device: begun here, ended when the copies have. Pure."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from djinn.paging import evictions
from djinn.paging.ledger import Ledger
from djinn.paging.residence import Body, Key, Part, Request, Residence
from djinn.paging.transfers import Piece, Transfer, runs
from djinn.states import State
from djinn.tiers.extents import Extent

PIECES = 16  # into which a part is cut at most, to slide into a hole under it


def grow(book: Ledger, request: Request) -> None:
    """Lengthen the parts of the need where they lie, as far as free bytes follow them; nothing is copied."""
    body = request.residence.body
    if len(body.sharers) > 1:
        return
    for key, nbytes in request.need.items():
        part = body.parts.get(key)
        if part and part.device and part.device.size < nbytes:
            body.put(part, book.device.extend(part.device, nbytes) or part.device)


def begin_place(book: Ledger, request: Request) -> Transfer | None:
    """Take room on the device for all of the need at once; None, and nothing taken, where it does not fit."""
    residence, old = request.residence, request.residence.body
    shared = len(old.sharers) > 1
    missing = book.missing(request)
    extents = book.device.take(*missing.values())
    if extents is None:
        return None
    new = Body() if shared else old
    across = old.here
    left: list[Extent] = []
    moves = []
    for key, extent in zip(missing, extents, strict=True):
        part = old.parts.get(key) or Part()
        if part.live:
            moves.append((key, _pieces(part, extent, across)))
        if shared:
            part = Part(live=part.live)
        elif part.device:
            left.append(part.device)
        new.parts[key] = part
        new.put(part, extent)
    new.touch()
    turn = {key: at for at, key in enumerate(request.order)}
    moves.sort(key=lambda move: turn.get(move[0], len(turn)))
    if shared:
        old.sharers.remove(residence)
        residence.body = new
        new.sharers.append(residence)
    if residence.machine.state is State.HOST:
        residence.machine.move(State.RESTORING)
    if not moves:
        new.here = True
        book.device.give(*left)
        return Transfer("in", [], lambda: None)
    old.pins += 1
    new.pins += shared
    old.leaving += shared
    new.moving = "across" if across else "in"
    cancel = None if across or shared else partial(_cancel_place, book, new)
    return Transfer(new.moving, moves, partial(_end_place, book, new, old, left), cancel)


def _end_place(book: Ledger, new: Body, old: Body, left: list[Extent]) -> None:
    book.device.give(*left)
    new.moving, new.here = None, True
    for residence in new.sharers:
        runs_now = residence.waiting and book.holds(residence.waiting)
        if residence.machine.state is State.RESTORING and not runs_now:
            # it was brought unasked, or to a place that is too small for what was asked meanwhile
            residence.machine.move(State.IO_WAIT)
    if new is not old:
        old.leaving -= 1
        book.unpin(new)
    book.unpin(old)


def _cancel_place(book: Ledger, body: Body) -> None:
    body.moving = None
    book.free_device(body, body.parts.values())
    for residence in body.sharers:
        residence.intended = False  # nobody tries again unasked
        residence.machine.move(State.HOST)
    book.unpin(body)


def begin_return(book: Ledger, residence: Residence) -> Transfer | None:
    """All of it to the device, which nobody has asked for; None where it does not fit."""
    need = {key: part.live for key, part in residence.body.items() if part.live}
    return begin_place(book, Request(residence, need, number=0, resumed=True))


def begin_lift(book: Ledger, residence: Residence) -> Transfer | None:
    """The same, and out of the host pool when that has been copied."""
    transfer = begin_return(book, residence)
    if transfer:
        transfer.end = partial(_end_lift, book, residence.body, transfer.end)
    return transfer


def _end_lift(book: Ledger, body: Body, placed: Callable[[], None]) -> None:
    placed()
    if body.here and not body.pins:
        evictions.yield_duplicate(book, body.sharers[0])


def begin_compact(book: Ledger, residence: Residence) -> Transfer | None:
    """Move parts down into holes, the highest first, so that free bytes come to lie together above; None if none can move."""
    body = residence.body
    # size → where the lowest hole for it is: as a rule above, and everybody is asked while a resume waits
    holes: dict[int, int] = {}
    above: list[tuple[int, Key]] = []
    for key, part in body.items():
        if not part.device:
            continue
        start, size = part.device
        if size not in holes:
            holes[size] = book.device.lowest(size)
        if holes[size] < start:
            above.append((start, key))
    moves, left = [], []
    for start, key in sorted(above, reverse=True):
        part = body.parts[key]
        if lower := book.device.take_below(part.device.size, start):
            moves.append((key, [Piece(start, lower.start, part.live)]))
            left.append(part.device)
            body.put(part, lower)
    return _begin_across(book, body, moves, left)


def begin_slide(book: Ledger, residence: Residence) -> Transfer | None:
    """Move parts down into the holes right under them, however small for them, so that holes meet; None if no part can.

    A part overlaps the place that it moves to: it goes in pieces, in order, none longer than the hole, so that each is
    written where nothing is, or where the one before it came from.
    """
    body = residence.body
    moves, left = [], []
    for key, part in body.items():
        hole = part.device and book.device.take_hole_under(part.device, part.device.size // PIECES)
        if not hole:
            continue
        old = part.device
        body.put(part, Extent(hole.start, old.size))
        starts = range(0, part.live, hole.size)
        pieces = [Piece(old.start + at, hole.start + at, min(hole.size, part.live - at)) for at in starts]
        moves.append((key, pieces))
        left.append(Extent(part.device.end, hole.size))
    return _begin_across(book, body, moves, left)


def _begin_across(book: Ledger, body: Body, moves: list, left: list[Extent]) -> Transfer | None:
    if not moves:
        return None
    body.moving = "across"
    body.pins += 1
    return Transfer("across", moves, partial(_end_place, book, body, body, left))


def _pieces(part: Part, to: Extent, across: bool) -> list[Piece]:
    if across:
        return [Piece(part.device.start, to.start, part.live)]
    if len(part.host) == 1:  # as a rule
        return [Piece(part.host[0].start, to.start, part.live)]
    return [Piece(host, to.start + at, n) for at, host, n in runs(part.host, 0, part.live)]
