"""What is moved when nothing can be done for who waits: parks, durable files, reads, and sessions that are looked at. Pure."""

from __future__ import annotations

from djinn.paging import evictions, placements, saves, spills
from djinn.paging.admission import cannot_leave, full
from djinn.paging.decisions import Evicted, Fetch, Move, RefuseRead, RefuseSave, Save, Step
from djinn.paging.ledger import Ledger
from djinn.paging.residence import Request, Residence
from djinn.paging.victims import host_room, may_leave, stands_still
from djinn.states import State


def park(book: Ledger) -> Move | Evicted | None:
    """The eviction that a park asked for, while there is room in the host pool. Of forks that share their bytes all must have
    asked, but where one is to be written: the others may be evicted unasked."""
    for residence in book.residences.values():
        body, saving = residence.body, residence.saving
        if (
            residence.machine.state is State.IO_WAIT
            and not (residence.intended and not saving)
            and may_leave(body)
            and body.stays < 0
            and all(
                (s.machine.state is State.IO_WAIT or (saving and stands_still(s))) and not s.waiting and not s.granted
                for s in body.sharers
            )
            and (evicted := evictions.evict(book, residence))
        ):
            return evicted
    return None


def save(book: Ledger) -> Step | None:
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
        if error := cannot_leave(book, body):
            return RefuseSave(saving, error)
        if step := host_room(book, _last(book, residence)):
            return step
        if error := full(book, body.live_bytes):
            return RefuseSave(saving, error)
    return None


def read(book: Ledger, blocked: bool) -> Step | None:
    """Bring a session from the disk for somebody who waits to read it.

    blocked: somebody waits for room on the device, as under load somebody always may. Then nobody leaves the host pool for it;
    the room that it takes there is anybody's again when it has been read, for it waits for no place itself.
    """
    for residence in book.residences.values():
        body = residence.body
        if not residence.read or residence.waiting or body.pins or residence.machine.state is not State.DISK:
            continue
        if fetched := spills.begin_fetch(book, residence):
            return Fetch(fetched, residence.key)
        if blocked:
            continue
        if step := host_room(book, _last(book, residence)):
            return step
        if error := full(book, body.live_bytes):
            return RefuseRead(body, error)
    return None


def _last(book: Ledger, residence: Residence) -> Request:
    """For who needs room in the host pool, and takes nobody's place who is waited for."""
    return Request(residence, {}, book.newest, resumed=False)


def prefetch(book: Ledger) -> Move | Fetch | None:
    """Bring back, into room that is free anyway, a session that somebody looks at. What was freed for who is saved or read is
    theirs: the one brought back into it would have to leave again, and so on."""
    if book.saving or any(residence.read for residence in book.residences.values()):
        return None
    for residence in book.residences.values():
        body = residence.body
        if residence.intended and not residence.waiting and len(body.sharers) == 1 and not body.pins:
            if residence.machine.state is State.DISK and (fetched := spills.begin_fetch(book, residence)):
                return Fetch(fetched, residence.key)
            if residence.machine.state is State.HOST and (placed := placements.begin_return(book, residence)):
                return Move(placed, residence)
    return None
