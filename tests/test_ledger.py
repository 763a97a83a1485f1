"""The accounts and the policy, by the thousand; see tests/traces.py for what is checked after every step."""

from __future__ import annotations

import json
import math
import random
import tempfile
from collections import Counter
from pathlib import Path

import pytest
from residents import there
from trace_memory import UNIT
from traces import World, random_trace, shrunk

from djinn.paging import decisions, evictions, placements, policy
from djinn.paging.ledger import Ledger
from djinn.paging.residence import Body, Part, Request, Residence
from djinn.paging.transfers import Transfer
from djinn.states import Machine, State
from djinn.tiers.extents import Extents

TRACES = 10_000


@pytest.mark.parametrize("part", range(4))
def test_ten_thousand_random_lives(part, record_property):
    counts: Counter[str] = Counter()
    seeds = range(part * TRACES // 4, (part + 1) * TRACES // 4)
    record_property("tried", len(seeds))
    record_property("unit", "lives")
    for seed in seeds:
        trace = random_trace(seed)
        try:
            counts += World().play(trace)
        except Exception as error:
            kept = Path(tempfile.gettempdir()) / f"djinn-trace-{seed}.json"
            kept.write_text(json.dumps(shrunk(trace)))
            raise AssertionError(f"trace {seed}: {error}; replay it with python tests/traces.py {kept}") from error
    rare = {"refused", "spilled", "fetched", "yielded", "forked", "rewound", "moved across", "moved in", "moved out"}
    rare |= {"saved", "not saved", "fetched durable", "discarded"} | {
        f"failed {what}" for what in ("in", "out", "spill", "fetch", "save")
    }
    assert all(counts[what] > 40 for what in rare), f"the traces are too tame: {dict(counts)}"


def forget_rewinds(monkeypatch) -> None:
    mark = evictions._mark_clean
    monkeypatch.setattr(evictions, "_mark_clean", lambda body, upto, epoch: mark(body, upto, body.epoch))


def free_under_a_copy(monkeypatch) -> None:
    settle = Ledger.settle

    def at_once(book: Ledger, body: Body) -> None:
        pins, body.pins = body.pins, 0
        settle(book, body)
        body.pins = pins

    monkeypatch.setattr(Ledger, "settle", at_once)


def forget_the_tail(monkeypatch) -> None:
    evict = evictions.begin_evict

    def without_it(book: Ledger, residence: Residence) -> Transfer | None:
        transfer = evict(book, residence)
        if transfer and transfer.moves:
            transfer.moves.pop()
        return transfer

    monkeypatch.setattr(evictions, "begin_evict", without_it)


@pytest.mark.parametrize("fault", [forget_rewinds, free_under_a_copy, forget_the_tail])
def test_the_traces_would_notice(monkeypatch, fault):
    fault(monkeypatch)
    with pytest.raises((AssertionError, ValueError, KeyError, AttributeError, IndexError)):
        for seed in range(3000):
            World().play(random_trace(seed))


def test_a_new_session_is_overtaken_by_few():
    """However many sessions are resumed after it asked, its turn comes."""
    book = Ledger(Extents(10 * 32, 32), Extents(0, 32))
    new = Request(Residence("new", Machine()), {0: 32}, number=0, resumed=False)
    book.request(new)
    for number in range(1, 200):
        book.request(Request(Residence(f"s{number}", Machine()), {0: 32}, number, resumed=True))
    assert book.waiting.index(new) <= Request.HEAD_START


def test_who_is_there_grows_and_runs_before_somebody_comes_back_in_its_place():
    book = Ledger(Extents(10 * 32, 32), Extents(10 * 32, 32))
    away, here = Residence("away", Machine()), Residence("here", Machine())
    here.body.here = True
    for number, residence in enumerate((away, here)):
        book.request(Request(residence, {0: 64}, number, resumed=True))
    assert [request.residence for request in book.waiting] == [here, away]


def test_paused_in_decode_the_layers_above_keep_the_unit_they_will_need():
    book = Ledger(Extents(10 * 32, 32), Extents(0, 32))
    residence = Residence("paused", Machine())
    book.open(residence)
    residence.machine.move(State.QUEUED)
    book.request(Request(residence, {0: 68, 1: 68, 2: 68, "pause": 8}, 0, resumed=False))
    assert isinstance(policy.next_step(book), decisions.Move)
    book.let_in(residence.waiting)
    for key, live in ((0, 68), (1, 64), (2, 32), ("pause", 8)):
        book.set_live(residence, key, live)
    book.stopped(residence)
    sizes = {key: part.device.size for key, part in residence.body.items()}
    assert sizes == {0: 96, 1: 96, 2: 32, "pause": 32}, "a whole prompt's worth is not kept"


def test_a_part_that_holds_nothing_has_no_place_when_its_run_is_over():
    """Paused in its first layer: the layers above lie nowhere, and nothing of them is moved into a hole."""
    book = Ledger(Extents(10 * UNIT, UNIT), Extents(0, UNIT))
    (hole,) = book.device.take(UNIT)
    residence = there(book, "paused", State.IDLE, 2 * UNIT)
    part = residence.body.parts[1] = Part()
    residence.body.put(part, book.device.take(2 * UNIT)[0])
    book.device.give(hole)
    book.stopped(residence)
    assert part.device is None and residence.body.device_bytes == 2 * UNIT and book.device.free_bytes == 8 * UNIT
    assert placements.begin_compact(book, residence) is None


def test_a_request_larger_than_the_arena_is_refused_with_the_numbers():
    book = Ledger(Extents(10 * 32, 32), Extents(320, 32))
    book.request(Request(Residence("large", Machine()), {0: 1000}, number=0, resumed=False))
    step = policy.next_step(book)
    assert isinstance(step, decisions.Refuse)
    assert "1.02 kB" in str(step.error)
    assert "320 B" in str(step.error)


def test_waste_of_sessions_that_grow_one_token_at_a_time():
    """Bytes that neither hold live tokens nor can be granted stay within 4 % of the arena, at 20 points of 10,000 steps."""
    layers, token, unit_tokens = 4, 8, 32
    unit = token * unit_tokens
    arena = 40_000 * token * layers
    book = Ledger(Extents(arena, unit), Extents(4 * arena, unit))
    draw = random.Random(5)
    sessions: list[tuple[Residence, int]] = []
    number = worst = evicted = 0

    def grow(residence: Residence, tokens: int) -> None:
        nonlocal number, evicted
        number += 1
        request = Request(residence, dict.fromkeys(range(layers), tokens * token), number, tokens > 32)
        book.request(request)
        while not isinstance(step := policy.next_step(book), decisions.Grant):
            assert isinstance(step, decisions.Move | decisions.Evicted | decisions.Yielded), step
            if isinstance(step, decisions.Move):
                evicted += step.evicted + (step.transfer.direction == "out")
                step.transfer.end()
            evicted += isinstance(step, decisions.Evicted)
        book.withdraw(request)
        for layer in range(layers):
            book.set_live(residence, layer, tokens * token)
        if residence.machine.state is State.RESTORING or residence.machine.state is State.IO_WAIT:
            residence.machine.move(State.READY)
            residence.machine.move(State.RUNNING)
            residence.machine.move(State.IDLE)
        book.stopped(residence)

    def length() -> int:
        return round(math.exp(draw.uniform(math.log(32), math.log(4096))))

    for step in range(10_000):
        if len(sessions) < 60 or draw.random() < 0.02:
            residence, tokens = Residence(str(step), Machine()), length()
            book.open(residence)
            sessions.append((residence, tokens))
        else:
            at = draw.randrange(len(sessions))
            residence, tokens = sessions[at]
            tokens += 1
            sessions[at] = residence, tokens
        grow(residence, tokens)
        if tokens > 4096 or len(sessions) > 70:
            gone, _ = sessions.pop(draw.randrange(len(sessions)))
            gone.machine.move(State.DONE)
            book.release(gone)
        if step % 500 == 499:
            granted = []
            while taken := book.device.take(*[unit] * layers):
                granted += taken
            live = sum(r.body.live_bytes for r, _ in sessions if r.body.here)
            worst = max(worst, (arena - live - len(granted) * unit) / arena)
            for extent in granted:
                book.device.give(extent)
    assert evicted > 100, "the arena was never full"
    assert worst <= 0.04, f"{worst:.1%} of the arena neither holds tokens nor can be granted"
