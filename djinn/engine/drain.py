"""The end of a server that was told to go: what runs ends, what stands goes to the state directory, nothing new begins."""

from __future__ import annotations

import logging
import time

from djinn.engine.engine import Engine
from djinn.engine.session import Session
from djinn.states import END

log = logging.getLogger(__name__)
LOOK_S = 0.05  # between two looks at who runs


def drain(engine: Engine, seconds: float) -> None:
    """Returns when nothing runs and every session is durable, or said in the log to be lost.

    seconds: how long running requests may take to their end; then each is stopped behind the pass at hand, and its
    session goes with the others. Call `engine.take_no_more()` before.
    """
    _await_end(engine, time.monotonic() + seconds)
    with engine.lock:
        held = [session for session in engine.sessions.values() if _holds(session)]
    if engine.keeper is None:
        if held:
            log.warning("%d sessions are lost: this server has no --state-dir", len(held))
        return
    lost = _park(engine, held)
    for session, reason in lost:
        log.error("session %s is lost: %s", session.key, reason)
    log.info("%d sessions are in %s, %d are lost", len(held) - len(lost), engine.keeper.store.folder.path, len(lost))


def _await_end(engine: Engine, until: float) -> None:
    hurried = False
    while engine.busy():
        if not hurried and time.monotonic() > until:
            hurried = True
            engine.hurry()
        time.sleep(LOOK_S)


def _holds(session: Session) -> bool:
    return session.machine.state not in END and bool(session.length or session.residence.body.live_bytes)


def _park(engine: Engine, sessions: list[Session]) -> list[tuple[Session, Exception]]:
    """All at once: who is written first makes room in the host pool for the next. Returns those that were not written."""
    told: dict[str, Exception | None] = {}
    for session in sessions:
        with engine.lock:  # one that a client is parking just now is asked for again when that has ended
            while session.residence.saving:
                engine.lock.wait()
            if session.machine.state in END:
                told[session.key] = None
                continue

            def then(error: Exception | None, key: str = session.key) -> None:
                with engine.lock:
                    told[key] = error
                    engine.lock.notify_all()

            try:
                engine.keeper.park(session, then)
            except Exception as error:  # a defect in one session must not lose all others
                log.exception("session %s cannot be written", session.key)
                then(error)
    with engine.lock:
        while len(told) < len(sessions):
            engine.lock.wait()
    return [(session, error) for session in sessions if (error := told[session.key])]
