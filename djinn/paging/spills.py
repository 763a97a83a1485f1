"""Between the host pool and the disk: the accounts of a session whose only copy is a file. Pure."""

from __future__ import annotations

from djinn.paging.ledger import Ledger
from djinn.paging.residence import Body, Residence
from djinn.states import State


def begin_spill(book: Ledger, residence: Residence) -> Body | None:
    """Its bytes go from the host pool to a file; `end_spill` when it is written. None if the disk has no room."""
    body = residence.body
    if body.live_bytes > book.disk_free:
        return None
    book.disk_free -= body.live_bytes
    body.disk_bytes = body.live_bytes
    body.moving = "spill"
    body.pins += 1
    return body


def end_spill(book: Ledger, body: Body) -> None:
    body.moving = None
    for sharer in body.sharers:
        sharer.machine.move(State.DISK)
    book.free_host(body, body.parts.values())
    book.unpin(body)


def begin_fetch(book: Ledger, residence: Residence) -> Body | None:
    """Its bytes come back from the file to the host pool; None if there is no room."""
    body = residence.body
    if book.host_need(body) > book.host.free_bytes:
        return None
    for part in body.parts.values():
        part.host = book.host.take_scattered(part.live) or []
    body.touch()
    body.moving = "fetch"
    body.pins += 1
    return body


def cancel_spill(book: Ledger, body: Body) -> None:
    """The file could not be written: the bytes stay where they are, and who asks next may try again."""
    body.moving = None
    book.leave_disk(body)
    book.spill_failed = book.newest
    book.unpin(body)


def end_fetch(book: Ledger, body: Body) -> None:
    body.moving = None
    book.leave_disk(body)
    for part in body.parts.values():
        part.clean = part.issued = part.live
    for sharer in body.sharers:
        sharer.machine.move(State.HOST)
    book.unpin(body)


def cancel_fetch(book: Ledger, body: Body) -> None:
    """The file could not be read: its session stays where it is."""
    body.moving = None
    book.free_host(body, body.parts.values())
    book.unpin(body)
