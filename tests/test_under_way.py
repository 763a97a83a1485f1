"""What is asked of a session while its bytes are under way: read, discarded, forked, refused, or lost with the copy."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from asking import WAIT_S, ask, durably, park, quiet, resume, small_engine, submit, until
from fault_steps import idle, on_file, on_host, paused, spill, spilled
from faults import breaking, taken
from held import held

from djinn.edits import Scale
from djinn.engine.engine import Engine
from djinn.engine.session import Outcome, Session
from djinn.errors import BadRequest, IllegalMove, OutOfMemory, ServerFault, StorageError
from djinn.paging import evictions, placements
from djinn.paging.decisions import Fetch, Move, Save, Spill
from djinn.paging.mover import Mover
from djinn.states import State
from djinn.tiers.disk import Disk
from djinn.tiers.extents import Extent

PROMPT = tuple((7 * i * i + 3) % 509 for i in range(100))
COPY_IN_FAILS = breaking("carry_out", "copy in")


@pytest.fixture(scope="module")
def engine(tmp_path_factory) -> Iterator[Engine]:
    with small_engine("--threads", "1", "--state-dir", str(tmp_path_factory.mktemp("state")), disk=10**7) as running:
        yield running


@pytest.fixture(autouse=True)
def all_is_given_back(engine) -> Iterator[None]:
    yield
    for key in list(engine.sessions):
        engine.close(key)
    quiet(engine)
    book = engine.pager.book
    until(lambda: book.free == (book.device.capacity, book.host.capacity, book.disk_capacity))


def look(engine: Engine, session: Session, name: str | None = None) -> queue.SimpleQueue:
    """Where the hidden state will come."""
    told: queue.SimpleQueue = queue.SimpleQueue()
    engine.activation(session, name or session.pause.name, told.put)
    return told


# -- read ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tokens", [100, 20], ids=["being written through", "never written through"])
def test_a_pause_made_before_all_was_back_is_read_to_the_bit(engine, tokens):
    """Its hidden state is on the device alone, which does not hold all of the session yet."""
    ask(engine, alone := engine.open(), ids=PROMPT[:tokens], break_at=6)
    expected = look(engine, alone).get(timeout=WAIT_S)
    session = engine.open()
    ask(engine, session, ids=PROMPT[:tokens], break_at=4)
    on_host(engine, session)
    with held("restore", behind=1) as back, held("write through"):
        ask(engine, session, resume_from=session.pause, break_at=6)
        told = look(engine, session)
        assert told.empty()
        back.set()
        assert torch.equal(told.get(timeout=WAIT_S), expected)


def test_who_is_on_its_way_back_is_read_at_once_from_the_host_pool(engine):
    session = on_host(engine, paused(engine))
    with held("restore"):
        first = look(engine, session)
        until(lambda: session.machine.state is State.RESTORING)
        again = look(engine, session)
        assert torch.equal(first.get(timeout=WAIT_S), again.get(timeout=WAIT_S))
        assert session.machine.state is State.RESTORING


def test_a_reader_that_breaks_is_told_and_harms_nobody_else(engine):
    """Readers are called behind whatever copy ends next, which may be a stranger's."""
    session, stranger, told = paused(engine), engine.open(), queue.SimpleQueue()
    ask(engine, stranger, ids=PROMPT, max_new_tokens=2)  # it has a tail to copy

    def read(problem) -> None:
        told.put(problem)
        if problem is None:
            raise KeyError("a defect")

    with engine.lock:
        session.residence.body.moving = "across"
        engine.pager.look(session.residence, read)
        others = look(engine, session)
        session.residence.body.moving = None
    on_host(engine, stranger)
    assert told.get(timeout=WAIT_S) is None and isinstance(told.get(timeout=WAIT_S), ServerFault)
    assert torch.is_tensor(others.get(timeout=WAIT_S)), "the next in the list"


