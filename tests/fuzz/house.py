"""Servers to hand bad input to: one in this process without a socket, on a model so small that the input is what costs.

What a server remembers is bounded; here the bounds are low, so that all of it is full long before memory is measured.
"""

from __future__ import annotations

import itertools
import os
import queue
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

from small_models import save_llama

import djinn.engine.engine
import djinn.server.replies
import djinn.timeline
from djinn.engine.engine import Engine
from djinn.server.build import build_service
from djinn.server.dispatch import Dispatcher
from djinn.server.leases import Leases
from djinn.server.limits import ServerLimits
from djinn.server.requests import welcome
from djinn.server.server_main import parser

LAYERS, VOCABULARY, HIDDEN, TOKENS = 4, 64, 16, 64
LIMITS = ServerLimits(
    max_message_bytes=1 << 22, max_sessions=16, max_sessions_per_owner=10, max_requests=4, lease_s=3600.0
)
LOW = (
    (djinn.engine.engine, "REMEMBERED", 50),
    (djinn.timeline, "KEPT", 500),
    (djinn.server.replies, "CLIENTS", 40),
    (djinn.server.replies, "KEPT_BYTES", 200_000),
)
BUDGET, HOST, DISK = 200_000, 80_000, 40_000  # bytes: in the arena of the first, about six of sixteen sessions
FACTS = {"layers": LAYERS, "vocab_size": VOCABULARY, "hidden_size": HIDDEN}


class Inside:
    """A dispatcher called by this thread. Replies come from any."""

    in_order = True

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        hello = welcome(FACTS, "cpu", {}, TOKENS, LIMITS)
        self.dispatcher = Dispatcher(engine, hello, LIMITS, Leases(LIMITS.lease_s), self._send, lambda peer: False)
        self._replies: queue.SimpleQueue[tuple[int, list]] = queue.SimpleQueue()
        self.pid = os.getpid()

    def _send(self, peer: bytes, number: int, frames: list, droppable: bool) -> None:
        self._replies.put((int(peer), [bytes(frame) for frame in frames]))

    def post(self, peer: int, frames: list[bytes]) -> None:
        self.dispatcher.handle(b"%d" % peer, None, frames, time.monotonic_ns())

    def reply(self, seconds: float) -> tuple[int, list[bytes]] | None:
        """(peer, frames) of the next; None when none came in time."""
        try:
            return self._replies.get(timeout=seconds) if seconds else self._replies.get_nowait()
        except queue.Empty:
            return None


@contextmanager
def model() -> Iterator[str]:
    """Its folder."""
    with tempfile.TemporaryDirectory() as folder:
        save_llama(Path(folder), LAYERS, VOCABULARY, HIDDEN)
        yield folder


def arguments(path: str) -> list[str]:
    """Of a server of that model."""
    return ["--model", path, "--dtype", "float32", "--port", "0", "--max-tokens", str(TOKENS), "--threads", "1"]


@contextmanager
def inside() -> Iterator[Inside]:
    """Ids of sessions are counted, so that a run repeats its very bytes."""
    ids = itertools.count(1)
    with model() as path, ExitStack() as changed:
        for module, name, value in LOW:
            changed.enter_context(mock.patch.object(module, name, value))
        counted = SimpleNamespace(token_hex=lambda n: f"{next(ids):0{2 * n}x}")
        changed.enter_context(mock.patch.object(djinn.engine.engine, "secrets", counted))
        service, _, shut_down = build_service(parser().parse_args(arguments(path)), "cpu", BUDGET, HOST, DISK)
        changed.callback(shut_down)
        yield Inside(service.engine)
