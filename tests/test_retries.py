"""A line that breaks: what was asked is asked again and carried out once, whatever was lost on the way."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from sessions import alone, wait_for

import djinn
from benchmarks.soak.line import Line
from djinn.errors import ReplyGone, ServerGone
from djinn.wire import messages as m
from djinn.wire.envelope import Sender
from djinn.wire.frames import pack


@pytest.fixture
def line(server) -> Iterator[Line]:
    made = Line(lambda: server.endpoint)
    yield made
    made.close()


@pytest.fixture
def distant(line) -> Iterator[djinn.Client]:
    with djinn.connect(line.endpoint, timeout=60) as connected:
        yield connected


@pytest.fixture
def near(server, distant) -> Iterator[djinn.Client]:
    """The same owner, with a line of its own."""
    with djinn.connect(server.endpoint, timeout=60, token=distant.token) as connected:
        yield connected


def passes(client: djinn.Client, session: djinn.Session) -> int:
    """How often the session began to compute."""
    return sum(state == "running" for state, _ in client.attach(session.id).history()[1])


def test_a_reply_that_is_lost_is_given_again_and_the_request_runs_once(line, distant, near, prompt):
    expected = alone(near, prompt, 4)
    session = distant.open()
    session.prefill(prompt, break_at=3)
    line.deaf = True
    pending = session.resume(max_new_tokens=4, wait=False)
    wait_for(near.attach(session.id), "idle")  # carried out; its reply went nowhere
    line.cut()
    out = pending.result()
    assert out.tokens.tolist() == expected.tokens.tolist() and np.array_equal(out.logits, expected.logits)
    assert passes(near, session) == 2 and line.connections == 2
    assert session.generate(max_new_tokens=1).tokens.shape == (1,), "and it goes on"
    session.close()


def test_a_request_that_runs_while_the_line_breaks_is_joined(line, distant, near, prompt):
    expected = alone(near, prompt, 100)
    session = distant.open()
    stream = session.prefill(prompt, max_new_tokens=100, stream=True)
    first = next(stream)
    line.cut()
    assert [first, *stream] == expected.tokens.tolist(), "every token once, those lost on the way too"
    assert np.array_equal(stream.result().logits, expected.logits) and passes(near, session) == 1
    session.close()


def test_many_at_once_over_a_line_that_breaks_again_and_again(line, distant, near, prompt):
    sessions = [distant.open() for _ in range(6)]
    pendings = {s.prefill(prompt[i : i + 20], max_new_tokens=8, wait=False): i for i, s in enumerate(sessions)}
    tokens = {}
    for pending in djinn.as_completed(pendings, timeout=60):
        tokens[pendings[pending]] = pending.result().tokens.tolist()
        line.cut()
    assert tokens == {i: alone(near, prompt[i : i + 20], 8).tokens.tolist() for i in range(6)}
    assert [passes(near, session) for session in sessions] == [1] * 6
    for session in sessions:
        session.close()


def test_opening_twice_opens_one(line, distant, near):
    line.deaf = True
    number = distant.connection.send(m.Open())
    for _ in range(2000):
        if near.sessions():
            break
    line.cut()
    distant.connection.wait(lambda: number in distant.connection._replies, 60)
    opened = distant.connection.take(number).body.session
    assert [one.id for one in near.sessions()] == [opened]
    near.attach(opened).close()


def test_a_number_that_was_answered_and_acknowledged_is_refused(client, prompt):
    session = client.open()
    number = client.connection.send(m.Park(session=session.id))
    client.connection.wait(lambda: number in client.connection._replies, 60)
    client.connection.take(number)
    client.stats()  # acknowledges it
    frames = pack(number, m.Park(session=session.id), (), Sender(client.connection._client, client.token))
    client.connection._unanswered[number] = frames
    client.connection._send(frames)
    client.connection.wait(lambda: number in client.connection._replies, 60)
    with pytest.raises(ReplyGone, match="not kept any more"):
        client.connection.take(number).raise_failure()
    session.close()


def test_a_line_that_stays_broken_is_a_server_that_is_gone_and_nothing_is_asked_late(line, distant, near, prompt):
    session = distant.open()
    line.closed = True
    line.cut()
    with pytest.raises(ServerGone, match="ended or died"):
        session.prefill(prompt)
    line.closed = False
    with pytest.raises(ServerGone, match="ended or died"):
        distant.stats()
    mine = near.attach(session.id)
    assert mine.state == "idle" and len(mine.token_ids) == 0
    mine.close()


def test_a_server_that_was_started_anew_does_not_take_requests_from_before(distant, server):
    """As a client meets it whose old server died and whose next one listens at the same address."""
    distant.connection._client = "unheard-of"
    with pytest.raises(ServerGone, match="connect\\(\\) again"):
        distant.open()