def test_what_is_discarded_before_it_could_be_read_is_told_and_harms_nobody(engine, monkeypatch):
    """Another connection of the same owner may discard what this one waits to read off the disk."""
    session = engine.open()
    ask(engine, session, ids=PROMPT, checkpoint_at=(2, 5))
    spill(engine, session)
    gate, read = threading.Event(), Disk._read

    def late(path, pages) -> None:
        gate.wait(WAIT_S)
        read(path, pages)

    monkeypatch.setattr(Disk, "_read", staticmethod(late))
    first, other = session.checkpoints
    told, others = look(engine, session, first), look(engine, session, other)
    engine.discard(session, first)
    gate.set()
    refused = told.get(timeout=WAIT_S)
    assert isinstance(refused, BadRequest) and "nothing is kept there any more" in str(refused)
    assert torch.is_tensor(others.get(timeout=WAIT_S))
    assert ask(engine, session, max_new_tokens=1).tokens


# -- not begun with the file -----------------------------------------------------------------------------------


def at_the_mover(monkeypatch, kind: type, first: Callable[[], None]) -> None:
    """`first` is called on the mover's thread before it carries out the next step of that kind, under no lock."""
    carry_out, left = Mover._carry_out, [first]

    def late(mover: Mover, step) -> None:
        if isinstance(step, kind) and left:
            left.pop()()
        carry_out(mover, step)

    monkeypatch.setattr(Mover, "_carry_out", late)


@pytest.mark.parametrize("lies", [on_file, spilled])
def test_one_that_is_closed_before_its_file_is_read_gives_all_back(engine, monkeypatch, lies):
    session = lies(engine)
    at_the_mover(monkeypatch, Fetch, lambda: engine.close(session.key))
    look(engine, session)
    until(lambda: session.residence.released and not session.residence.body.pins and not engine.pager.book.closing)


def breaks() -> None:
    raise KeyError("a defect")


@pytest.mark.parametrize("lies", [on_file, spilled])
def test_a_read_that_cannot_be_begun_is_told_and_can_be_asked_for_again(engine, monkeypatch, lies):
    session = lies(engine)
    at_the_mover(monkeypatch, Fetch, breaks)
    assert isinstance(look(engine, session).get(timeout=WAIT_S), StorageError)
    assert torch.is_tensor(look(engine, session).get(timeout=WAIT_S))


def test_a_durable_file_that_cannot_be_begun_is_told_and_can_be_asked_for_again(engine, monkeypatch):
    session = paused(engine)
    at_the_mover(monkeypatch, Save, breaks)
    with pytest.raises(ServerFault, match="a defect"):
        durably(engine, session)
    durably(engine, session)


def test_a_spill_that_cannot_be_begun_leaves_its_session_in_the_host_pool(engine, monkeypatch):
    session, other = on_host(engine, paused(engine)), idle(engine)
    at_the_mover(monkeypatch, Spill, breaks)
    with engine.lock:
        evictions.yield_duplicate(engine.pager.book, other.residence)
    with taken(engine, "host"), pytest.raises(OutOfMemory, match="failed the last write"):
        durably(engine, other)
    assert session.machine.state is State.HOST
    assert resume(engine, session).tokens


# -- forked ----------------------------------------------------------------------------------------------------


def test_the_last_of_the_forks_waits_until_the_others_copy_has_read_what_they_shared(engine):
    """Alone on these bytes it has all that it needs, and what it writes there would go into the other's."""
    ask(engine, alone := engine.open(), ids=PROMPT, checkpoint_at=(2,), max_new_tokens=8)
    expected = ask(engine, alone, max_new_tokens=4)
    session = engine.open()
    ask(engine, session, ids=PROMPT, checkpoint_at=(2,), max_new_tokens=8)
    fork = engine.fork(session)
    with held("grow") as grown:
        goes_on = submit(engine, fork, max_new_tokens=4)
        until(lambda: fork.residence.body is not session.residence.body)
        (checkpoint,) = session.checkpoints.values()
        back = submit(engine, session, resume_from=checkpoint, rewind=True, edits=(Scale(0.5),), max_new_tokens=3)
        assert session.residence.waiting and not session.residence.granted
        grown.set()
        found = goes_on.get(timeout=WAIT_S)
        assert isinstance(back.get(timeout=WAIT_S), Outcome)
    assert found.tokens == expected.tokens and torch.equal(found.logits, expected.logits)


# -- lost with the copy ----------------------------------------------------------------------------------------


def lost(engine: Engine, *sessions: Session) -> None:
    for one in sessions:
        until(lambda one=one: one.machine.state is State.FAILED)
        with pytest.raises(IllegalMove, match="the copy engine is on fire"):
            engine.park(one)


