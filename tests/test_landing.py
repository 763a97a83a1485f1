"""A hidden state that is copied to the device before there is room for its session."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from asking import submit, until

from djinn.engine.engine import Engine
from djinn.engine.session import Outcome, Paused, Session
from djinn.errors import StorageError
from djinn.paging.landing import Landing
from djinn.server.build import build_service
from djinn.server.server_main import parser
from djinn.states import State
from djinn.tiers.streams import HostStream

PROMPT = tuple(range(3, 103))


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    args = parser().parse_args(["--model", "tiny-llama", "--port", "0", "--max-tokens", "256"])
    service, _, shut_down = build_service(args, "cpu", 40 * 10**6, 60 * 10**6, 0)
    yield service.engine
    shut_down()


@pytest.fixture
def parked(engine) -> Iterator[Session]:
    session = engine.open()
    assert isinstance(submit(engine, session, ids=PROMPT, break_at=4).get(), Paused)
    engine.park(session)
    until(lambda: session.machine.state is State.HOST)
    yield session
    engine.close(session.key)


@pytest.fixture
def used(monkeypatch) -> list[bool]:
    """For each hidden state that was placed: whether it came from the landing place."""
    found, copies = [], Landing.copies

    def spied(*args):
        made = copies(*args)
        found.append(made is not None)
        return made

    monkeypatch.setattr(Landing, "copies", spied)
    return found


def whole(engine: Engine) -> torch.Tensor:
    out = submit(engine, session := engine.open(), ids=PROMPT).get()
    engine.close(session.key)
    return out.logits


def test_it_comes_from_there_and_is_what_was_saved(engine, parked, used):
    out = submit(engine, parked, resume_from=parked.pause).get()
    assert used == [True]
    assert torch.equal(out.logits, whole(engine))


def test_who_is_told_that_its_copy_failed_has_lost_nothing(engine, parked, used, monkeypatch):
    landing, carry_out = engine.pager._mover._landing, HostStream.carry_out

    def broken(stream: HostStream, copies) -> None:
        if copies[0][0].data_ptr() == landing.place.data_ptr():
            raise RuntimeError("the copy engine is on fire")
        carry_out(stream, copies)

    monkeypatch.setattr(HostStream, "carry_out", broken)
    refused = submit(engine, parked, resume_from=parked.pause).get()
    came = isinstance(refused, Outcome)  # it failed before it was needed, and the host's copy was taken
    assert came or (isinstance(refused, StorageError) and "on fire" in str(refused))
    monkeypatch.undo()
    if not came:
        assert parked.machine.state is State.HOST
        refused = submit(engine, parked, resume_from=parked.pause).get()
    assert torch.equal(refused.logits, whole(engine))


def test_one_that_was_elsewhere_meanwhile_comes_from_the_host(engine, parked, used, monkeypatch):
    """On the disk and back, say: its bytes lie elsewhere in the host pool, and what was copied before is not looked at."""
    fetch = Landing.fetch

    def late(landing: Landing, landed) -> None:
        fetch(landing, landed)
        landing.place.fill_(255)  # and wrong
        part = landed.request.residence.body.parts[landed.key]
        part.host = list(part.host)

    monkeypatch.setattr(Landing, "fetch", late)
    out = submit(engine, parked, resume_from=parked.pause).get()
    assert used == [False]
    assert torch.equal(out.logits, whole(engine))


def test_what_is_short_is_copied_at_once(engine, used, monkeypatch):
    monkeypatch.setattr("djinn.paging.landing.LEAST", 1 << 30)
    session = engine.open()
    submit(engine, session, ids=PROMPT, break_at=4).get()
    engine.park(session)
    until(lambda: session.machine.state is State.HOST)
    assert isinstance(submit(engine, session, resume_from=session.pause).get(), Outcome)
    assert used == [False]
    engine.close(session.key)
