"""Tokens as they are chosen, many sessions from one client, and clients that do not read."""

from __future__ import annotations

import itertools
import os
import signal

import numpy as np
import pytest
import zmq
from odd_server import odd_server, replies
from sessions import alone

import djinn
from djinn.errors import BadRequest, NoSuchSession, ServerGone
from djinn.server.outbox import HELD, Outbox
from djinn.wire import messages as m
from djinn.wire.frames import pack, unpack


def test_a_stream_gives_every_token_and_then_the_out(client, prompt):
    expected = alone(client, prompt, 12)
    session = client.open()
    stream = session.prefill(prompt, max_new_tokens=12, stream=True)
    assert isinstance(stream, djinn.Stream)
    tokens = list(stream)
    assert tokens == expected.tokens.tolist() and all(type(token) is int for token in tokens)
    out = stream.result()
    assert np.array_equal(out.logits, expected.logits) and out.tokens.tolist() == tokens
    assert out.stamps["client_called"] <= out.stamps["accepted"] <= out.stamps["client_received"]
    assert list(stream) == [] and stream.result() is out
    session.close()


def test_tokens_come_before_the_reply(client, prompt):
    session = client.open()
    stream = session.prefill(prompt, max_new_tokens=100, stream=True)
    next(stream)
    assert not stream.done(), "the first token waited for the last"
    assert len(list(stream)) == 99
    session.close()


def test_a_stream_that_is_read_in_part_or_not_at_all(client, prompt):
    expected = alone(client, prompt, 24).tokens.tolist()
    for read in (0, 1, 5):
        session = client.open()
        session.prefill(prompt, break_at=4)
        stream = session.resume(max_new_tokens=24, stream=True)
        first = list(itertools.islice(stream, read))
        out = stream.result()
        assert out.tokens.tolist() == expected
        assert [*first, *stream] == expected, "the rest is there still, each token once"
        session.close()


def test_tokens_before_a_pause_are_streamed_and_the_result_is_the_pause(client, prompt):
    expected = alone(client, prompt, 6).tokens.tolist()
    session = client.open()
    session.prefill(prompt)
    stream = session.generate(max_new_tokens=6, break_at=3, break_token=4, stream=True)
    assert list(stream) == expected[:4]
    pause = stream.result()
    assert isinstance(pause, djinn.Pause) and pause.tokens.tolist() == expected[:4]
    session.close()


def test_checkpoints_come_with_a_streamed_prefill(client, prompt):
    session = client.open()
    stream = session.prefill(prompt, checkpoint_at=[3], max_new_tokens=4, stream=True)
    tokens = list(stream)
    checkpoints, out = stream.result()
    assert out.tokens.tolist() == tokens
    assert session.resume(checkpoints[3], max_new_tokens=4).tokens.tolist() == tokens
    session.close()


def test_errors_come_out_of_the_iteration_and_of_the_result(client, prompt):
    session = client.open()
    stream = session.prefill(prompt, break_at=9, stream=True)
    for call in (lambda: next(stream), stream.result, lambda: list(stream)):
        with pytest.raises(BadRequest, match=r"1\.\.8"):
            call()
    with pytest.raises(BadRequest, match="stream"):
        session.prefill(prompt, stream="yes")
    session.close()
    with pytest.raises(NoSuchSession):
        list(session.generate(max_new_tokens=1, stream=True))


def test_a_dead_server_ends_the_iteration():
    with (
        djinn.serve("tiny-llama", threads=1, device_budget="120MB", host_budget="10MB", max_tokens=2048) as server,
        djinn.connect(server.endpoint) as client,
    ):
        stream = client.open().prefill([1, 2, 3], max_new_tokens=2000, stream=True)
        next(stream)
        os.kill(server.pid, signal.SIGKILL)
        with pytest.raises(ServerGone):
            list(stream)


def test_who_does_not_read_holds_nobody_up(server, client, prompt):
    expected = alone(client, prompt, 40).tokens.tolist()
    with djinn.connect(server.endpoint) as lazy:
        sessions = [lazy.open() for _ in range(3)]
        streams = [s.prefill(prompt, max_new_tokens=40, stream=True) for s in sessions]
        assert alone(client, prompt, 40).tokens.tolist() == expected
        for stream in reversed(streams):
            assert list(stream) == expected
        for session in sessions:
            session.close()


