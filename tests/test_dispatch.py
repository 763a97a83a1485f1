"""Whose sessions are whose, how long they are kept, and how much one may take: frames in, frames out, no socket."""

from __future__ import annotations

import errno
import logging
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest
from desk import LIMITS, Desk

from djinn.engine.engine import Engine
from djinn.engine.session import Session
from djinn.errors import BadRequest, LimitReached, NoSuchSession, NotAllowed, ProtocolError, ServerFault
from djinn.server import requests
from djinn.server.build import build_service
from djinn.server.dispatch import owner_of
from djinn.server.server_main import parser
from djinn.timeline import Span
from djinn.wire import messages as m
from djinn.wire.envelope import Sender
from djinn.wire.frames import pack


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    args = parser().parse_args(["--model", "tiny-llama", "--port", "0", "--max-tokens", "256", "--threads", "1"])
    service, _, shut_down = build_service(args, "cpu", 40 * 10**6, 60 * 10**6, 0)
    yield service.engine
    shut_down()


@pytest.fixture
def desk(engine) -> Iterator[Desk]:
    made = Desk(engine)
    yield made
    for session in list(engine.sessions.values()):
        engine.close(session.key, session.owner)
    assert engine.stats()["device_bytes"] == 0


def opened(desk: Desk, who: str, **more) -> str:
    return desk.ask(who, m.Open(), **more).session


def ids(count: int = 20) -> tuple[np.ndarray]:
    return (np.arange(count, dtype=np.int64),)


OF_SESSION = [
    lambda s: m.Prefill(session=s),
    lambda s: m.Generate(session=s, max_new_tokens=1),
    lambda s: m.Resume(session=s),
    lambda s: m.FetchActivation(session=s, name="pause-1"),
    lambda s: m.Discard(session=s, name="pause-1"),
    lambda s: m.Fork(session=s),
    lambda s: m.Park(session=s),
    lambda s: m.Cancel(session=s),
    lambda s: m.Describe(session=s),
    lambda s: m.Attach(session=s),
]


@pytest.mark.parametrize("ended", [False, True], ids=["open", "ended"])
def test_anothers_session_is_as_if_it_were_not_there(desk, ended):
    """The very words of an id that never was, for every request that names a session."""
    theirs, unknown = opened(desk, "ann"), "0" * 32
    desk.ask("ann", m.Prefill(session=theirs, break_at=3), ids())
    if ended:
        desk.ask("ann", m.Cancel(session=theirs))
    for make in OF_SESSION:
        said = []
        for key in (theirs, unknown):
            with pytest.raises(NoSuchSession) as refused:
                desk.ask("eve", make(key))
            said.append(str(refused.value).replace(key[:8], "…"))
        assert said[0] == said[1], make(theirs)
    desk.ask("eve", m.Close(session=theirs))  # as harmless as closing what is not there
    assert desk.ask("ann", m.Describe(session=theirs)).state == ("cancelled" if ended else "paused")
    assert desk.ask("eve", m.Sessions()).sessions == ()


def test_every_request_that_names_a_session_was_tried():
    tried = {type(make("")) for make in OF_SESSION}
    assert {kind for kind in m.AnyRequest.__args__ if "session" in kind.__struct_fields__} == tried | {m.Close}


def test_a_key_owns_whatever_the_token_and_a_token_is_not_kept():
    assert owner_of(b"A" * 40, "t" * 32) == owner_of(b"A" * 40, "u" * 32) != owner_of(b"B" * 40, "t" * 32)
    assert owner_of(None, "t" * 32) != owner_of(None, "u" * 32)
    assert "t" * 32 not in owner_of(None, "t" * 32)
    key = b"A" * 40
    assert owner_of(None, owner_of(key, "t" * 32)) != owner_of(key, ""), "no token can be chosen to be another's key"


def test_who_was_taken_off_the_list_is_told_under_the_number_of_his_request(desk):
    frames = pack(7, m.Hello(), (), Sender("c", "t" * 32))
    desk.dispatcher.handle(b"p", b"A" * 40, frames, 0, shut_out=True)
    envelope, body, _ = desk.replies[b"p"].get(timeout=1)
    assert (envelope.id, body.code) == (7, NotAllowed.code)


