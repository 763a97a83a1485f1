"""The book of requests, without a server: bounded, each answered once and to whoever asked last."""

from __future__ import annotations

import numpy as np
import pytest

from djinn.errors import LimitReached, ReplyGone, ServerGone
from djinn.server import replies as module
from djinn.server.replies import Call, Replies
from djinn.wire import messages as m
from djinn.wire.envelope import Sender
from djinn.wire.frames import pack, unpack

PARK = m.Park(session="s")


class Book:
    """Replies, and what it sent: (peer, number, body)."""

    def __init__(self, max_requests: int = 4) -> None:
        self.sent: list[tuple[bytes, int, object]] = []
        self.connected: set[bytes] = set()
        self.replies = Replies(self._send, max_requests, self.connected.__contains__)

    def _send(self, peer: bytes, number: int, frames: list, droppable: bool) -> None:
        envelope, body, _ = unpack(frames, "reply")
        assert envelope.id == number and droppable == isinstance(body, m.TokenReply)
        self.sent.append((peer, number, body))

    def ask(self, number, body=PARK, *, client="c", owner="o", peer=b"p", answered=0) -> Call | None:
        sender = Sender(client, "t" * 32, answered)
        envelope, body, _ = unpack(pack(number, body, (), sender), "request")
        return self.replies.begin(owner, envelope, body, peer)

    def greet(self, client="c", owner="o", peer=b"p") -> None:
        call = self.ask(1, m.Hello(), client=client, owner=owner, peer=peer)
        if call:
            self.replies.finish(call, m.Done())
            self.sent.pop()


@pytest.fixture
def book() -> Book:
    made = Book()
    made.greet()
    return made


def test_who_has_not_said_hello_is_not_known(book):
    with pytest.raises(ServerGone):
        book.ask(2, client="other")
    with pytest.raises(ServerGone):
        book.ask(2, owner="thief"), "a number of another's client is of no use"


def test_a_repetition_joins_and_the_reply_goes_to_who_asked_last(book):
    call = book.ask(2, peer=b"old")
    assert book.ask(2, peer=b"new") is None and book.sent == []
    book.replies.token(call, 0, 7)
    book.replies.finish(call, m.Done())
    assert [(peer, number) for peer, number, _ in book.sent] == [(b"new", 2), (b"new", 2)]
    assert book.ask(2, peer=b"newest") is None
    assert book.sent[-1] == (b"newest", 2, m.Done())


def test_a_second_end_of_the_same_request_says_nothing(book):
    call = book.ask(2)
    book.replies.finish(call, m.Done())
    book.replies.finish(call, m.Failure(code="server_fault", message=""))
    assert len(book.sent) == 1 and book.replies.under_way("o") == 0


def test_an_acknowledged_reply_is_forgotten_and_its_number_never_runs_again(book):
    book.replies.finish(book.ask(2), m.Done())
    book.ask(3, answered=2)
    with pytest.raises(ReplyGone):
        book.ask(2)


def test_a_request_that_was_lost_on_the_way_is_carried_out_when_later_ones_came_before_it(book):
    """A line broke with 2 on it; 3 and 4 went over the next one before 2 was asked again."""
    for number in (3, 4):
        book.replies.finish(book.ask(number, answered=1), m.Done())
    late = book.ask(2, answered=1)
    assert late is not None, "it was never here"
    book.replies.finish(late, m.Done())
    assert book.ask(2, answered=1) is None and book.sent[-1][1] == 2, "and now it is kept as any is"
    (asker,) = book.replies._askers.values()
    book.ask(5, answered=3)
    assert sorted(asker.calls) == [4, 5], "whatever came in which order"


def test_a_read_is_done_again(book):
    for _ in range(3):
        book.replies.finish(book.ask(2, m.Stats()), m.Done())
    assert len(book.sent) == 3 and book.replies._kept_bytes == 0


def test_what_is_kept_is_bounded_and_who_comes_too_late_is_told(book, monkeypatch):
    monkeypatch.setattr(module, "KEPT_BYTES", 10_000)
    for number in (2, 3, 4):
        call = book.ask(number)
        book.replies.finish(call, m.ActivationReply(dtype="float32"), [np.zeros((1, 1, 2000), np.float32)])
        assert book.replies._kept_bytes <= 10_000
    book.sent.clear()
    for number in (2, 3, 4):
        assert book.ask(number) is None
    assert [getattr(body, "code", "kept") for *_, body in book.sent] == ["reply_gone", "reply_gone", "kept"]
    book.ask(5, answered=4)
    assert book.replies._kept_bytes == 0


def test_one_reply_is_kept_whatever_its_size(book, monkeypatch):
    monkeypatch.setattr(module, "KEPT_BYTES", 10)
    book.replies.finish(book.ask(2), m.ActivationReply(dtype="float32"), [np.zeros((1, 1, 2000), np.float32)])
    assert book.ask(2) is None and isinstance(book.sent[-1][2], m.ActivationReply)


def test_requests_of_one_owner_under_way_are_bounded_by_name(book):
    book.greet("second")
    book.greet("c", owner="another")
    calls = [book.ask(number, client=client) for client in ("c", "second") for number in (2, 3)]
    with pytest.raises(LimitReached, match="--max-requests"):
        book.ask(4)
    assert book.ask(2, owner="another") is not None
    book.replies.finish(calls[0], m.Done())
    assert book.ask(4) is not None, "the number was not used up"


@pytest.mark.parametrize(
    "body", [m.Hello(), m.Cancel(session="s"), m.Close(session="s")], ids=lambda b: type(b).__name__
)
def test_who_has_reached_the_limit_can_still_get_below_it(book, body):
    for number in range(2, 6):
        book.ask(number)
    with pytest.raises(LimitReached):
        book.ask(6)
    assert book.ask(6, body) is not None


def test_a_client_that_never_acknowledges_takes_no_more_room(book):
    for number in range(2, 100):
        book.replies.finish(book.ask(number), m.Done())
    ((_, asker),) = book.replies._askers.items()
    assert len(asker.calls) <= 2 * 4
    with pytest.raises(ReplyGone):
        book.ask(2)


def test_clients_that_are_silent_the_longest_are_forgotten_but_not_one_at_work(book, monkeypatch):
    monkeypatch.setattr(module, "CLIENTS", 3)
    at_work = book.ask(2)
    for number in range(10):
        book.greet(f"client-{number}")
    assert len(book.replies._askers) == 3
    assert book.ask(2, peer=b"still known") is None
    book.replies.finish(at_work, m.Done())
    assert book.sent[-1][0] == b"still known"


def test_a_client_that_is_idle_is_not_forgotten_for_those_who_came_and_went(book, monkeypatch):
    monkeypatch.setattr(module, "CLIENTS", 3)
    book.greet("idle", peer=b"there")
    book.connected.add(b"there")
    for number in range(10):
        book.greet(f"client-{number}")
    assert len(book.replies._askers) == 3
    assert book.ask(2, client="idle", peer=b"there") is not None
