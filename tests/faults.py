"""Faults that are injected, and the steps of a session's life that they are injected into.

One line here is one row or column of docs/faults.md (`pytest tests/test_faults.py --write-faults` writes it).
"""

from __future__ import annotations

import contextlib
import errno
import os
import queue
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest

from djinn.durable import files, folder
from djinn.engine.engine import Engine
from djinn.engine.session import Outcome, Paused, Session, Work
from djinn.errors import DjinnError
from djinn.paging import evictions, saves, spills
from djinn.states import State
from djinn.tiers.disk import Disk
from djinn.tiers.streams import HostStream

PROMPT = tuple((7 * i * i + 3) % 509 for i in range(100))
LAYER = 4
WAIT_S = 120  # for any one answer: a test that hangs fails


# -- asking an engine in this process --------------------------------------------------------------------


def ask(engine: Engine, session: Session, **what: Any) -> Paused | Outcome:
    """Raises what the request is refused or ended with."""
    replies: queue.SimpleQueue = queue.SimpleQueue()
    engine.submit(Work(session, **{"ids": (), "accepted_ns": time.monotonic_ns(), "reply": replies.put} | what))
    return _told(replies)


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


# -- where a session can lie ---------------------------------------------------------------------------------


def paused(engine: Engine) -> Session:
    session = engine.open()
    ask(engine, session, ids=PROMPT, break_at=LAYER)
    quiet(engine)
    return session


def paused_in_decode(engine: Engine) -> Session:
    session = engine.open()
    ask(engine, session, ids=PROMPT, break_at=LAYER, break_token=2, max_new_tokens=3)
    return on_host(engine, session)


def on_host(engine: Engine, session: Session) -> Session:
    engine.park(session)
    until(lambda: session.machine.state is State.HOST)
    return session


def spilled(engine: Engine) -> Session:
    session, pager = on_host(engine, paused(engine)), engine.pager
    with engine.lock:
        body = spills.begin_spill(pager.book, session.residence)
        pages = pager.layout.host_pages(body)
    pager.disk.write(str(body.serial), pages, partial(pager._ends.spilled, body))
    until(lambda: session.machine.state is State.DISK)
    return session


def on_file(engine: Engine) -> Session:
    """As after a restart: its durable file is all there is of it."""
    session = paused(engine)
    durably(engine, session)
    with engine.lock:
        saves.put_out(engine.pager.book, session.residence)
    return session


def on_file_but_changed(engine: Engine) -> Session:
    session = engine.open()
    ask(engine, session, ids=PROMPT, checkpoint_at=(2, 5))
    durably(engine, session)
    with engine.lock:
        saves.put_out(engine.pager.book, session.residence)
    engine.discard(session, next(iter(session.checkpoints)))
    return session


def idle(engine: Engine) -> Session:
    session = engine.open()
    ask(engine, session, ids=PROMPT[:60])
    return session


# -- the steps -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Step:
    """prepare: how the session stands before; act: what is asked of it while the fault is there; finish: how it goes on."""

    name: str
    prepare: Callable[[Engine], Session]
    act: Callable[[Engine, Session], Any]
    finish: Callable[[Engine, Session], Outcome] = resume


def prefill(engine: Engine, session: Session) -> None:
    ask(engine, session, ids=PROMPT, break_at=LAYER)


def prefill_in_a_full_server(engine: Engine, session: Session) -> None:
    """Neither the arena nor the host pool has room: who stands on the device must go, and who lies in the pool before it.

    Who stands there has no copy in the pool: else it would leave without needing room. Asked for again, when the fault is
    over, the pool has some: who lay there may have gone to the disk meanwhile, and is in nobody's way.
    """
    book, again = engine.pager.book, session.serial > 0
    with engine.lock:
        for residence in book.residences.values():
            if residence.body.here and residence.body.has_host_copy and not residence.body.pins:
                evictions.yield_duplicate(book, residence)
    with taken(engine, "device"), contextlib.nullcontext() if again else taken(engine, "host"):
        ask(engine, session, ids=PROMPT[:32], break_at=LAYER)


def go_on(engine: Engine, session: Session) -> Outcome:
    return ask(engine, session, max_new_tokens=2)


def grow(engine: Engine, session: Session) -> None:
    ask(engine, session, max_new_tokens=40)


