"""Sessions, what may be asked of them, and the compute thread."""

from __future__ import annotations

import logging
import queue
import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch

from djinn.engine.checks import Limits, check_stands, check_work
from djinn.engine.keeper import Keeper
from djinn.engine.runner import Runner
from djinn.engine.scheduler import Scheduler, Task
from djinn.engine.session import Ended, Outcome, Paused, Result, Session, Work
from djinn.errors import (
    BadRequest,
    DjinnError,
    Draining,
    IllegalMove,
    NoSuchSession,
    NotFinite,
    ServerFault,
    StateRefused,
)
from djinn.model.slabs import SlabCache
from djinn.paging.pager import Pager
from djinn.paging.residence import Key, Request, Residence
from djinn.states import END, Machine, State
from djinn.timeline import Span

log = logging.getLogger(__name__)
REMEMBERED = 1000  # ended sessions whose end can still be told


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
        self.runner, self.scheduler, self.pager, self.keeper = runner, scheduler, pager, keeper
        self.parts_first = parts_first
        self.lock = pager.lock  # while it is held no session changes its state
        self.limits = Limits(pager.shape.layers, pager.shape.hidden_size, vocabulary, max_tokens)
        self.sessions = {session.key: session for session in keeper.recover()} if keeper else {}
        self._ended: dict[str, Ended] = {}
        self._admitted: queue.SimpleQueue[tuple[Work, Request] | None] = queue.SimpleQueue()
        self._running: dict[str, Work] = {}  # by session
        self._draining = self._hurry = False
        self._thread = threading.Thread(target=self._compute, name="compute", daemon=True)
        self._thread.start()

    # -- called by the server's thread ---------------------------------------------------------------

    def open(self, owner: str = "") -> Session:
        self._check_open()
        key = secrets.token_hex(16)
        session = Session(key, Residence(key, Machine()), SlabCache(self.limits.depth), owner)
        self.pager.open(session.residence)
        self.sessions[key] = session
        return session

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
            request = self._request(session, work)
            fresh = not request.resumed
            if fresh:
                session.machine.move(State.QUEUED)

            def admitted(refusal: DjinnError | None) -> None:
                if refusal:
                    with self.lock:
                        if session.machine.state is State.QUEUED:
                            session.machine.move(State.IDLE)
                    work.reply(refusal)
                else:
                    self._admitted.put((work, request))

            request.then = admitted
            self.pager.admit(request)

    def activation(self, session: Session, name: str, give: Callable[[torch.Tensor | DjinnError], None]) -> None:
        """Give a kept hidden state, float32 on the host `(1, rows, hidden_size)`: now, or when it lies still.

        Looking at a session says that its resume is near: it is brought back where there is room.
        """
        with self.lock:
            check_stands(session)
            checkpoint = session.kept().get(name)
            if checkpoint is None:
                raise BadRequest("nothing is kept there any more: the pause is over, or the checkpoint was discarded")

            def read(problem: DjinnError | None) -> None:
                if problem:
                    give(problem)
                    return
                if session.residence.released:
                    give(IllegalMove(f"the session was {session.machine.state} before its activation was read"))
                    return
                hidden = self.pager.layout.hidden_wherever(session.residence, name, len(checkpoint.ids))
                give(hidden.to("cpu", torch.float32, copy=True))

            self.pager.look(session.residence, read)

    def discard(self, session: Session, name: str) -> None:
        """Forget a checkpoint. Its memory is free at once, or when the copy under way has ended."""
        with self.lock:
            check_stands(session)
            if session.pause and session.pause.name == name:
                raise BadRequest("the session stands at this pause and needs its state: resume() it, or cancel()")
            if session.checkpoints.pop(name, None) is None:
                raise BadRequest("nothing is kept there any more: the pause is over, or the checkpoint was discarded")
            self._give_back(session)

    def park(self, session: Session) -> None:
        with self.lock:
            check_stands(session)
            if session.residence.body.parts:
                self.pager.park(session.residence)

    def park_durably(self, session: Session, then: Callable[[DjinnError | None], None]) -> None:
        """Park it and write it to the state directory. `then` is called once: durable, or why not; it is parked then."""
        if self.keeper is None:
            raise BadRequest("durable parking needs a place for its files: start the server with --state-dir FOLDER")
        with self.lock:
            check_stands(session)
            self.keeper.park(session, then)

    def end(self, session: Session, state: State, why: str = "") -> None:
        """Close or cancel: memory goes back now, or after the pass that is running. `why` is told to who asks later."""
        with self.lock:
            if session.key in self._running:
                self._running[session.key].cancelled = True
            elif session.machine.state not in END:
                session.machine.move(state)
                self.pager.release(session.residence)
            if self.keeper:
                self.keeper.forget(session)
            self.sessions.pop(session.key, None)
            self._ended[session.key] = Ended(session.owner, session.machine, why)
            if len(self._ended) > REMEMBERED:
                self._ended.pop(next(iter(self._ended)))

    def close(self, key: str, owner: str = "") -> None:
        """End a session for good; one that ended already is left as it is, and so is another's."""
        session = self.sessions.get(key)
        if session is not None and session.owner == owner:
            self.end(session, State.DONE)

    def take_no_more(self) -> None:
        """From now on every new request is refused: the server is going."""
        self._draining = True

    def _check_open(self) -> None:
        if self._draining:
            raise Draining(
                "the server is shutting down and takes no new requests: ask again when it has been restarted"
            )

    def busy(self) -> bool:
        """Whether a request is under way."""
        with self.lock:
            return any(s.residence.waiting or s.residence.granted for s in self.sessions.values())

    def hurry(self) -> None:
        """Requests under way end now: those that wait are refused, those that run stop behind the pass at hand."""
        with self.lock:
            self._hurry = True
            for work in self._running.values():
                work.stopped = True
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

    def shut_down(self) -> None:
        self._admitted.put(None)
        self._thread.join()

    def _request(self, session: Session, work: Work) -> Request:
        """What must be on the device: the tokens it will hold, or holds now (a rewind may go back), and hidden states."""
        shape = self.pager.shape
        tokens = max(work.past() + work.rows() + work.max_new_tokens, *session.cache.lengths, 0)
        need: dict[Key, int] = dict.fromkeys(range(shape.layers), tokens * shape.layer_token_bytes)
        if work.break_at is not None:
            work.pause_name = session.name("pause")
            last = work.fed() or work.resume_from.ids if work.break_token is None else (0,)
            need[work.pause_name] = shape.hidden_bytes(len(last))
        for layer in work.checkpoint_at:
            work.checkpoint_names[layer] = session.name(f"checkpoint@{layer}")
            need[work.checkpoint_names[layer]] = shape.hidden_bytes(work.rows())
        order, first = self._order(work)
        if not self.parts_first:
            first = None
        resumed = bool(session.residence.body.parts)
        return Request(session.residence, need, 0, resumed, order, first)

    def _order(self, work: Work) -> tuple[tuple[Key, ...], frozenset[Key] | None]:
        """In which order the parts are needed, and without which the first layer cannot run."""
        layers, source = range(self.pager.shape.layers), work.resume_from
        if source is None:
            return tuple(layers), frozenset([0])
        above = (*layers[source.layer :], *layers[: source.layer])
        if work.rewind:  # it may change any of them
            return (source.name, *above), None
        needed = above[:1] if source.past else ()  # in its first pass a session has nothing above the pause yet
        return (source.name, *(above if source.past else layers)), frozenset([source.name, *needed])

    # -- the compute thread ---------------------------------------------------------------------------

    def _compute(self) -> None:
        while True:
            while not (self.scheduler.tasks and self._admitted.empty()):
                admitted = self._admitted.get()
                if admitted is None:
                    return
                self._begin(*admitted)
            for task in self.scheduler.round(lambda: not self._admitted.empty()):
                self._end(task.work, task.result or task.error, changed=True)

    def _begin(self, work: Work, request: Request) -> None:
        with self.lock:
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
        if isinstance(result, NotFinite | Draining):
            changed = False  # between two passes: the session is whole
        if not isinstance(result, Paused | Outcome | DjinnError):
            log.error("a request failed", exc_info=result)
            result = ServerFault(f"{type(result).__name__}: {result}")
        session, refused = work.session, isinstance(result, DjinnError)
        with self.lock:
            del self._running[session.key]
            if work.cancelled or (refused and changed):
                session.machine.move(State.CANCELLED if work.cancelled else State.FAILED)
                self.pager.release(session.residence)
            else:
                for name in work.checkpoint_names.values() if refused else ():  # the client will never learn of them
                    session.checkpoints.pop(name, None)
                self._give_back(session)
                session.machine.move(State.PAUSED if session.pause else State.IDLE)
                self.pager.stopped(session.residence)
        work.reply(result)

    def _give_back(self, session: Session) -> None:
        """Hidden states that nothing can go on from any more: reserved in vain, resumed, overtaken or discarded."""
        kept = session.kept()
        for name in [key for key in session.residence.body.parts if isinstance(key, str) and key not in kept]:
            self.pager.drop(session.residence, name)
