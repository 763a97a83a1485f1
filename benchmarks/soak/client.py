"""One owner's client: a process that asks for everything a client can ask for, and may be killed at any time.

Its successor reads the journal, finds every session again and goes on.
"""

from __future__ import annotations

import os
import time
import traceback
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np

import djinn
from benchmarks.soak import calls, programs
from benchmarks.soak.journal import Life
from benchmarks.soak.owner import AWAY, PATIENCE_S, WAIT_S, Owner
from benchmarks.soak.programs import Program
from benchmarks.soak.recovery import ENDS
from benchmarks.soak.site import told
from djinn.errors import IllegalMove
from djinn.lifeline import die_with_parent


class Client(Owner):
    def open(self) -> None:
        self.journal.say("opening", "call: open")
        session = self.client.open()
        name = self.draw.choice(programs.NAMES)
        self.journal.say("opened", "begun", id=session.id, program=name, server=self.number, place=programs.BEGIN)

    def fork(self, life: Life) -> None:
        """Another that stands where it does and goes on by itself. Refused where all that there is of it is its durable file."""
        self.journal.say("opening")
        try:
            session = self.session(life).fork()
        except IllegalMove as error:
            if "durable file" not in str(error):
                raise
            self.journal.say("not opened", "fork refused: in its durable file")
        else:
            told = {"program": life.program, "server": self.number, "place": life.place}
            self.journal.say("opened", "begun", "forked", id=session.id, **told)
        self.journal.say("not done", id=life.id)

    def steps(self, lives: Sequence[Life], how: str = "") -> None:
        """The next step of each, all asked for at once. how: what happens on the way."""
        with ExitStack() as stack:
            client = self.client
            if how == "elsewhere":
                client = stack.enter_context(djinn.connect(self._address(), timeout=WAIT_S, token=self.token))
            asked = []
            for life in lives:
                self.attempt(life, "step", lambda life=life: asked.append(self.begin(client, life, how == "twice")))
            if how in ("cut", "deaf"):
                self.line.deaf = how == "deaf"
                time.sleep(self.draw.random() * 0.1)
                self.line.cut()
                self.journal.count("fault: line cut" if how == "cut" else "fault: replies lost")
            for life, pending in asked:
                self.answer(life, lambda life=life, pending=pending: self.end(life, pending))

    def begin(self, client: djinn.Client, life: Life, twice: bool) -> tuple[Life, djinn.Pending]:
        at, done = life.place
        step = self.catalogue[life.program].steps[at]
        session = djinn.Session(client.connection, life.id)
        pending = programs.begin(session, life.program, step, done, stream=self.draw.random() < 0.3)
        if twice:
            calls.again(pending)
            self.journal.count("fault: asked twice")
        return life, pending

    def end(self, life: Life, pending: djinn.Pending) -> None:
        at, done = life.place
        streamed = list(pending) if isinstance(pending, djinn.Stream) else None
        result = pending.result()
        given = self.catalogue[life.program].given[at]
        fits = programs.same(result, given, done) and streamed in (None, list(given.tokens[max(0, done - 1) :]))
        self.journal.say("stands", "same" if fits else "differs", id=life.id, place=(at + 1, 0), server=self.number)
        if not fits:
            self.wrong("differs", f"session {life.id} ({life.program}), step {at} from {done}")
        if self.damaged(life):
            self.wrong("damage unnoticed", f"session {life.id} went on")

    def park(self, life: Life) -> None:
        self.session(life).park()
        self.journal.say("not done", id=life.id)

    def park_durably(self, life: Life) -> None:
        self.session(life).park(durable=True)
        self.journal.say("durable", "acknowledged", id=life.id, places=[life.place])

    def look(self, life: Life) -> None:
        """Everything that can be read of it, to the bit."""
        session, program = self.session(life), self.catalogue[life.program]
        fits = programs.look(session) == program.look(life.place)
        at, done = life.place
        if at and not done:
            for layer, hidden in program.given[at - 1].hidden.items():
                fits &= np.array_equal(programs.kept(session, layer).activation(), hidden)
        self.journal.say("not done", "same" if fits else "differs", id=life.id)
        if not fits:
            self.wrong("differs", f"what is told of session {life.id} ({life.program}) at {life.place}")

    def misuse(self, life: Life) -> None:
        """What must be refused, by name, and change nothing."""
        what, error, act = self.draw.choice(calls.wrong(self.session(life), life.place, self._address()))
        self.journal.count("fault: bad request")
        try:
            act()
        except error:
            self.journal.say("not done", f"bad: {error.__name__}", id=life.id)
        else:
            self.journal.say("not done", "bad request taken", id=life.id)
            self.wrong("bad request taken", what)

    def cancel(self, life: Life) -> None:
        self.session(life).cancel()
        self.over(life, ENDS["cancel"])

    def close(self, life: Life) -> None:
        self.session(life).close()
        self.over(life, ENDS["close"])

    def session(self, life: Life) -> djinn.Session:
        return djinn.Session(self.client.connection, life.id)

    # -- the mix -----------------------------------------------------------------------------------------------

    def turn(self, until_end: bool) -> None:
        """One thing out of the mix."""
        lives = self.lives
        if not until_end and (not lives or (len(lives) < self.most and self.draw.random() < 0.3)):
            self.open()
            return
        life = self.draw.choice(lives)
        if life.place == (self.catalogue[life.program].end, 0):
            self.attempt(life, "close", lambda: self.close(life))
            return
        dice = (
            0.0 if until_end or self.damaged(life) else self.draw.random()
        )  # damage shows when its numbers are wanted
        if dice < 0.5:
            how = "" if until_end else self.draw.choices(calls.WAYS, calls.OFTEN)[0]
            going = [one for one in lives if one.place[0] < self.catalogue[one.program].end]
            many = self.draw.sample(going, min(len(going), self.draw.randrange(2, 5))) if how == "many" else [life]
            self.steps(many, how)
        elif dice < 0.62:
            self.attempt(life, "park", lambda: self.park(life))
        elif dice < 0.78:
            self.attempt(life, "durable", lambda: self.park_durably(life))
        elif dice < 0.90:
            self.attempt(life, "look", lambda: self.look(life))
        elif dice < 0.94:
            self.attempt(life, "misuse", lambda: self.misuse(life))
        elif dice < 0.98 and len(lives) < self.most:
            self.attempt(life, "fork", lambda: self.fork(life))
        else:
            self.attempt(life, "cancel", lambda: self.cancel(life))

    def run(self) -> None:
        self.connect()
        stop = self.folder / "stop"
        while not (stop.exists() and not self.lives):
            try:
                self.turn(until_end=stop.exists())
            except AWAY as error:
                self.journal.count(f"told {type(error).__name__}")
                # of those that ended: one was asked for past the line, and went just then
                over = [one.endpoint for one in told(self.folder) if one.ended]
                if "in time" in str(error) and not any(endpoint in str(error) for endpoint in over):
                    self.wrong("no answer", str(error))
                time.sleep(PATIENCE_S)
                self.connect()


def live(folder: Path, owner: int, seed: str, catalogue: dict[str, Program], lives: int) -> None:
    """The life of one client process."""
    die_with_parent(os.getppid())
    client = Client(folder, owner, seed, catalogue, lives)
    try:
        client.run()
    except BaseException:
        client.wrong("client broke off", traceback.format_exc())
        raise