def test_one_client_drives_fifty_sessions(client, prompt):
    """As each is done its next request goes out; every one is bit-equal to itself alone."""
    short = [prompt[i : i + 10] for i in range(50)]
    sessions = [client.open() for _ in short]
    pauses = {s.prefill(p, break_at=4, wait=False): i for i, (s, p) in enumerate(zip(sessions, short, strict=True))}
    outs = {}
    for pending in djinn.as_completed(pauses):
        assert pending.done() and pending.result().layer == 4
        outs[sessions[pauses[pending]].resume(max_new_tokens=4, wait=False)] = pauses[pending]
    assert sorted(outs.values()) == list(range(50))
    seen = []
    for pending in djinn.as_completed(outs):
        seen.append(outs[pending])
        assert pending.result().tokens.tolist() == alone(client, short[outs[pending]], 4).tokens.tolist()
    assert sorted(seen) == list(range(50))
    for session in sessions:
        session.close()


def test_as_completed_takes_streams_failures_and_several_clients(server, client, prompt):
    with djinn.connect(server.endpoint) as second:
        ours, theirs, broken = client.open(), second.open(), client.open()
        pendings = {
            theirs.prefill(prompt, max_new_tokens=3, wait=False): "theirs",
            ours.prefill(prompt, max_new_tokens=3, stream=True): "ours",
            broken.prefill([512], wait=False): "broken",
        }
        done = [pendings[pending] for pending in djinn.as_completed(pendings)]
        assert sorted(done) == ["broken", "ours", "theirs"]
        for pending, name in pendings.items():
            if name == "broken":
                with pytest.raises(BadRequest):
                    pending.result()
            else:
                assert len(pending.result().tokens) == 3
        assert list(djinn.as_completed([])) == []
        for session in (ours, theirs, broken):
            session.close()


class Peer:
    """A socket to one client, which reads when `room` says so."""

    def __init__(self) -> None:
        self.room, self.sent, self.gone = 0, [], False

    def send_multipart(self, frames: list, flags: int, copy: bool, track: bool) -> None:
        if self.gone:
            raise zmq.ZMQError(zmq.EHOSTUNREACH)
        if self.room == 0:
            raise zmq.Again
        self.room -= 1
        envelope, body, arrays = unpack(frames[1:], "reply")
        self.sent.append((envelope.id, body, arrays))


def post(outbox: Outbox, number: int, body: m.AnyReply) -> None:
    outbox.post(b"peer", number, pack(number, body), isinstance(body, m.TokenReply))


def test_a_full_pipe_drops_tokens_and_holds_replies():
    peer = Peer()
    outbox = Outbox(peer)
    done = m.OutcomeReply(tokens=tuple(range(100)), checkpoints={}, stamps={})
    peer.room = 2
    for token in range(100):
        post(outbox, 1, m.TokenReply(index=token, token=token))
    post(outbox, 1, done)
    outbox.flush()
    assert [body.index for _, body, _ in peer.sent] == [0, 1]
    assert outbox.retry_ms() is not None, "the reply is tried again"
    outbox.flush()
    peer.room = 10
    post(outbox, 2, m.Done())
    outbox.flush()
    assert [(number, type(body)) for number, body, _ in peer.sent[2:]] == [(1, m.OutcomeReply), (2, m.Done)]
    assert outbox.retry_ms() is None


def test_what_is_held_for_a_client_is_bounded_and_ends_with_it():
    peer = Peer()
    outbox = Outbox(peer)
    for number in range(HELD + 10):
        post(outbox, number, m.Done())
    outbox.flush()
    peer.room = 2 * HELD
    outbox.flush()
    assert [number for number, *_ in peer.sent] == list(range(HELD)), "the oldest are kept"
    peer.room = 0
    post(outbox, 1, m.Done())
    outbox.flush()
    peer.gone = True
    outbox.flush()
    assert outbox.retry_ms() is None


def token(index: int) -> m.TokenReply:
    return m.TokenReply(index=index, token=10 + index)


def test_tokens_that_were_dropped_are_filled_in():
    """A server that loses tokens 2 and 3 of 6."""
    last = m.OutcomeReply(tokens=(10, 11, 12, 13, 14, 15), checkpoints={}, stamps={})
    lossy = odd_server(replies(m.Opened(session="s")), replies(*map(token, (0, 1, 4, 5)), last))
    with lossy as endpoint, djinn.connect(endpoint, timeout=30) as client:
        stream = client.open().generate(max_new_tokens=6, stream=True)
        assert list(stream) == [10, 11, 12, 13, 14, 15]
        assert stream.result().tokens.tolist() == [10, 11, 12, 13, 14, 15]
