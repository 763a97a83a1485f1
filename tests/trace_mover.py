"""The policy's decisions carried out on bytes in memory: copies and files that complete late, and fail now and then.

Copies complete in order within a direction and in any order between directions; their bytes move when they complete.
"""

from __future__ import annotations

import random
from collections import Counter, deque
from collections.abc import Callable

from trace_memory import Memory

from djinn.paging import decisions, policy, saves, spills
from djinn.paging.residence import Body, Request, Residence, Saving
from djinn.paging.transfers import Transfer
from djinn.states import State


class LateMover:
    def __init__(self, memory: Memory) -> None:
        self.memory, self.book = memory, memory.book
        self.flying: dict[str, deque[Callable[[], None]]] = {way: deque() for way in ("out", "in", "disk", "save")}
        self.running: dict[str, Request] = {}
        self.counts: Counter[str] = Counter()
        self.endings = 0
        self.ahead = policy.AHEAD  # more than the arena: any number of restores at once

    def pump(self) -> None:
        """Until the policy has nothing more to do before something completes."""
        for _ in range(500):
            step = policy.next_step(self.book, self.ahead)
            match step:
                case None:
                    return
                case decisions.Grant(request=request):
                    self._grant(request)
                case decisions.Refuse(request=request):
                    missing = sum(map(self.book.device.rounded, self.book.missing(request).values()))
                    room = missing <= self.book.device.free_bytes and not request.residence.body.disk_bytes
                    assert not (request.resumed and room), "refused, and there is room"
                    self.counts["refused"] += 1
                    self.book.refuse(request)
                    if request.residence.machine.state is State.QUEUED:
                        request.residence.machine.move(State.IDLE)
                case decisions.Save(saving=saving):
                    self.flying["save"].append(lambda saving=saving: self._save(saving))
                case decisions.RefuseRead(body=body):
                    self.counts["not read"] += 1
                    for sharer in body.sharers:
                        self._refuse(sharer)
                case decisions.RefuseSave(saving=saving):
                    self.counts["not saved"] += 1
                    saves.withdraw(self.book, saving)
                case decisions.Move(transfer=transfer, residence=residence):
                    self.fly(transfer, residence)
                case decisions.Spill(body=body):
                    self.flying["disk"].append(lambda body=body: self._spill(body))
                case decisions.Fetch(body=body):
                    self.flying["disk"].append(lambda body=body: self._fetch(body))
                case decisions.Evicted():
                    self.counts["evicted at once"] += 1
                case decisions.Yielded():
                    self.counts["yielded"] += 1
            if step:
                self.memory.check()
        raise AssertionError("the policy turns in circles")

    def _grant(self, request: Request) -> None:
        residence = request.residence
        self.book.let_in(request)
        for state in (State.READY, State.RUNNING) if residence.machine.state is not State.QUEUED else (State.RUNNING,):
            residence.machine.move(state)
        for key in request.need:
            assert residence.body.parts[key].device.size >= request.need[key]
        self.memory.same(residence, "device")
        self.running[residence.key] = request
        self.counts["granted"] += 1

    def _refuse(self, residence: Residence) -> None:
        """What it asked for went wrong; it is where it was."""
        residence.read = residence.intended = False
        if residence.waiting:
            self.book.withdraw(residence.waiting)

    def fly(self, transfer: Transfer | None, residence: Residence) -> None:
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
                    self.memory.put(to, p.destination, self.memory.get(source, p.source, p.nbytes))
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
        self.memory.files[body.serial] = self.memory.host_pages(body)
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
            content, at = self.memory.file(body).get(key, b""), 0
            for extent in part.host:
                piece = content[at : at + extent.size]
                self.memory.put("host", extent.start, piece)
                at += extent.size
        spills.end_fetch(self.book, body)

    def _save(self, saving: Saving) -> None:
        residence, body = saving.residence, saving.residence.body
        if self._fails(7):
            saves.end(self.book, saving, written=False)
            self.counts["failed save"] += 1
            return
        held = self.memory.file(body) if body.disk_bytes else self.memory.host_pages(body)
        pages = {key: held.get(key, b"") for key, part in body.items() if not part.dropped}
        saves.end(self.book, saving, written=True)
        if not saving.abandoned:
            self.memory.durable[residence.key] = pages
            self.counts["saved"] += 1

    def complete(self, among: int) -> bool:
        """The oldest copy of some direction completes; False where none is under way. Who waits to read then has."""
        under_way = [queue for queue in self.flying.values() if queue]
        if under_way:
            under_way[among % len(under_way)].popleft()()
            for residence in self.book.residences.values():
                residence.read = residence.read and not residence.body.readable
        return bool(under_way)

    def _fails(self, one_in: int) -> bool:
        """Whether the copy or file that ends now went wrong: some do, the same ones each time a trace is played."""
        self.endings += 1
        return random.Random(self.endings).randrange(one_in) == 0
