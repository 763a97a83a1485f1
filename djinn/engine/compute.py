"""The one thread that computes: it begins what was admitted, runs the scheduler's rounds, and ends each request."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable
from functools import partial

from djinn.engine.needs import give_back
from djinn.engine.runner import Runner
from djinn.engine.scheduler import Scheduler
from djinn.engine.session import Outcome, Paused, Result, Session, Work
from djinn.engine.task import Task
from djinn.errors import DjinnError, Draining, IllegalMove, NotFinite, ServerFault
from djinn.paging.pager import Pager
from djinn.paging.residence import Request
from djinn.states import END, State

log = logging.getLogger(__name__)
Due = Callable[[], None]  # a request that begins, or ends, between two rounds


class Compute:
    def __init__(self, runner: Runner, scheduler: Scheduler, pager: Pager) -> None:
        self.runner, self.scheduler, self.pager = runner, scheduler, pager
        self._due: queue.SimpleQueue[Due] = queue.SimpleQueue()
        self._running: dict[str, Work] = {}  # by session; guarded by the pager's lock
        self._hurry = self._closing = False
        self._thread = threading.Thread(target=self._run, name="compute", daemon=True)
        self._thread.start()

    # -- called by other threads ----------------------------------------------------------------------

    def take(self, work: Work, request: Request) -> None:
        """Its session has all that it needs, or gates before what is still on its way."""
        self._due.put(partial(self._begin, work, request))

    def end(self, session: Session, state: State) -> bool:
        """Whether the session runs: then it ends so behind the pass at hand, and gives its memory back."""
        with self.pager.lock:
            work = self._running.get(session.key)
            if work:
                work.ends = state
            return work is not None

    def busy(self) -> bool:
        """Whether a request runs, be it of a session that was ended meanwhile: it is answered behind its pass."""
        with self.pager.lock:
            return bool(self._running)

    def hurry(self) -> None:
        """What runs, or begins to from now on, stops behind the pass at hand."""
        with self.pager.lock:
            self._hurry = True
            for work in self._running.values():
                work.stopped = True

    def shut_down(self) -> None:
        self._due.put(self._close)
        self._thread.join()

    # -- the compute thread ---------------------------------------------------------------------------

    def _close(self) -> None:
        self._closing = True

    def _run(self) -> None:
        while not self._closing:
            if due := self._next_due():
                due()
            elif ended := self.scheduler.round(lambda: not self._due.empty()):
                # At once: behind each by itself the mover would ask the policy, which walks all sessions, beside the others.
                with self.pager.lock:
                    for task in ended:
                        self._end(task.work, task.result or task.error, changed=True)

    def _next_due(self) -> Due | None:
        """Who begins or ends next; None: nobody, before there is a pass to run."""
        patience = self.scheduler.patience()
        try:
            return self._due.get(patience != 0, patience)
        except queue.Empty:
            return None

    def _begin(self, work: Work, request: Request) -> None:
        with self.pager.lock:
            over = work.session.machine.state in END
            if not over:
                work.session.machine.move(State.RUNNING)
                self._running[work.session.key] = work
                work.stopped = self._hurry
        if over:
            work.reply(IllegalMove(f"the session was {work.session.machine.state}"))
            return
        try:
            given = self.runner.prepare(work)
        except Exception as error:  # noqa: BLE001  told to the one who asked, and logged where it is a defect
            self._end(work, error, changed=False)
            return
        self.scheduler.add(Task(work, request.rank, self.runner.steps(work, given)))

    def _end(self, work: Work, result: Result | Exception, changed: bool) -> None:
        """The session stands still again, and the client is told; one whose pass broke off half-way is lost."""
        if isinstance(result, Outcome):
            if self._comes_later(work, result):
                return
            result = self._stamped(work, result)
        if isinstance(result, NotFinite | Draining):
            changed = False  # between two passes: the session is whole
        if not isinstance(result, Paused | Outcome | DjinnError):
            log.error("a request failed", exc_info=result)
            result = ServerFault(f"{type(result).__name__}: {result}")
        session, refused = work.session, isinstance(result, DjinnError)
        with self.pager.lock:
            del self._running[session.key]
            if work.ends or (refused and changed):
                session.machine.move(work.ends or State.FAILED)
                self.pager.release(session.residence)
            else:
                for name in work.checkpoint_names.values() if refused else ():  # the client will never learn of them
                    session.checkpoints.pop(name, None)
                give_back(self.pager, session)
                session.machine.move(State.PAUSED if session.pause else State.IDLE)
                self.pager.stopped(session.residence)
        work.reply(result)

    def _comes_later(self, work: Work, result: Outcome) -> bool:
        """Whether some of its session is still on its way, of which its passes read nothing: then it ends behind that."""
        residence = work.session.residence
        with self.pager.lock:
            if residence.resident.is_set():
                return False
            residence.awaited.append(lambda: self._due.put(partial(self._end, work, result, changed=True)))
            return True

    @staticmethod
    def _stamped(work: Work, result: Outcome) -> Outcome | DjinnError:
        residence = work.session.residence
        if residence.lost:
            return residence.lost
        result.stamps["resident"] = residence.stamps["resident"]
        result.stamps["done"] = time.monotonic_ns()
        return result
