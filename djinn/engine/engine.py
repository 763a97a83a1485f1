"""The sessions of a server, and what may be asked of them. What computes is handed to the compute thread."""

from __future__ import annotations

import secrets
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch

from djinn.engine.checks import Limits, check_stands, check_work
from djinn.engine.compute import Compute
from djinn.engine.keeper import Keeper
from djinn.engine.needs import give_back, request_of
from djinn.engine.runner import Runner
from djinn.engine.scheduler import Scheduler
from djinn.engine.session import Ended, Session, Work
from djinn.errors import (
    BadRequest,
    DjinnError,
    Draining,
    IllegalMove,
    NoSuchSession,
    StateRefused,
)
from djinn.model.slabs import SlabCache
from djinn.paging.pager import Pager
from djinn.paging.residence import Residence
from djinn.states import END, Machine, State
from djinn.timeline import Span

Gone = Callable[[DjinnError | None], None]
REMEMBERED = 1000  # ended sessions whose end can still be told
NOT_KEPT = "nothing is kept there any more: the pause is over, or the checkpoint was discarded"


class Engine:
    def __init__(
        self,
        runner: Runner,
        scheduler: Scheduler,
        pager: Pager,
        vocabulary: int,
        max_tokens: int,
        keeper: Keeper | None = None,
        parts_first: bool = True,
    ) -> None:
        """keeper: None without a state directory; the sessions that it finds there are open from the start.

        parts_first: a session is READY with what its next layer needs; else when all of it is back.
        """
        self.scheduler, self.pager, self.keeper, self.side = scheduler, pager, keeper, runner.side
        self.parts_first = parts_first
        self.lock = pager.lock  # while it is held no session changes its state
        self.limits = Limits(pager.shape.layers, pager.shape.hidden_size, vocabulary, max_tokens)
        self.sessions = {session.key: session for session in keeper.recover()} if keeper else {}
        self._ended: dict[str, Ended] = {}
        self._draining = False
        self.compute = Compute(runner, scheduler, pager)

    def open(self, owner: str = "") -> Session:
        self._check_open()
        key = secrets.token_hex(16)
        session = Session(key, Residence(key, Machine()), SlabCache(self.limits.depth), owner)
        self.pager.open(session.residence)
        self.sessions[key] = session
        return session

    def fork(self, session: Session) -> Session:
        """Another of the same owner that stands where it does. Nothing is copied until one of them goes on."""
        with self.lock:
            self._check_open()
            self._check_stands(session)
            child = session.fork(secrets.token_hex(16))
            self.pager.fork(session.residence, child.residence)
            self.sessions[child.key] = child
            return child

    def find(self, key: str, owner: str = "") -> Session:
        """Raises NoSuchSession, saying how the session ended if it did so here; another's is as if it were not there."""
        session, ended = self.sessions.get(key), self._ended.get(key)
        if session is not None and session.owner == owner:
            return session
        if ended is not None and ended.owner == owner:
            how = f"{ended.machine.state}: {ended.why}" if ended.why else ended.machine.state
            raise NoSuchSession(f"the session is over ({how}): open() begins another")
        if session is None and self.keeper and key in self.keeper.refused:
            raise StateRefused(f"the session was not brought back: {self.keeper.refused[key]}")
        raise NoSuchSession(
            f"no session {key[:8]}… of yours is here: it was closed long ago, belongs to another server, or was opened "
            "with another key or token"
        )

    def machine(self, key: str, owner: str = "") -> Machine:
        """The state machine of a session, of one that ended too."""
        ended = self._ended.get(key)
        return ended.machine if ended is not None and ended.owner == owner else self.find(key, owner).machine

    def submit(self, work: Work) -> None:
        """Check the request, reserve for it and queue it. Raises what is wrong with it; the session is unharmed."""
        session = work.session
        with self.lock:
            self._check_open()
            check_stands(session)
            check_work(session, work, self.limits)
            request = request_of(work, self.pager.shape, self.parts_first)
            if not request.resumed:
                session.machine.move(State.QUEUED)

            def admitted(refusal: DjinnError | None) -> None:
                if refusal:
                    with self.lock:
                        if session.machine.state is State.QUEUED:
                            session.machine.move(State.IDLE)
                    work.reply(refusal)
                else:
                    self.compute.take(work, request)

            request.then = admitted
            self.pager.admit(request)

    def activation(self, session: Session, name: str, give: Callable[[torch.Tensor | DjinnError], None]) -> None:
        """Give a copy of a kept hidden state on the host, `(1, rows, hidden_size)`: now, or when it lies still.

        Looking at a session says that its resume is near: it is brought back where there is room.
        """
        with self.lock:
            self._check_stands(session)
            checkpoint = session.kept().get(name)
            if checkpoint is None:
                raise BadRequest(NOT_KEPT)

            def read(problem: DjinnError | None) -> None:
                if problem:
                    give(problem)
                    return
                if session.residence.released:
                    over = IllegalMove(f"the session was {session.machine.state} before its activation was read")
                    give(session.residence.lost or over)  # where a copy broke it, that is what is told
                    return
                if name not in session.kept():  # discarded while it was waited for
                    give(BadRequest(NOT_KEPT))
                    return
                hidden = self.pager.layout.hidden_wherever(session.residence, name, len(checkpoint.ids))
                give(self.side.copy(hidden))

            self.pager.look(session.residence, read)

    def discard(self, session: Session, name: str) -> None:
        """Forget a checkpoint. Its memory is free at once, or when the copy under way has ended."""
        with self.lock:
            self._check_stands(session)
            if session.pause and session.pause.name == name:
                raise BadRequest("the session stands at this pause and needs its state: resume() it, or cancel()")
            if session.checkpoints.pop(name, None) is None:
                raise BadRequest(NOT_KEPT)
            give_back(self.pager, session)

    def park(self, session: Session) -> None:
        with self.lock:
            self._check_stands(session)
            if session.residence.body.parts:
                self.pager.park(session.residence)

    def park_durably(self, session: Session, then: Callable[[DjinnError | None], None]) -> None:
        """Park it and write it to the state directory. `then` is called once: durable, or why not; it is parked then."""
        if self.keeper is None:
            raise BadRequest("durable parking needs a place for its files: start the server with --state-dir FOLDER")
        with self.lock:
            self._check_stands(session)
            self.keeper.park(session, then)

    def end(self, session: Session, state: State, why: str = "", gone: Gone = lambda problem: None) -> None:
        """Close or cancel: memory goes back now, or after the pass that is running. `why` is told to who asks later.

        gone: called once, when its durable file is gone too, or with why it is not: from then on it cannot come back.
        """
        with self.lock:
            if not self.compute.end(session, state) and session.machine.state not in END:
                session.machine.move(state)
                self.pager.release(session.residence)
            self.sessions.pop(session.key, None)
            self._ended[session.key] = Ended(session.owner, session.machine, why)
            if len(self._ended) > REMEMBERED:
                self._ended.pop(next(iter(self._ended)))
            if self.keeper:  # last: its file may not go, and the session is over all the same
                self.keeper.forget(session, gone)
            else:
                gone(None)

    def close(self, key: str, owner: str = "", gone: Gone = lambda problem: None) -> None:
        """End a session for good; one that ended already is left as it is, and so is another's. gone: as for `end`."""
        session = self.sessions.get(key)
        if session is not None and session.owner == owner:
            self.end(session, State.DONE, gone=gone)
        else:
            gone(None)

    def take_no_more(self) -> None:
        """From now on every new request is refused: the server is going."""
        self._draining = True

    def _check_open(self) -> None:
        if self._draining:
            raise Draining(
                "the server is shutting down and takes no new requests: ask again when it has been restarted"
            )

    def _check_stands(self, session: Session) -> None:
        if self._draining and session.residence.saving:  # by the drain: its owner has no such call to wait for
            self._check_open()
        check_stands(session)

    def busy(self) -> bool:
        """Whether a request is under way."""
        with self.lock:
            asks = any(s.residence.waiting or s.residence.granted for s in self.sessions.values())
            return asks or self.compute.busy()

    def hurry(self) -> None:
        """Requests under way end now: those that wait are refused, those that run stop behind the pass at hand."""
        self.compute.hurry()
        self.pager.refuse_waiting()

    def stats(self) -> dict[str, Any]:
        """Bytes by tier and moved since the start, sessions by state, waits of the compute by name: how often, how long."""
        states = Counter(str(s.machine.state) for s in list(self.sessions.values()))
        device = self.pager.device
        waits = dict(device.waited) | {f"{name}_ns": ns for name, ns in device.waited_ns.items()}
        return {**self.pager.usage(), "sessions": dict(states), "waits": waits}

    def spans(self) -> list[Span]:
        """What the device and the streams did, and in which state each session was when: for a timeline."""
        machines = {key: each.machine for key, each in (*list(self.sessions.items()), *list(self._ended.items()))}
        spans, now = self.scheduler.timeline.spans(), time.monotonic_ns()
        for key, machine in machines.items():
            stamps = machine.stamps()
            ends = [at for _, at in stamps[1:]] + [now if machine.state not in END else stamps[-1][1]]
            for (state, start), end in zip(stamps, ends, strict=True):
                spans.append((f"session {key[:8]}", state, start, end, {}))
        return spans
