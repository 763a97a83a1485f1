"""Sessions, what may be asked of them, and the compute thread."""

from __future__ import annotations

import itertools
import logging
import queue
import secrets
import threading
from collections import Counter
from typing import Any

import torch

from djinn.engine.checks import Limits, check_stands, check_work
from djinn.engine.runner import Runner
from djinn.engine.session import Result, Session, Work
from djinn.errors import BadRequest, DjinnError, IllegalMove, NoSuchSession, NotFinite, NotYet, ServerFault
from djinn.model.slabs import SlabCache
from djinn.pager import Pager
from djinn.residence import Need, Residence
from djinn.states import END, STOPPED, Machine, State

log = logging.getLogger(__name__)
GROWTH = 32  # tokens: places are reserved in this step, so that a few more tokens do not move a session
RESUMED, NEW = 0, 1  # compute order: sessions that wait with memory in hand come first
REMEMBERED = 1000  # ended sessions whose end can still be told


class Engine:
    def __init__(self, runner: Runner, pager: Pager, vocabulary: int, max_tokens: int) -> None:
        self.runner, self.pager = runner, pager
        self.lock = pager.lock  # while it is held no session changes its state
        self.limits = Limits(pager.shape.layers, pager.shape.hidden_size, vocabulary, max_tokens)
        self.sessions: dict[str, Session] = {}
        self._ended: dict[str, Machine] = {}
        self._order = itertools.count()
        self._queue: queue.PriorityQueue[tuple[int, int, Work | None]] = queue.PriorityQueue()
        self._current: Work | None = None
        self._thread = threading.Thread(target=self._compute, name="compute", daemon=True)
        self._thread.start()

    # -- called by the server's thread ---------------------------------------------------------------

    def open(self) -> Session:
        key = secrets.token_hex(16)
        session = Session(key, Residence(key, self.pager.shape, Machine()), SlabCache(self.limits.depth))
        self.pager.open(session.residence)
        self.sessions[key] = session
        return session

    def find(self, key: str) -> Session:
        """Raises NoSuchSession, saying how the session ended if it did so here."""
        if key in self.sessions:
            return self.sessions[key]
        if key in self._ended:
            raise NoSuchSession(f"the session is over ({self._ended[key].state}): open() begins another")
        raise NoSuchSession(f"no session {key[:8]}…: it was closed long ago, or belongs to another server")

    def machine(self, key: str) -> Machine:
        """The state machine of a session, of one that ended too."""
        return self._ended[key] if key in self._ended else self.find(key).machine

    def submit(self, work: Work) -> None:
        """Check the request, reserve for it and queue it. Raises what is wrong with it; the session is unharmed."""
        session = work.session
        with self.lock:
            check_stands(session)
            check_work(session, work, self.limits)
            need = self._need(session, work)
            session.residence.stamps.clear()
            if work.rewind:
                session.residence.hidden_suffices = False
            fresh = not session.residence.slabs and session.residence.host is None
            if fresh:
                session.machine.move(State.QUEUED)
            session.residence.wanted = True

        def admitted(refusal: DjinnError | None) -> None:
            if refusal:
                if fresh and session.machine.state is State.QUEUED:
                    session.machine.move(State.IDLE)
                work.reply(refusal)
            else:
                self._queue.put((NEW if fresh else RESUMED, next(self._order), work))

        self.pager.admit(session.residence, need, admitted)

    def activation(self, session: Session, name: str) -> torch.Tensor:
        """A kept hidden state, float32 on the host `(1, rows, hidden_size)`."""
        with self.lock:
            check_stands(session)
            if name not in session.kept():
                raise BadRequest("nothing is kept there any more: the pause is over, or the checkpoint was discarded")
            return self.pager.layout.hidden(session.residence, name).to("cpu", torch.float32, copy=True)

    def discard(self, session: Session, name: str) -> None:
        """Forget a checkpoint. Its memory is free at once, or when the session is next on the device."""
        with self.lock:
            check_stands(session)
            if session.pause and session.pause.name == name:
                raise BadRequest("the session stands at this pause and needs its state: resume() it, or cancel()")
            if session.checkpoints.pop(name, None) is None:
                raise BadRequest("nothing is kept there any more: the pause is over, or the checkpoint was discarded")
            still = session.machine.state in STOPPED | {State.IO_WAIT} and not session.residence.moving
            if still and session.residence.host is None:  # packed on the host, it holds the others' places
                self._give_back(session)

    def park(self, session: Session, durable: bool) -> None:
        if durable:
            raise NotYet("durable parking is not built yet: park() keeps the session in host memory")
        with self.lock:
            check_stands(session)
        if session.residence.slabs:
            self.pager.park(session.residence)

    def end(self, session: Session, state: State) -> None:
        """Close or cancel: memory goes back now, or after the pass that is running."""
        with self.lock:
            if self._current is not None and self._current.session is session:
                self._current.cancelled = True
            elif session.machine.state not in END:
                session.machine.move(state)
                self.pager.release(session.residence)
            self.sessions.pop(session.key, None)
            self._ended[session.key] = session.machine
            if len(self._ended) > REMEMBERED:
                self._ended.pop(next(iter(self._ended)))

    def close(self, key: str) -> None:
        """End a session for good; one that ended already is left as it is."""
        if key in self.sessions:
            self.end(self.sessions[key], State.DONE)

    def stats(self) -> dict[str, Any]:
        states = Counter(str(s.machine.state) for s in list(self.sessions.values()))
        return {**self.pager.usage(), "sessions": dict(states)}

    def shut_down(self) -> None:
        self._queue.put((RESUMED - 1, 0, None))
        self._thread.join()

    def _need(self, session: Session, work: Work) -> Need:
        """What must be on the device: the tokens it will hold, or holds now (a rewind may go back), and hidden states."""
        tokens = max(work.past() + work.rows() + work.max_new_tokens, *session.residence.lengths, 0)
        if work.break_at is not None:
            work.pause_name = session.name("pause")
            last = work.fed() or work.resume_from.ids if work.break_token is None else (0,)
            work.keeps[work.pause_name] = len(last)
        for layer in work.checkpoint_at:
            work.checkpoint_names[layer] = session.name(f"checkpoint@{layer}")
            work.keeps[work.checkpoint_names[layer]] = work.rows()
        return Need(-(-tokens // GROWTH) * GROWTH, work.keeps)

    # -- the compute thread ---------------------------------------------------------------------------

    def _compute(self) -> None:
        while (work := self._queue.get()[2]) is not None:
            work.reply(self._carry_out(work))

    def _carry_out(self, work: Work) -> Result:
        with self.lock:
            if work.session.machine.state in END:
                return IllegalMove(f"the session was {work.session.machine.state}")
            work.session.machine.move(State.RUNNING)
            self._current = work
        changed = False
        try:
            given = self.runner.prepare(work)
            changed = True
            result: Result = self.runner.run(work, given)
        except NotFinite as error:  # between two passes: the session is whole
            changed, result = False, error
        except DjinnError as error:
            result = error
        except Exception as error:  # a defect must not take the other sessions' thread with it; it is reported
            log.exception("request failed")
            result = ServerFault(f"{type(error).__name__}: {error}")
        work.session.residence.resident.wait()  # a session that stands still has all of its KV in one place
        self._stand(work, isinstance(result, DjinnError), changed)
        return result

    def _stand(self, work: Work, refused: bool, changed: bool) -> None:
        """The session stands still again; one whose pass broke off half-way is lost."""
        session = work.session
        with self.lock:
            self._current = None
            if work.cancelled or (refused and changed):
                session.machine.move(State.CANCELLED if work.cancelled else State.FAILED)
                self.pager.release(session.residence)
                return
            for name in work.checkpoint_names.values() if refused else ():  # the client will never learn of them
                session.checkpoints.pop(name, None)
            self._give_back(session)
            session.machine.move(State.PAUSED if session.pause else State.IDLE)
            self.pager.stopped(session.residence)

    def _give_back(self, session: Session) -> None:
        """Hidden states that nothing can go on from any more: reserved in vain, resumed, overtaken or discarded."""
        for name in session.residence.kept.keys() - session.kept():
            self.pager.drop(session.residence, name)
