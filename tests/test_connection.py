"""One client's own end of the line: what it refuses to send, what it cannot read, and what it keeps."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import msgspec
import pytest
import zmq

import djinn
from djinn.errors import BadRequest, ProtocolError
from djinn.timeline import KEPT
from djinn.wire import messages as m
from djinn.wire.frames import MAX_HEADER_BYTES, pack, unpack

WELCOME = m.Welcome(
    protocol=m.PROTOCOL,
    server_version="",
    model={},
    device="",
    depth=1,
    vocabulary=1,
    hidden_size=1,
    max_tokens=1,
    plan={},
    max_message_bytes=1 << 20,
    lease_s=1.0,
)


@contextmanager
def odd_server(*answers: Callable[[int], list[Any]]) -> Iterator[str]:
    """Says hello as any does, then answers each request with the frames that `answer(number)` makes."""
    socket = zmq.Context.instance().socket(zmq.ROUTER)
    socket.linger, socket.rcvtimeo = 0, 30_000  # ms; a client that failed must not leave the thread waiting
    port = socket.bind_to_random_port("tcp://127.0.0.1")

    def serve() -> None:
        for answer in (lambda number: pack(number, WELCOME), *answers):
            peer, *frames = socket.recv_multipart()
            socket.send_multipart([peer, *answer(unpack(frames, "request")[0].id)])

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield f"tcp://127.0.0.1:{port}"
    finally:
        thread.join()
        socket.close()


def test_more_edits_than_fit_a_request_are_refused_with_what_to_do(client, prompt):
    session = client.open()
    h = session.prefill(prompt, break_at=3).activation()
    edits = [djinn.Set(h[0, i % 100], positions=(i % 100,)) for i in range(MAX_HEADER_BYTES // (9 * 256) + 1)]
    with pytest.raises(BadRequest, match="activation="):
        session.resume(edit=edits)
    assert session.state == "paused"
    session.resume(activation=h)
    session.close()


def test_a_refusal_that_names_no_request_ends_the_connection_with_its_reason(client):
    """A server that cannot read so far as to a request's number says so under number 0."""
    client.connection._socket.send_multipart([b"\xff"])
    for _ in range(2):
        with pytest.raises(ProtocolError, match="not a request of this protocol"):
            client.stats()


@pytest.mark.parametrize("token", [b"a" * 32, ["a"] * 40, 123])
def test_a_token_is_text(server, token):
    with pytest.raises(BadRequest, match=r"client\.token"):
        djinn.connect(server.endpoint, token=token)


def test_a_timeline_may_be_longer_than_a_request():
    """What a server keeps of its copies, and as much of its sessions again: more than 4 MiB."""
    copied = ("copy out", "write through 0123abcd", 1 << 60, 1 << 60, {"bytes": 1 << 20})
    answer = partial(pack, body=m.SpansReply(spans=(copied,) * 2 * KEPT))
    with odd_server(answer) as endpoint, djinn.connect(endpoint, timeout=30) as client:
        events = client.timeline()["traceEvents"]
        assert len(events) == 2 * KEPT + 1 and client.connection.received_bytes > MAX_HEADER_BYTES


def test_a_reply_that_cannot_be_read_is_its_requests_answer_and_the_next_is_read():
    """Else the request would be unanswered for ever, and nothing behind it acknowledged."""
    unknown = msgspec.Raw(msgspec.msgpack.encode({"kind": "of another version"}))
    answers = (
        lambda number: [msgspec.msgpack.encode({"id": number, "body": unknown})],
        lambda number: pack(number, m.Opened(session="s")),
    )
    with odd_server(*answers) as endpoint, djinn.connect(endpoint, timeout=30) as client:
        with pytest.raises(ProtocolError, match="of another version"):
            client.stats()
        assert client.open().id == "s" and not client.connection._unanswered
