"""Changes of place between the device and the host pool, and on the device: begun here, ended when the copies have. Pure.

`begin_*` changes the accounts and returns what to copy; who calls it must call the transfer's `end` when that is done.
Copies out of the device must end in the order in which they were begun; so a last one finds all before it done.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from djinn.errors import IllegalMove
from djinn.paging.ledger import Ledger
from djinn.paging.residence import Body, Key, Part, Request, Residence
from djinn.states import STOPPED, State
from djinn.tiers.extents import Extent


@dataclass(frozen=True)
class Piece:
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


# -- onto the device, and on it -----------------------------------------------------------------------


def begin_place(book: Ledger, request: Request) -> Transfer | None:
    """Take room on the device for all of the need at once; None, and nothing taken, where it does not fit."""
    residence, old = request.residence, request.residence.body
    shared = len(old.sharers) > 1
    if not shared and old.here:
        _grow_in_place(book, old, request.need)
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
            book.device.give(extent)
        return Transfer("in", [], lambda: None)
    old.pins += 1
    new.pins += shared
    old.leaving += shared
    new.moving = "across" if across else "in"
    cancel = None if across or shared else partial(_cancel_place, book, new)
    return Transfer(new.moving, moves, partial(_end_place, book, new, old, left), cancel)


def _end_place(book: Ledger, new: Body, old: Body, left: list[Extent]) -> None:
    for extent in left:
        book.device.give(extent)
    new.moving, new.here = None, True
    for residence in new.sharers:
        if residence.machine.state is State.RESTORING and not residence.waiting:
            residence.machine.move(State.IO_WAIT)  # it was brought unasked
    if new is not old:
        old.leaving -= 1
        book.unpin(new)
    book.unpin(old)


def _cancel_place(book: Ledger, body: Body) -> None:
    body.moving = None
    for part in body.parts.values():
        book.free_device(part)
    for residence in body.sharers:
        residence.intended = False  # nobody tries again unasked
        residence.machine.move(State.HOST)
    book.unpin(body)


def _grow_in_place(book: Ledger, body: Body, need: dict[Key, int]) -> None:
    for key, nbytes in need.items():
        part = body.parts.get(key)
        if part and part.device and part.device.size < nbytes:
            part.device = book.device.extend(part.device, nbytes) or part.device


def begin_compact(book: Ledger, residence: Residence) -> Transfer | None:
    """Move parts down into holes, so that free bytes come to lie together; None if none can move."""
    body = residence.body
    moves, left = [], []
    for key, part in body.items():
        if part.device and (lower := book.device.take_below(part.device.size, part.device.start)):
            moves.append((key, [Piece(part.device.start, lower.start, part.live)]))
            left.append(part.device)
            part.device = lower
    if not moves:
        return None
    body.moving = "across"
    body.pins += 1
    return Transfer("across", moves, partial(_end_place, book, body, body, left))


def _pieces(part: Part, to: Extent, across: bool) -> list[Piece]:
    if across:
        return [Piece(part.device.start, to.start, part.live)]
    return [Piece(host, to.start + at, n) for at, host, n in _runs(part.host, 0, part.live)]


# -- off the device ------------------------------------------------------------------------------------


def host_need(book: Ledger, body: Body) -> int:
    """Bytes of the host pool that an eviction would take beyond what the duplicates hold."""
    return sum(max(0, book.host.rounded(p.live) - p.host_room) for p in body.parts.values())


def begin_evict(book: Ledger, residence: Residence) -> Transfer | None:
    """Copy what the host does not hold yet and free the device when that is done; None if the host has no room."""
    body = residence.body
    dirty = body.dirty_bytes > 0
    if dirty and host_need(book, body) > book.host.free_bytes:
        return None
    for sharer in body.sharers:
        _leave_stop(sharer)
        sharer.machine.move(State.EVICTING)
    moves = (
        [(key, _mirror(book, part, part.live)) for key, part in body.items() if part.live > part.issued]
        if dirty
        else []
    )
    body.moving = "out"
    body.pins += 1
    upto = {key: part.live for key, part in body.items()}
    return Transfer("out", moves, partial(_end_evict, book, body, upto, body.epoch), partial(_cancel_evict, book, body))


def _end_evict(book: Ledger, body: Body, upto: dict[Key, int], epoch: int) -> None:
    leaves = bool(body.sharers) and all(sharer.machine.state is State.EVICTING for sharer in body.sharers)
    if leaves and epoch != body.epoch:  # a copy that was queued before failed: the host does not hold all of it
        _cancel_evict(book, body)
        return
    body.moving = None
    _mark_clean(body, upto, epoch)
    if leaves:
        for sharer in body.sharers:
            sharer.machine.move(State.HOST)
        body.here = False
        for part in body.parts.values():
            book.free_device(part)
    book.unpin(body)


def _cancel_evict(book: Ledger, body: Body) -> None:
    body.moving, body.stays = None, book.newest
    for sharer in body.sharers:
        if sharer.machine.state is State.EVICTING:
            sharer.machine.move(State.IO_WAIT)
    _cancel_mirror(book, body)


def _cancel_mirror(book: Ledger, body: Body) -> None:
    """What was queued counts no longer, not even what came over."""
    body.epoch += 1
    for part in body.parts.values():
        part.issued = part.clean
    book.unpin(body)


def begin_mirror(book: Ledger, residence: Residence, key: Key, live: int) -> Transfer | None:
    """Write-through: copy a part's first `live` bytes, which its run has just written; None where the host is short."""
    body = residence.body
    part = body.parts[key]
    if live <= part.issued or book.host.rounded(live) - part.host_room > book.host.free_bytes:
        return None
    moves = [(key, _mirror(book, part, live))]
    body.pins += 1
    return Transfer(
        "out", moves, partial(_end_mirror, book, body, key, live, body.epoch), partial(_cancel_mirror, book, body)
    )


def _end_mirror(book: Ledger, body: Body, key: Key, live: int, epoch: int) -> None:
    _mark_clean(body, {key: live}, epoch)
    book.unpin(body)


def _mirror(book: Ledger, part: Part, upto: int) -> list[Piece]:
    short = book.host.rounded(upto) - part.host_room
    if short > 0:
        part.host += book.host.take_scattered(short)
    pieces = [Piece(part.device.start + at, host, n) for at, host, n in _runs(part.host, part.issued, upto)]
    part.issued = upto
    return pieces


def _mark_clean(body: Body, upto: dict[Key, int], epoch: int) -> None:
    if epoch == body.epoch:
        for key, live in upto.items():
            if key in body.parts:
                body.parts[key].clean = max(body.parts[key].clean, live)


def yield_duplicate(book: Ledger, residence: Residence) -> None:
    """Give back the host copy of bytes that the device holds."""
    body = residence.body
    if body.pins or not body.here:
        raise IllegalMove("a copy under way needs these bytes, or they are the only ones")
    for part in body.parts.values():
        book.free_host(part)


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
