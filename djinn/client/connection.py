"""One connection to a server: requests out, replies matched by number, a dead server noticed."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np
import zmq

from djinn.errors import BY_CODE, DjinnError, ServerGone
from djinn.wire import messages as m
from djinn.wire.frames import check_request, pack, unpack

HEARTBEAT_MS, HEARTBEAT_TIMEOUT_MS = 200, 5000


@dataclass(frozen=True)
class Reply:
    """The last reply to a request."""

    body: m.AnyReply
    arrays: list[np.ndarray]
    received_ns: int

    def raise_failure(self) -> None:
        if isinstance(self.body, m.Failure):
            raise BY_CODE.get(self.body.code, DjinnError)(self.body.message)


class Connection:
    """Not thread-safe: one connection for each thread."""

    def __init__(self, endpoint: str, timeout: float) -> None:
        self.endpoint, self.timeout = endpoint, timeout
        self.sent_bytes = self.received_bytes = 0
        self._numbers = itertools.count(1)
        self._replies: dict[int, Reply] = {}
        self._streams: dict[int, list[int]] = {}  # tokens that came without a gap, of requests that stream
        self._socket = zmq.Context.instance().socket(zmq.DEALER)
        self._socket.linger = 0
        self._socket.heartbeat_ivl, self._socket.heartbeat_timeout = HEARTBEAT_MS, HEARTBEAT_TIMEOUT_MS
        self._monitor = self._socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        self._poller = zmq.Poller()
        self.register(self._poller)
        self._socket.connect(endpoint)

    def register(self, poller: zmq.Poller) -> None:
        """Have `poller` wake for anything that comes here, the end of the server too."""
        poller.register(self._socket, zmq.POLLIN)
        poller.register(self._monitor, zmq.POLLIN)

    def send(self, body: m.AnyRequest, tensors: Sequence[np.ndarray] = ()) -> int:
        """Send a request and return its number; the arrays are copied. Raises BadRequest for an argument of a wrong type."""
        check_request(body)
        number = next(self._numbers)
        frames = pack(number, body, tensors)
        self.sent_bytes += sum(memoryview(f).nbytes for f in frames)
        self._socket.send_multipart(frames)
        return number

    def ask(self, body: m.AnyRequest, timeout: float | None = None) -> Reply:
        """Send a request that does not compute, and wait for its reply. Raises the server's typed error, or ServerGone."""
        number = self.send(body)
        self.wait(lambda: number in self._replies, timeout)
        reply = self._replies.pop(number)
        reply.raise_failure()
        return reply

    def stream(self, number: int) -> list[int]:
        """The tokens of a request as they come: this list grows while replies are read."""
        return self._streams.setdefault(number, [])

    def take(self, number: int) -> Reply | None:
        """The last reply to a request if it is here: handed out once. Reads what has come, and does not wait."""
        while number not in self._replies and self._receive(0):
            pass
        if number in self._replies:
            self._streams.pop(number, None)
        return self._replies.pop(number, None)

    def wait(self, arrived: Callable[[], bool], timeout: float | None) -> None:
        """Read until `arrived()`. Raises ServerGone after `timeout` seconds (the connection's own: None), or when it died."""
        end = time.monotonic() + (self.timeout if timeout is None else timeout)
        while not arrived():
            left = end - time.monotonic()
            if left <= 0 or not self._receive(left):
                raise ServerGone(f"{self.endpoint} did not answer in time: is the server running there?")

    def _receive(self, seconds: float) -> bool:
        ready = dict(self._poller.poll(int(seconds * 1000)))
        if self._socket in ready:
            frames = self._socket.recv_multipart(copy=False)
            at = time.monotonic_ns()
            self.received_bytes += sum(f.buffer.nbytes for f in frames)
            number, body, arrays = unpack([f.buffer for f in frames], "reply")
            if not isinstance(body, m.TokenReply):
                self._replies[number] = Reply(body, arrays, at)
            elif body.index == len(self._streams.get(number, ())):  # behind a gap: the last reply holds them all
                self.stream(number).append(body.token)
            return True
        if self._monitor in ready:
            raise ServerGone(f"{self.endpoint} closed the connection: the server ended or died")
        return False

    def close(self) -> None:
        self._socket.disable_monitor()
        self._socket.close()


def wait_for_any(connections: Collection[Connection], timeout: float | None) -> None:
    """Sleep until something can be read on one of them. Raises ServerGone after `timeout` seconds."""
    poller = zmq.Poller()
    for connection in connections:
        connection.register(poller)
    seconds = max(c.timeout for c in connections) if timeout is None else timeout
    if not poller.poll(int(seconds * 1000)):
        raise ServerGone(f"no reply came from {', '.join(sorted({c.endpoint for c in connections}))} in {seconds:g} s")
