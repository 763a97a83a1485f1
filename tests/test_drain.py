"""A server that is told to go: what runs ends, what stands is written, and nobody waits for ever."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from asking import WAIT_S, ask, small_engine, submit, until
from fault_steps import on_host, paused
from faults import patched, taken
from held import held

import djinn
from djinn.durable.record import Record
from djinn.engine import keeper
from djinn.engine.drain import drain
from djinn.engine.engine import Engine
from djinn.engine.session import Session
from djinn.errors import Draining, IllegalMove, OutOfMemory
from djinn.paging.decisions import RefuseSave
from djinn.paging.mover import Mover
from djinn.server import service as serving
from djinn.server.build import build_service
from djinn.server.outbox import Outbox
from djinn.server.server_main import parser
from djinn.server.service import Service
from djinn.states import State
from djinn.wire import messages as m

PROMPT = tuple((7 * i * i + 3) % 509 for i in range(100))


def draining(engine: Engine) -> threading.Thread:
    engine.take_no_more()
    thread = threading.Thread(target=drain, args=(engine, 0.1), daemon=True)
    thread.start()
    return thread


def over(thread: threading.Thread) -> None:
    thread.join(WAIT_S)
    assert not thread.is_alive(), "it waits for ever"


def test_a_refused_file_wakes_the_drain_that_waits_for_it(tmp_path, monkeypatch):
    """A client parks durably just now: the drain looks, and looks again when that has ended, however."""
    with small_engine("--threads", "1", "--state-dir", str(tmp_path), disk=100_000) as engine:  # too small for the file
        session, told, looks = engine.open(), queue.SimpleQueue(), []
        ask(engine, session, ids=PROMPT, max_new_tokens=2)  # it has a tail to copy
        wait, begin = engine.lock.wait, Mover._begin

        def noted(timeout: float | None = None) -> bool:
            if threading.current_thread() is leaving:
                looks.append(session.residence.saving)
            return wait(timeout)

        def behind_a_look(mover: Mover, step) -> None:
            seen = len(looks)
            engine.lock.notify_all()
            while isinstance(step, RefuseSave) and seen and len(looks) == seen:
                wait(0.01)  # the drain looks once more before the file is refused
            begin(mover, step)

        with held("evict") as away:
            engine.park_durably(session, told.put)
            until(lambda: session.machine.state is State.EVICTING)
            with engine.lock:
                leaving = draining(engine)
                monkeypatch.setattr(engine.lock, "wait", noted)
                monkeypatch.setattr(Mover, "_begin", behind_a_look)
            until(lambda: looks)
            away.set()
            assert isinstance(told.get(timeout=WAIT_S), OutOfMemory)
        over(leaving)


def test_a_session_that_is_refused_as_the_server_goes_is_written(tmp_path):
    """It was on its way back, and waits for more room than it comes back to."""
    with small_engine("--threads", "1", "--state-dir", str(tmp_path), disk=None) as engine:
        session = on_host(engine, paused(engine))
        with held("restore") as back:
            engine.activation(session, session.pause.name, lambda hidden: None)
            until(lambda: session.machine.state is State.RESTORING)
            told = submit(engine, session, resume_from=session.pause, max_new_tokens=120)
            with taken(engine, "device"):
                runs = engine.open().residence
                runs.granted = True  # who may end, and make room
                back.set()
                until(session.residence.resident.is_set)
                engine.hurry()
                runs.granted = False
        assert isinstance(told.get(timeout=WAIT_S), Draining)
        over(draining(engine))
        assert [path.stem for path in tmp_path.glob("*.safetensors")] == [session.key]


def test_a_session_of_which_no_record_can_be_made_does_not_lose_the_others(tmp_path, monkeypatch, caplog):
    with small_engine("--threads", "1", "--state-dir", str(tmp_path), disk=None) as engine:
        sessions = [engine.open() for _ in range(3)]
        for session in sessions:
            ask(engine, session, ids=PROMPT)
        record_of = keeper.record_of

        def fails(session: Session, *more) -> Record:
            if session is sessions[0]:
                raise KeyError("a defect")
            return record_of(session, *more)

        monkeypatch.setattr(keeper, "record_of", fails)
        caplog.set_level("INFO")
        over(draining(engine))
        assert {path.stem for path in tmp_path.glob("*.safetensors")} == {session.key for session in sessions[1:]}
    assert f"session {sessions[0].key} is lost: 'a defect'" in caplog.text
    assert f"2 sessions are in {tmp_path}, 1 are lost" in caplog.text


@contextmanager
def in_a_pass(engine: Engine) -> Iterator[threading.Event]:
    """Passes over one token wait for the event."""
    gate, run_rows = threading.Event(), engine.scheduler.executor.run_rows

    def late(*args, **more):
        gate.wait(WAIT_S)
        return run_rows(*args, **more)

    with patched(engine.scheduler.executor, "run_rows", late):
        yield gate


@pytest.mark.parametrize(("state", "how"), [(State.CANCELLED, "cancelled"), (State.DONE, "closed")])
def test_who_is_ended_in_a_pass_is_under_way_until_that_has_ended(state, how):
    """Its caller is answered behind it: a drain that did not wait for that went without a word."""
    with small_engine("--threads", "1") as engine, in_a_pass(engine) as gate:
        session = engine.open()
        told = submit(engine, session, ids=PROMPT, max_new_tokens=20)
        until(lambda: session.machine.state is State.RUNNING and session.length)
        engine.end(session, state)
        assert engine.busy() and told.empty()
        gate.set()
        refused = told.get(timeout=WAIT_S)
        assert isinstance(refused, IllegalMove) and how in str(refused)
        assert session.machine.state is state and not engine.busy()


@contextmanager
def served() -> Iterator[tuple[Service, threading.Thread]]:
    """A server on a thread of this process."""
    args = parser().parse_args(["--model", "tiny-llama", "--port", "0", "--max-tokens", "256", "--threads", "1"])
    service, _, shut_down = build_service(args, "cpu", 40 * 10**6, 60 * 10**6, 0)
    thread = threading.Thread(target=service.serve, daemon=True)
    thread.start()
    try:
        yield service, thread
    finally:
        service.stop()
        over(thread)
        shut_down()


@pytest.mark.parametrize("reads_again", [True, False])
def test_replies_that_are_held_as_the_server_ends_wait_for_their_client_a_while(reads_again, monkeypatch, caplog):
    """Their requests have ended, so the drain does not wait for them."""
    monkeypatch.setattr(serving, "LAST_REPLIES_S", WAIT_S if reads_again else 0.1)
    reads, send = threading.Event(), Outbox._send
    reads.set()
    monkeypatch.setattr(Outbox, "_send", lambda outbox, *what: reads.is_set() and send(outbox, *what))
    with served() as (service, thread), djinn.connect(service.endpoint, timeout=10) as client:
        reads.clear()
        numbers = [client.connection.send(m.Stats()) for _ in range(3)]
        until(lambda: [len(held.waiting) for held in list(service._outbox._held.values())] == [3])
        service.stop()
        until(lambda: service._drained)
        if reads_again:
            thread.join(0.3)
            reads.set()
            client.connection.wait(lambda: all(number in client.connection._replies for number in numbers), None)
        over(thread)
    assert ("replies are lost" in caplog.text) is not reads_again
