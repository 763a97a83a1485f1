"""Where a hidden state arrives while room for its session is still being made: a copy takes as long as the planning does.

One place on the device. Who waits with nothing but a hidden state to begin with, and comes first, has it copied there at once;
when its session has been placed it is copied on, which a card does in 5 % of the time. Nothing here counts in the accounts: the
host's copy is the one that counts. Costs: one hidden state of the longest pass, a second copy of it inside the device.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial

import torch

from djinn.paging.layout import Layout
from djinn.paging.residence import Key, Part, Request
from djinn.paging.transfers import Piece, Transfer
from djinn.states import State
from djinn.tiers.extents import Extent
from djinn.tiers.streams import Copies, Device, Wait

LEAST = 1 << 16  # bytes: what is shorter is copied faster than this is arranged


@dataclass
class Landed:
    """A hidden state on its way there, or there."""

    request: Request
    key: Key
    host: list[Extent]  # the part's own list: another one, where it has been elsewhere meanwhile
    nbytes: int
    queued: bool = False
    problem: Exception | None = None
    transfer: Transfer | None = None  # what has used it


class Landing:
    """Used by the mover's thread; `lock` is the ledger's."""

    def __init__(self, layout: Layout, device: Device, nbytes: int, lock: threading.Condition) -> None:
        self.layout, self.device, self.lock = layout, device, lock
        self.place = torch.empty(nbytes, dtype=torch.uint8, device=device.place)
        self.held: Landed | None = None

    def next(self, waiting: Iterable[Request]) -> Landed | None:
        """Under the lock: whose hidden state is to be copied here now, if anybody's."""
        if self.held and self.held.request.residence.waiting is self.held.request:
            return None
        for request in waiting:
            residence = request.residence
            if residence.machine.state is not State.HOST or not request.first or len(request.first) > 1:
                continue
            (key,) = request.first
            part: Part | None = residence.body.parts.get(key)
            if part and LEAST <= part.live <= self.place.nbytes:
                self.held = Landed(request, key, part.host, part.live)
                return self.held
        return None

    def fetch(self, landed: Landed) -> None:
        """Queue its copy."""
        at, copies = 0, []
        for extent in landed.host:
            count = min(extent.size, landed.nbytes - at)
            copies.append((self.place[at : at + count], self.layout.host.at(extent.start, count)))
            at += count
        self.device.first.copy(f"ahead {landed.request.residence.key[:8]}", [pair for pair in copies if pair[0].nbytes])
        self.device.first.call(partial(self._there, landed), Wait.READY_AFTER_IN)
        landed.queued = True

    def _there(self, landed: Landed, problem: Exception | None) -> None:
        with self.lock:
            landed.problem = landed.problem or problem
            if landed.transfer:
                landed.transfer.problem = landed.transfer.problem or problem

    def copies(self, transfer: Transfer, request: Request, key: Key, pieces: list[Piece]) -> Copies | None:
        """From here to the session's place, once; None where what it needs is not here."""
        with self.lock:
            landed = self.held
            if not landed or landed.request is not request or landed.key != key or not landed.queued or landed.problem:
                return None
            if landed.transfer or request.residence.body.parts[key].host is not landed.host:
                return None
            landed.transfer = transfer
        to = self.layout.arena.at(pieces[0].destination, landed.nbytes)
        return [(to, self.place[: landed.nbytes])]
