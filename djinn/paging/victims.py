"""Who makes room: on the device who is evicted, in the host pool who gives up a copy or goes to the disk. Pure.

On the device: copies that cost nothing first (sessions whose bytes the host holds already), then the parked, then those
that nobody looks at, then one that is large enough alone, then the one stopped longest. Sessions that are waited for go
last, and only for one that waits before them. In the host pool, duplicates go first, then who rests on a durable file, then
who is written to the disk; where that is full too, somebody goes up to the device, so that the one hole that is left passes on.
"""

from __future__ import annotations

from collections.abc import Iterator

from djinn.paging import evictions, placements, saves, spills
from djinn.paging.decisions import Move, Spill, Yielded
from djinn.paging.ledger import Ledger
from djinn.paging.residence import Body, Request, Residence
from djinn.states import STOPPED, State

STILL = STOPPED | {State.IO_WAIT}


def victims(book: Ledger, request: Request, short: int) -> Iterator[Residence]:
    """One session of each body that may be evicted for `request`, best first; last of all itself, to come back into a larger
    place. A resume waits for this: who is clean and large enough is looked for before all others are put in order.
    """
    candidates = [body.sharers[0] for body in book.bodies() if _gives_way(body, request)]

    def known(residence: Residence) -> tuple:
        return residence.machine.state is not State.IO_WAIT, residence.intended, residence.machine.history[-1][1]

    for residence in sorted([r for r in candidates if r.body.device_bytes >= short and not r.waiting], key=known):
        if not residence.body.dirty_bytes:
            yield residence
            break

    def order(residence: Residence) -> tuple:
        body, (not_parked, intended, stopped_at) = residence.body, known(residence)
        waits = residence.waiting is not None
        return waits, body.dirty_bytes > 0, not_parked, intended, body.device_bytes < short, stopped_at

    yield from sorted(candidates, key=order)
    own = request.residence.body
    if may_leave(own) and request.number > own.stays and all(map(stands_still, own.sharers)):
        yield request.residence


def _gives_way(body: Body, request: Request) -> bool:
    if not may_leave(body) or body is request.residence.body or request.number <= body.stays:
        return False
    for sharer in body.sharers:  # noqa: SIM110  everybody is asked while a resume waits: no generator for each
        if not stands_still(sharer) or (sharer.waiting and sharer.waiting.rank <= request.rank):
            return False
    return True


def may_leave(body: Body) -> bool:
    return body.here and not body.moving and not body.leaving and body.device_bytes > 0


def stands_still(residence: Residence) -> bool:
    return not residence.granted and residence.machine.state in STILL


def only_who_runs_has_room(book: Ledger) -> bool:
    """Whether those who wait take more than is free, and more than those have who could leave."""
    away = [request for request in book.waiting if not (request.residence.body.here or request.residence.body.moving)]
    if not away:
        return False
    idle = [b for b in book.bodies() if may_leave(b) and all(stands_still(s) and not s.waiting for s in b.sharers)]
    room = book.device.free_bytes + sum(body.device_bytes for body in idle)
    return sum(sum(request.need.values()) for request in away) > room


def host_room(book: Ledger, request: Request) -> Spill | Yielded | None:
    """Make some room in the host pool: a duplicate given back, else somebody's bytes written to the disk."""
    if yielded := yield_somebody(book):
        return yielded

    def order(residence: Residence) -> tuple:
        asks = residence.body is request.residence.body  # last of all: it makes room for who must go before it
        costs = not saves.rests_on_file(residence)
        return asks, residence.waiting is not None, residence.intended, costs, residence.machine.history[-1][1]

    for residence in sorted(_cold(book, request), key=order):
        if saves.rests_on_file(residence):
            saves.put_out(book, residence)
            return Yielded()
        if book.spill_failed < request.number and (spilled := spills.begin_spill(book, residence)):
            return Spill(spilled)
    return None


def yield_somebody(book: Ledger) -> Yielded | None:
    """Give back somebody's copy in the host pool of what the device holds."""
    for body in book.bodies():
        if body.here and not body.pins and not body.moving and body.host_bytes:
            evictions.yield_duplicate(book, body.sharers[0])
            return Yielded()
    return None


def lift(book: Ledger, request: Request, missing: int) -> Move | None:
    """The device has room for who waits, but it lies on the disk, and neither it nor anybody else finds room in the host pool:
    one of there goes up. Once for each request, which could go round in circles. missing: bytes that it still needs up there.
    """
    if request.lifted:
        return None
    body, others = request.residence.body, _others(book, request)
    need = book.host_need(body)
    for other in sorted(others, key=lambda other: other.sharers[0].waiting is not None):
        up = book.room(other)
        both = up + missing <= book.device.free_bytes
        if len(other.sharers) > 1 or book.host.free_bytes + other.host_bytes < need:
            continue
        if not both and not _swaps(book, body, [third for third in others if third is not other]):
            continue
        if moved := placements.begin_lift(book, other.sharers[0]):
            request.lifted = True
            return Move(moved, other.sharers[0])
    return None


def first_to_the_host(book: Ledger, request: Request) -> bool:
    """Whether it must leave the disk before anybody leaves the device for it: that one would take its place in the host pool,
    and nobody can be written to the disk before its own file is gone.
    """
    others = _others(book, request)
    return all(other.live_bytes > book.disk_free for other in others) and _swaps(book, request.residence.body, others)


def _swaps(book: Ledger, body: Body, others: list[Body]) -> bool:
    """Whether the file of `body`, once it is read, leaves room for one of the others."""
    return not body.durable and any(other.live_bytes <= book.disk_free + body.live_bytes for other in others)


def _others(book: Ledger, request: Request) -> list[Body]:
    return [other.body for other in _cold(book, request) if other.body is not request.residence.body]


def _cold(book: Ledger, request: Request) -> list[Residence]:
    """One session of each body in the host pool that may leave it for `request`."""
    return [
        body.sharers[0]
        for body in book.bodies()
        if body.host_bytes
        and not body.here
        and not body.moving
        and not body.pins
        and all(not s.waiting or s.waiting.rank >= request.rank for s in body.sharers)
    ]
