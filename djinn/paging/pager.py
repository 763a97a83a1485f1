"""Virtual memory for sessions: carries out what the policy decides, on the device's two copy streams and the disk.

One thread, the mover, asks the policy for the next step whenever something has changed and queues the copies; it never
waits for one. The compute thread is handed sessions that have all they need, or all that their next layer needs and a gate
before each layer that is still on its way. The lock guards the ledger; nothing is copied under it.
"""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from djinn.errors import DjinnError, IllegalMove, ServerFault
from djinn.paging import policy
from djinn.paging.layout import Layout
from djinn.paging.ledger import Ledger, Transfer
from djinn.paging.residence import Body, Key, Request, Residence
from djinn.sizes import KVShape
from djinn.states import END, State
from djinn.tiers.disk import Disk
from djinn.tiers.pools import HostPool, Pool
from djinn.tiers.streams import Device, Mark, Wait

log = logging.getLogger(__name__)


class PartGate:
    """Before a part that is on its way back: opened when its copy has been queued, passed when it is there."""

    def __init__(self) -> None:
        self._queued = threading.Event()
        self._mark: Mark | None = None

    def open(self, mark: Mark) -> None:
        self._mark = mark
        self._queued.set()

    def hold(self) -> None:
        self._queued.wait()
        self._mark.hold(Wait.COMPUTE_AFTER_IN)


@dataclass(frozen=True)
class _Written:
    """A run wrote the first `live` bytes of a part; they are there when `mark` is reached."""

    residence: Residence
    key: Key
    live: int
    epoch: int
    mark: Mark


