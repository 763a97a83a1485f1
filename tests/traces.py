"""Random lives of sessions, played against the ledger and the policy: no tensors, every byte checked after every step.

A trace is a list of [operation, number, number]; the numbers choose among what is there, so any part of a trace is a
trace too. Copies complete late, in order within a direction and in any order between directions; what is free is
poisoned. `python tests/traces.py FILE` replays a trace that failed.
"""

from __future__ import annotations

import itertools
import json
import random
import sys
from collections import Counter, deque
from pathlib import Path

from djinn.paging import decisions, evictions, policy, saves, spills
from djinn.paging.ledger import Ledger
from djinn.paging.residence import Body, Part, Request, Residence, Saving
from djinn.paging.transfers import Transfer
from djinn.states import END, Machine, State
from djinn.tiers.extents import Extents

LAYERS, TOKEN, UNIT, ROW = 3, 4, 16, 8  # bytes of a token in a layer, of a unit, of a row of a hidden state
DEVICE, HOST, DISK = 40 * UNIT, 24 * UNIT, 20 * UNIT
POISON = 0xEE
WEIGHTS = {
    "open": 8, "ask": 24, "write": 20, "finish": 16, "park": 6, "look": 4, "fork": 3, "close": 1, "complete": 30, "save": 7,
}  # fmt: skip

Op = tuple[str, int, int]


def random_trace(seed: int, length: int = 80) -> list[Op]:
    draw = random.Random(seed)
    names = draw.choices(list(WEIGHTS), list(WEIGHTS.values()), k=length)
    return [(name, draw.randrange(1 << 16), draw.randrange(1 << 16)) for name in names]


