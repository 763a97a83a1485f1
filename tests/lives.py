"""Random lives of sessions in a whole engine whose copies are late, in memory that cannot hold them.

What is asked is drawn from a seed; when copies end is not. So nothing is expected of who is refused, but of everything that is
answered: it is, to the bit, what the same calls give to a session that nobody disturbs.
"""

from __future__ import annotations

import queue
import random
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from asking import WAIT_S, ask, submit
from faults import patched

from djinn.edits import Scale
from djinn.engine.engine import Engine
from djinn.engine.session import Outcome, Paused, Session
from djinn.errors import BadRequest, DjinnError, IllegalMove, OutOfMemory
from djinn.states import State
from djinn.tiers.streams import HostStream

Op = tuple  # a call, and what it was given
Ops = tuple[Op, ...]  # all that led to where a session stands
MOST_CALLS = 7
STOPS = [{"break_at": 2}, {"break_at": 5}, {"max_new_tokens": 3, "break_at": 4, "break_token": 2}]
RUNS = [{"max_new_tokens": 3}, *[{"max_new_tokens": 2, "checkpoint_at": (2, 5)}] * 3]
MORE = [{"max_new_tokens": 1}, {"max_new_tokens": 12}, {"max_new_tokens": 2, "break_at": 5, "break_token": 1}]
BACK = [{"max_new_tokens": 2}, {"max_new_tokens": 0}, {"break_at": 7}]


@contextmanager
def late(engine: Engine, seed: int) -> Iterator[None]:
    """The engine's copies are made some time after they were queued."""
    copy, draw = HostStream.copy, random.Random(seed)

    def some_time(stream: HostStream, name: str, copies) -> None:
        if stream.device is engine.pager.device:
            stream._work.put(partial(time.sleep, draw.random() ** 3 * 0.03))
        copy(stream, name, copies)

    with patched(HostStream, "copy", some_time):
        yield


def what(session: Session, op: Op) -> dict:
    """For the engine: what a call that computes asks of a session that stands where it was made."""
    call, given, *rest = op
    if call == "prefill":
        return {"ids": tuple((7 * i * i + 3 * given) % 509 for i in range(20 + 30 * (given % 3))), **dict(rest[0])}
    if call == "resume":
        return {"resume_from": session.pause, "edits": rest[0] if session.pause else (), **dict(given)}
    source = list(session.checkpoints.values())[given]
    return {"resume_from": source, "rewind": True, "edits": rest[0], **dict(rest[1])}


