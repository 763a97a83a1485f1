"""Random lives of sessions, played against the ledger and the policy: no tensors, every byte checked after every step.

A trace is a list of [operation, number, number]; the numbers choose among what is there, so any part of a trace is a
trace too. `python tests/traces.py FILE` replays a trace that failed.
"""

from __future__ import annotations

import json
import random
import sys
from collections import Counter
from pathlib import Path

from trace_memory import UNIT, Memory
from trace_mover import LateMover

from djinn.paging import evictions, saves
from djinn.paging.residence import Request, Residence, Saving
from djinn.states import END, Machine, State

LAYERS, TOKEN, ROW = 3, 4, 8  # bytes of a token in a layer, of a row of a hidden state
FEW_RESTORES = 10 * UNIT  # bytes on their way in at once, for every other trace
WEIGHTS = {
    "open": 8, "ask": 24, "write": 20, "finish": 16, "park": 6, "look": 4, "fork": 3, "close": 1, "complete": 30, "save": 9,
    "discard": 3,
}  # fmt: skip

Op = tuple[str, int, int]


def random_trace(seed: int, length: int = 80) -> list[Op]:
    draw = random.Random(seed)
    names = draw.choices(list(WEIGHTS), list(WEIGHTS.values()), k=length)
    return [(name, draw.randrange(1 << 16), draw.randrange(1 << 16)) for name in names]


