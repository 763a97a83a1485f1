"""What the policy decides next, in small worlds made for it; by the thousand it is held to in test_ledger.py."""

from __future__ import annotations

import random

import pytest
from residents import coming_back, in_the_host_pool, there
from trace_memory import UNIT, Memory
from trace_mover import LateMover

from djinn.paging import decisions, placements, policy, saves, spills, victims
from djinn.paging.ledger import Ledger
from djinn.paging.residence import Part, Request, Residence, Saving
from djinn.paging.transfers import Transfer
from djinn.states import Machine, State
from djinn.tiers.extents import Extents


def test_who_lacks_nothing_is_let_in_before_anybody_can_choose_it_to_leave():
    """However many asked before it: a session that waits, and is about to run, is nobody's room."""
    book = Ledger(Extents(2 * 32, 32), Extents(4 * 32, 32))
    away, here = Residence("away", Machine(State.HOST)), Residence("here", Machine(State.IO_WAIT))
    for residence in (away, here):
        book.open(residence)
        residence.body.parts[0] = Part(live=32)
    here.body.here = True
    here.body.put(here.body.parts[0], book.device.take(32, 32)[0])
    away.body.parts[0].host = book.host.take_scattered(32)
    for number, residence in ((0, away), (Request.HEAD_START + 1, here)):
        book.request(Request(residence, {0: 32}, number, resumed=True))
    assert [request.residence for request in book.waiting] == [away, here]
    step = policy.next_step(book)
    assert isinstance(step, decisions.Grant)
    assert step.request.residence is here


def test_room_for_the_next_is_made_while_one_comes_back():
    """Two of four sessions fit. Copies both ways at once: else each would come back only when the one before has landed."""
    book = Ledger(Extents(2 * 32, 32), Extents(4 * 32, 32))
    there = {name: Residence(name, Machine(State.IO_WAIT)) for name in "abcd"}
    for name, residence in there.items():
        book.open(residence)
        residence.body.here = name in "ab"
        part = residence.body.parts[0] = Part(live=32)
        if name in "ab":
            residence.body.put(part, book.device.take(32)[0])
        else:
            residence.machine.state = State.HOST
            part.host, part.clean, part.issued = book.host.take_scattered(32), 32, 32
    for number, name in enumerate("cd"):
        book.request(Request(there[name], {0: 32}, number, resumed=True))

    def moved(direction: str, names: str) -> Transfer:
        step = policy.next_step(book, ahead=32)
        assert isinstance(step, decisions.Move)
        assert step.transfer.direction == direction
        assert step.residence.key in names
        return step.transfer

    moved("out", "ab").end()
    moved("in", "c")
    moved("out", "ab").end()
    moved("in", "d")


def test_holes_are_pushed_together_before_anybody_is_refused():
    """Two units are free under each of two sessions of three, two above; neither can leave, and the first wants six."""
    memory = Memory()
    book = memory.book = Ledger(Extents(12 * UNIT, UNIT), Extents(0, UNIT))
    there = {}
    for name, units in (("x", 2), ("a", 3), ("y", 2), ("b", 3), ("z", 2)):
        there[name] = residence = Residence(name, Machine(State.IDLE))
        (extent,) = book.device.take(units * UNIT)
        residence.body.here, residence.body.parts = True, {0: Part(live=extent.size)}
        residence.body.put(residence.body.parts[0], extent)
        memory.truth[name] = {0: bytes(random.Random(name).choices(range(200), k=extent.size))}
        memory.put("device", extent.start, memory.truth[name][0])
        book.open(residence)
    for name in "xyz":
        book.release(there[name])
    book.request(Request(there["a"], {0: 6 * UNIT}, 1, resumed=True))
    mover = LateMover(memory)
    mover.pump()
    while mover.complete(0):
        memory.check()
        mover.pump()
    assert "a" in mover.running
    assert book.device.free_bytes == 3 * UNIT


def test_who_lies_highest_goes_into_a_hole_first():
    """Two units are free under four sessions of two and two above them: one move, and four lie together. Each above the hole would
    else go down in turn, and the hole up, past all of them."""
    book = Ledger(Extents(12 * UNIT, UNIT), Extents(4 * UNIT, UNIT))
    hole, *others = [there(book, name, State.IDLE, 2 * UNIT) for name in "abcde"]
    book.release(hole)
    last = in_the_host_pool(book, "wants four", 4 * UNIT)
    book.request(Request(last, {0: 4 * UNIT}, 0, resumed=True))
    moved = policy.next_step(book)
    assert isinstance(moved, decisions.Move) and moved.residence is others[-1]
    moved.transfer.end()
    placed = policy.next_step(book)
    assert isinstance(placed, decisions.Move) and placed.residence is last and placed.transfer.direction == "in"