class Alone:
    """What calls give to a session that nobody disturbs: the answer to the last, and every hidden state that is kept then."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._found: dict[Ops, tuple] = {}

    def __call__(self, ops: Ops) -> tuple:
        if ops not in self._found:
            session, out = self.engine.open(), None
            for number, op in enumerate(ops, 1):
                if op[0] == "discard":
                    self.engine.discard(session, list(session.checkpoints)[op[1]])
                else:
                    out = ask(self.engine, session, **what(session, op))
                self._found[ops[:number]] = out, [self._hidden(session, name) for name in session.kept()]
            self.engine.close(session.key)
        return self._found[ops]

    def _hidden(self, session: Session, name: str) -> torch.Tensor:
        told: queue.SimpleQueue = queue.SimpleQueue()
        self.engine.activation(session, name, told.put)
        return told.get(timeout=WAIT_S)


@dataclass
class Life:
    session: Session
    ops: Ops = ()
    asked: tuple[Op, queue.SimpleQueue] | None = None


class Lives:
    def __init__(self, engine: Engine, seed: int) -> None:
        self.engine, self.draw = engine, random.Random(seed)
        self.lives: list[Life] = []
        self.seen: list[tuple[Ops, int | None, object]] = []  # of which call, which hidden state of it, what was told
        self.saves: list[queue.SimpleQueue] = []
        self.counts: Counter[str] = Counter()

    def play(self, steps: int) -> None:
        for _ in range(steps):
            if len(self.lives) < 9 and self.draw.random() < 0.3:
                self.lives.append(Life(self.engine.open()))
            elif self.lives:
                self._step(self.draw.choice(self.lives))
            if self.draw.random() < 0.3:
                time.sleep(self.draw.random() * 0.01)
        for life in [*self.lives]:
            self._answered(life, wait=True)
            self.close(life)
        for told in self.saves:
            answer = told.get(timeout=WAIT_S)
            assert answer is None or isinstance(answer, OutOfMemory | IllegalMove), answer

    def _step(self, life: Life) -> None:
        if not self._answered(life, wait=self.draw.random() < 0.1):
            if self.draw.random() < 0.03:
                self.close(life, State.CANCELLED)
            return
        calls = {"fork": 8, "park": 10, "save": 4, "close": 5}
        if len(life.ops) < MOST_CALLS:
            calls |= {"resume": 30} if life.ops else {"prefill": 60}
        if kept := life.session.kept():
            calls |= {"look": 20}
        if len(kept) > bool(life.session.pause):
            calls |= {"discard": 3} | ({"rewind": 30} if len(life.ops) < MOST_CALLS else {})
        call = self.draw.choices([*calls], [*calls.values()])[0]
        try:
            getattr(self, call)(life)
            self.counts[call] += 1
        except IllegalMove:
            self.counts["not now"] += 1  # it is being saved, or stands below the checkpoint in the same pass

    def _answered(self, life: Life, wait: bool) -> bool:
        """Whether nothing is under way for it that was asked."""
        if life.asked is None:
            return True
        op, told = life.asked
        if told.empty() and not wait:
            return False
        answer, life.asked = told.get(timeout=WAIT_S), None
        if isinstance(answer, DjinnError):
            assert isinstance(answer, OutOfMemory), answer
            self.counts["refused"] += 1
        else:
            life.ops += (op,)
            self.seen.append((life.ops, None, answer))
        return True

    def _ask(self, life: Life, op: Op) -> None:
        life.asked = op, submit(self.engine, life.session, **what(life.session, op))

    # -- the calls -----------------------------------------------------------------------------------------------

    def prefill(self, life: Life) -> None:
        self._ask(life, ("prefill", self.draw.randrange(4), _given(self.draw.choice(STOPS + RUNS))))

    def resume(self, life: Life) -> None:
        pause = life.session.pause
        higher = [{"break_at": pause.layer + 1}, {"break_at": 8}] if pause and pause.layer < 8 else []
        self._ask(life, ("resume", _given(self.draw.choice(MORE + higher)), self.draw.choice([(), (), (Scale(0.5),)])))

    def rewind(self, life: Life) -> None:
        edits = self.draw.choice([(), (Scale(0.5),), (Scale(2.0),)])
        index = self.draw.randrange(len(life.session.checkpoints))
        below = [{"break_at": 4}] if [*life.session.checkpoints.values()][index].layer < 4 else []
        self._ask(life, ("rewind", index, edits, _given(self.draw.choice(BACK + below))))

    def fork(self, life: Life) -> None:
        if len(self.lives) < 12:
            self.lives.append(Life(self.engine.fork(life.session), life.ops))

    def park(self, life: Life) -> None:
        self.engine.park(life.session)

    def save(self, life: Life) -> None:
        told: queue.SimpleQueue = queue.SimpleQueue()
        self.engine.park_durably(life.session, told.put)
        self.saves.append(told)

    def look(self, life: Life) -> None:
        kept, ops = [*life.session.kept()], life.ops
        index = self.draw.randrange(len(kept))
        self.engine.activation(life.session, kept[index], lambda told: self.seen.append((ops, index, told)))

    def discard(self, life: Life) -> None:
        index = self.draw.randrange(len(life.session.checkpoints))
        self.engine.discard(life.session, [*life.session.checkpoints][index])
        life.ops += (("discard", index),)

    def close(self, life: Life, state: State = State.DONE) -> None:
        self.engine.end(life.session, state)
        self.lives.remove(life)


def _given(options: dict) -> tuple:
    return tuple(options.items())


def compare(seen: list[tuple[Ops, int | None, object]], alone: Alone) -> int:
    """How many answers were the same as alone; raises where one is not."""
    compared = 0
    for ops, index, told in sorted(seen, key=lambda each: -len(each[0])):  # a longer one shows those before it
        if isinstance(told, DjinnError):  # a look, of one that was closed or discarded meanwhile
            assert index is not None and isinstance(told, IllegalMove | BadRequest), told
            continue
        out, kept = alone(ops)
        compared += 1
        if index is None:
            assert _same(told, out), f"{ops}: {told} where alone {out}"
        else:
            assert torch.equal(told, kept[index]), f"{ops}: another hidden state {index} than alone"
    return compared


def _same(told: Paused | Outcome, alone: Paused | Outcome) -> bool:
    if isinstance(told, Paused):
        return isinstance(alone, Paused) and (told.layer, told.tokens) == (alone.layer, alone.tokens)
    return isinstance(alone, Outcome) and told.tokens == alone.tokens and torch.equal(told.logits, alone.logits)
