"""An engine in this process, asked as the server asks it. All but `submit` return when it has been answered."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from djinn.engine.engine import Engine
from djinn.engine.session import Outcome, Paused, Session, Work
from djinn.errors import DjinnError
from djinn.server.build import build_service
from djinn.server.server_main import parser

WAIT_S = 120  # for any one answer: a test that hangs fails


@contextmanager
def small_engine(*options: str, disk: int | None = 0) -> Iterator[Engine]:
    """On random weights, with room for some sessions. options: of `djinn serve`. disk: bytes; None: what these make of it."""
    args = parser().parse_args(["--model", "tiny-llama", "--port", "0", "--max-tokens", "256", *options])
    service, _, shut_down = build_service(args, "cpu", 40 * 10**6, 60 * 10**6, disk)
    try:
        yield service.engine
    finally:
        shut_down()


def submit(engine: Engine, session: Session, **what: Any) -> queue.SimpleQueue:
    """Where the answer will come."""
    replies: queue.SimpleQueue = queue.SimpleQueue()
    engine.submit(Work(session, **{"ids": (), "accepted_ns": time.monotonic_ns(), "reply": replies.put} | what))
    return replies


def ask(engine: Engine, session: Session, **what: Any) -> Paused | Outcome:
    """Raises what the request is refused or ended with."""
    return _told(submit(engine, session, **what))


def resume(engine: Engine, session: Session, new: int = 3) -> Paused | Outcome:
    return ask(engine, session, resume_from=session.pause, max_new_tokens=new)


def durably(engine: Engine, session: Session) -> None:
    replies: queue.SimpleQueue = queue.SimpleQueue()
    engine.park_durably(session, replies.put)
    _told(replies)


def activation(engine: Engine, session: Session) -> None:
    replies: queue.SimpleQueue = queue.SimpleQueue()
    engine.activation(session, session.pause.name, replies.put)
    _told(replies)


def park(engine: Engine, session: Session) -> None:
    engine.park(session)
    quiet(engine)


def _told(replies: queue.SimpleQueue) -> Any:
    answer = replies.get(timeout=WAIT_S)
    if isinstance(answer, DjinnError):
        raise answer
    return answer


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.001)


def quiet(engine: Engine) -> None:
    """Wait until nothing is under way: three looks in a row see nothing."""
    seen = 0
    end = time.monotonic() + WAIT_S
    while seen < 3:
        with engine.lock:
            bodies = [session.residence.body for session in engine.sessions.values()]
            busy = engine.busy() or any(body.pins or body.moving for body in bodies) or bool(engine.pager.book.saving)
        seen = 0 if busy else seen + 1
        assert time.monotonic() < end, "something is under way for ever"
        time.sleep(0.003)
