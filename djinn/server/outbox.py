"""What is to be sent to clients, and what becomes of it when a client does not read.

A client's pipe holds SEND_HIGH_WATER messages on this side, and no second large one behind PIPE_BYTES of them. Behind
that a streamed token is dropped (the last reply of its request holds every token), and any other reply is held here and
tried again, so the compute thread never waits for a client. What is held is bounded for each client, in number and in
bytes: beyond, the reply's place is taken by a small one that says so, and beyond HELD the reply is lost.
"""

from __future__ import annotations

import logging
import os
import queue
from collections import defaultdict, deque
from dataclasses import dataclass, field
from typing import Any

import zmq

from djinn.errors import ReplyGone
from djinn.wire import messages as m
from djinn.wire.frames import pack, size_of

log = logging.getLogger(__name__)
HELD = 1000  # replies for one client
HELD_BYTES = 1 << 30  # of them: fifty sessions that end at once overfill a pipe; one is held whatever its size
LARGE_BYTES = 1 << 16  # what ZeroMQ is handed without a copy, and so tells when it is sent
PIPE_BYTES = 16 * 10**6  # of large messages that one client's pipe may hold; one goes in whatever its size
RETRY_MS = 20  # a ROUTER socket cannot tell when one peer reads again
Frames = list[Any]
BEAT = pack(0, m.Done())  # answers no request: clients leave it unread


@dataclass
class _Held:
    """What one client has not read."""

    waiting: deque[tuple[Frames, int]] = field(default_factory=deque)
    bytes: int = 0
    lost: bool = False  # a reply, and the log says so


class Outbox:
    """`post` is for any thread; the rest is for the one that owns the socket."""

    def __init__(self, socket: zmq.Socket) -> None:
        self._socket = socket
        self._posted: queue.SimpleQueue[tuple[bytes, int, Frames, bool]] = queue.SimpleQueue()
        self._held: defaultdict[bytes, _Held] = defaultdict(_Held)
        self._large: defaultdict[bytes, list[tuple[Any, int]]] = defaultdict(list)  # in pipes: (tracker, bytes)
        self.wake = os.eventfd(0, os.EFD_NONBLOCK)  # readable when there is something to flush

    def post(self, peer: bytes, number: int, frames: Frames, droppable: bool) -> None:
        """Have the reply to request `number` sent. A token is droppable."""
        self._posted.put((peer, number, frames, droppable))
        self.ring()

    def ring(self) -> None:
        """Wake the thread that flushes. May be called from a signal handler."""
        os.eventfd_write(self.wake, 1)

    def retry_ms(self) -> int | None:
        """How long the owner may sleep: until the next try, or for ever (None)."""
        return RETRY_MS if self._held else None

    def unsent(self) -> bool:
        """Whether anything lies here, or a large reply is still on its way to its client."""
        large = any(not sent.done for pipe in self._large.values() for sent, _ in pipe)
        return large or bool(self._held) or not self._posted.empty()

    def connected(self, peer: bytes) -> bool:
        """Whether a client is still there: ZeroMQ's heartbeats find out, and it says so to who wants to send."""
        try:
            self._socket.send_multipart([peer, *BEAT], zmq.DONTWAIT)
        except zmq.Again:
            return True  # there, and not reading
        except zmq.ZMQError:
            return False
        return True

    def flush(self) -> None:
        """Send what was posted, and what was held as far as its client reads."""
        for peer in list(self._held):
            held = self._held[peer]
            while held.waiting and self._send(peer, *held.waiting[0]):
                held.bytes -= held.waiting.popleft()[1]
            if not held.waiting:
                del self._held[peer]
        while not self._posted.empty():
            peer, number, frames, droppable = self._posted.get()
            size, overtakes = size_of(frames), peer in self._held
            if (overtakes or not self._send(peer, frames, size)) and not droppable:
                self._hold(peer, number, frames, size)

    def _hold(self, peer: bytes, number: int, frames: Frames, size: int) -> None:
        held = self._held[peer]
        if len(held.waiting) >= HELD:
            if not held.lost:
                log.warning("replies are lost: their client left %d others unread", HELD)
            held.lost = True
            return
        if held.waiting and held.bytes + size > HELD_BYTES and size > LARGE_BYTES:
            message = f"the reply was given up: {held.bytes} bytes of earlier ones were left unread, so read sooner"
            frames = pack(number, m.Failure(code=ReplyGone.code, message=message))
            size = size_of(frames)
        held.waiting.append((frames, size))
        held.bytes += size

    def _send(self, peer: bytes, frames: Frames, size: int) -> bool:
        """False if the client's pipe is full. A client that is gone needs nothing; its sessions stay."""
        if size > LARGE_BYTES and not self._room(peer, size):
            return False
        try:
            sent = self._socket.send_multipart([peer, *frames], zmq.DONTWAIT, copy=False, track=size > LARGE_BYTES)
        except zmq.Again:
            return False
        except zmq.ZMQError as error:
            log.warning("a reply could not be delivered: %s", error)
            return True
        if size > LARGE_BYTES:
            self._large[peer].append((sent, size))
        return True

    def _room(self, peer: bytes, size: int) -> bool:
        """Whether a large message may go into the pipe: behind little, or alone."""
        for each in list(self._large):  # few: those to whom large messages are on their way
            self._large[each] = [(sent, bytes_) for sent, bytes_ in self._large[each] if not sent.done]
            if not self._large[each]:
                del self._large[each]
        ahead = sum(bytes_ for _, bytes_ in self._large.get(peer, ()))
        return ahead == 0 or ahead + size <= PIPE_BYTES
