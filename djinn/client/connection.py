"""One connection to a server: requests out, replies matched by number, a dead server noticed."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

import numpy as np
import zmq

from djinn.errors import BY_CODE, DjinnError, ServerGone
from djinn.wire import messages as m
from djinn.wire.frames import pack, unpack

T = TypeVar("T")
HEARTBEAT_MS, HEARTBEAT_TIMEOUT_MS = 200, 5000


class Pending(Generic[T]):
    """A request under way. `result()` waits for it; other replies that come meanwhile are kept for their own."""

    def __init__(self, connection: Connection, number: int, make: Callable[[Any, list[np.ndarray]], T]) -> None:
        self._connection, self._number, self._make = connection, number, make
        self.called_ns = time.monotonic_ns()

    def done(self) -> bool:
        """Whether the reply is here. Does not wait."""
        return self._connection.poll(self._number)

    def result(self, timeout: float | None = None) -> T:
        """The reply. Raises the server's typed error, or ServerGone after `timeout` seconds or when it died."""
        body, arrays, at = self._connection.wait(self._number, timeout)
        if isinstance(body, m.Failure):
            raise BY_CODE.get(body.code, DjinnError)(body.message)
        made = self._make(body, arrays)
        if hasattr(made, "stamps"):
            made.stamps.update({"client_called": self.called_ns, "client_received": at})
        return made


class Connection:
    """Not thread-safe: one connection for each thread."""

    def __init__(self, endpoint: str, timeout: float) -> None:
        self.endpoint, self.timeout = endpoint, timeout
        self.sent_bytes = self.received_bytes = 0
        self._numbers = itertools.count(1)
        self._replies: dict[int, tuple[Any, list[np.ndarray], int]] = {}
        self._socket = zmq.Context.instance().socket(zmq.DEALER)
        self._socket.linger = 0
        self._socket.heartbeat_ivl, self._socket.heartbeat_timeout = HEARTBEAT_MS, HEARTBEAT_TIMEOUT_MS
        self._monitor = self._socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        self._poller = zmq.Poller()
        self._poller.register(self._socket, zmq.POLLIN)
        self._poller.register(self._monitor, zmq.POLLIN)
        self._socket.connect(endpoint)

    def ask(
        self,
        body: m.AnyRequest,
        tensors: Sequence[np.ndarray] = (),
        make: Callable[[Any, list], T] = lambda body, _: body,
    ) -> Pending[T]:
        """Send a request; the arrays are copied, so they may change afterwards."""
        number = next(self._numbers)
        pending = Pending(self, number, make)
        frames = pack(number, body, tensors)
        self.sent_bytes += sum(memoryview(f).nbytes for f in frames)
        self._socket.send_multipart(frames)
        return pending

    def poll(self, number: int) -> bool:
        while number not in self._replies and self._receive(0):
            pass
        return number in self._replies

    def wait(self, number: int, timeout: float | None) -> tuple[Any, list[np.ndarray], int]:
        end = time.monotonic() + (self.timeout if timeout is None else timeout)
        while number not in self._replies:
            left = end - time.monotonic()
            if left <= 0 or not self._receive(left):
                raise ServerGone(f"{self.endpoint} did not answer in time: is the server running there?")
        return self._replies.pop(number)

    def _receive(self, seconds: float) -> bool:
        ready = dict(self._poller.poll(int(seconds * 1000)))
        if self._socket in ready:
            frames = self._socket.recv_multipart(copy=False)
            at = time.monotonic_ns()
            self.received_bytes += sum(f.buffer.nbytes for f in frames)
            number, body, arrays = unpack([f.buffer for f in frames], "reply")
            self._replies[number] = body, arrays, at
            return True
        if self._monitor in ready:
            raise ServerGone(f"{self.endpoint} closed the connection: the server ended or died")
        return False

    def close(self) -> None:
        self._socket.disable_monitor()
        self._socket.close()
