"""The engine inside this process, where a copy can be held up at will."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator

import pytest
import torch
from asking import ask, small_engine, submit, until

from djinn.engine.engine import Engine
from djinn.engine.session import Outcome, Paused
from djinn.errors import Draining, IllegalMove, ServerFault
from djinn.paging import policy
from djinn.paging.endings import Endings
from djinn.paging.transfers import Transfer
from djinn.states import State
from djinn.tiers.streams import HostStream


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with small_engine() as running:
        yield running


def test_a_session_paused_again_while_its_kv_is_on_the_way_loses_nothing(engine, monkeypatch, prompt):
    """Resumed with its hidden state alone and paused again higher up: it may be parked at once, and all of it comes along."""
    expected = submit(engine, alone := engine.open(), ids=tuple(prompt), max_new_tokens=3).get()
    engine.close(alone.key)
    session = engine.open()
    assert isinstance(submit(engine, session, ids=tuple(prompt), break_at=4).get(), Paused)
    engine.park(session)
    until(lambda: session.machine.state is State.HOST)
    gate, calls, copy = threading.Event(), [], HostStream.copy

    def held_up(stream: HostStream, name: str, copies) -> None:
        if name.startswith("restore"):
            calls.append(name)
            if len(calls) > 1:  # the hidden state comes first
                stream._work.put(lambda: gate.wait(60))
        copy(stream, name, copies)

    monkeypatch.setattr(HostStream, "copy", held_up)
    assert isinstance(submit(engine, session, resume_from=session.pause, break_at=8).get(), Paused)
    engine.park(session)
    time.sleep(0.1)
    assert session.machine.state is State.IO_WAIT, "it may not go while copies write to its place"
    gate.set()
    until(lambda: session.machine.state is State.HOST)
    monkeypatch.undo()
    out = submit(engine, session, resume_from=session.pause, max_new_tokens=3).get()
    assert isinstance(out, Outcome) and out.tokens == expected.tokens and torch.equal(out.logits, expected.logits)
    engine.close(session.key)


def test_a_fault_in_a_pass_ends_its_session_and_no_other(engine, monkeypatch, prompt):
    session, other = engine.open(), engine.open()
    monkeypatch.setattr(engine.scheduler.executor, "run", lambda *args, **kwargs: 1 / 0)
    fault = submit(engine, session, ids=tuple(prompt)).get()
    assert isinstance(fault, ServerFault) and "ZeroDivisionError" in str(fault)
    assert session.machine.state is State.FAILED
    assert not engine.busy(), "it still counts as under way: the server would never have drained"
    monkeypatch.undo()
    assert isinstance(submit(engine, other, ids=tuple(prompt)).get(), Outcome)
    for one in (session, other):
        engine.close(one.key)
    assert engine.stats()["device_bytes"] == 0


def test_the_policy_is_not_asked_for_every_part_that_is_written_through(engine, monkeypatch, prompt):
    """It walks all sessions, while the compute waits for Python."""
    asked = []
    policy_says = policy.next_step
    monkeypatch.setattr(policy, "next_step", lambda *args: asked.append(1) or policy_says(*args))
    session, before = engine.open(), engine.stats()["mirrored_bytes"]
    submit(engine, session, ids=tuple(prompt), break_at=engine.pager.shape.layers).get()
    written = engine.pager.shape.layers * len(prompt) * engine.pager.shape.layer_token_bytes
    until(lambda: engine.stats()["mirrored_bytes"] - before >= written)
    until(lambda: not session.residence.body.pins)
    engine.close(session.key)
    assert len(asked) < engine.pager.shape.layers


def test_a_fault_before_a_pass_harms_nothing(engine, monkeypatch, prompt):
    session = engine.open()
    submit(engine, session, ids=tuple(prompt), break_at=4).get()
    monkeypatch.setattr(engine.compute.runner, "prepare", lambda work: 1 / 0)
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


def test_a_restore_that_breaks_off_fails_its_session_alone(engine, monkeypatch, prompt):
    """Its hidden state came and it runs already: it meets the failure at its next layer's gate."""
    session, other = engine.open(), engine.open()
    submit(engine, session, ids=tuple(prompt), break_at=4).get()
    engine.park(session)
    until(lambda: session.machine.state is State.HOST)
    copy, calls = HostStream.copy, []

    def breaks(stream: HostStream, name: str, copies) -> None:
        if name.startswith("restore"):
            calls.append(name)
            if len(calls) > 1:
                until(lambda: session.machine.state is State.RUNNING)
                raise RuntimeError("no such stream")
        copy(stream, name, copies)

    monkeypatch.setattr(HostStream, "copy", breaks)
    fault = submit(engine, session, resume_from=session.pause, max_new_tokens=2).get(timeout=30)
    assert isinstance(fault, ServerFault) and "no such stream" in str(fault)
    assert session.machine.state is State.FAILED
    assert not engine.busy(), "it still counts as under way: the server would never have drained"
    monkeypatch.undo()
    assert isinstance(submit(engine, other, ids=tuple(prompt)).get(timeout=30), Outcome)
    engine.close(other.key)


def test_a_defect_in_the_policy_is_told_to_who_waits_for_it(engine, monkeypatch, prompt):
    session, other = engine.open(), engine.open()
    monkeypatch.setattr("djinn.paging.policy._make_room", lambda *args: 1 / 0)
    fault = submit(engine, session, ids=tuple(prompt)).get(timeout=30)
    assert isinstance(fault, ServerFault) and "ZeroDivisionError" in str(fault)
    monkeypatch.undo()
    assert isinstance(submit(engine, other, ids=tuple(prompt)).get(timeout=30), Outcome)
    engine.close(other.key)


