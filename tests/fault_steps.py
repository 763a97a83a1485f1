"""The steps of a session's life that faults are injected into, and where the session lies before each.

One line of STEPS is one column of docs/faults.md (`pytest tests/test_faults.py --write-faults` writes it).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from asking import activation, ask, durably, park, quiet, resume, until
from faults import taken

from djinn.engine.engine import Engine
from djinn.engine.session import Outcome, Session
from djinn.paging import evictions, saves, spills
from djinn.states import State

PROMPT = tuple((7 * i * i + 3) % 509 for i in range(100))
LAYER = 4


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
    return spill(engine, paused(engine))


def spill(engine: Engine, session: Session) -> Session:
    pager = engine.pager
    on_host(engine, session)
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
            if residence.body.here and residence.body.host_bytes and not residence.body.pins:
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
