"""Durable files in the accounts: a session's pages are pinned while they are written; the file then counts as their copy. Pure.

A session that is the same still as its file needs no room elsewhere: put out of the host pool it goes nowhere, it is there.
"""

from __future__ import annotations

from djinn.errors import OutOfMemory
from djinn.paging.ledger import Ledger
from djinn.paging.residence import Body, Residence, Saved, Saving
from djinn.sizes import format_bytes
from djinn.states import State


def ask(book: Ledger, saving: Saving) -> None:
    """The session is to be written as soon as its pages lie still in the host pool or in a file."""
    saving.residence.saving = saving
    book.saving.append(saving)


def lies_still(body: Body) -> bool:
    return not body.moving and not body.pins and not (body.here and body.live_bytes)


def short(book: Ledger, saving: Saving) -> OutOfMemory | None:
    """Why the disk cannot take the file. The one before stays until this one is there, so both count."""
    if saving.nbytes <= book.disk_free:
        return None
    return OutOfMemory(
        f"the durable file takes {format_bytes(saving.nbytes)}, the disk has {format_bytes(book.disk_free)} of "
        f"{format_bytes(book.disk_capacity)} free: close a session, or start with a larger disk_budget"
    )


def begin(book: Ledger, saving: Saving) -> None:
    book.saving.remove(saving)
    saving.begun = True
    book.disk_free -= saving.nbytes
    saving.residence.body.pins += 1


def end(book: Ledger, saving: Saving, written: bool) -> None:
    """The file is there, or could not be written: then the one before is still, and the session is as it was."""
    residence, body = saving.residence, saving.residence.body
    residence.saving = None
    if not written or saving.abandoned:
        book.give_disk(saving.nbytes)
    else:
        if residence.saved:
            book.give_disk(residence.saved.nbytes)
        residence.saved = Saved(saving.nbytes)
        if body.disk_bytes and len(body.sharers) == 1:
            book.leave_disk(body)
            for key in [key for key, part in body.items() if part.dropped]:
                del body.parts[key]  # the file of before still had it
            body.touch()
            _rest_on(body)
    book.unpin(body)


def withdraw(book: Ledger, saving: Saving) -> None:
    """Refused before it was begun."""
    book.saving.remove(saving)
    saving.residence.saving = None
    book.settle(saving.residence.body)


def forget(book: Ledger, residence: Residence) -> None:
    """The session is closed: its durable file goes, and so does one that is being written."""
    if residence.saving:
        residence.saving.abandoned = True
    if residence.saved:
        book.give_disk(residence.saved.nbytes)
        residence.saved = None


def rests_on_file(residence: Residence) -> bool:
    """Whether its pages need no other copy than the durable file."""
    return bool(residence.saved and residence.saved.current and len(residence.body.sharers) == 1)


def put_out(book: Ledger, residence: Residence) -> None:
    """From the host pool to nowhere: the durable file is the only copy now."""
    body = residence.body
    _rest_on(body)
    residence.machine.move(State.DISK)
    book.free_host(body, body.parts.values())


def recover(book: Ledger, residence: Residence, saved: Saved) -> None:
    """A session of an earlier server, whose parts have their live bytes: its only copy is its durable file."""
    residence.saved = saved
    book.disk_free -= saved.nbytes
    _rest_on(residence.body)
    book.open(residence)


def _rest_on(body: Body) -> None:
    body.disk_bytes = body.live_bytes
    body.durable = bool(body.disk_bytes)
