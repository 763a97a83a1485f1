"""What follows when a copy or a file has ended, well or badly: the accounts, the states, who is told.

Called on the streams' and the files' threads; whatever goes wrong is told to the one concerned, typed, and harms no other.
"""

from __future__ import annotations

import errno
import logging
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from djinn.errors import DjinnError, IllegalMove, OutOfMemory, ServerFault, StateRefused, StorageError
from djinn.paging import saves, spills
from djinn.paging.bell import Bell
from djinn.paging.ledger import Ledger
from djinn.paging.readers import Readers
from djinn.paging.residence import Body, Request, Residence, Saving
from djinn.paging.transfers import Transfer
from djinn.states import END, State
from djinn.tiers.disk import Disk

log = logging.getLogger(__name__)


class Endings:
    def __init__(self, book: Ledger, disk: Disk | None, lock: Bell) -> None:
        self.book, self.disk, self.lock = book, disk, lock
        self.moved: Counter[str] = Counter()  # bytes and times, by kind
        self.readers = Readers()

    def let_in(self, request: Request) -> None:
        """Under the lock: the session is READY (a new one stays QUEUED until it runs)."""
        residence = request.residence
        now = time.monotonic_ns()
        if residence.machine.state is not State.QUEUED:
            now = residence.machine.move(State.READY)
        self.book.let_in(request)  # behind the move: where that is refused, the request waits still, and is answered
        residence.stamps.clear()
        residence.stamps["ready"] = now
        if residence.body.here:
            residence.stamps["resident"] = now
            residence.arrived()
            residence.gates = {}

    # -- called when a copy has completed, or failed, on a stream's thread ------------------------------------

    @contextmanager
    def _telling(self, residence: Residence) -> Iterator[None]:
        """Under the lock. A defect here fails who the copy was for, or who waits for that would wait for ever."""
        with self.lock:
            try:
                yield
            except Exception as error:
                self._fail_all(residence, ServerFault(f"paging failed: {type(error).__name__}: {error}"))
                raise  # to be logged by the thread that called

    def first_is_here(self, transfer: Transfer, request: Request, problem: Exception | None) -> None:
        with self._telling(request.residence):
            transfer.problem = transfer.problem or problem
            if request.residence.waiting is not request or transfer.problem:
                return  # closed meanwhile; or it is told with the rest
            self.let_in(request)
        request.then(None)

    def landed(self, transfer: Transfer, residence: Residence, problem: Exception | None) -> None:
        problem = transfer.problem or problem
        with self._telling(residence):
            if problem:
                self._did_not_land(transfer, residence, problem)
                return
            residence.stamps["resident"] = time.monotonic_ns()
            self._end(transfer, ("restored_bytes",) if transfer.direction == "in" else ())
            residence.arrived()
            self.lock.notify_all()

    def _did_not_land(self, transfer: Transfer, residence: Residence, problem: Exception) -> None:
        """Under the lock: where nothing of it runs yet the session is where it was; else it is lost."""
        log.error("a copy to the device failed", exc_info=problem)
        said = f"a copy to the device failed: {type(problem).__name__}: {problem}"
        waits = all(sharer.machine.state is State.RESTORING for sharer in residence.body.sharers)
        if transfer.cancel and waits:
            transfer.cancel()
            self.refuse(residence, StorageError(f"{said}. The session is in host memory as before: ask again"))
            self.readers.call()
        else:
            self._fail_all(residence, ServerFault(said))
            self._end(transfer, ())
        self.lock.notify_all()

    def left(self, transfer: Transfer, residence: Residence, mirrored: bool, problem: Exception | None) -> None:
        """mirrored: written through, behind a run; else evicted."""
        problem = transfer.problem or problem
        with self._telling(residence):
            if not problem:
                before, sharers = self.book.free, residence.body.sharers
                self._end(transfer, ("evicted_bytes", "mirrored_bytes") if mirrored else ("evicted_bytes",))
                runs_on = sharers and all(sharer.granted for sharer in sharers)
                # Nothing of one that runs on can be moved. The policy walks all sessions, and a prompt has 40 such copies.
                if not (mirrored and runs_on and self.book.free == before):
                    self.lock.notify_all()
                return
            log.error("copying %s off the device failed: it stays there", residence.key[:8], exc_info=problem)
            transfer.cancel()
            self.readers.call()
            self.lock.notify_all()

    def _end(self, transfer: Transfer, counted: tuple[str, ...]) -> None:
        """Under the lock: the copies have completed, or the session that they were for is lost."""
        for what in counted:
            self.moved[what] += transfer.nbytes
        transfer.end()
        self.readers.call()

    # -- called when a file has been written or read, on its thread --------------------------------------------

    def spilled(self, body: Body, problem: Exception | None) -> None:
        with self.lock:
            if problem:
                spills.cancel_spill(self.book, body)
            else:
                self.moved["spilled_bytes"] += body.live_bytes
                spills.end_spill(self.book, body)
            self.forget_file(body)
            self.lock.notify_all()

    def fetched(self, body: Body, problem: Exception | None) -> None:
        with self.lock:
            if problem:
                self._did_not_come(body, problem)
            else:
                spills.end_fetch(self.book, body)
            self.forget_file(body)
            self.readers.call()
            self.lock.notify_all()

    def _did_not_come(self, body: Body, problem: Exception) -> None:
        """Under the lock: a damaged file's session is lost, any other stays on the disk; who asked for it is told."""
        spills.cancel_fetch(self.book, body)
        damaged = isinstance(problem, StateRefused)
        error = problem
        if not damaged:
            error = StorageError(f"the session's file could not be read: {problem}. It stays on the disk: ask again")
        self.readers.refuse(body, error)
        for residence in list(body.sharers):
            if damaged:
                saves.forget(self.book, residence)
                self.fail(residence, error)
            else:
                self.refuse(residence, error)

    def saved(self, saving: Saving, problem: Exception | None) -> None:
        body = saving.residence.body
        with self.lock:
            spilled = body.disk_bytes and not body.durable
            saves.end(self.book, saving, written=problem is None)
            if spilled and body.durable:
                self.disk.forget(str(body.serial))
            if isinstance(problem, StateRefused):  # its only copy was a file, and that is damaged
                saves.forget(self.book, saving.residence)
                self.fail(saving.residence, problem)
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

    def refuse(self, residence: Residence, error: DjinnError) -> None:
        """Under the lock: what was asked cannot be done; the session is unharmed."""
        if request := residence.waiting:
            self.book.refuse(request)
            request.then(error)

    def refuse_saving(self, residence: Residence, error: DjinnError) -> None:
        """Under the lock: it is over before its durable file was begun."""
        saving = residence.saving
        if saving and not saving.begun:
            saves.withdraw(self.book, saving)
            saving.then(error)

    def _fail_all(self, residence: Residence, error: DjinnError) -> None:
        """Under the lock: with it go the forks that share its bytes."""
        for sharer in list(residence.body.sharers):
            self.fail(sharer, error)

    def fail(self, residence: Residence | None, error: DjinnError) -> None:
        """What cannot go on is failed by name; nobody else is harmed. One that runs fails at a gate, or when its run ends."""
        if residence is None:
            return
        request = None
        try:
            with self.lock:
                request = residence.waiting
                for gate in residence.gates.values():
                    gate.fail(error)
                residence.lost = error
                residence.arrived()
                self.lock.notify_all()
                if not residence.granted and residence.machine.state not in END:
                    residence.machine.move(State.FAILED)
                    self.book.release(residence)
                    self.refuse_saving(residence, error)
        finally:  # who asked is answered even where the accounts refuse
            if request:
                request.then(error)

    def end_lost(self, residence: Residence) -> None:
        """Under the lock: its run is over; what it holds is not all there."""
        if residence.lost:
            self.fail(residence, residence.lost)


def _typed(problem: Exception) -> DjinnError:
    """Why a durable file was not written, for the one who asked for it."""
    if isinstance(problem, DjinnError):
        return problem
    if isinstance(problem, OSError) and problem.errno in (errno.ENOSPC, errno.EDQUOT):
        return OutOfMemory(f"the durable file was not written: {problem.strerror}. Make room in the state directory")
    if isinstance(problem, OSError):
        return StorageError(f"the durable file was not written: {problem}. The session is as it was: park it again")
    return ServerFault(f"the durable file was not written: {type(problem).__name__}: {problem}")
