"""A server process, and bad input over its socket: whole messages from ZeroMQ's own sockets."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import zmq

import djinn
from fuzz.house import BUDGET, DISK, HOST, LIMITS, TOKENS, model

PEERS = 8  # more than any exchange has messages


class Outside:
    """A house in another process; each peer is a socket of its own, so messages handed in at once come in any order."""

    engine = None
    in_order = False

    def __init__(self, endpoint: str, pid: int) -> None:
        self.endpoint, self.pid = endpoint, pid
        self._poller = zmq.Poller()
        self._sockets = [zmq.Context.instance().socket(zmq.DEALER) for _ in range(PEERS)]
        for each in self._sockets:
            each.linger = 0
            each.connect(endpoint)
            self._poller.register(each, zmq.POLLIN)

    def post(self, peer: int, frames: list[bytes]) -> None:
        self._sockets[peer].send_multipart(frames or [b""])

    def reply(self, seconds: float) -> tuple[int, list[bytes]] | None:
        for each, _ in self._poller.poll(seconds * 1000):
            return self._sockets.index(each), each.recv_multipart()
        return None

    def close(self) -> None:
        for each in self._sockets:
            each.close()


@contextmanager
def server() -> Iterator[djinn.LocalServer]:
    """Of the same model and limits as the one within this process."""
    with (
        model() as path,
        djinn.serve(
            path,
            dtype="float32",
            threads=1,
            max_tokens=TOKENS,
            device_budget=BUDGET,
            host_budget=HOST,
            disk_budget=DISK,
            max_sessions=LIMITS.max_sessions,
            max_sessions_per_owner=LIMITS.max_sessions_per_owner,
            max_requests=LIMITS.max_requests,
        ) as running,
    ):
        yield running


@contextmanager
def outside(running: djinn.LocalServer) -> Iterator[Outside]:
    made = Outside(running.endpoint, running.pid)
    yield made
    made.close()
