"""The thread that carries out what the policy decides: it queues copies on the device's streams and the disk, and waits for none.

It asks for the next step whenever something has changed. What follows a copy is done when the copy has completed, on its
stream's thread, under the lock that guards the ledger; nothing is copied under it.
"""

from __future__ import annotations

import errno
import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch

from djinn.errors import DjinnError, IllegalMove, OutOfMemory, ServerFault, StateRefused, StorageError
from djinn.paging import moves, policy, saves, spills
from djinn.paging.decisions import Fetch, Grant, Move, Refuse, RefuseSave, Save, Spill, Step
from djinn.paging.gate import PartGate
from djinn.paging.layout import Layout
from djinn.paging.ledger import Ledger
from djinn.paging.moves import Transfer
from djinn.paging.residence import Body, Key, Request, Residence, Saving
from djinn.states import END, State
from djinn.tiers.disk import Disk
from djinn.tiers.streams import Device, Mark, Wait

log = logging.getLogger(__name__)
Reader = Callable[[DjinnError | None], None]  # the bytes can be read now, or why they never can
Buffer = memoryview | bytes


@dataclass(frozen=True)
class Written:
    """A run wrote the first `live` bytes of a part; they are there when `mark` is reached."""

    residence: Residence
    key: Key
    live: int
    epoch: int
    mark: Mark


class DurableFiles(Protocol):
    """Sessions' durable files, by the session's key. Both raise OSError, and StateRefused for a damaged file."""

    def read(self, key: str, pages: Sequence[Sequence[torch.Tensor]]) -> None:
        """Fill host bytes with the session's pages."""

    def pages(self, key: str) -> Iterator[Iterator[bytes]]:
        """The same in pieces, read when they are asked for."""


