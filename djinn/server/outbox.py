"""What is to be sent to clients, and what becomes of it when a client does not read.

A client's pipe holds HIGH_WATER messages on this side. Behind that a streamed token is dropped (the last reply of its
request holds every token), and any other reply is held here and tried again, so the compute thread never waits for a
client. What is held is bounded: a session has one request under way, and a client that leaves HELD replies unread
loses the next.
"""

from __future__ import annotations

import logging
import os
import queue
from collections import defaultdict, deque
from collections.abc import Sequence
from typing import Any

import numpy as np
import zmq

from djinn.wire import messages as m
from djinn.wire.frames import pack

log = logging.getLogger(__name__)
HIGH_WATER = 64  # messages; they are counted, not weighed
HELD = 1000  # replies for one client
RETRY_MS = 20  # a ROUTER socket cannot tell when one peer reads again
Frames = list[Any]


class Outbox:
    """`post` is for any thread; the rest is for the one that owns the socket."""

    def __init__(self, socket: zmq.Socket) -> None:
        self._socket = socket
        self._posted: queue.SimpleQueue[tuple[bytes, Frames, bool]] = queue.SimpleQueue()
        self._held: defaultdict[bytes, deque[Frames]] = defaultdict(deque)
        self.wake = os.eventfd(0, os.EFD_NONBLOCK)  # readable when there is something to flush

    def post(self, peer: bytes, number: int, body: m.AnyReply, tensors: Sequence[np.ndarray] = ()) -> None:
        """Pack here, on the caller's thread, and have it sent."""
        self._posted.put((peer, pack(number, body, tensors), isinstance(body, m.TokenReply)))
        self.ring()

    def ring(self) -> None:
        """Wake the thread that flushes. May be called from a signal handler."""
        os.eventfd_write(self.wake, 1)

    def retry_ms(self) -> int | None:
        """How long the owner may sleep: until the next try, or for ever (None)."""
        return RETRY_MS if self._held else None

    def flush(self) -> None:
        """Send what was posted, and what was held as far as its client reads."""
        for peer in list(self._held):
            waiting = self._held[peer]
            while waiting and self._send(peer, waiting[0]):
                waiting.popleft()
            if not waiting:
                del self._held[peer]
        while not self._posted.empty():
            peer, frames, droppable = self._posted.get()
            overtakes = peer in self._held
            if (overtakes or not self._send(peer, frames)) and not droppable:
                self._hold(peer, frames)

    def _hold(self, peer: bytes, frames: Frames) -> None:
        if len(self._held[peer]) < HELD:
            self._held[peer].append(frames)
        else:
            log.warning("a reply was lost: its client left %d others unread", HELD)

    def _send(self, peer: bytes, frames: Frames) -> bool:
        """False if the client's pipe is full. A client that is gone needs nothing; its sessions stay."""
        try:
            self._socket.send_multipart([peer, *frames], zmq.DONTWAIT, copy=False)
        except zmq.Again:
            return False
        except zmq.ZMQError as error:
            log.warning("a reply could not be delivered: %s", error)
        return True