class World:
    """Clients of sessions: what they ask for at random, of a pager made of the ledger, the policy and a late mover."""

    def __init__(self) -> None:
        self.memory = Memory()
        self.book = self.memory.book
        self.mover = LateMover(self.memory)
        self.number = 0
        self.writes = 0

    def play(self, trace: list[Op]) -> Counter[str]:
        """What happened how often, to the end of all sessions."""
        if trace and trace[0][1] % 2:
            self.mover.ahead = FEW_RESTORES
        for name, a, b in trace:
            getattr(self, name)(a, b)
            self.mover.pump()
            self.memory.check()
        self.settle()
        return self.mover.counts

    def _pick(self, among: list, a: int):
        return among[a % len(among)] if among else None

    def _stopped(self) -> list[Residence]:
        return [
            r for r in self.book.residences.values()
            if not r.waiting and not r.granted and not r.saving and r.machine.state not in END | {State.QUEUED}
        ]  # fmt: skip

    def open(self, a: int, b: int) -> None:
        key = f"s{self.number}"
        self.number += 1
        self.book.open(Residence(key, Machine()))
        self.memory.truth[key] = {}
        self.mover.counts["opened"] += 1

    def ask(self, a: int, b: int) -> None:
        """A prompt or a resume: room for some more tokens in every layer, and for a pause's hidden state; or a rewind."""
        residence = self._pick(self._stopped(), a)
        if residence is None:
            return
        truth = self.memory.truth[residence.key]
        longest = max((len(truth.get(layer, b"")) for layer in range(LAYERS)), default=0)
        rewinds = bool(longest and not b % 8)  # then it may have all that it needs where it lies
        need = dict.fromkeys(range(LAYERS), longest if rewinds else longest + TOKEN * (1 + b % 20))
        self.number += 1
        if not rewinds:
            need[f"pause-{self.number}"] = ROW * (1 + b % 6)
        fresh = not residence.body.live_bytes
        if fresh and residence.machine.state is State.IDLE:
            residence.machine.move(State.QUEUED)
        residence.intended = False
        self.book.request(Request(residence, need, self.number, not fresh, order=tuple(range(LAYERS))))
        self.mover.counts["resumed" if not fresh else "begun"] += 1

    def write(self, a: int, b: int) -> None:
        """A layer of a running session gets some tokens; sometimes behind a rewind; sometimes written through."""
        key = self._pick(sorted(self.mover.running), a)
        if key is None:
            return
        residence, request = self.book.residences[key], self.mover.running[key]
        layer, truth = b % LAYERS, self.memory.truth[key]
        part, have = residence.body.parts[layer], truth.get(layer, b"")
        if (b % 7 == 0 or len(request.need) == LAYERS) and have:
            have = have[: len(have) // 2 // TOKEN * TOKEN]
            self.book.set_live(residence, layer, len(have))
            self.mover.counts["rewound"] += 1
        self.writes += 1
        fresh = bytes(random.Random(self.writes).choices(range(200), k=TOKEN * (1 + b % 5)))
        truth[layer] = (have + fresh)[: request.need[layer]]
        self.memory.put("device", part.device.start, truth[layer])
        if b % 3:
            self.mover.fly(evictions.begin_mirror(self.book, residence, layer, len(truth[layer])), residence)
        self.book.set_live(residence, layer, len(truth[layer]))

    def finish(self, a: int, b: int) -> None:
        """The run ends: paused with a hidden state kept, or idle."""
        key = self._pick(sorted(self.mover.running), a)
        if key is None:
            return
        for layer in range(LAYERS if b % 5 else 0):
            self.write(sorted(self.mover.running).index(key), layer + LAYERS * (b % 50))
        residence, request = self.book.residences[key], self.mover.running.pop(key)
        name = next((k for k in request.need if isinstance(k, str)), None)
        pauses = bool(name and b % 2)
        for old in [k for k in self.memory.truth[key] if isinstance(k, str)]:
            self.book.drop(residence, old)
            del self.memory.truth[key][old]
        if pauses:
            self.memory.truth[key][name] = bytes([b % 199]) * request.need[name]
            self.memory.put("device", residence.body.parts[name].device.start, self.memory.truth[key][name])
            self.book.set_live(residence, name, request.need[name])
        elif name:
            self.book.drop(residence, name)
        residence.machine.move(State.PAUSED if pauses else State.IDLE)
        self.book.stopped(residence)
        self.mover.counts["stopped"] += 1

    def park(self, a: int, b: int) -> None:
        residence = self._pick([r for r in self._stopped() if r.machine.state in (State.IDLE, State.PAUSED)], a)
        if residence and residence.body.here:
            residence.machine.move(State.IO_WAIT)
            self.mover.counts["parked"] += 1

    def look(self, a: int, b: int) -> None:
        residence = self._pick(self._stopped(), a)
        if residence:
            residence.intended, residence.read = True, not residence.body.readable

    def save(self, a: int, b: int) -> None:
        """Parked durably: as the pager does it."""
        residence = self._pick([r for r in self._stopped() if r.machine.state is not State.RESTORING], a)
        if residence is None:
            return
        saves.ask(self.book, Saving(residence, residence.body.live_bytes + b % UNIT, None, None))
        residence.intended = False
        if residence.body.live_bytes and residence.machine.state in (State.IDLE, State.PAUSED):
            residence.machine.move(State.IO_WAIT)

    def discard(self, a: int, b: int) -> None:
        """A hidden state is not needed any more by one that stands; forks of it may need it still."""
        residence = self._pick(self._stopped(), a)
        kept = residence and [k for k in self.memory.truth[residence.key] if isinstance(k, str)]
        if kept:
            self.book.drop(residence, kept[0])
            del self.memory.truth[residence.key][kept[0]]
            self.mover.counts["discarded"] += 1

    def fork(self, a: int, b: int) -> None:
        parent = self._pick(self._stopped(), a)
        if parent is None or parent.body.durable or parent.saving:
            return
        key = f"s{self.number}"
        self.number += 1
        child = Residence(key, Machine(parent.machine.state))
        self.book.fork(parent, child)
        self.memory.truth[key] = dict(self.memory.truth[parent.key])
        self.mover.counts["forked"] += 1

    def close(self, a: int, b: int) -> None:
        residence = self._pick([r for r in self.book.residences.values() if r.key not in self.mover.running], a)
        if residence:
            residence.machine.move(State.DONE)
            if residence.saving and not residence.saving.begun:
                saves.withdraw(self.book, residence.saving)
            self.book.release(residence)
            saves.forget(self.book, residence)
            self.memory.durable.pop(residence.key, None)
            self.mover.counts["closed"] += 1

    def complete(self, a: int, b: int) -> None:
        self.mover.complete(a)

    def settle(self) -> None:
        """Everything under way ends; every request has been granted or refused; then all close and nothing is held."""
        for _ in range(3000):
            if not self.mover.complete(0):
                if not self.mover.running:
                    break
                self.finish(0, 1)
            self.mover.pump()
            self.memory.check()
        assert not self.book.waiting, "somebody waits for ever"
        assert not self.book.saving, "somebody is saved for ever"
        assert not any(r.read for r in self.book.residences.values()), "somebody waits to read for ever"
        for _ in range(len(self.book.residences)):
            self.close(0, 0)
            self.mover.pump()
        while self.mover.complete(0):
            pass
        self.memory.check_empty()


def failure(trace: list[Op]) -> str | None:
    try:
        World().play(trace)
    except Exception as error:  # noqa: BLE001  whatever went wrong is what a trace is for
        return f"{type(error).__name__}: {error}"
    return None


def shrunk(trace: list[Op]) -> list[Op]:
    """A part of `trace` that fails still, no operation of which can be left out."""
    size = len(trace) // 2
    while size:
        at = 0
        while at < len(trace):
            less = trace[:at] + trace[at + size :]
            if failure(less):
                trace = less
            else:
                at += size
        size //= 2
    return trace


def main() -> None:
    trace = [tuple(op) for op in json.loads(Path(sys.argv[1]).read_text())]
    print("counts:", dict(World().play(trace)))


if __name__ == "__main__":
    main()