class World:
    """The ledger with bytes behind its addresses, and everything that could be in flight."""

    def __init__(self) -> None:
        self.book = Ledger(Extents(DEVICE, UNIT), Extents(HOST, UNIT), DISK)
        self.memory = {"device": bytearray(DEVICE), "host": bytearray(HOST)}
        self.files: dict[int, dict] = {}  # spilled: body -> part -> its bytes
        self.durable: dict[str, dict] = {}  # session -> part -> its bytes, as they were last saved
        self.flying: dict[str, deque] = {"out": deque(), "in": deque(), "disk": deque(), "save": deque()}
        self.endings = 0
        self.truth: dict[str, dict] = {}  # session -> part -> its bytes
        self.running: dict[str, Request] = {}
        self.counts: Counter[str] = Counter()
        self.number = 0
        self.writes = 0
        self.ahead = policy.AHEAD  # more than the arena: any number of restores at once

    # -- operations ----------------------------------------------------------------------------------

    def play(self, trace: list[Op]) -> Counter[str]:
        if trace and trace[0][1] % 2:
            self.ahead = 10 * UNIT
        for name, a, b in trace:
            getattr(self, name)(a, b)
            self.pump()
            self.check()
        self.settle()
        return self.counts

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
        self.truth[key] = {}
        self.counts["opened"] += 1

    def ask(self, a: int, b: int) -> None:
        """A prompt or a resume: room for some more tokens in every layer, and for a pause's hidden state."""
        residence = self._pick(self._stopped(), a)
        if residence is None:
            return
        truth = self.truth[residence.key]
        longest = max((len(truth.get(layer, b"")) for layer in range(LAYERS)), default=0)
        need = dict.fromkeys(range(LAYERS), longest + TOKEN * (1 + b % 20))
        self.number += 1
        need[f"pause-{self.number}"] = ROW * (1 + b % 6)
        fresh = not residence.body.live_bytes
        if fresh and residence.machine.state is State.IDLE:
            residence.machine.move(State.QUEUED)
        residence.intended = False
        self.book.request(Request(residence, need, self.number, not fresh, order=tuple(range(LAYERS))))
        self.counts["resumed" if not fresh else "begun"] += 1

    def write(self, a: int, b: int) -> None:
        """A layer of a running session gets some tokens; sometimes behind a rewind; sometimes written through."""
        key = self._pick(sorted(self.running), a)
        if key is None:
            return
        residence, request = self.book.residences[key], self.running[key]
        layer, truth = b % LAYERS, self.truth[key]
        part, have = residence.body.parts[layer], truth.get(layer, b"")
        if b % 7 == 0 and have:
            have = have[: len(have) // 2 // TOKEN * TOKEN]
            self.book.set_live(residence, layer, len(have))
            self.counts["rewound"] += 1
        self.writes += 1
        fresh = bytes(random.Random(self.writes).choices(range(200), k=TOKEN * (1 + b % 5)))
        truth[layer] = (have + fresh)[: request.need[layer]]
        self.memory["device"][part.device.start : part.device.start + len(truth[layer])] = truth[layer]
        if b % 3:
            self._fly(evictions.begin_mirror(self.book, residence, layer, len(truth[layer])), residence)
        self.book.set_live(residence, layer, len(truth[layer]))

    def finish(self, a: int, b: int) -> None:
        """The run ends: paused with a hidden state kept, or idle."""
        key = self._pick(sorted(self.running), a)
        if key is None:
            return
        for layer in range(LAYERS if b % 5 else 0):
            self.write(sorted(self.running).index(key), layer + LAYERS * (b % 50))
        residence, request = self.book.residences[key], self.running.pop(key)
        name = next(k for k in request.need if isinstance(k, str))
        for old in [k for k in self.truth[key] if isinstance(k, str)]:
            self.book.drop(residence, old)
            del self.truth[key][old]
        if b % 2:
            self.truth[key][name] = bytes([b % 199]) * request.need[name]
            at = residence.body.parts[name].device.start
            self.memory["device"][at : at + request.need[name]] = self.truth[key][name]
            self.book.set_live(residence, name, request.need[name])
        else:
            self.book.drop(residence, name)
        residence.machine.move(State.PAUSED if b % 2 else State.IDLE)
        self.book.stopped(residence)
        self.counts["stopped"] += 1

    def park(self, a: int, b: int) -> None:
        residence = self._pick([r for r in self._stopped() if r.machine.state in (State.IDLE, State.PAUSED)], a)
        if residence and residence.body.here:
            residence.machine.move(State.IO_WAIT)
            self.counts["parked"] += 1

    def look(self, a: int, b: int) -> None:
        residence = self._pick(self._stopped(), a)
        if residence:
            residence.intended = True

    def save(self, a: int, b: int) -> None:
        """Parked durably: as the pager does it."""
        residence = self._pick([r for r in self._stopped() if r.machine.state is not State.RESTORING], a)
        if residence is None:
            return
        saves.ask(self.book, Saving(residence, residence.body.live_bytes + b % UNIT, None, None))
        residence.intended = False
        if residence.body.live_bytes and residence.machine.state in (State.IDLE, State.PAUSED):
            residence.machine.move(State.IO_WAIT)

    def fork(self, a: int, b: int) -> None:
        parent = self._pick(self._stopped(), a)
        if parent is None or parent.machine.state not in (State.IDLE, State.PAUSED):
            return
        key = f"s{self.number}"
        self.number += 1
        child = Residence(key, Machine())
        child.body.sharers.remove(child)
        if parent.machine.state is State.PAUSED:
            child.machine.state = State.PAUSED
        self.book.fork(parent, child)
        self.truth[key] = dict(self.truth[parent.key])
        self.counts["forked"] += 1

    def close(self, a: int, b: int) -> None:
        residence = self._pick([r for r in self.book.residences.values() if r.key not in self.running], a)
        if residence:
            residence.machine.move(State.DONE)
            if residence.saving and not residence.saving.begun:
                saves.withdraw(self.book, residence.saving)
            self.book.release(residence)
            saves.forget(self.book, residence)
            self.durable.pop(residence.key, None)
            self.counts["closed"] += 1

    def complete(self, a: int, b: int) -> None:
        """The oldest copy of some direction completes: its bytes move now, not when it was queued."""
        queue = self._pick([q for q in self.flying.values() if q], a)
        if queue is None:
            return
        done = queue.popleft()
        done()

    def _fails(self, one_in: int) -> bool:
        """Whether the copy or file that ends now went wrong: some do, the same ones each time a trace is played."""
        self.endings += 1
        return random.Random(self.endings).randrange(one_in) == 0

    # -- what the pager does ----------------------------------------------------------------------------

    def pump(self) -> None:
        for _ in range(500):
            step = policy.next_step(self.book, self.ahead)
            match step:
                case None:
                    return
                case decisions.Grant(request=request):
                    self._grant(request)
                case decisions.Refuse(request=request):
                    self.counts["refused"] += 1
                    self.book.withdraw(request)
                    if request.residence.machine.state is State.QUEUED:
                        request.residence.machine.move(State.IDLE)
                case decisions.Save(saving=saving):
                    self.flying["save"].append(lambda saving=saving: self._save(saving))
                case decisions.RefuseSave(saving=saving):
                    self.counts["not saved"] += 1
                    saves.withdraw(self.book, saving)
                case decisions.Move(transfer=transfer, residence=residence):
                    self._fly(transfer, residence)
                case decisions.Spill(body=body):
                    self.flying["disk"].append(lambda body=body: self._spill(body))
                case decisions.Fetch(body=body):
                    self.flying["disk"].append(lambda body=body: self._fetch(body))
                case decisions.Yielded():
                    self.counts["yielded"] += 1
            if step:
                self.check()
        raise AssertionError("the policy turns in circles")

    def _grant(self, request: Request) -> None:
        residence = request.residence
        self.book.let_in(request)
        for state in (State.READY, State.RUNNING) if residence.machine.state is not State.QUEUED else (State.RUNNING,):
            residence.machine.move(state)
        for key in request.need:
            assert residence.body.parts[key].device.size >= request.need[key]
        self._same(residence, "device")
        self.running[residence.key] = request
        self.counts["granted"] += 1

    def _refuse(self, residence: Residence) -> None:
        """What it asked for went wrong; it is where it was."""
        residence.intended = False
        if residence.waiting:
            self.book.withdraw(residence.waiting)

    def _fly(self, transfer: Transfer | None, residence: Residence) -> None:
        if transfer is None:
            return
        source = "host" if transfer.direction == "in" else "device"
        to = "host" if transfer.direction == "out" else "device"

        def land() -> None:
            whole = all(sharer.machine.state is State.RESTORING for sharer in residence.body.sharers)
            if transfer.cancel and (source == "device" or whole) and self._fails(12):
                transfer.cancel()
                self.counts[f"failed {transfer.direction}"] += 1
                if source == "host":
                    self._refuse(residence)
                return
            for _, pieces in transfer.moves:
                for p in pieces:
                    self.memory[to][p.destination : p.destination + p.nbytes] = self.memory[source][
                        p.source : p.source + p.nbytes
                    ]
            transfer.end()
            self.counts[f"moved {transfer.direction}"] += 1

        if transfer.direction != "out" and not transfer.moves:
            transfer.end()
        else:
            self.flying["out" if transfer.direction == "out" else "in"].append(land)

    def _spill(self, body: Body) -> None:
        if self._fails(7):
            spills.cancel_spill(self.book, body)
            self.counts["failed spill"] += 1
            return
        self.files[id(body)] = {key: self._host_bytes(part) for key, part in body.items()}
        spills.end_spill(self.book, body)
        self.counts["spilled"] += 1

    def _fetch(self, body: Body) -> None:
        if self._fails(7):
            spills.cancel_fetch(self.book, body)
            for residence in body.sharers:
                self._refuse(residence)
            self.counts["failed fetch"] += 1
            return
        self.counts["fetched durable" if body.durable else "fetched"] += 1
        for key, part in body.items():
            content, at = self._file(body).get(key, b""), 0
            for extent in part.host:
                piece = content[at : at + extent.size]
                self.memory["host"][extent.start : extent.start + len(piece)] = piece
                at += extent.size
        spills.end_fetch(self.book, body)

    def _save(self, saving: Saving) -> None:
        residence, body = saving.residence, saving.residence.body
        if self._fails(7):
            saves.end(self.book, saving, written=False)
            self.counts["failed save"] += 1
            return
        held = self._file(body) if body.disk_bytes else {key: self._host_bytes(part) for key, part in body.items()}
        pages = {key: held.get(key, b"") for key, part in body.items() if not part.dropped}
        saves.end(self.book, saving, written=True)
        if not saving.abandoned:
            self.durable[residence.key] = pages
            self.counts["saved"] += 1

    def _file(self, body: Body) -> dict[int | str, bytes]:
        """Of the one tier: the durable file, or the spilled one. A closed session's is gone."""
        if body.durable:
            return self.durable.get(body.sharers[0].key, {}) if body.sharers else {}
        return self.files[id(body)]

    def _host_bytes(self, part: Part) -> bytes:
        return b"".join(bytes(self.memory["host"][e.start : e.end]) for e in part.host)[: part.live]

    # -- what must hold after every step --------------------------------------------------------------------

    def check(self) -> None:
        bodies = {id(r.body): r.body for r in self.book.residences.values()}.values()
        for pool, extents in (
            (self.book.device, [p.device for b in bodies for p in b.parts.values() if p.device]),
            (self.book.host, [e for b in bodies for p in b.parts.values() for e in p.host]),
        ):
            held = sorted(e for e in extents if e.size)
            assert all(x.end <= y.start for x, y in itertools.pairwise(held)), "two hold the same bytes"
            assert sum(e.size for e in held) + pool.free_bytes <= pool.capacity, "bytes out of nothing"
        assert 0 <= self.book.disk_free <= DISK
        for extents, memory in ((self.book.device, "device"), (self.book.host, "host")):
            for hole in extents._free:
                self.memory[memory][hole.start : hole.end] = bytes([POISON]) * hole.size
        for residence in self.book.residences.values():
            self._same(residence, self._tier(residence.body))

    def _tier(self, body: Body) -> str:
        """The one tier whose copy counts."""
        if body.here:
            return "device"
        return "disk" if body.disk_bytes and body.moving != "spill" else "host"

    def _same(self, residence: Residence, tier: str) -> None:
        body = residence.body
        for key, content in self.truth[residence.key].items():
            part = body.parts[key]
            assert part.live == len(content), f"{residence.key} {key}: {part.live} live bytes of {len(content)}"
            if body.moving == "across" or (body.moving == "in" and not body.has_host_copy):
                continue  # it grows or comes off a fork: where from is in nobody's accounts; checked when it has landed
            if tier == "device":
                found = bytes(self.memory["device"][part.device.start : part.device.start + part.live])
            elif tier == "host":
                assert part.clean == part.live, "evicted before it was copied"
                found = self._host_bytes(part)
            else:
                found = self._file(body).get(key, b"")[: part.live]
            assert found == content, f"{residence.key} {key} is not what was written, on the {tier}"

    def settle(self) -> None:
        """Everything under way ends; every request has been granted or refused; then all close and nothing is held."""
        for _ in range(3000):
            if any(self.flying.values()):
                self.complete(0, 0)
            elif self.running:
                self.finish(0, 1)
            else:
                break
            self.pump()
            self.check()
        assert not self.book.waiting, "somebody waits for ever"
        assert not self.book.saving, "somebody is saved for ever"
        for _ in range(len(self.book.residences)):
            self.close(0, 0)
            self.pump()
        while any(self.flying.values()):
            self.complete(0, 0)
        assert self.book.device.free_bytes == self.book.device.capacity, "device bytes were lost"
        assert self.book.host.free_bytes == self.book.host.capacity, "host bytes were lost"
        assert self.book.disk_free == DISK, "disk bytes were lost"


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
