"""Count what crosses the wire: a relay on loopback between a client and its server that forwards bytes and counts them.

It sees TCP's payload, so the transport's own framing, greeting and heartbeats are in the counts.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import NamedTuple

BLOCK = 1 << 20


class Counts(NamedTuple):
    """Bytes so far: up to the server, down to the client."""

    up: int
    down: int


class WireTap:
    """Connect a client to `endpoint` in place of the server's. For one client, for the time of a `with`."""

    def __init__(self, server: str) -> None:
        host, _, port = server.removeprefix("tcp://").rpartition(":")
        self._server = (host.strip("[]"), int(port))
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"tcp://127.0.0.1:{self._listening.getsockname()[1]}"
        self._up = self._down = 0
        self._ends: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept, name="wire tap", daemon=True)]

    @property
    def counts(self) -> Counts:
        return Counts(self._up, self._down)

    def __enter__(self) -> WireTap:
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        for end in (self._listening, *self._ends):
            with contextlib.suppress(OSError):  # closed by the other side already
                end.shutdown(socket.SHUT_RDWR)  # wakes the thread that waits on it
            end.close()
        for thread in self._threads:
            thread.join()

    def _accept(self) -> None:
        try:
            client, _ = self._listening.accept()
        except OSError:  # no client ever came
            return
        server = socket.create_connection(self._server)
        self._ends += [client, server]
        for end in self._ends:
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        down = threading.Thread(
            target=self._forward, args=(server, client, "_down"), name="wire tap, down", daemon=True
        )
        self._threads.append(down)
        down.start()
        self._forward(client, server, "_up")

    def _forward(self, source: socket.socket, target: socket.socket, counter: str) -> None:
        try:
            while block := source.recv(BLOCK):
                setattr(self, counter, getattr(self, counter) + len(block))
                target.sendall(block)
            target.shutdown(socket.SHUT_WR)
        except OSError:  # one of the two has closed: so does the other
            return
