"""The wire thread: reads requests, has them carried out, sends what comes back, and ends leases.

`accepted` is stamped when a request's frames are read, before anything is looked up. Results come from the compute and
mover threads through the outbox, which wakes this thread's poll. Nothing here waits for compute or for a client.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Sequence

import zmq

from djinn.engine.drain import drain
from djinn.engine.engine import Engine
from djinn.server.dispatch import Dispatcher
from djinn.server.door import Door
from djinn.server.leases import Leases
from djinn.server.limits import ServerLimits
from djinn.server.outbox import RETRY_MS, Outbox
from djinn.wire import messages as m

log = logging.getLogger(__name__)
SWEEP_S = 60.0  # between looks at the leases, which a short lease makes more frequent
LAST_REPLIES_S = 5.0  # that replies may wait for clients that do not read just then, when the server ends
LAST_WORDS_MS = 1000  # that what ZeroMQ has of them may take behind that


class Service:
    def __init__(self, engine: Engine, welcome: m.Welcome, limits: ServerLimits, door: Door, drain_s: float) -> None:
        """drain_s: how long running requests may take to their end, once the server was told to go."""
        self.engine, self.endpoint, self.drain_s = engine, door.endpoint, drain_s
        self._door = door
        self._outbox = Outbox(door.socket)
        outbox = self._outbox
        self._dispatcher = Dispatcher(engine, welcome, limits, Leases(limits.lease_s), outbox.post, outbox.connected)
        self._sweep_s = min(SWEEP_S, limits.lease_s / 4)
        self._told_to_go = self._drained = False
        # A signal that comes just before the poll begins would sleep with it: its byte (signal.set_wakeup_fd) wakes the poll.
        self._heard, self.hears = socket.socketpair()
        for end in (self._heard, self.hears):
            end.setblocking(False)

    def stop(self) -> None:
        """End `serve` when what runs has ended and what stands is safe. May be called from a signal handler."""
        self._told_to_go = True
        self._outbox.ring()

    def _drain(self) -> None:
        """On a thread of its own: clients are answered meanwhile."""
        try:
            drain(self.engine, self.drain_s)
        finally:
            self._drained = True
            self._outbox.ring()

    def serve(self) -> None:
        door, gate = self._door.socket, self._door.gate
        poller = zmq.Poller()
        poller.register(door, zmq.POLLIN)
        poller.register(self._outbox.wake, zmq.POLLIN)
        poller.register(self._heard, zmq.POLLIN)
        if gate:
            poller.register(gate.socket, zmq.POLLIN)
        sweep = time.monotonic() + self._sweep_s
        leaving: threading.Thread | None = None
        while not self._drained:
            if self._told_to_go and leaving is None:
                self.engine.take_no_more()
                leaving = threading.Thread(target=self._drain, name="drain")
                leaving.start()
            until_sweep = max(0, int((sweep - time.monotonic()) * 1000))
            retry = self._outbox.retry_ms()
            ready = dict(poller.poll(until_sweep if retry is None else min(retry, until_sweep)))
            if self._outbox.wake in ready:
                os.eventfd_read(self._outbox.wake)
            if self._heard.fileno() in ready:
                self._heard.recv(64)
            if gate and gate.socket in ready:
                gate.answer()
            if door in ready:
                self._receive(door.recv_multipart(copy=False), time.monotonic_ns())
            if time.monotonic() >= sweep:
                self._dispatcher.end_leases()
                sweep = time.monotonic() + self._sweep_s
            self._outbox.flush()
        self._send_the_rest()
        door.linger = LAST_WORDS_MS

    def _send_the_rest(self) -> None:
        """What has been answered and lies here: the next server does not know it, and nobody can ask for it again."""
        until = time.monotonic() + LAST_REPLIES_S
        while self._outbox.unsent() and time.monotonic() < until:
            self._outbox.flush()
            time.sleep(RETRY_MS / 1000)
        if self._outbox.unsent():
            log.warning("replies are lost: their clients left them unread for %g s", LAST_REPLIES_S)

    def _receive(self, frames: Sequence[zmq.Frame], accepted_ns: int) -> None:
        peer, *rest = frames
        key, shut_out = self._door.key_of(peer)
        self._dispatcher.handle(peer.bytes, key, [frame.buffer for frame in rest], accepted_ns, shut_out)