def test_listed_with_what_they_hold_and_attached_with_all_there_is_to_go_on_from(desk):
    first, second = opened(desk, "ann"), opened(desk, "ann")
    desk.ask("ann", m.Prefill(session=first, checkpoint_at=(2, 5), max_new_tokens=3), ids())
    paused = desk.ask("ann", m.Generate(session=first, max_new_tokens=2, break_at=4), ids(2))
    listed = {one.id: one for one in desk.ask("ann", m.Sessions()).sessions}
    assert [(listed[key].state, listed[key].tokens) for key in (first, second)] == [("paused", 25), ("idle", 0)]
    found = desk.ask("ann", m.Attach(session=first))
    assert found.token_ids[:20] == tuple(range(20)) and found.token_ids[23:] == (0, 1)
    assert (found.pause.name, found.pause.layer, found.pause.rows) == (paused.name, 4, 3)
    assert [(one.layer, one.rows) for one in found.checkpoints] == [(2, 20), (5, 20)]
    out = desk.ask("ann", m.Resume(session=first, max_new_tokens=2))
    assert desk.ask("ann", m.Attach(session=first)).token_ids == (*found.token_ids, *out.tokens)
    desk.ask("ann", m.Resume(session=first, checkpoint=found.checkpoints[0].name, break_at=7))
    again = desk.ask("ann", m.Attach(session=first))
    assert again.token_ids == tuple(range(20)) and again.pause.layer == 7, "a rewind takes the tokens back too"


def test_an_activation_that_no_frame_holds_is_refused_with_what_to_do(desk, monkeypatch):
    """Sent, it would end the client's whole connection: its socket takes no such frame."""
    key = opened(desk, "ann")
    paused = desk.ask("ann", m.Prefill(session=key, break_at=3), ids())
    size = 20 * desk.engine.limits.hidden_size * 4
    monkeypatch.setattr(requests, "MAX_TENSOR_BYTES", size - 1)
    with pytest.raises(BadRequest, match=rf"{size} bytes, a reply holds {size - 1}: .*shorter turns.*edit="):
        desk.ask("ann", m.FetchActivation(session=key, name=paused.name))
    monkeypatch.setattr(requests, "MAX_TENSOR_BYTES", size)
    assert desk.ask("ann", m.FetchActivation(session=key, name=paused.name)).dtype == "float32"
    with pytest.raises(BadRequest, match="nothing is kept there"):
        desk.ask("ann", m.FetchActivation(session=key, name="pause-9"))


def test_sessions_are_kept_for_one_lease_after_the_last_sign_of_life(desk, caplog):
    caplog.set_level(logging.WARNING)
    anns, bobs = opened(desk, "ann"), opened(desk, "bob")
    desk.ask("ann", m.Prefill(session=anns, break_at=3), ids())
    desk.clock.now += 60
    desk.ask("bob", m.Stats())  # any request is a sign
    assert desk.ask("bob", m.Describe(session=bobs)).lease_left_s == 100
    desk.clock.now += 39
    desk.dispatcher.end_leases()
    assert len(desk.engine.sessions) == 2
    desk.clock.now += 1
    desk.dispatcher.end_leases()
    assert [session.key for session in desk.engine.sessions.values()] == [bobs]
    assert f"session {anns[:8]} is cancelled: its lease ended" in caplog.text
    with pytest.raises(NoSuchSession, match=r"cancelled: its lease ended.*open\(\)"):
        desk.ask("ann", m.Resume(session=anns))
    described = desk.ask("ann", m.Describe(session=anns))
    assert (described.state, described.lease_left_s) == ("cancelled", None)


def test_a_session_that_cannot_be_ended_with_its_lease_does_not_keep_the_others(desk, caplog, monkeypatch):
    """As where its file cannot be removed any more: the disk is read-only."""
    keys = [opened(desk, who) for who in ("ann", "bob")]

    class Broken:
        def forget(self, session: Session, gone: Callable) -> None:
            if session.key == keys[0]:
                raise OSError(errno.EROFS, "read-only")

    monkeypatch.setattr(desk.engine, "keeper", Broken())
    desk.clock.now += 100
    desk.dispatcher.end_leases()
    assert f"session {keys[0]} could not be ended" in caplog.text and not desk.engine.sessions
    for who, key in zip(("ann", "bob"), keys, strict=True):
        with pytest.raises(NoSuchSession, match="its lease ended"):
            desk.ask(who, m.Attach(session=key))