class Pager:
    def __init__(
        self, shape: KVShape, arena: Pool, host: HostPool, device: Device, disk: Disk | None = None, disk_bytes: int = 0
    ) -> None:
        self.shape, self.device, self.disk, self.host = shape, device, disk, host
        self.layout = Layout(shape, arena, host)
        self.lock = threading.Condition(threading.RLock())
        self.book = Ledger(arena.extents, host.extents, disk_bytes if disk else 0)
        self.book.more_host = lambda: host.preparing
        self.moved: Counter[str] = Counter()
        self._numbers = itertools.count()
        self._written: deque[_Written] = deque()
        self._readers: list[tuple[Residence, Callable[[], None]]] = []  # of sessions that are on the disk, or moved
        self._closing = False
        self._mover = threading.Thread(target=self._run, name="mover", daemon=True)
        self._mover.start()
        host.prepare(self.lock)

    # -- asked for by the engine -----------------------------------------------------------------

    def open(self, residence: Residence) -> None:
        with self.lock:
            self.book.open(residence)

    def admit(self, request: Request) -> None:
        """Bring the session to the device with all it needs; `request.then(None)` is called as soon as it may run.

        `then(error)` if no tier can hold it: OutOfMemory, the session is as it was. May be called from this thread.
        """
        with self.lock:
            request.number = next(self._numbers)
            self.book.request(request)
            here = self.book.holds(request)
            if here:
                self._let_in(request)
            else:
                self.lock.notify_all()
        if here:
            request.then(None)

    def park(self, residence: Residence) -> None:
        """Move to IO_WAIT and start the eviction at once. A second park does nothing."""
        with self.lock:
            residence.intended = False
            if residence.machine.state in (State.IDLE, State.PAUSED):
                residence.machine.move(State.IO_WAIT)
            self.lock.notify_all()

    def look(self, residence: Residence, read: Callable[[], None] = lambda: None) -> None:
        """Somebody looks at the session: a resume is likely, so it is brought back where there is room anyway.

        `read` is called once its bytes lie still in memory: now, unless they are on the disk or being moved.
        """
        with self.lock:
            residence.intended = True
            self._readers.append((residence, read))
            self._let_read()
            self.lock.notify_all()

    def _let_read(self) -> None:
        """Under the lock: call the readers whose sessions' bytes can be read now, or never."""
        waiting = []
        for residence, read in self._readers:
            body = residence.body
            on_disk = body.disk_bytes and body.moving != "spill"
            if not residence.released and (on_disk or body.moving == "across"):
                waiting.append((residence, read))
            else:
                read()
        self._readers = waiting

    def written(self, residence: Residence, key: Key, live: int) -> None:
        """The run has queued work that writes a part up to `live` bytes: they are copied out behind it."""
        item = _Written(residence, key, live, residence.body.epoch, self.device.computed())
        with self.lock:
            self._written.append(item)
            self.lock.notify_all()

    def set_live(self, residence: Residence, live: dict[Key, int]) -> None:
        """How much of each part holds something now; fewer than before is a rewind."""
        with self.lock:
            for key, nbytes in live.items():
                self.book.set_live(residence, key, nbytes)

    def stopped(self, residence: Residence) -> None:
        """The session paused or became idle: it may be evicted now."""
        with self.lock:
            self.book.stopped(residence)
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
            self._forget_file(residence.body)
            self._let_read()
            self.lock.notify_all()
        if request:
            request.then(IllegalMove(f"the session was {residence.machine.state} before there was room for it"))

    def usage(self) -> dict[str, Any]:
        """Live bytes by authoritative tier, duplicates apart; what the tiers can hold; what was copied since the start.

        evicted_bytes: all that was copied off the device; mirrored_bytes: how much of that behind a prefill.
        """
        with self.lock:
            bodies = {body.serial: body for body in (r.body for r in self.book.residences.values())}.values()
            here = [body for body in bodies if body.here]
            disk = [body for body in bodies if body.disk_bytes and body.moving != "spill"]
            live = {
                "device_bytes": sum(body.live_bytes for body in here),
                "disk_bytes": sum(body.live_bytes for body in disk),
                "duplicate_bytes": sum(body.host_bytes for body in here),
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
                **{
                    key: self.moved[key]
                    for key in ("evicted_bytes", "restored_bytes", "mirrored_bytes", "spilled_bytes")
                },
                **{key: self.moved[key] for key in ("evictions", "restores")},
            }

    def shut_down(self) -> None:
        """End the threads; who waits for memory is refused."""
        with self.lock:
            self._closing = True
            waiting = list(self.book.waiting)
            for request in waiting:
                self.book.withdraw(request)
            self.lock.notify_all()
        for request in waiting:
            request.then(IllegalMove("the server is shutting down"))
        self._mover.join()
        self.device.close()
        if self.disk:
            self.disk.close()
        self.host.close()

    # -- the mover's thread ----------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            with self.lock:
                while not (self._closing or self._written or (step := policy.next_step(self.book))):
                    self.lock.wait()
                if self._closing:
                    return
                if self._written:
                    step = self._written.popleft()
                residence = getattr(step, "residence", None)
                if isinstance(step, policy.Move):
                    self._begin(step)
            try:
                self._carry_out(step)
            except Exception as error:  # a defect must not end the thread that all sessions share; it is reported
                log.exception("paging failed")
                self._fail(residence, ServerFault(f"paging failed: {type(error).__name__}: {error}"))

    def _begin(self, move: policy.Move) -> None:
        """Under the lock still: who comes back is not resident, and has a gate before each part."""
        if move.transfer.direction != "out" and move.transfer.moves:
            move.residence.resident.clear()
            move.residence.gates = {key: PartGate() for key, _ in move.transfer.moves}

    def _carry_out(self, step: policy.Step | _Written) -> None:
        match step:
            case _Written():
                self._mirror(step)
            case policy.Move(transfer=transfer, residence=residence, request=request):
                if transfer.direction == "out":
                    self._queue_out(transfer, f"evict {residence.key[:8]}", ("evicted_bytes",))
                    self.moved["evictions"] += 1
                else:
                    self._queue_in(transfer, residence, request)
            case policy.Grant(request=request):
                with self.lock:
                    self._let_in(request)
                request.then(None)
            case policy.Refuse(request=request, error=error):
                with self.lock:
                    self.book.withdraw(request)
                request.then(error)
            case policy.Spill(body=body):
                parts = self.layout.host_parts(body)
                self.disk.write(str(body.serial), parts, partial(self._spilled, body))
            case policy.Fetch(body=body):
                parts = self.layout.host_parts(body)
                self.disk.read(str(body.serial), parts, partial(self._fetched, body))

    def _let_in(self, request: Request) -> None:
        """Under the lock: the session is READY (a new one stays QUEUED until it runs)."""
        residence = request.residence
        self.book.let_in(request)
        residence.stamps.clear()
        now = time.monotonic_ns()
        if residence.machine.state is not State.QUEUED:
            now = residence.machine.move(State.READY)
        residence.stamps["ready"] = now
        if residence.body.here:
            residence.stamps["resident"] = now
            residence.resident.set()
            residence.gates = {}

    def _mirror(self, item: _Written) -> None:
        with self.lock:
            residence = item.residence
            body = residence.body
            part = body.parts.get(item.key)
            if residence.released or body.epoch != item.epoch or not (part and part.device):
                return
            transfer = self.book.begin_mirror(residence, item.key, item.live)
        if transfer:
            self.device.out.after(item.mark, Wait.OUT_AFTER_COMPUTE)
            self._queue_out(transfer, f"write through {residence.key[:8]}", ("evicted_bytes", "mirrored_bytes"))

    def _queue_out(self, transfer: Transfer, name: str, counted: tuple[str, ...]) -> None:
        for _, pieces in transfer.moves:
            self.device.out.copy(name, self.layout.copies("out", pieces))
        self.device.out.call(partial(self._end, transfer, counted), Wait.FREE_AFTER_OUT)

    def _queue_in(self, transfer: Transfer, residence: Residence, request: Request | None) -> None:
        if not transfer.moves:
            self._landed(transfer, residence)
            return
        waited = {key for key, _ in transfer.moves}
        early = request is not None and request.first is not None and transfer.direction == "in"
        if early:
            waited &= request.first
        if early and not waited:
            self._first_is_here(request)
        name = f"{'restore' if transfer.direction == 'in' else 'grow'} {residence.key[:8]}"
        for key, pieces in transfer.moves:
            self.device.into.copy(name, self.layout.copies(transfer.direction, pieces))
            residence.gates[key].open(self.device.into.mark())
            waited.discard(key)
            if early and not waited:
                self.device.into.call(partial(self._first_is_here, request), Wait.READY_AFTER_IN)
                early = False
        self.moved["restores"] += transfer.direction == "in"
        self.device.into.call(partial(self._landed, transfer, residence), Wait.FREE_AFTER_IN)

    # -- called when a copy has completed, on a stream's thread ---------------------------------------------

    def _first_is_here(self, request: Request) -> None:
        with self.lock:
            if request.residence.waiting is not request:
                return  # closed meanwhile
            self._let_in(request)
        request.then(None)

    def _landed(self, transfer: Transfer, residence: Residence) -> None:
        with self.lock:
            residence.stamps["resident"] = time.monotonic_ns()
            self._end(transfer, ("restored_bytes" if transfer.direction == "in" else "relocated_bytes",))
            residence.resident.set()

    def _end(self, transfer: Transfer, counted: tuple[str, ...]) -> None:
        with self.lock:
            for what in counted:
                self.moved[what] += transfer.nbytes
            transfer.end()
            self._let_read()
            self.lock.notify_all()

    def _spilled(self, body: Body, error: OSError | None) -> None:
        with self.lock:
            if error:
                self.book.cancel_spill(body)
            else:
                self.moved["spilled_bytes"] += body.live_bytes
                self.book.end_spill(body)
            self._forget_file(body)
            self.lock.notify_all()

    def _fetched(self, body: Body, error: OSError | None) -> None:
        sharers = list(body.sharers)
        with self.lock:
            self.book.end_fetch(body)
            for residence in sharers if error else ():
                self._fail(residence, ServerFault(f"the session's file could not be read back: {error}"))
            self._let_read()
            self.lock.notify_all()

    def _forget_file(self, body: Body) -> None:
        if self.disk and not body.sharers and not body.pins:
            self.disk.forget(str(body.serial))

    def _fail(self, residence: Residence | None, error: DjinnError) -> None:
        """What cannot go on is failed by name; nobody else is harmed."""
        if residence is None:
            return
        with self.lock:
            request = residence.waiting
            if residence.machine.state not in END:
                residence.machine.move(State.FAILED)
            if not residence.released:
                self.book.release(residence)
            self.lock.notify_all()
        if request:
            request.then(error)
