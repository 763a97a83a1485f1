"""Off the device into the host pool, at once or behind the run that writes: begun here, ended when the copies have. Pure.

Copies out of the device must end in the order in which they were begun; so a last one finds all before it done.
"""

from __future__ import annotations

from functools import partial

from djinn.errors import IllegalMove
from djinn.paging.decisions import Evicted, Move
from djinn.paging.ledger import Ledger
from djinn.paging.residence import Body, Key, Part, Residence
from djinn.paging.transfers import Piece, Transfer, runs
from djinn.states import STOPPED, State


def evict(book: Ledger, residence: Residence) -> Move | Evicted | None:
    """Begun, or done at once where the host holds every byte and no copy under way says so too early; None: no room there."""
    transfer = begin_evict(book, residence)
    if transfer is None or transfer.moves or residence.body.pins > 1:
        return transfer and Move(transfer, residence)
    transfer.end()
    return Evicted(residence)


def begin_evict(book: Ledger, residence: Residence) -> Transfer | None:
    """Copy what the host does not hold yet and free the device when that is done; None if the host has no room."""
    body = residence.body
    dirty = body.dirty_bytes > 0
    if dirty and book.host_need(body) > book.host.free_bytes:
        return None
    for sharer in body.sharers:
        _leave_stop(sharer)
        sharer.machine.move(State.EVICTING)
    moves = (
        [(key, _mirror(book, body, part, part.live)) for key, part in body.items() if part.live > part.issued]
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
        book.free_device(body, body.parts.values())
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
    moves = [(key, _mirror(book, body, part, live))]
    body.pins += 1
    return Transfer(
        "out", moves, partial(_end_mirror, book, body, key, live, body.epoch), partial(_cancel_mirror, book, body)
    )


def _end_mirror(book: Ledger, body: Body, key: Key, live: int, epoch: int) -> None:
    _mark_clean(body, {key: live}, epoch)
    book.unpin(body)


def _mirror(book: Ledger, body: Body, part: Part, upto: int) -> list[Piece]:
    short = book.host.rounded(upto) - part.host_room
    if short > 0:
        part.host += book.host.take_scattered(short)
        body.touch()
    pieces = [Piece(part.device.start + at, host, n) for at, host, n in runs(part.host, part.issued, upto)]
    part.issued = upto
    return pieces


def _mark_clean(body: Body, upto: dict[Key, int], epoch: int) -> None:
    if epoch == body.epoch:
        for key, live in upto.items():
            part = body.parts.get(key)
            if part and part.clean < live:
                part.clean = live


def yield_duplicate(book: Ledger, residence: Residence) -> None:
    """Give back the host copy of bytes that the device holds."""
    body = residence.body
    if body.pins or not body.here:
        raise IllegalMove("a copy under way needs these bytes, or they are the only ones")
    book.free_host(body, body.parts.values())


def _leave_stop(residence: Residence) -> None:
    if residence.machine.state in STOPPED:
        residence.machine.move(State.IO_WAIT)
