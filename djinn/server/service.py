"""The wire thread: reads requests, has them carried out, sends what comes back, and ends leases.

`accepted` is stamped when a request's frames are read, before anything is looked up. Results come from the compute and
mover threads through the outbox, which wakes this thread's poll. Nothing here waits for compute or for a client.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Sequence

import zmq

from djinn.engine.engine import Engine
from djinn.server.dispatch import Dispatcher
from djinn.server.door import Door
from djinn.server.leases import Leases
from djinn.server.limits import ServerLimits
from djinn.server.outbox import Outbox
from djinn.wire import messages as m

log = logging.getLogger(__name__)
SWEEP_S = 60.0  # between looks at the leases, which a short lease makes more frequent


class Service:
    def __init__(self, engine: Engine, welcome: m.Welcome, limits: ServerLimits, door: Door) -> None:
        self.engine, self.endpoint = engine, door.endpoint
        self._door = door
        self._outbox = Outbox(door.socket)
        self._dispatcher = Dispatcher(engine, welcome, limits, Leases(limits.lease_s), self._outbox.post)
        self._sweep_s = min(SWEEP_S, limits.lease_s / 4)
        self._stopping = False

    def stop(self) -> None:
        """End `serve` after the request at hand. May be called from a signal handler."""
        self._stopping = True
        self._outbox.ring()

    def serve(self) -> None:
        socket, gate = self._door.socket, self._door.gate
        poller = zmq.Poller()
        poller.register(socket, zmq.POLLIN)
        poller.register(self._outbox.wake, zmq.POLLIN)
        if gate:
            poller.register(gate.socket, zmq.POLLIN)
        sweep = time.monotonic() + self._sweep_s
        while not self._stopping:
            until_sweep = max(0, int((sweep - time.monotonic()) * 1000))
            retry = self._outbox.retry_ms()
            ready = dict(poller.poll(until_sweep if retry is None else min(retry, until_sweep)))
            if self._outbox.wake in ready:
                os.eventfd_read(self._outbox.wake)
            if gate and gate.socket in ready:
                gate.answer()
            if socket in ready:
                self._receive(socket.recv_multipart(copy=False), time.monotonic_ns())
            if time.monotonic() >= sweep:
                self._dispatcher.end_leases(self._outbox.connected)
                sweep = time.monotonic() + self._sweep_s
            self._outbox.flush()

    def _receive(self, frames: Sequence[zmq.Frame], accepted_ns: int) -> None:
        peer, *rest = frames
        key, shut_out = self._door.key_of(peer)
        self._dispatcher.handle(peer.bytes, key, [frame.buffer for frame in rest], accepted_ns, shut_out)