def test_of_one_session_the_highest_parts_go_into_holes_first():
    book = Ledger(Extents(12 * UNIT, UNIT), Extents(0, UNIT))
    hole = there(book, "hole", State.IDLE, 4 * UNIT)
    residence = there(book, "moved", State.IDLE, 2 * UNIT)
    for key in (1, 2):
        part = residence.body.parts[key] = Part(live=2 * UNIT)
        residence.body.put(part, book.device.take(2 * UNIT)[0])
    book.release(hole)
    transfer = placements.begin_compact(book, residence)
    assert [key for key, _ in transfer.moves] == [2, 1]
    transfer.end()
    assert book.device.take(6 * UNIT), "what is free lies together"


@pytest.mark.parametrize(("waiting", "direction", "evicted"), [("c", "across", 0), ("cd", "in", 1)])
def test_holes_are_not_pushed_together_for_who_needs_that_somebody_leaves_anyway(waiting, direction, evicted):
    """One unit is free above each of two sessions of one; those who wait take two."""
    book = Ledger(Extents(4 * UNIT, UNIT), Extents(6 * UNIT, UNIT))
    there = {name: Residence(name, Machine(State.IO_WAIT)) for name in "abcd"}
    places = book.device.take(*[UNIT] * 4)
    for name, residence in there.items():
        book.open(residence)
        size = UNIT if name in "ab" else 2 * UNIT
        part = residence.body.parts[0] = Part(live=size, clean=size, issued=size, host=book.host.take_scattered(size))
        if name in "ab":
            residence.body.here = True
            residence.body.put(part, places["a b".index(name)])
        else:
            residence.machine.state = State.HOST
    book.device.give(places[1], places[3])
    for number, name in enumerate(waiting):
        book.request(Request(there[name], {0: 2 * UNIT}, number, resumed=True))
    step = policy.next_step(book)
    assert isinstance(step, decisions.Move)
    assert (step.transfer.direction, step.evicted) == (direction, evicted)


def test_a_duplicate_is_given_up_before_holes_are_pushed_together_for_one_of_many():
    """Two stand on the device, with a unit free above each: one cannot leave, for the host pool is full, and has the other too."""
    book = Ledger(Extents(4 * UNIT, UNIT), Extents(5 * UNIT, UNIT))
    places = book.device.take(*[UNIT] * 4)
    for name, place in (("a", places[0]), ("b", places[2]), ("c", None), ("d", None)):
        residence = Residence(name, Machine(State.IO_WAIT if place else State.HOST))
        book.open(residence)
        part = residence.body.parts[0] = Part(live=UNIT if place else 2 * UNIT)
        if name != "a":
            part.host, part.clean, part.issued = book.host.take_scattered(part.live), part.live, part.live
        if place:
            residence.body.here = True
            residence.body.put(part, place)
        else:
            book.request(Request(residence, {0: 2 * UNIT}, number=len(book.waiting), resumed=True))
    part = book.residences["b"].body.parts[0]
    part.live += 1  # what it has computed since: it can only leave by a copy, for which there is no room either
    book.device.give(places[1], places[3])
    assert isinstance(policy.next_step(book), decisions.Yielded)
    step = policy.next_step(book)
    assert isinstance(step, decisions.Move) and step.transfer.direction == "out"


@pytest.mark.parametrize(
    ("state", "granted", "wanted"),
    [(State.RUNNING, True, True), (State.IDLE, False, False), (State.PAUSED, False, False)],
)
def test_memory_is_wanted_of_those_who_run_where_nobody_stands_who_could_leave(state, granted, wanted):
    size = 3 * UNIT
    book = Ledger(Extents(2 * size, UNIT), Extents(4 * size, UNIT))
    runs = there(book, "runs", State.RUNNING, size)
    runs.granted = True
    there(book, "other", state, size).granted = granted
    away = Residence("away", Machine(State.HOST))
    book.open(away)
    assert not victims.only_who_runs_has_room(book), "nobody waits"
    book.request(Request(away, {0: size}, 1, resumed=True))
    assert victims.only_who_runs_has_room(book) is wanted
    book.release(runs)
    assert not victims.only_who_runs_has_room(book), "there is room"