def test_forks_of_one_that_does_not_come_back_are_lost_with_it(engine):
    """Paused again with its hidden state alone, then forked: the rest, which both stand on, never comes."""
    session = on_host(engine, paused(engine))
    with held("restore", behind=1) as back:
        ask(engine, session, resume_from=session.pause, break_at=6)
        fork = engine.fork(session)
        with COPY_IN_FAILS(engine, session):
            back.set()
            lost(engine, session, fork)


def test_who_waits_for_the_durable_file_of_one_that_does_not_come_back_is_told(engine):
    session = on_host(engine, paused(engine))
    told: queue.SimpleQueue = queue.SimpleQueue()
    with held("restore", behind=1) as back:
        ask(engine, session, resume_from=session.pause, break_at=6)
        engine.park_durably(session, told.put)
        with COPY_IN_FAILS(engine, session):
            back.set()
            assert "the copy engine is on fire" in str(told.get(timeout=WAIT_S))
    assert not engine.pager.book.saving


def test_forks_that_a_copy_on_the_device_breaks_are_all_lost(engine):
    """Holes are pushed together: forks that stand move as one."""
    under = paused(engine)
    session = paused(engine)
    engine.close(under.key)
    fork, mover = engine.fork(session), engine.pager._mover
    with COPY_IN_FAILS(engine, session):
        with engine.lock:
            step = Move(placements.begin_compact(engine.pager.book, session.residence), session.residence)
            mover._begin(step)
            mover._carry_out(step)
        lost(engine, session, fork)


@pytest.mark.parametrize("method", ["call", "after"])
def test_a_stream_out_that_breaks_leaves_its_session_where_it_is(engine, method):
    session = engine.open()
    with breaking(method, "copy out")(engine, session):
        ask(engine, session, ids=PROMPT, break_at=4)
        quiet(engine)
        park(engine, session)
        assert session.machine.state is (State.IO_WAIT if method == "call" else State.HOST)
    assert resume(engine, session).tokens


def test_a_stream_in_that_breaks_leaves_its_session_in_the_host_pool(engine):
    session = on_host(engine, paused(engine))
    with breaking("call", "copy in")(engine, session), pytest.raises(StorageError, match="on fire"):
        resume(engine, session)
    assert session.machine.state is State.HOST
    assert resume(engine, session).tokens


# -- refused ---------------------------------------------------------------------------------------------------


def test_one_that_was_refused_while_it_came_back_can_be_parked(engine):
    """Looked at and so fetched unasked, then resumed with more tokens than there is room for."""
    session = on_host(engine, paused(engine))
    with held("restore") as back:
        look(engine, session)
        until(lambda: session.machine.state is State.RESTORING)
        told = submit(engine, session, resume_from=session.pause, max_new_tokens=120)
        with taken(engine, "device"):
            back.set()
            assert isinstance(told.get(timeout=WAIT_S), OutOfMemory)
    on_host(engine, session)
    assert ask(engine, session, resume_from=session.pause, max_new_tokens=120).tokens


def test_who_is_refused_gives_back_what_it_grew_by(engine):
    """There is room behind one of its parts, and not for the others; it cannot leave, for the host pool is full."""
    session, book = idle(engine), engine.pager.book
    quiet(engine)
    with engine.lock:
        evictions.yield_duplicate(book, session.residence)
        last = max(part.device for part in session.residence.body.parts.values())
    with taken(engine, "host"):
        before = book.device.free_bytes
        with taken_but_behind(engine, last), pytest.raises(OutOfMemory):
            ask(engine, session, max_new_tokens=100)
        assert book.device.free_bytes == before
    assert ask(engine, session, max_new_tokens=100).tokens


@contextmanager
def taken_but_behind(engine: Engine, extent: Extent) -> Iterator[None]:
    """Of the arena all is somebody else's but some units that follow upon that."""
    hole = Extent(extent.end, 8 * engine.pager.book.device.unit)
    with taken(engine, "device"):
        with engine.lock:
            engine.pager.book.device.give(hole)
        try:
            yield
        finally:
            with engine.lock:
                assert engine.pager.book.device.extend(extent, extent.size + hole.size), "it is free again"
