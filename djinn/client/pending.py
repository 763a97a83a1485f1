"""Requests under way: wait for one, for whichever is done first, or read its tokens as they are chosen."""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import ExitStack
from typing import Any, Generic, TypeVar

import numpy as np
import zmq

from djinn.client import arguments
from djinn.client.connection import Connection, Reply
from djinn.client.line import milliseconds
from djinn.errors import BadRequest, ServerGone

T = TypeVar("T")
Make = Callable[[Any, list[np.ndarray]], T]


class Pending(Generic[T]):
    """A request under way, from a call with `wait=False`. Replies to others that come meanwhile are kept for them."""

    def __init__(self, connection: Connection, number: int, called_ns: int, make: Make[T]) -> None:
        self.connection, self._number, self._called_ns, self._make = connection, number, called_ns, make
        self._reply: Reply | None = None
        weakref.finalize(self, connection.forget, number)
        self._made: T | None = None

    def done(self) -> bool:
        """Whether the reply is here. Does not wait. Raises ServerGone when the server died."""
        if self._reply is None:
            self._reply = self.connection.take(self._number)
            if self._reply is not None:
                self._arrived(self._reply)
        return self._reply is not None

    def result(self, timeout: float | None = None) -> T:
        """What the call returns or raises; ServerGone after `timeout` seconds or when the server died. May be asked again."""
        self.connection.wait(self.done, arguments.seconds_or_none(timeout))
        self._reply.raise_failure()
        return self._made

    def _arrived(self, reply: Reply) -> None:
        stamps = getattr(reply.body, "stamps", None)
        if stamps is not None:
            stamps.update({"client_called": self._called_ns, "client_received": reply.received_ns})
            self._made = self._make(reply.body, reply.arrays)


class Stream(Pending[T]):
    """A request whose tokens can be read while it runs, from a call with `stream=True`: an iterator of ints.

    Every token comes once and in order. A client that reads slowly may get the later ones all at the end: the server
    drops a token that finds this client's pipe full, and the last reply, which it never drops, fills them in.
    """

    def __init__(self, connection: Connection, number: int, called_ns: int, make: Make[T]) -> None:
        super().__init__(connection, number, called_ns, make)
        self._tokens = connection.stream(number)
        self._read = 0

    def __iter__(self) -> Iterator[int]:
        return self

    def __next__(self) -> int:
        """The next token. Raises what `result()` raises, behind the tokens that came before the error."""
        self.connection.wait(lambda: self._read < len(self._tokens) or self.done(), None)
        if self._read == len(self._tokens):
            self._reply.raise_failure()
            raise StopIteration
        self._read += 1
        return self._tokens[self._read - 1]

    def _arrived(self, reply: Reply) -> None:
        super()._arrived(reply)
        tokens = getattr(reply.body, "tokens", None)
        if tokens is not None:
            self._tokens = list(tokens)


def as_completed(pendings: Iterable[Pending], timeout: float | None = None) -> Iterator[Pending]:
    """Yield each Pending (or Stream) when it is done, whichever is first; they may belong to several clients.

    timeout: seconds to wait for the next one (the client's own timeout: None). Raises ServerGone. Ask each for its
    `result()`, which raises what its call raises.
    """
    if isinstance(pendings, Pending) or not isinstance(pendings, Iterable):  # a Stream's tokens would be read
        raise BadRequest(f"as_completed() takes a list of what is under way, not {type(pendings).__name__}")
    waiting, done = list(pendings), []
    for one in waiting:
        if not isinstance(one, Pending):
            raise BadRequest(
                f"as_completed() takes what calls with wait=False or stream=True give, not {type(one).__name__}"
            )
    timeout = arguments.seconds_or_none(timeout)

    def some_are() -> bool:
        done[:] = [pending for pending in waiting if pending.done()]
        return bool(done)

    while waiting:
        _wait_for_any({pending.connection for pending in waiting}, some_are, timeout)
        waiting = [pending for pending in waiting if not any(pending is one for one in done)]
        yield from done


def _wait_for_any(connections: Collection[Connection], arrived: Callable[[], bool], timeout: float | None) -> None:
    """Sleep until `arrived()`, which reads what has come on all of them. Raises ServerGone after `timeout` seconds (the longest
    of their own: None), and what it raises."""
    seconds = max(0.0, max(c.timeout for c in connections) if timeout is None else timeout)
    end = time.monotonic() + seconds
    poller = zmq.Poller()
    with ExitStack() as turns:
        for connection in connections:
            turns.enter_context(connection.turn)
            connection.register(poller)
        while not arrived():
            left = end - time.monotonic()
            if left <= 0:
                names = ", ".join(sorted({connection.endpoint for connection in connections}))
                raise ServerGone(f"no reply came from {names} in {seconds:g} s")
            poller.poll(milliseconds(min(left, *(connection.patience() for connection in connections))))