@pytest.mark.parametrize("hole", ["device", "host", "disk"])
def test_one_hole_in_any_tier_is_enough_for_everybody_to_come_back(hole):
    """Three tiers of three places, eight sessions: whoever asks is let in, however often."""
    memory = Memory()
    size = 3 * UNIT
    book = memory.book = Ledger(Extents(3 * size, UNIT), Extents(3 * size, UNIT), 3 * size)
    there: list[Residence] = []
    for tier in ("device", "host", "disk"):
        for _ in range(3 - (tier == hole)):
            residence = Residence(f"s{len(there)}", Machine(State.IO_WAIT))
            there.append(residence)
            book.open(residence)
            body, part = residence.body, Part(live=size)
            body.parts[0] = part
            content = memory.truth[residence.key] = {0: bytes([len(there)]) * size}
            if tier == "device":
                body.here = True
                body.put(part, book.device.take(size)[0])
                memory.put("device", part.device.start, content[0])
            elif tier == "host":
                residence.machine.state = State.HOST
                part.host, part.clean, part.issued = book.host.take_scattered(size), size, size
                memory.put("host", part.host[0].start, content[0])
            else:
                residence.machine.state = State.DISK
                body.disk_bytes, book.disk_free = size, book.disk_free - size
                memory.files[body.serial] = dict(content)
    mover = LateMover(memory)
    mover._fails = lambda one_in: False
    draw = random.Random(hole)
    for number in range(100):
        residence = draw.choice(there)
        book.request(Request(residence, {0: size}, number, resumed=True))
        mover.pump()
        while mover.complete(draw.randrange(4)):
            memory.check()
            mover.pump()
        assert residence.key in mover.running, f"the request {number} was refused, and there is a hole"
        del mover.running[residence.key]
        residence.machine.move(State.IDLE)
        book.stopped(residence)


def test_who_is_wanted_larger_than_it_comes_back_may_leave_once_more_for_that():
    """Parked, with nobody on its way back, it would have fitted too."""
    book = Ledger(Extents(6 * UNIT, UNIT), Extents(4 * UNIT, UNIT))
    residence, transfer = coming_back(book)
    book.request(Request(residence, {0: 3 * UNIT, 1: 3 * UNIT}, 1, resumed=True))
    transfer.end()
    while not isinstance(step := policy.next_step(book), decisions.Grant):
        assert isinstance(step, decisions.Move | decisions.Evicted), step
        if isinstance(step, decisions.Move):
            step.transfer.end()
    assert step.request.residence is residence


@pytest.mark.parametrize("units", [2, 3])
def test_who_is_refused_when_it_is_back_may_leave_again(units):
    """Before the policy was asked, or because there is no room: it is parked, not on its way for ever."""
    book = Ledger(Extents(6 * UNIT, UNIT), Extents(4 * UNIT, UNIT))
    residence, transfer = coming_back(book)
    request = Request(residence, {0: units * UNIT, 1: units * UNIT}, 1, resumed=True)
    book.request(request)
    transfer.end()
    book.withdraw(request)
    assert residence.machine.state is State.IO_WAIT and residence.body.here
    residence.intended = False
    assert isinstance(policy.next_step(book), decisions.Evicted)


@pytest.mark.parametrize("room", [True, False])
def test_who_is_read_need_not_wait_until_nobody_waits_for_the_device(room):
    """Under load somebody always does. Nobody else leaves the host pool for a reader then."""
    book = Ledger(Extents(UNIT, UNIT), Extents((1 + room) * UNIT, UNIT), 2 * UNIT)
    there(book, "runs", State.RUNNING, UNIT).granted = True
    wanted = in_the_host_pool(book, "read", UNIT)
    spills.end_spill(book, spills.begin_spill(book, wanted))
    book.request(Request(in_the_host_pool(book, "waits", UNIT), {0: UNIT}, 1, resumed=True))
    wanted.read = wanted.intended = True
    step = policy.next_step(book)
    assert step == (decisions.Fetch(wanted.body, "read") if room else None)


@pytest.mark.parametrize("saves_it", [True, False], ids=["saved", "read"])
def test_room_that_is_made_for_who_is_saved_or_read_is_not_given_to_who_is_looked_at(saves_it):
    """It takes more of the host pool than the one who is looked at: room for it is made in steps, and one step is to come."""
    book = Ledger(Extents(5 * UNIT, UNIT), Extents(4 * UNIT, UNIT), 9 * UNIT)
    there(book, "runs", State.RUNNING, 2 * UNIT).granted = True
    seen = in_the_host_pool(book, "seen", 2 * UNIT)
    in_the_host_pool(book, "copied", UNIT).body.pins += 1
    if saves_it:
        saves.ask(book, Saving(there(book, "parked", State.IO_WAIT, 3 * UNIT), 3 * UNIT, None, None))
        book.residences["parked"].body.parts[0].live += UNIT
    else:
        wanted = in_the_host_pool(book, "wanted", UNIT)
        spills.end_spill(book, spills.begin_spill(book, wanted))
        wanted.body.parts[0].live, wanted.read = 4 * UNIT, True
    seen.intended = True
    step = policy.next_step(book)
    assert step == decisions.Spill(seen.body)
    spills.end_spill(book, seen.body)
    assert policy.next_step(book) is None
