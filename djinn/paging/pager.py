"""Virtual memory for sessions, as the engine sees it: admit a session, say what its run wrote, say when it stands.

The compute thread is handed sessions that have all they need, or all that their next layer needs and a gate before each
part that is still on its way; it never waits for the accounts. The policy decides, the mover carries out.
"""

from __future__ import annotations

import itertools
from typing import Any

from djinn.errors import Draining, IllegalMove
from djinn.paging import saves, victims
from djinn.paging.bell import Bell
from djinn.paging.endings import Endings
from djinn.paging.layout import Layout
from djinn.paging.ledger import Ledger
from djinn.paging.mover import DurableFiles, Mover, Written
from djinn.paging.readers import Reader
from djinn.paging.residence import Key, Request, Residence, Saved, Saving
from djinn.sizes import KVShape
from djinn.states import State
from djinn.tiers.disk import Disk
from djinn.tiers.pools import HostPool, Pool
from djinn.tiers.streams import Device

# Bytes and times since the start, as `usage` tells them.
MOVED = (
    *("evicted_bytes", "restored_bytes", "mirrored_bytes", "spilled_bytes", "saved_bytes"),
    *("evictions", "restores"),
)


class Pager:
    def __init__(
        self,
        shape: KVShape,
        arena: Pool,
        host: HostPool,
        device: Device,
        disk: Disk | None = None,
        disk_bytes: int = 0,
        durable: DurableFiles | None = None,
    ) -> None:
        self.shape, self.device, self.disk, self.host = shape, device, disk, host
        self.layout = Layout(shape, arena, host)
        self.lock = Bell()
        self.book = Ledger(arena.extents, host.extents, disk_bytes if disk else 0)
        self.book.more_host = lambda: host.growing
        self._numbers = itertools.count()
        self._ends = Endings(self.book, disk, self.lock)
        self._mover = Mover(self.book, self.layout, device, disk, durable, self._ends)
        host.open(self.lock)

    # -- asked for by the engine -----------------------------------------------------------------

    def open(self, residence: Residence) -> None:
        with self.lock:
            self.book.open(residence)

    def fork(self, parent: Residence, child: Residence) -> None:
        """The child has the parent's bytes until one of them runs on. Raises IllegalMove."""
        with self.lock:
            self.book.fork(parent, child)

    def admit(self, request: Request) -> None:
        """Bring the session to the device with all it needs; `request.then(None)` is called as soon as it may run.

        `then(error)` if no tier can hold it: OutOfMemory, the session is as it was. May be called from this thread.
        """
        with self.lock:
            request.number = next(self._numbers)
            self.book.request(request)
            here = self.book.holds(request)
            if here:
                self._ends.let_in(request)
            else:
                self.lock.notify_all()
        if here:
            request.then(None)

    def park(self, residence: Residence) -> None:
        """Move to IO_WAIT and start the eviction at once. A second park does nothing."""
        with self.lock:
            residence.intended, residence.body.stays = False, -1
            if residence.machine.state in (State.IDLE, State.PAUSED):
                residence.machine.move(State.IO_WAIT)
            self.lock.notify_all()

    def save(self, saving: Saving) -> None:
        """Park the session, and have it written when its bytes lie still. `saving.then(None)` when its file is durable.

        `then(error)`: no room for the file, or it could not be written; the session is parked, and otherwise as it was.
        """
        with self.lock:
            self.book.newest = next(self._numbers)
            saves.ask(self.book, saving)
            if saving.residence.body.live_bytes:
                self.park(saving.residence)
            self.lock.notify_all()

    def recover(self, residence: Residence, saved: Saved) -> None:
        """A session of an earlier server: its parts have their live bytes, which lie in its durable file."""
        with self.lock:
            saves.recover(self.book, residence, saved)

    def forget_saved(self, residence: Residence) -> None:
        """The session is closed: its durable file counts no more."""
        with self.lock:
            saves.forget(self.book, residence)
            self.lock.notify_all()

    def look(self, residence: Residence, read: Reader = lambda problem: None) -> None:
        """Somebody looks at the session: a resume is likely, so it is brought back where there is room anyway.

        `read(None)` is called once its bytes lie still in memory: now, unless they are on the disk or being moved, or some are
        on the device alone, which is given the rest still; `read(error)` where they cannot be read back.
        """
        with self.lock:
            residence.intended = True
            self.book.newest = next(self._numbers)
            self._ends.readers.add(residence, read)
            self._ends.readers.call()
            self.lock.notify_all()

    def written(self, residence: Residence, key: Key, live: int) -> None:
        """The run has queued work that writes a part up to `live` bytes: they are copied out behind it."""
        item = Written(residence, key, live, residence.body.epoch, self.device.computed())
        with self.lock:
            self._mover.written.append(item)
            self.lock.hand_over()

    def set_live(self, residence: Residence, live: dict[Key, int]) -> None:
        """How much of each part holds something now; fewer than before is a rewind."""
        with self.lock:
            for key, nbytes in live.items():
                self.book.set_live(residence, key, nbytes)

    def stopped(self, residence: Residence) -> None:
        """The session paused or became idle: it may be evicted now."""
        with self.lock:
            self.book.stopped(residence)
            self._ends.end_lost(residence)
            self.lock.notify_all()

    def drop(self, residence: Residence, name: str) -> None:
        """A kept hidden state is no longer needed."""
        with self.lock:
            self.book.drop(residence, name)
            self.lock.notify_all()

    def release(self, residence: Residence) -> None:
        """Give back everything, at once or when the copy in flight has completed."""
        with self.lock:
            request = residence.waiting
            self.book.release(residence)
            self._ends.forget_file(residence.body)
            self._ends.readers.call()
            self._ends.refuse_saving(
                residence, IllegalMove(f"the session was {residence.machine.state} before it was written")
            )
            self.lock.notify_all()
        if request:
            request.then(IllegalMove(f"the session was {residence.machine.state} before there was room for it"))

    def wanted(self) -> bool:
        """Whether somebody waits for memory that only those have who run."""
        with self.lock:
            return victims.only_who_runs_has_room(self.book)

    def usage(self) -> dict[str, Any]:
        """Live bytes by authoritative tier, duplicates apart; what the tiers can hold; what was copied since the start.

        evicted_bytes: all that was copied off the device; mirrored_bytes: how much of that behind a prefill.
        """
        with self.lock:
            bodies = self.book.bodies()
            here = [body for body in bodies if body.here]
            disk = [body for body in bodies if body.disk_bytes and body.moving != "spill"]
            live = {
                "device_bytes": sum(body.live_bytes for body in here),
                "disk_bytes": sum(body.live_bytes for body in disk),
                "duplicate_bytes": sum(body.host_bytes for body in here),
                "durable_bytes": sum(r.saved.nbytes for r in self.book.residences.values() if r.saved),
                "shared_bytes": sum(body.live_bytes * (len(body.sharers) - 1) for body in bodies),
            }
            live["host_bytes"] = sum(body.live_bytes for body in bodies) - live["device_bytes"] - live["disk_bytes"]
            return {
                **live,
                "arena_bytes": self.book.device.capacity,
                "arena_free_bytes": self.book.device.free_bytes,
                "host_budget_bytes": self.book.host.capacity,
                "host_free_bytes": self.book.host.free_bytes,
                "disk_budget_bytes": self.book.disk_capacity,
                "disk_free_bytes": self.book.disk_free,
                **{key: self._ends.moved[key] for key in MOVED},
            }

    def refuse_waiting(self) -> None:
        """Who waits for memory is refused: the server is going."""
        with self.lock:
            waiting = list(self.book.waiting)
            for request in waiting:
                self.book.refuse(request)
        for request in waiting:
            request.then(Draining("the server is shutting down, and there was no room for this before"))

    def shut_down(self) -> None:
        """End the threads; who waits for memory is refused."""
        with self.lock:
            savings = list(self.book.saving)
            for saving in savings:
                saves.withdraw(self.book, saving)
        for saving in savings:
            saving.then(Draining("the server ended before the session was written"))
        self.refuse_waiting()
        self._mover.stop()
        self.device.close()
        if self.disk:
            self.disk.close()
        self.host.close()