class Mover:
    def __init__(
        self,
        book: Ledger,
        layout: Layout,
        device: Device,
        disk: Disk | None,
        durable: DurableFiles | None,
        lock: threading.Condition,
    ) -> None:
        self.book, self.layout, self.device, self.disk, self.durable = book, layout, device, disk, durable
        self.lock = lock
        self.moved: Counter[str] = Counter()  # bytes and times, by kind
        self.written: deque[Written] = deque()
        self.readers: list[tuple[Residence, Reader]] = []  # of sessions that are on the disk, or moved
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
                read(None)
        self.readers = waiting

    def refuse_readers(self, body: Body, error: DjinnError) -> None:
        """Under the lock: the bytes could not be read back."""
        refused = [read for residence, read in self.readers if residence.body is body]
        self.readers = [(residence, read) for residence, read in self.readers if residence.body is not body]
        for read in refused:
            read(error)

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
            move.residence.gates = {key: PartGate() for key, _ in move.transfer.moves}

    def _carry_out(self, step: Step | Written) -> None:
        match step:
            case Written():
                self._mirror(step)
            case Move(transfer=transfer, residence=residence, request=request):
                if transfer.direction == "out":
                    self._queue_out(transfer, residence, f"evict {residence.key[:8]}", ("evicted_bytes",))
                    self.moved["evictions"] += 1
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
                self.disk.write(str(body.serial), self.layout.host_pages(body), partial(self._spilled, body))
            case Fetch(body=body):
                self._queue_fetch(body)
            case Save(saving=saving):
                saving.write(self._pages(saving.residence), partial(self._saved, saving))
            case RefuseSave(saving=saving, error=error):
                with self.lock:
                    saves.withdraw(self.book, saving)
                saving.then(error)

    def _queue_fetch(self, body: Body) -> None:
        pages = self.layout.host_pages(body)
        done = partial(self._fetched, body)
        if body.durable:
            key = body.sharers[0].key
            self.disk.run("read", pages, lambda: self.durable.read(key, pages), done)
        else:
            self.disk.read(str(body.serial), pages, done)

    def _pages(self, residence: Residence) -> Iterable[Iterable[Buffer]]:
        """What a session's file holds, from where its bytes lie: the host pool, or another file."""
        body = residence.body
        parts = [part for part in body.parts.values() if part.live]
        if body.durable:
            pages = self.durable.pages(residence.key)
        elif body.disk_bytes:
            pages = self.disk.pieces(str(body.serial), [part.live for part in parts])
        else:
            pages = ([memoryview(piece.numpy()) for piece in page] for page in self.layout.host_pages(body))
        return (page for page, part in zip(pages, parts, strict=True) if not part.dropped)

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
            name = f"write through {residence.key[:8]}"
            self._queue_out(transfer, residence, name, ("evicted_bytes", "mirrored_bytes"))

    def _queue_out(self, transfer: Transfer, residence: Residence, name: str, counted: tuple[str, ...]) -> None:
        try:
            for _, pieces in transfer.moves:
                self.device.out.copy(name, self.layout.copies("out", pieces))
        except Exception as error:  # noqa: BLE001  what is queued must end first; then it is told
            transfer.problem = error
        self.device.out.call(partial(self._left, transfer, residence, counted), Wait.FREE_AFTER_OUT)

    def _queue_in(self, transfer: Transfer, residence: Residence, request: Request | None) -> None:
        if not transfer.moves:
            self._landed(transfer, residence, None)
            return
        waited = {key for key, _ in transfer.moves}
        early = request is not None and request.first is not None and transfer.direction == "in"
        if early:
            waited &= request.first
        if early and not waited:
            self._first_is_here(transfer, request, None)
        name = f"{'restore' if transfer.direction == 'in' else 'grow'} {residence.key[:8]}"
        try:
            for key, pieces in transfer.moves:
                self.device.into.copy(name, self.layout.copies(transfer.direction, pieces))
                residence.gates[key].open(self.device.into.mark())
                waited.discard(key)
                if early and not waited:
                    self.device.into.call(partial(self._first_is_here, transfer, request), Wait.READY_AFTER_IN)
                    early = False
        except Exception as error:  # noqa: BLE001  as above
            transfer.problem = error
        self.moved["restores"] += transfer.direction == "in"
        self.device.into.call(partial(self._landed, transfer, residence), Wait.FREE_AFTER_IN)

    # -- called when a copy has completed, or failed, on a stream's thread ------------------------------------

    def _first_is_here(self, transfer: Transfer, request: Request, problem: Exception | None) -> None:
        with self.lock:
            transfer.problem = transfer.problem or problem
            if request.residence.waiting is not request or transfer.problem:
                return  # closed meanwhile; or it is told with the rest
            self.let_in(request)
        request.then(None)

    def _landed(self, transfer: Transfer, residence: Residence, problem: Exception | None) -> None:
        problem = transfer.problem or problem
        with self.lock:
            if problem:
                self._did_not_land(transfer, residence, problem)
                return
            residence.stamps["resident"] = time.monotonic_ns()
            self._end(transfer, ("restored_bytes" if transfer.direction == "in" else "relocated_bytes",))
            residence.resident.set()

    def _did_not_land(self, transfer: Transfer, residence: Residence, problem: Exception) -> None:
        """Under the lock: where nothing of it runs yet the session is where it was; else it is lost."""
        log.error("a copy to the device failed", exc_info=problem)
        said = f"a copy to the device failed: {type(problem).__name__}: {problem}"
        waits = all(sharer.machine.state is State.RESTORING for sharer in residence.body.sharers)
        if transfer.cancel and waits:
            transfer.cancel()
            self._refuse(residence, StorageError(f"{said}. The session is in host memory as before: ask again"))
            self.let_read()
        else:
            self._fail(residence, ServerFault(said))
            self._end(transfer, ())
        self.lock.notify_all()

    def _left(
        self, transfer: Transfer, residence: Residence, counted: tuple[str, ...], problem: Exception | None
    ) -> None:
        problem = transfer.problem or problem
        with self.lock:
            if not problem:
                self._end(transfer, counted)
                return
            log.error("copying %s off the device failed: it stays there", residence.key[:8], exc_info=problem)
            transfer.cancel()
            self.let_read()
            self.lock.notify_all()

    def _end(self, transfer: Transfer, counted: tuple[str, ...]) -> None:
        with self.lock:
            for what in counted:
                self.moved[what] += transfer.nbytes
            transfer.end()
            self.let_read()
            self.lock.notify_all()

    # -- called when a file has been written or read, on its thread --------------------------------------------

    def _spilled(self, body: Body, problem: Exception | None) -> None:
        with self.lock:
            if problem:
                spills.cancel_spill(self.book, body)
            else:
                self.moved["spilled_bytes"] += body.live_bytes
                spills.end_spill(self.book, body)
            self.forget_file(body)
            self.lock.notify_all()

    def _fetched(self, body: Body, problem: Exception | None) -> None:
        with self.lock:
            if problem:
                self._did_not_come(body, problem)
            else:
                spills.end_fetch(self.book, body)
            self.forget_file(body)
            self.let_read()
            self.lock.notify_all()

    def _did_not_come(self, body: Body, problem: Exception) -> None:
        """Under the lock: a damaged file's session is lost, any other stays on the disk; who asked for it is told."""
        spills.cancel_fetch(self.book, body)
        damaged = isinstance(problem, StateRefused)
        error = problem
        if not damaged:
            error = StorageError(f"the session's file could not be read: {problem}. It stays on the disk: ask again")
        self.refuse_readers(body, error)
        for residence in list(body.sharers):
            residence.intended = False  # nobody tries again unasked
            if damaged:
                saves.forget(self.book, residence)
                self._fail(residence, error)
            else:
                self._refuse(residence, error)

    def _saved(self, saving: Saving, problem: Exception | None) -> None:
        body = saving.residence.body
        with self.lock:
            spilled = body.disk_bytes and not body.durable
            saves.end(self.book, saving, written=problem is None)
            if spilled and body.durable:
                self.disk.forget(str(body.serial))
            self.forget_file(body)
            if not problem and not saving.abandoned:
                self.moved["saved_bytes"] += saving.nbytes
            self.lock.notify_all()
        if saving.abandoned:
            problem = IllegalMove("the session was closed before its file was written")
        saving.then(_typed(problem) if problem else None)

    def forget_file(self, body: Body) -> None:
        if self.disk and not body.sharers and not body.pins:
            self.disk.forget(str(body.serial))

    def _refuse(self, residence: Residence, error: DjinnError) -> None:
        """Under the lock: what was asked cannot be done; the session is unharmed."""
        if request := residence.waiting:
            self.book.withdraw(request)
            request.then(error)

    def _fail(self, residence: Residence | None, error: DjinnError) -> None:
        """What cannot go on is failed by name; nobody else is harmed. One that runs fails at a gate, or when its run ends."""
        if residence is None:
            return
        with self.lock:
            request = residence.waiting
            for gate in residence.gates.values():
                gate.fail(error)
            residence.resident.set()
            if residence.granted:
                residence.lost = error
            elif residence.machine.state not in END:
                residence.machine.move(State.FAILED)
                self.book.release(residence)
            self.lock.notify_all()
        if request:
            request.then(error)

    def end_lost(self, residence: Residence) -> None:
        """Under the lock: its run is over; what it holds is not all there."""
        if residence.lost:
            self._fail(residence, residence.lost)


def _typed(problem: Exception) -> DjinnError:
    """Why a durable file was not written, for the one who asked for it."""
    if isinstance(problem, DjinnError):
        return problem
    if isinstance(problem, OSError) and problem.errno in (errno.ENOSPC, errno.EDQUOT):
        return OutOfMemory(f"the durable file was not written: {problem.strerror}. Make room in the state directory")
    if isinstance(problem, OSError):
        return StorageError(f"the durable file was not written: {problem}. The session is as it was: park it again")
    return ServerFault(f"the durable file was not written: {type(problem).__name__}: {problem}")
