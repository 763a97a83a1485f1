"""A client that finds its sessions again: after its own end, and after the server's; and what each answer means for one.

What is found must be what `recovery` allows, and what a call is refused with what the documents have it refused with.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import djinn
from benchmarks.soak import programs, recovery
from benchmarks.soak.faults import INJECTED
from benchmarks.soak.journal import Journal, Life
from benchmarks.soak.line import Line
from benchmarks.soak.programs import Program
from benchmarks.soak.site import told
from djinn.errors import (
    Draining,
    IllegalMove,
    NoSuchSession,
    NotAllowed,
    OutOfMemory,
    ReplyGone,
    ServerFault,
    ServerGone,
    StateRefused,
    StorageError,
)
from djinn.wire import messages as m

WAIT_S = 120.0  # for any one thing: what takes longer has failed
PATIENCE_S = 0.05  # before it is tried again
AWAY = (ServerGone, Draining)


class Owner:
    """Whose sessions they are, and what he holds against what he was promised."""

    def __init__(self, folder: Path, owner: int, seed: str, catalogue: dict[str, Program], lives: int) -> None:
        self.folder, self.catalogue, self.most = folder, catalogue, lives
        self.draw = random.Random(seed)
        self.token = f"the owner of the sessions number {owner:04d}"
        self.journal = Journal(folder / f"owner-{owner}.journal")
        self.line = Line(self._address)
        self.number, self.client = -1, None

    def _address(self) -> str:
        return told(self.folder)[-1].endpoint

    @property
    def lives(self) -> list[Life]:
        return list(self.journal.lives.values())

    # -- finding everything again ----------------------------------------------------------------------

    def connect(self) -> None:
        """To the server that is there, or will be; then find every session."""
        until = time.monotonic() + WAIT_S
        while time.monotonic() < until:
            if self.client is not None:
                self.client.close()
                self.client = None
            servers = len(told(self.folder))
            try:
                self.client = djinn.connect(self.line.endpoint, timeout=WAIT_S, token=self.token)
                if len(told(self.folder)) == servers:  # else it may be either that answered
                    self.number = servers - 1
                    self.find_all()
                    return
            except (*AWAY, NotAllowed):  # nobody behind the line, or not for long
                time.sleep(PATIENCE_S)
        raise ServerGone(f"server {self.number} went away, and no other came")

    def find_all(self) -> None:
        for life in self.lives:
            self.find(life)
        unknown = {one.id for one in self.client.sessions()} - set(self.journal.lives)
        if len(unknown) > self.journal.opening:
            self.wrong("came back", f"{sorted(unknown)} were ended, or are nobody's")
        for key in unknown:
            self.end_for_good(key)
        self.journal.say("not opened")

    def find(self, life: Life) -> None:
        """Where it stands now, which must be where it may."""
        servers = told(self.folder)
        ended = [one.ended for one in servers[life.server : self.number]]
        program = self.catalogue[life.program]
        allowed = recovery.expected(life, program, ended)
        session = djinn.Session(self.client.connection, life.id)
        try:
            state = self.stands(session)
            look = programs.look(session)
        except StateRefused as reason:
            self.refused(life, reason)
            return
        except NoSuchSession as reason:
            if allowed.may_be_gone:
                self.over(life, "gone as promised" if ended and life.doing not in recovery.ENDS else "ended")
            else:
                self.lose(life, f"after {ended}: {reason}", allowed.promised)
            return
        place = program.find(look, allowed.places)
        if state == "failed":
            self.broke(life)
        elif place is None:
            self.lose(life, f"after {ended}, doing {life.doing!r} from {life.place}, it is {look}", allowed.promised)
        else:
            self.journal.say("durable", id=life.id, places=list(recovery.files_behind(life, place, ended)))
            counted = ["came back as promised"] if allowed.promised else ["came back unpromised"] if ended else []
            self.journal.say("stands", *counted, id=life.id, place=place, server=self.number)

    def stands(self, session: djinn.Session) -> str:
        """Wait until no request of before is under way for it; its state."""
        until = time.monotonic() + WAIT_S
        while (state := session.state) != "failed":
            try:
                session.park()
                return state
            except IllegalMove:
                if time.monotonic() > until:
                    raise
                time.sleep(0.01)
        return state

    def damaged(self, life: Life) -> bool:
        """Whether all there was of it when it came back was a file that had been damaged."""
        return any(life.id in one.damaged for one in told(self.folder)[: life.server])

    # -- what becomes of one ----------------------------------------------------------------------------

    def wrong(self, what: str, why: str) -> None:
        self.journal.say("wrong", what, why=f"{what}: {why}")

    def over(self, life: Life, how: str) -> None:
        self.journal.say("over", how, id=life.id)

    def lose(self, life: Life, why: str, promised: bool = False) -> None:
        """It is not where it must be: the worst that can come of it."""
        self.journal.say("wrong", why=f"session {life.id} ({life.program}) is lost: {why}")
        self.over(life, "durable lost" if promised else "lost")

    def refused(self, life: Life, reason: StateRefused) -> None:
        """Its file is damaged: which it must be."""
        if any(life.id in one.damaged for one in told(self.folder)):
            self.close_broken(life)
            self.over(life, "damaged, and refused by name")
        else:
            self.lose(life, f"refused, and its file was not damaged: {reason}", promised=True)

    def close_broken(self, life: Life) -> None:
        """Its answer may not come: whoever looks for the session then knows that it may be gone."""
        self.journal.say("doing", id=life.id, call="close")
        self.end_for_good(life.id)

    def end_for_good(self, key: str) -> None:
        """Over it is, also where the disk refuses that its file goes."""
        with suppress(StorageError):
            self.client.connection.ask(m.Close(session=key))

    def broke(self, life: Life) -> None:
        """A pass broke off: only a copy onto the device that failed may do that, or a damaged file."""
        damaged = self.damaged(life)
        struck = [line.split(" ", 1) for line in (self.folder / "struck").read_text().splitlines()]
        copies = [
            name for at, name in struck if int(at) >= (life.ran_ns or life.since_ns) and name.startswith("copy in")
        ]
        if damaged or copies:
            self.close_broken(life)
            self.over(life, "damaged, and refused by name" if damaged else "broken by a copy, as docs/faults.md says")
        else:
            self.lose(life, "its pass broke off, and no fault was there")

    def attempt(self, life: Life, call: str, act: Callable[[], None]) -> bool:
        """Carry out one call, and take what it is refused with as the documents have it. Whether it was carried out."""
        self.journal.say("doing", f"call: {call}", id=life.id, call=call)
        return self.answer(life, act)

    def answer(self, life: Life, act: Callable[[], None]) -> bool:
        try:
            act()
            return True
        except (OutOfMemory, StorageError) as error:
            told_so = f"told {type(error).__name__}"
            if life.doing in recovery.ENDS:  # it is over; the disk refused that its file goes for good
                self.journal.say("over", recovery.ENDS[life.doing], told_so, id=life.id)
            else:
                self.journal.say("not done", told_so, id=life.id)
        except ReplyGone as error:  # of so few replies none is too many to be kept
            self.journal.say("wrong", "told ReplyGone", why=str(error))
            self.find(life)
        except StateRefused as error:
            self.refused(life, error)
        except ServerFault as error:
            if INJECTED in str(error):
                self.broke(life)
            else:
                self.lose(life, f"a defect: {error}")
        except (NoSuchSession, IllegalMove) as error:
            if "the session is failed" in str(error):
                self.broke(life)
                return False
            self.lose(life, f"{life.doing} from {life.place} was refused: {error}")
        return False
