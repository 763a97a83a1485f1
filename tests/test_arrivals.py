"""A session that has its answer before all of its keys and values are back: it ends behind them, and holds nobody up."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
import torch
from asking import ask, park, small_engine, submit, until

from djinn.engine.engine import Engine
from djinn.engine.session import Outcome, Session
from djinn.errors import ServerFault
from djinn.states import State
from djinn.tiers.streams import HostStream

IDS = tuple((7 * i * i + 3) % 509 for i in range(60))


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with small_engine() as running:
        yield running


@dataclass
class Held:
    """Copies back, but for the first of each restore, wait for `go`; all are carried out by `copy` from then on."""

    go: threading.Event
    copy: Callable


@pytest.fixture
def held(monkeypatch) -> Iterator[Held]:
    queued, carry_out, began = HostStream.copy, HostStream.carry_out, []
    held = Held(threading.Event(), carry_out)

    def copy(stream: HostStream, name: str, copies) -> None:
        if name.startswith("restore"):
            began.append(name)
            if began.count(name) > 1:
                stream._work.put(lambda: held.go.wait(60))
        queued(stream, name, copies)

    def carried_out(stream: HostStream, copies) -> None:
        (held.copy if held.go.is_set() else carry_out)(stream, copies)

    monkeypatch.setattr(HostStream, "copy", copy)
    monkeypatch.setattr(HostStream, "carry_out", carried_out)
    yield held
    held.go.set()


def resumed(engine: Engine) -> tuple[Session, queue.SimpleQueue]:
    """One whose logits are there, and most of whose keys and values are not."""
    session = engine.open()
    ask(engine, session, ids=IDS, break_at=engine.limits.depth)
    park(engine, session)
    replies = submit(engine, session, resume_from=session.pause)
    until(lambda: session.last_logits is not None)
    return session, replies


def test_it_ends_when_it_is_resident_and_others_compute_meanwhile(engine, held):
    expected = ask(engine, engine.open(), ids=IDS)
    session, replies = resumed(engine)
    other = ask(engine, engine.open(), ids=IDS, max_new_tokens=4)
    assert isinstance(other, Outcome) and replies.empty() and session.machine.state is State.RUNNING
    held.go.set()
    found = replies.get(timeout=60)
    assert torch.equal(found.logits, expected.logits)
    assert found.stamps["logits"] < other.stamps["done"] < found.stamps["resident"] <= found.stamps["done"]
    until(lambda: session.machine.state is State.IDLE)
    assert ask(engine, session, max_new_tokens=4).tokens == other.tokens


def test_it_is_told_of_the_copy_that_failed(engine, held):
    def failing(stream: HostStream, copies) -> None:
        raise RuntimeError("no such copy")

    held.copy = failing
    session, replies = resumed(engine)
    held.go.set()
    assert isinstance(error := replies.get(timeout=60), ServerFault) and "no such copy" in str(error)
    assert session.machine.state is State.FAILED and not engine.busy()


def test_cancelled_meanwhile_it_gives_everything_back(engine, held):
    before = engine.pager.usage()["arena_free_bytes"]
    session, replies = resumed(engine)
    engine.end(session, State.CANCELLED)
    held.go.set()
    replies.get(timeout=60)
    until(lambda: engine.pager.usage()["arena_free_bytes"] == before)
    assert session.machine.state is State.CANCELLED
