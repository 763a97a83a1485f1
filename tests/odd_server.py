"""A server that says hello as any does, and then what a test gives it to say."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import zmq

from djinn.wire import messages as m
from djinn.wire.frames import pack, unpack

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
Answer = Callable[[int], list[list[Any]]]  # a request's number → the frames of each message that answers it


@contextmanager
def odd_server(*answers: Answer) -> Iterator[str]:
    """Its endpoint; one answer for each request behind the hello."""
    socket = zmq.Context.instance().socket(zmq.ROUTER)
    socket.linger, socket.rcvtimeo = 0, 30_000  # ms; a client that failed must not leave the thread waiting
    port = socket.bind_to_random_port("tcp://127.0.0.1")

    def serve() -> None:
        for answer in (replies(WELCOME), *answers):
            peer, *frames = socket.recv_multipart()
            for message in answer(unpack(frames, "request")[0].id):
                socket.send_multipart([peer, *message])

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield f"tcp://127.0.0.1:{port}"
    finally:
        thread.join()
        socket.close()


def replies(*bodies: m.AnyReply) -> Answer:
    return lambda number: [pack(number, body) for body in bodies]