def test_a_session_that_a_drain_writes_says_that_the_server_goes(engine, monkeypatch, prompt):
    """Its owner parked nothing durably, so there is no call of his to wait for."""
    session = engine.open()
    submit(engine, session, ids=tuple(prompt), break_at=4).get()
    name = session.pause.name
    calls = (
        lambda: engine.park(session),
        lambda: engine.activation(session, name, print),
        lambda: engine.discard(session, name),
    )
    monkeypatch.setattr(session.residence, "saving", object())
    for call in calls:
        with pytest.raises(IllegalMove, match="parked durably"):
            call()
    monkeypatch.setattr(engine, "_draining", True)
    for call in calls:
        with pytest.raises(Draining):
            call()
    monkeypatch.undo()
    engine.close(session.key)


def test_a_session_whose_copy_breaks_behind_its_answer_says_why_it_cannot_go_on(engine, monkeypatch, prompt):
    """Resumed and paused again while its lower layers are on their way, which then never come."""
    session = engine.open()
    submit(engine, session, ids=tuple(prompt), break_at=4).get()
    engine.park(session)
    until(lambda: session.machine.state is State.HOST)
    gate, calls, copy, carry_out = threading.Event(), [], HostStream.copy, HostStream.carry_out

    def held_up(stream: HostStream, name: str, copies) -> None:
        calls.append(name)
        if len(calls) == 2:  # behind the hidden state
            stream._work.put(lambda: gate.wait(60))
        copy(stream, name, copies)

    def broken(stream: HostStream, copies) -> None:
        if stream.track == "copy in" and gate.is_set():
            raise RuntimeError("the copy engine is on fire")
        carry_out(stream, copies)

    monkeypatch.setattr(HostStream, "copy", held_up)
    monkeypatch.setattr(HostStream, "carry_out", broken)
    assert isinstance(submit(engine, session, resume_from=session.pause, break_at=8).get(), Paused)
    gate.set()
    until(lambda: session.machine.state is State.FAILED)
    with pytest.raises(IllegalMove, match=r"failed .*the copy engine is on fire"):
        engine.park(session)
    engine.close(session.key)


@pytest.mark.parametrize("direction", ["in", "out"])
def test_a_defect_behind_a_copy_is_told_and_nobody_waits_for_ever(engine, monkeypatch, prompt, direction):
    """Whoever waits is answered, the session has failed, and the next one is served."""
    session, end = engine.open(), Endings._end
    tail = {"max_new_tokens": 1, "break_token": 1} if direction == "out" else {}  # that no prefill has written through
    assert isinstance(submit(engine, session, ids=tuple(prompt), break_at=4, **tail).get(timeout=30), Paused)

    def broken(ends: Endings, transfer: Transfer, counted: tuple[str, ...]) -> None:
        if transfer.direction == direction:
            raise KeyError("a defect")
        end(ends, transfer, counted)

    if direction == "in":
        engine.park(session)
        until(lambda: session.machine.state is State.HOST)
    monkeypatch.setattr(Endings, "_end", broken)
    if direction == "out":
        engine.park(session)
    else:
        answer = submit(engine, session, resume_from=session.pause, max_new_tokens=2).get(timeout=30)
        assert isinstance(answer, ServerFault)
    until(lambda: session.machine.state is State.FAILED)
    monkeypatch.undo()
    with pytest.raises(IllegalMove, match=r"failed .*paging failed: KeyError: 'a defect'"):
        engine.park(session)
    other = engine.open()
    assert isinstance(submit(engine, other, ids=tuple(prompt), max_new_tokens=2).get(timeout=30), Outcome)
    engine.close(other.key)
    engine.close(session.key)


def test_who_reads_a_session_that_a_copy_breaks_is_told_that(engine, prompt):
    """It is being moved on the device when it is looked at, and that copy fails."""
    session, answers = engine.open(), queue.SimpleQueue()
    submit(engine, session, ids=tuple(prompt), break_at=4).get()
    with engine.lock:
        session.residence.body.moving = "across"
        engine.activation(session, session.pause.name, answers.put)
        session.residence.body.moving = None
        engine.pager._ends.fail(session.residence, ServerFault("the copy engine is on fire"))
        engine.pager._ends.readers.call()
    fault = answers.get(timeout=30)
    assert isinstance(fault, ServerFault)
    assert "on fire" in str(fault)
    engine.close(session.key)


def test_a_reply_keeps_no_more_memory_than_it_tells_of(engine, prompt):
    """A reply may be kept until its client is heard from again; a row of a pass is a view of all its rows."""
    sessions = [engine.open() for _ in range(4)]
    outs = [submit(engine, session, ids=prompt, max_new_tokens=12) for session in sessions]
    whole = ask(engine, engine.open(), ids=prompt, max_new_tokens=2, logits="all")
    every = ask(engine, engine.open(), ids=prompt, logits="all")
    kept = [out.get().logits for out in outs] + [session.last_logits for session in sessions]
    spans = engine.scheduler.timeline.spans()
    assert any(about["rows"] > 1 for track, *_, about in spans if track == "compute"), "none ran together"
    for logits in (*kept, whole.logits, every.logits):
        assert logits.untyped_storage().nbytes() == logits.nbytes
    assert torch.equal(whole.logits[: len(prompt)], every.logits)