STEPS = [
    Step("prefill", Engine.open, prefill),
    Step("prefill in a full server", Engine.open, prefill_in_a_full_server),
    Step("park: device to host", paused, park),
    Step("resume from the host, a prefill pause", lambda e: on_host(e, paused(e)), resume, go_on),
    Step("resume from the host, a decode pause", paused_in_decode, resume, go_on),
    Step("grow on the device", idle, grow, go_on),
    Step("resume from the disk", spilled, resume, go_on),
    Step("read an activation on the disk", spilled, activation),
    Step("park durably from the device", paused, durably),
    Step("park durably from the host", lambda e: on_host(e, paused(e)), durably),
    Step("park durably from the disk", spilled, durably),
    Step("park durably from its own file", on_file_but_changed, durably, go_on),
    Step("resume from the durable file", on_file, resume, go_on),
]


# -- the faults -------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def taken(engine: Engine, what: str) -> Iterator[None]:
    """Every free byte of a pool is somebody else's."""
    book = engine.pager.book
    extents = {"device": book.device, "host": book.host}[what]
    with engine.lock:
        held = extents.take_scattered(extents.free_bytes)
    try:
        yield
    finally:
        with engine.lock:
            for extent in held:
                extents.give(extent)
            engine.lock.notify_all()


@contextlib.contextmanager
def quota_used_up(engine: Engine, session: Session) -> Iterator[None]:
    book = engine.pager.book
    with engine.lock:
        held, book.disk_free = book.disk_free, 0
    try:
        yield
    finally:
        with engine.lock:
            book.give_disk(held)
            engine.lock.notify_all()


@contextlib.contextmanager
def nowhere_to_go(engine: Engine, session: Session) -> Iterator[None]:
    with taken(engine, "host"), quota_used_up(engine, session):
        yield


@contextlib.contextmanager
def patched(what: Any, name: str, replacement: Callable) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(what, name, replacement)
        yield


def raises(number: int) -> Callable:
    def fault(*args: Any, **kwargs: Any) -> None:
        raise OSError(number, os.strerror(number))

    return fault


def breaking(method: str, track: str) -> Callable[[Engine, Session], contextlib.AbstractContextManager]:
    """Copies of one direction fail: while they are made (`carry_out`) or when they are queued (`copy`)."""
    whole = getattr(HostStream, method)

    def broken(stream: HostStream, *args: Any) -> None:
        if stream.track == track:
            raise RuntimeError("the copy engine is on fire")
        whole(stream, *args)

    return lambda engine, session: patched(HostStream, method, broken)


@contextlib.contextmanager
def one_bit_of_its_file(engine: Engine, session: Session) -> Iterator[None]:
    path = engine.keeper.store.folder.file(session.key)
    if path.exists():
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    yield


@dataclass(frozen=True)
class Fault:
    name: str
    there: Callable[[Engine, Session], contextlib.AbstractContextManager]


FAULTS = [
    Fault("device refused", lambda engine, session: taken(engine, "device")),
    Fault("host refused", lambda engine, session: taken(engine, "host")),
    Fault("disk quota used up", quota_used_up),
    Fault("host refused, quota used up", nowhere_to_go),
    Fault("copy out fails", breaking("carry_out", "copy out")),
    Fault("copy in fails", breaking("carry_out", "copy in")),
    Fault("copy out not queued", breaking("copy", "copy out")),
    Fault("copy in not queued", breaking("copy", "copy in")),
    Fault("spill: disk full", lambda e, s: patched(Disk, "_write", staticmethod(raises(errno.ENOSPC)))),
    Fault("spill: read error", lambda e, s: patched(Disk, "_read", staticmethod(raises(errno.EIO)))),
    Fault("durable: disk full", lambda e, s: patched(files, "write_all", raises(errno.ENOSPC))),
    Fault("durable: fsync fails", lambda e, s: patched(files, "sync_folder", raises(errno.EIO))),
    Fault("durable: rename fails", lambda e, s: patched(folder.os, "replace", raises(errno.EIO))),
    Fault("durable: read error", lambda e, s: patched(files, "fill", raises(errno.EIO))),
    Fault("durable: a bit flipped", one_bit_of_its_file),
]