def test_a_client_that_is_connected_and_says_nothing_keeps_its_sessions(desk):
    key = opened(desk, "ann")
    desk.connected.add(b"ann")
    for _ in range(5):
        desk.clock.now += 60
        desk.dispatcher.end_leases()
    assert key in desk.engine.sessions
    desk.connected.clear()
    desk.clock.now += 60
    desk.dispatcher.end_leases()
    assert key in desk.engine.sessions, "its line broke: the lease counts from when it was last seen there"
    desk.clock.now += 40
    desk.dispatcher.end_leases()
    assert key not in desk.engine.sessions


def test_an_owner_whose_request_is_under_way_is_alive(desk):
    key = opened(desk, "ann")
    desk.dispatcher.replies._under_way[desk.engine.sessions[key].owner] = 1
    desk.clock.now += 1000
    desk.dispatcher.end_leases()
    assert key in desk.engine.sessions


def test_sessions_that_were_here_before_the_server_knew_their_owner_get_a_whole_lease(desk):
    session = desk.engine.open("token:of-one-from-before")
    desk.dispatcher.end_leases()
    desk.clock.now += 99
    desk.dispatcher.end_leases()
    assert session.key in desk.engine.sessions
    desk.clock.now += 1
    desk.dispatcher.end_leases()
    assert session.key not in desk.engine.sessions


def test_sessions_are_limited_by_owner_and_in_all(desk):
    for _ in range(3):
        last = opened(desk, "ann")
    with pytest.raises(LimitReached, match=r"3 sessions of yours.*--max-sessions-per-owner"):
        opened(desk, "ann")
    with pytest.raises(LimitReached, match="3 sessions of yours"):
        desk.ask("ann", m.Fork(session=last))
    desk.ask("ann", m.Close(session=last))
    opened(desk, "ann")
    for _ in range(2):
        opened(desk, "bob")
    with pytest.raises(LimitReached, match=r"5 sessions are open.*--max-sessions"):
        opened(desk, "bob")


def test_requests_under_way_are_limited_by_owner(engine, desk):
    """The limit of one owner is not another's."""
    desk = Desk(engine, replace(LIMITS, max_requests=3))
    keys = [opened(desk, "ann") for _ in range(3)]
    with desk.engine.lock:  # nothing ends meanwhile
        for key in keys:
            desk.post("ann", m.Prefill(session=key, break_at=3), ids())
        desk.post("ann", m.Open())
        opened(desk, "bob")
    replies = [desk.replies[b"ann"].get(timeout=60)[1] for _ in range(4)]
    assert sorted(type(body).__name__ for body in replies) == ["Failure", *["PausedReply"] * 3]
    assert {body.code for body in replies if isinstance(body, m.Failure)} == {LimitReached.code}


def test_a_timeline_that_takes_long_holds_up_nobody(desk, monkeypatch):
    made, spans = threading.Event(), desk.engine.spans

    def slow() -> list[Span]:
        assert made.wait(5), "whoever is asked meanwhile waits for it"
        return spans()

    monkeypatch.setattr(desk.engine, "spans", slow)
    desk.post("ann", m.Spans())
    key = opened(desk, "ann")
    assert key in desk.engine.sessions
    made.set()
    body, _ = desk.reply("ann")
    assert (f"session {key[:8]}", "idle") in [span[:2] for span in body.spans]


def test_a_timeline_that_cannot_be_made_is_answered_too(desk, monkeypatch):
    def fails() -> list[Span]:
        raise KeyError("a defect")

    monkeypatch.setattr(desk.engine, "spans", fails)
    with pytest.raises(ServerFault, match="KeyError: 'a defect'"):
        desk.ask("ann", m.Spans())


def test_frames_that_cannot_be_read_are_answered_under_number_0(desk):
    for frames in ([], [b""], [b"\x91" * 100_000], [b"\xff", b"", b""]):
        desk.dispatcher.handle(b"p", None, frames, 0)
        envelope, body, _ = desk.replies[b"p"].get(timeout=1)
        assert (envelope.id, body.code) == (0, ProtocolError.code)
