"""The engine inside this process, where a copy can be held up at will."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator

import pytest

from djinn.engine.engine import Engine
from djinn.engine.session import Outcome, Paused, Session, Work
from djinn.errors import ServerFault
from djinn.server.build import build_service
from djinn.server.server_main import parser
from djinn.states import State
from djinn.tiers.copier import Copier


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    args = parser().parse_args(["--model", "tiny-llama", "--port", "0", "--max-tokens", "256"])
    service, _, shut_down = build_service(args, "cpu", 40 * 10**6, 60 * 10**6)
    yield service.engine
    shut_down()


def submit(engine: Engine, session: Session, **what) -> queue.SimpleQueue:
    replies: queue.SimpleQueue = queue.SimpleQueue()
    engine.submit(Work(session, **{"ids": (), "accepted_ns": time.monotonic_ns(), "reply": replies.put} | what))
    return replies


def until(condition) -> None:
    for _ in range(3000):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("it did not come to that")


def test_a_session_stands_still_only_when_all_of_its_kv_is_back(engine, monkeypatch, prompt):
    """Resumed with its hidden state alone and paused again higher up, it is not paused while its KV is still on the way."""
    session = engine.open()
    assert isinstance(submit(engine, session, ids=tuple(prompt), break_at=4).get(), Paused)
    engine.park(session, durable=False)
    until(lambda: session.machine.state is State.HOST)
    gate, calls, run = threading.Event(), [], Copier.run

    def held_up(copier: Copier, moves) -> int:
        calls.append(copier)
        if len(calls) > 1:  # the hidden state comes first
            gate.wait(60)
        return run(copier, moves)

    monkeypatch.setattr(Copier, "run", held_up)
    replies = submit(engine, session, resume_from=session.pause, break_at=8)
    until(lambda: session.pause.layer == 8)
    time.sleep(0.1)
    assert session.machine.state is State.RUNNING and replies.empty()
    gate.set()
    assert isinstance(replies.get(), Paused) and session.machine.state is State.PAUSED
    assert isinstance(submit(engine, session, resume_from=session.pause, max_new_tokens=2).get(), Outcome)
    engine.close(session.key)


def test_a_fault_in_a_pass_ends_its_session_and_no_other(engine, monkeypatch, prompt):
    session, other = engine.open(), engine.open()
    monkeypatch.setattr(engine.runner.executor, "run", lambda *args, **kwargs: 1 / 0)
    fault = submit(engine, session, ids=tuple(prompt)).get()
    assert isinstance(fault, ServerFault) and "ZeroDivisionError" in str(fault)
    assert session.machine.state is State.FAILED
    monkeypatch.undo()
    assert isinstance(submit(engine, other, ids=tuple(prompt)).get(), Outcome)
    for one in (session, other):
        engine.close(one.key)
    assert engine.stats()["device_bytes"] == 0


def test_a_fault_before_a_pass_harms_nothing(engine, monkeypatch, prompt):
    session = engine.open()
    submit(engine, session, ids=tuple(prompt), break_at=4).get()
    monkeypatch.setattr(engine.runner, "prepare", lambda work: 1 / 0)
    assert isinstance(submit(engine, session, resume_from=session.pause).get(), ServerFault)
    assert session.machine.state is State.PAUSED
    monkeypatch.undo()
    assert isinstance(submit(engine, session, resume_from=session.pause).get(), Outcome)
    engine.close(session.key)


def test_how_a_session_ended_is_told_for_a_while(engine):
    first = engine.open()
    engine.end(first, State.CANCELLED)
    assert engine.machine(first.key).state is State.CANCELLED
    for _ in range(1000):
        engine.close(engine.open().key)
    assert first.key not in engine._ended and len(engine._ended) == 1000
