"""Hand in exchanges by the thousand, block by block, and judge each answer. A block can be played alone."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from djinn.wire import messages as m
from fuzz import judge
from fuzz.exchange import Actor, Exchange, Frames
from fuzz.honest import Honest
from fuzz.judge import Found, hold
from fuzz.mangled import MANGLED
from fuzz.meanings import MEANINGS
from fuzz.memory import Memory
from fuzz.numbers import NUMBERS, joined
from fuzz.stage import Stage

BLOCK = 200  # messages
KINDS = MEANINGS | NUMBERS | MANGLED
WRONG_MEANING = {kind.__name__ for kind in (*MEANINGS, *NUMBERS)} - {"lawful"}
LATER = frozenset({"out_of_memory"})  # what may come to somebody honest while others fill the memory
FREE = ("device_bytes", "host_bytes", "disk_bytes", "arena_free_bytes", "host_free_bytes", "disk_free_bytes")


class House(Protocol):
    """Where exchanges are handed in. pid: of the server; engine: None where that is another process."""

    pid: int
    engine: Any
    in_order: bool  # whether messages come in the order in which they were handed in

    def post(self, peer: int, frames: Frames) -> None: ...
    def reply(self, seconds: float) -> tuple[int, Frames] | None: ...


@dataclass
class Report:
    seed: int
    exchanges: int = 0
    honest: int = 0  # requests of somebody who meant well, each with its answer
    kinds: Counter[str] = field(default_factory=Counter)
    codes: Counter[str] = field(default_factory=Counter)
    windows_mb: list[float] = field(default_factory=list)  # memory over the run: flat
    peak_bytes: int = 0  # beyond what the run began with
    found: list[tuple[str, str]] = field(default_factory=list)  # (check, what)

    @property
    def meant_wrong(self) -> int:
        return sum(count for kind, count in self.kinds.items() if kind in WRONG_MEANING)


class Fuzzer:
    def __init__(self, house: House, seed: int, wait_s: float = judge.WAIT_S, settle_s: float = judge.WAIT_S) -> None:
        """wait_s: for an answer; settle_s: until what is closed is given back. Only what never comes uses them up."""
        self.house, self.seed, self.wait_s, self.settle_s = house, seed, wait_s, settle_s
        self.report = Report(seed)
        self.kinds = {kind: weight for kind, weight in KINDS.items() if house.in_order or kind is not joined}
        self._teller = Actor("teller", "teller")
        self.ask(self._teller.pack(m.Hello()))
        self._empty = {name: self._stats().bytes[name] for name in FREE}
        alone = Honest("alone")
        while not alone.over:
            alone.step(self.ask)
        self._recorded = alone.asked
        self._undisturbed = alone.seen

    def run(self, exchanges: int, progress: Callable[[Report], None] = lambda report: None) -> Report:
        """Stops at the first block in which something was found: the server is not to be trusted behind it."""
        report, memory, first = self.report, Memory(self.house.pid), 0
        try:
            while first < exchanges:
                self.block(first, min(BLOCK, exchanges - first))
                first += BLOCK
                memory.sample()
                progress(report)
            memory.judge()
        except Found as found:
            report.found.append((found.check, str(found)))
        report.windows_mb, report.peak_bytes = memory.windows_mb(), memory.peak()
        return report

    def block(self, first: int, count: int, show: Callable[[str], None] | None = None) -> None:
        """Exchanges `first` to `first + count`; `first` is a multiple of BLOCK. Raises Found."""
        honest = Honest(f"honest-{first}")
        while not honest.session:
            honest.step(self.ask)
        stage = Stage(self.ask, first, honest.session, self._recorded)
        at = first
        while at < first + count:
            rng = random.Random(f"{self.seed}/{at}")
            kind = rng.choices(list(self.kinds), list(self.kinds.values()))[0]
            exchange = kind(stage, rng)
            try:
                codes = self._play(exchange)
            except Found as found:
                shown = " | ".join(map(judge.text_of, exchange.messages))
                where = f"--seed {self.seed} --from {at}"
                raise Found(found.check, f"{found.what} [{kind.__name__}, {where}] {shown}") from found
            if show:
                show(f"{at} {kind.__name__} {codes} {' | '.join(map(judge.text_of, exchange.messages))}")
            self.report.kinds[kind.__name__] += len(codes)
            self.report.codes.update(codes)
            self.report.exchanges += len(codes)
            at += len(codes)
            if "reply_gone" in codes and kind in MANGLED:
                stage.replaced()
            if at % 8 == 0 and not honest.over:
                self._go_on(honest)
        self._reckon(honest)

    def ask(self, frames: Frames) -> tuple[Any, list]:
        """As one asks who means well. Raises Found where it is refused."""
        self.house.post(0, frames)
        number, body, tensors = self._last(0, frames)
        self.report.honest += 1
        code = judge.judge_reply(frames, None, number, body)
        hold("the honest are served", code == "ok" or code in LATER, f"{body}: {judge.text_of(frames)}")
        if code in LATER:
            raise MemoryError(code)
        return body, tensors

    def _go_on(self, honest: Honest) -> None:
        try:
            honest.step(self.ask)
        except MemoryError:  # others fill it: asked again
            self.report.codes["later"] += 1

    def _play(self, exchange: Exchange) -> list[str]:
        messages, bodies, codes = exchange.messages, {}, {}
        waves = [[each] for each in range(len(messages))] if exchange.in_turn else [range(len(messages))]
        for wave in waves:
            for each in wave:
                self.house.post(each, messages[each])
            asked = {len(messages) - 1} if exchange.joined else set(wave)
            while asked - bodies.keys():
                peer, frames = self._next(exchange)
                number, body, _ = judge.read(frames)
                hold("answered once", peer in wave and peer not in bodies, f"{body} to {peer}"[:300])
                if isinstance(body, m.TokenReply):
                    judge.judge_token(messages[peer], number)
                    continue
                codes[peer] = judge.judge_reply(messages[peer], exchange.may[peer], number, body)
                bodies[peer] = frames
        stray = self.house.reply(0)
        while exchange.joined and stray and stray[0] not in bodies:
            bodies[stray[0]] = stray[1]
            stray = self.house.reply(0)
        hold("answered once", stray is None, f"and once more: {stray}"[:300])
        if exchange.same:
            first, *others = bodies.values()
            hold("done once", all(other == first for other in others), f"{[judge.read(f)[1] for f in bodies.values()]}")
        return [codes.get(each, "joined") for each in range(len(messages))]

    def _next(self, exchange: Exchange) -> tuple[int, Frames]:
        reply = self.house.reply(self.wait_s)
        hold("answered at all", reply is not None, f"nothing came in {self.wait_s} s")
        return reply

    def _last(self, peer: int, asked: Frames) -> tuple[int, Any, list]:
        while True:
            came = self.house.reply(self.wait_s)
            hold("answered at all", came is not None, f"nothing came in {self.wait_s} s")
            number, body, tensors = judge.read(came[1])
            hold("answered once", came[0] == peer, f"{body} to {came[0]}"[:300])
            if not isinstance(body, m.TokenReply):
                return number, body, tensors

    def alive(self) -> None:
        """The server answers; one that does not is Found."""
        self._stats()

    def _stats(self) -> m.StatsReply:
        return self.ask(self._teller.pack(m.Stats()))[0]

    def _reckon(self, honest: Honest) -> None:
        """At the end of a block: nothing is reserved in vain, everybody leaves, and every byte is free."""
        if self.house.engine:
            judge.await_nothing("reserved", lambda: judge.reserved_in_vain(self.house.engine), self.settle_s)
        for owner in ("ann", "bob"):
            self._close_all(owner)
        while not honest.over:
            honest.step(self.ask)
        hold("the honest are undisturbed", honest.seen == self._undisturbed, "another bit came")
        self._close_all("honest")
        judge.await_nothing("accounts", lambda: judge.judge_accounts(self._stats(), self._empty), self.settle_s)
        if self.house.engine:
            left = dict(self.house.dispatcher.replies._under_way)
            hold("accounts", not left or set(left.values()) == {0}, f"requests under way: {left}")

    def _close_all(self, owner: str) -> None:
        actor = Actor(owner, "closing")
        self.ask(actor.pack(m.Hello(), number=1))
        actor.number = 10**6 + self.report.exchanges * 100  # behind all that it closed in earlier blocks
        for session in self.ask(actor.pack(m.Sessions()))[0].sessions:
            self.ask(actor.pack(m.Close(session=session.id)))
