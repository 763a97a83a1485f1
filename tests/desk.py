"""A dispatcher with no socket: requests in, replies in a list."""

from __future__ import annotations

import itertools
import queue
import time
from collections import defaultdict
from typing import Any

import numpy as np

from djinn.engine.engine import Engine
from djinn.errors import BY_CODE
from djinn.server.dispatch import Dispatcher
from djinn.server.leases import Leases
from djinn.server.limits import ServerLimits
from djinn.server.requests import welcome
from djinn.wire import messages as m
from djinn.wire.envelope import Sender
from djinn.wire.frames import pack, unpack

FACTS = {"layers": 8, "vocab_size": 512, "hidden_size": 256}
LIMITS = ServerLimits(
    max_message_bytes=1 << 20, max_sessions=5, max_sessions_per_owner=3, max_requests=4, lease_s=100.0
)


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Desk:
    def __init__(self, engine: Engine, limits: ServerLimits = LIMITS) -> None:
        self.clock, self.engine = Clock(), engine
        self.connected: set[bytes] = set()  # peers that are said to be there
        hello = welcome(FACTS, "cpu", {}, 256, limits)
        leases = Leases(limits.lease_s, self.clock)
        self.dispatcher = Dispatcher(engine, hello, limits, leases, self._send, self.connected.__contains__)
        self.replies: defaultdict[bytes, queue.SimpleQueue] = defaultdict(queue.SimpleQueue)  # by peer
        self._numbers = itertools.count(1)

    def _send(self, peer: bytes, number: int, frames: list[Any], droppable: bool) -> None:
        self.replies[peer].put(unpack(frames, "reply"))

    def post(self, who: str, body: m.AnyRequest, tensors: tuple = (), key: bytes | None = None) -> int:
        """Hand in a request of a client whose token is made of its name."""
        peer = who.encode()
        if peer not in self.replies:
            self.replies[peer] = queue.SimpleQueue()
            self.ask(who, m.Hello(), key=key)
        number = next(self._numbers)
        frames = pack(number, body, tensors, Sender(who, f"{who:*<32}"))
        self.dispatcher.handle(peer, key, frames, time.monotonic_ns())
        return number

    def reply(self, who: str) -> tuple[Any, list[np.ndarray]]:
        """The next one. Raises the typed error that it carries."""
        _, body, arrays = self.replies[who.encode()].get(timeout=60)
        if isinstance(body, m.Failure):
            raise BY_CODE[body.code](body.message)
        return body, arrays

    def ask(self, who: str, body: m.AnyRequest, tensors: tuple = (), key: bytes | None = None) -> Any:
        self.post(who, body, tensors, key)
        return self.reply(who)[0]
