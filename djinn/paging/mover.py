"""The thread that carries out what the policy decides: it queues copies on the device's streams and the disk, and waits for none.

It asks for the next step whenever something has changed. What follows a copy is done when the copy has completed, on its
stream's thread, under the lock that guards the ledger; nothing is copied under it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from djinn.errors import DjinnError, ServerFault
from djinn.paging import moves, policy, spills
from djinn.paging.decisions import Fetch, Grant, Move, Refuse, Spill, Step
from djinn.paging.gate import PartGate
from djinn.paging.layout import Layout
from djinn.paging.ledger import Ledger
from djinn.paging.moves import Transfer
from djinn.paging.residence import Body, Key, Request, Residence
from djinn.states import END, State
from djinn.tiers.disk import Disk
from djinn.tiers.streams import Device, Mark, Wait

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Written:
    """A run wrote the first `live` bytes of a part; they are there when `mark` is reached."""

    residence: Residence
    key: Key
    live: int
    epoch: int
    mark: Mark


class Mover:
    def __init__(
        self, book: Ledger, layout: Layout, device: Device, disk: Disk | None, lock: threading.Condition
    ) -> None:
        self.book, self.layout, self.device, self.disk, self.lock = book, layout, device, disk, lock
        self.moved: Counter[str] = Counter()  # bytes and times, by kind
        self.written: deque[Written] = deque()
        self.readers: list[tuple[Residence, Callable[[], None]]] = []  # of sessions that are on the disk, or moved
        self._queued = threading.Condition()  # some part's copy
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="mover", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Called under no lock; the thread ends when its step is done."""
        with self.lock:
            self._closing = True
            self.lock.notify_all()
        self._thread.join()

    def let_in(self, request: Request) -> None:
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

    def let_read(self) -> None:
        """Under the lock: call the readers whose sessions' bytes can be read now, or never."""
        waiting = []
        for residence, read in self.readers:
            body = residence.body
            on_disk = body.disk_bytes and body.moving != "spill"
            if not residence.released and (on_disk or body.moving == "across"):
                waiting.append((residence, read))
            else:
                read()
        self.readers = waiting

    # -- the mover's thread ----------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            with self.lock:
                while not (self._closing or self.written or (step := self._next())):
                    self.lock.wait()
                if self._closing:
                    return
                if self.written:
                    step = self.written.popleft()
                residence = step.request.residence if isinstance(step, Grant) else getattr(step, "residence", None)
                if isinstance(step, Move):
                    self._begin(step)
            try:
                self._carry_out(step)
            except Exception as error:  # a defect must not end the thread that all sessions share; it is reported
                log.exception("paging failed")
                self._fail(residence, ServerFault(f"paging failed: {type(error).__name__}: {error}"))

    def _next(self) -> Step | None:
        """Under the lock: what the policy decides. A defect in it fails those who wait, or it would meet them again."""
        try:
            return policy.next_step(self.book)
        except Exception as error:
            log.exception("the paging policy failed")
            for request in list(self.book.waiting):
                self._fail(request.residence, ServerFault(f"paging failed: {type(error).__name__}: {error}"))
            return None

    def _begin(self, move: Move) -> None:
        """Under the lock still: who comes back is not resident, and has a gate before each part."""
        if move.transfer.direction != "out" and move.transfer.moves:
            move.residence.resident.clear()
            move.residence.gates = {key: PartGate(self._queued) for key, _ in move.transfer.moves}

    def _carry_out(self, step: Step | Written) -> None:
        match step:
            case Written():
                self._mirror(step)
            case Move(transfer=transfer, residence=residence, request=request):
                if transfer.direction == "out":
                    self.moved["evictions"] += 1
                    if transfer.moves or residence.body.pins > 1:
                        self._queue_out(transfer, f"evict {residence.key[:8]}", ("evicted_bytes",))
                    else:  # the host holds every byte, and no copy is under way that says so too early
                        self._end(transfer, ())
                else:
                    self._queue_in(transfer, residence, request)
            case Grant(request=request):
                with self.lock:
                    self.let_in(request)
                request.then(None)
            case Refuse(request=request, error=error):
                with self.lock:
                    self.book.withdraw(request)
                request.then(error)
            case Spill(body=body):
                parts = self.layout.host_parts(body)
                self.disk.write(str(body.serial), parts, partial(self._spilled, body))
            case Fetch(body=body):
                parts = self.layout.host_parts(body)
                self.disk.read(str(body.serial), parts, partial(self._fetched, body))

    def _mirror(self, item: Written) -> None:
        with self.lock:
            residence = item.residence
            body = residence.body
            part = body.parts.get(item.key)
            if residence.released or body.epoch != item.epoch or not (part and part.device):
                return
            transfer = moves.begin_mirror(self.book, residence, item.key, item.live)
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
            self.let_in(request)
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
            self.let_read()
            self.lock.notify_all()

    def _spilled(self, body: Body, error: OSError | None) -> None:
        with self.lock:
            if error:
                spills.cancel_spill(self.book, body)
            else:
                self.moved["spilled_bytes"] += body.live_bytes
                spills.end_spill(self.book, body)
            self.forget_file(body)
            self.lock.notify_all()

    def _fetched(self, body: Body, error: OSError | None) -> None:
        sharers = list(body.sharers)
        with self.lock:
            spills.end_fetch(self.book, body)
            for residence in sharers if error else ():
                self._fail(residence, ServerFault(f"the session's file could not be read back: {error}"))
            self.let_read()
            self.lock.notify_all()

    def forget_file(self, body: Body) -> None:
        if self.disk and not body.sharers and not body.pins:
            self.disk.forget(str(body.serial))

    def _fail(self, residence: Residence | None, error: DjinnError) -> None:
        """What cannot go on is failed by name; nobody else is harmed. One that runs fails at the gate, and is ended there."""
        if residence is None:
            return
        with self.lock:
            request = residence.waiting
            for gate in residence.gates.values():
                gate.open(error)
            residence.resident.set()
            if not residence.granted and residence.machine.state not in END:
                residence.machine.move(State.FAILED)
                self.book.release(residence)
            self.lock.notify_all()
        if request:
            request.then(error)
