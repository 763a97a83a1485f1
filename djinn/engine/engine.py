"""Sessions, the checks of what is asked of them, and the compute thread."""

from __future__ import annotations

import itertools
import logging
import queue
import secrets
import threading
from collections import Counter
from typing import Any

import torch

from djinn.engine.edit import check
from djinn.engine.runner import Runner
from djinn.engine.session import Outcome, Paused, Session, Work
from djinn.errors import BadRequest, DjinnError, IllegalMove, NoSuchSession, NotYet, ServerFault
from djinn.model.slabs import SlabCache
from djinn.pager import Pager
from djinn.residence import Need, Residence
from djinn.states import END, WAITING, Machine, State

log = logging.getLogger(__name__)
GROWTH = 32  # tokens: places are reserved in this step, so that a few more tokens do not move a session
RESUMED, NEW = 0, 1  # compute order: sessions that wait with memory in hand come first


class Engine:
    def __init__(self, runner: Runner, pager: Pager, vocabulary: int, max_tokens: int) -> None:
        self.runner, self.pager, self.vocabulary, self.max_tokens = runner, pager, vocabulary, max_tokens
        self.depth = pager.shape.layers
        self.sessions: dict[str, Session] = {}
        self._order = itertools.count()
        self._queue: queue.PriorityQueue[tuple[int, int, Work | None]] = queue.PriorityQueue()
        self._current: Work | None = None
        self._thread = threading.Thread(target=self._compute, name="compute", daemon=True)
        self._thread.start()

    # -- called by the server's thread ---------------------------------------------------------------

    def open(self) -> Session:
        key = secrets.token_hex(16)
        session = Session(key, Residence(key, self.pager.shape, Machine()), SlabCache(self.depth))
        self.pager.open(session.residence)
        self.sessions[key] = session
        return session

    def find(self, key: str) -> Session:
        if key not in self.sessions:
            raise NoSuchSession(f"no session {key[:8]}…: it was closed, or belongs to another server")
        return self.sessions[key]

    def submit(self, work: Work) -> None:
        """Check the request, reserve for it and queue it. Raises what is wrong with it; the session is unharmed."""
        session = work.session
        with self.pager.lock:
            if session.machine.state not in WAITING or session.residence.wanted:
                raise IllegalMove(
                    f"the session is {session.machine.state}: wait for its request to end, or cancel() it"
                )
            self._check(session, work)
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
        with self.pager.lock:
            if session.machine.state not in WAITING:
                raise IllegalMove(
                    f"the session is {session.machine.state}: an activation can be read while it is stopped"
                )
            if name not in session.residence.kept:
                raise BadRequest("that pause is over: its activation went on with the forward pass")
            return self.pager.layout.hidden(session.residence, name).to("cpu", torch.float32, copy=True)

    def park(self, session: Session, durable: bool) -> None:
        if durable:
            raise NotYet("durable parking is not built yet: park() keeps the session in host memory")
        if session.machine.state not in WAITING or session.residence.wanted:
            raise IllegalMove(f"the session is {session.machine.state}: only a paused or idle one can be parked")
        if session.residence.slabs:
            self.pager.park(session.residence)

    def end(self, session: Session, state: State) -> None:
        """Close or cancel: memory goes back now, or after the pass that is running."""
        with self.pager.lock:
            if self._current is not None and self._current.session is session:
                self._current.cancelled = True
            elif session.machine.state not in END:
                session.machine.move(state)
                self.pager.release(session.residence)
            self.sessions.pop(session.key, None)

    def stats(self) -> dict[str, Any]:
        states = Counter(str(s.machine.state) for s in list(self.sessions.values()))
        return {**self.pager.usage(), "sessions": dict(states)}

    def shut_down(self) -> None:
        self._queue.put((RESUMED - 1, 0, None))
        self._thread.join()

    # -- checks ---------------------------------------------------------------------------------------

    def _check(self, session: Session, work: Work) -> None:
        for layer in (work.break_at, *work.checkpoint_at):
            if layer is not None and not 1 <= layer <= self.depth:
                raise BadRequest(f"layer {layer} is outside 1..{self.depth}, the layers of this model")
        if work.checkpoint_at and work.break_at is not None:
            raise BadRequest("checkpoint_at runs on, break_at stops: give one of them")
        if work.max_new_tokens < 0:
            raise BadRequest(f"max_new_tokens is {work.max_new_tokens}: give 0 or more")
        if work.break_token is not None and not (work.break_at and 1 <= work.break_token <= work.max_new_tokens):
            raise BadRequest(f"break_token={work.break_token} needs break_at and max_new_tokens of at least as many")
        wrong = [i for i in work.ids if not 0 <= i < self.vocabulary]
        if wrong:
            raise BadRequest(f"token id {wrong[0]} is outside 0..{self.vocabulary - 1}, the vocabulary")
        total = session.length + len(work.ids) + work.max_new_tokens
        if total > self.max_tokens:
            raise BadRequest(f"{total} tokens are more than this server's {self.max_tokens}")
        source = work.resume_from
        if source is None:
            if session.pause:
                raise IllegalMove("the session is paused inside a forward pass: resume() it first")
            if not (work.ids or session.unfed or session.last_logits is not None):
                raise BadRequest("an empty prompt: give at least one token")
            return
        if work.break_at is not None and work.break_token is None and work.break_at <= source.layer:
            raise BadRequest(f"break_at={work.break_at} has been passed: this pass stands after layer {source.layer}")
        rows, hidden_size = len(source.ids), self.pager.shape.hidden_size
        if work.activation is not None:
            if tuple(work.activation.shape) != (1, rows, hidden_size):
                raise BadRequest(
                    f"the activation has shape {tuple(work.activation.shape)}, expected (1, {rows}, {hidden_size})"
                )
            if not torch.isfinite(work.activation).all():
                raise BadRequest("the activation holds NaN or infinite numbers")
        for edit in work.edits:
            check(edit, rows, hidden_size)

    def _need(self, session: Session, work: Work) -> Need:
        source = work.resume_from
        rows = len(source.ids) if source else len(work.ids) + len(session.unfed)
        past = source.past if source else session.length
        tokens = past + rows + work.max_new_tokens
        if work.break_at is not None:
            work.pause_name = session.name("pause")
            work.keeps[work.pause_name] = 1 if work.break_token else rows
        for layer in work.checkpoint_at:
            work.keeps[session.name(f"checkpoint@{layer}")] = rows
        return Need(-(-tokens // GROWTH) * GROWTH, work.keeps)

    # -- the compute thread ---------------------------------------------------------------------------

    def _compute(self) -> None:
        while (work := self._queue.get()[2]) is not None:
            self._current = work
            with self.pager.lock:
                live = work.session.machine.state not in END
                if live:
                    work.session.machine.move(State.RUNNING)
            if not live:
                work.reply(IllegalMove(f"the session was {work.session.machine.state}"))
                continue
            try:
                result: Paused | Outcome | DjinnError = self.runner.run(work)
            except DjinnError as error:
                result = error
            except Exception as error:  # a defect must not take the other sessions' thread with it; it is reported
                log.exception("request failed")
                result = ServerFault(f"{type(error).__name__}: {error}")
            self._finish(work, result)
            work.reply(result)

    def _finish(self, work: Work, result: Paused | Outcome | DjinnError) -> None:
        session = work.session
        with self.pager.lock:
            self._current = None
            used = {result.name} if isinstance(result, Paused) else set()
            if isinstance(result, Outcome):
                used |= set(result.checkpoints.values())
            gone = set(work.keeps) - used
            if work.resume_from and work.resume_from.name not in session.checkpoints:
                gone.add(work.resume_from.name)
            for name in gone:
                self.pager.drop(session.residence, name)
            if work.cancelled or isinstance(result, DjinnError):
                session.machine.move(State.CANCELLED if work.cancelled else State.FAILED)
                self.pager.release(session.residence)
                return
            session.machine.move(State.PAUSED if isinstance(result, Paused) else State.IDLE)
            session.residence.hidden_suffices &= isinstance(result, Paused)
            self.pager.stopped(session.residence)
