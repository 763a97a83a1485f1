"""Carry out evictions and restores of whole sessions, and give memory back when it is safe.

A restore brings the kept hidden states first: a session paused in its first prefill is READY with them, its KV follows
behind the compute. Cost: the session's live bytes once, two copies a layer. Memory is given back when the copy that reads
or writes it has completed, never before. Called by the mover's thread alone, except `ready` and `release`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from djinn.errors import DjinnError
from djinn.layout import Layout
from djinn.residence import Residence
from djinn.states import STOPPED, WAITING, State
from djinn.tiers.copier import Copier

Then = Callable[[DjinnError | None], None]


class Transfers:
    def __init__(self, layout: Layout, copier: Copier, lock: threading.Condition) -> None:
        self.layout, self.copier, self.lock = layout, copier, lock
        self.device, self.host = layout.device, layout.host
        self.moved = {"evicted_bytes": 0, "restored_bytes": 0, "evictions": 0, "restores": 0}

    def evict_parked(self, residence: Residence) -> None:
        """The eviction that a park started, unless the session was wanted again before its turn came.

        With the host pool full it stays where it is, in IO_WAIT, until somebody needs the room.
        """
        with self.lock:
            still = residence.machine.state is State.IO_WAIT and not residence.wanted
        if still:
            self.evict(residence)

    def evict(self, residence: Residence) -> bool:
        """Copy the session to the host and free its place; False if the host pool has no room for it.

        True too if there is nothing to do: it is running again, closed, or evicted already.
        """
        with self.lock:
            if residence.machine.state not in WAITING - {State.HOST} or not residence.slabs:
                return True
            extents = self.host.extents.take(residence.host_bytes())
            if extents is None:
                return False
            if residence.machine.state in STOPPED:
                residence.machine.move(State.IO_WAIT)
            residence.machine.move(State.EVICTING)
            residence.moving = True
            moves = self.layout.pairs(residence, extents[0])
        copied = self.copier.run(moves)
        with self.lock:
            residence.moving = False
            self.moved["evicted_bytes"] += copied
            self.moved["evictions"] += 1
            if residence.machine.state is State.EVICTING:
                residence.machine.move(State.HOST)
                residence.host = extents[0]
                residence.resident.clear()
                self._free_device(residence)
            else:  # resumed or closed meanwhile: the device copy stands
                self.host.extents.give(extents[0])
                if residence.released:
                    self._free(residence)
            self.lock.notify_all()
        return True

    def restore(self, residence: Residence, then: Then) -> None:
        """Copy the session to the place reserved for it; `then(None)` as soon as it may run."""
        with self.lock:
            residence.machine.move(State.RESTORING)  # refused where it was closed meanwhile
            residence.moving = True
            moves = [(device, host) for host, device in self.layout.pairs(residence, residence.host)]
            first = sum(kept.filled for kept in residence.kept.values())
            early = residence.hidden_suffices
        copied = self.copier.run(moves[:first])
        if early:
            self.ready(residence)
            then(None)
        copied += self.copier.run(moves[first:])
        with self.lock:
            residence.moving = False
            self.host.extents.give(residence.host)
            residence.host = None
            self.moved["restored_bytes"] += copied
            self.moved["restores"] += 1
            residence.stamps["resident"] = time.monotonic_ns()
            residence.resident.set()
            if residence.released:
                self._free(residence)
            self.lock.notify_all()
        if not early:
            self.ready(residence)
            then(None)

    def ready(self, residence: Residence, resident: bool = False) -> None:
        """All that the next layer needs is on the device; resident: all of its KV is."""
        with self.lock:
            if residence.machine.state in WAITING | {State.RESTORING}:  # not if it was closed meanwhile
                residence.stamps["ready"] = residence.machine.move(State.READY)
                if resident:
                    residence.stamps["resident"] = residence.stamps["ready"]

    def release(self, residence: Residence) -> None:
        """Give back everything, at once or when the copy in flight has completed."""
        with self.lock:
            residence.released = True
            if not residence.moving:
                self._free(residence)

    def _free(self, residence: Residence) -> None:
        self._free_device(residence)
        residence.kept.clear()
        if residence.host:
            self.host.extents.give(residence.host)
            residence.host = None
        self.lock.notify_all()

    def _free_device(self, residence: Residence) -> None:
        for kept in residence.kept.values():
            if kept.device:
                self.device.extents.give(kept.device)
                kept.device = None
        for slab in residence.slabs:
            self.device.extents.give(slab)
        residence.slabs, residence.capacity = [], 0
