"""The thread that carries out what the policy decides: it queues copies on the device's streams and the disk, and waits for none.

It asks for the next step whenever something has changed (`bell`). What follows a copy is done when it has ended (`endings`), on its
stream's thread, under the lock that guards the ledger; nothing is copied under it.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch

from djinn.errors import ServerFault
from djinn.paging import evictions, policy, saves
from djinn.paging.decisions import Evicted, Fetch, Grant, Move, Refuse, RefuseRead, RefuseSave, Save, Spill, Step
from djinn.paging.endings import Endings
from djinn.paging.gate import PartGate
from djinn.paging.layout import Layout
from djinn.paging.ledger import Ledger
from djinn.paging.residence import Body, Key, Request, Residence
from djinn.paging.transfers import Transfer, groups
from djinn.tiers.disk import Disk
from djinn.tiers.streams import Device, Mark, Wait, call_at_end, call_safely

log = logging.getLogger(__name__)
Buffer = memoryview | bytes


@dataclass(frozen=True)
class Written:
    """A run wrote the first `live` bytes of a part; they are there when `mark` is reached."""

    residence: Residence
    key: Key
    live: int
    epoch: int
    mark: Mark


class DurableFiles(Protocol):
    """Sessions' durable files, by the session's key. Both raise OSError, and StateRefused for a damaged file."""

    def read(self, key: str, pages: Sequence[Sequence[torch.Tensor]]) -> None:
        """Fill host bytes with the session's pages."""

    def pages(self, key: str) -> Iterator[Iterator[bytes]]:
        """The same in pieces, read when they are asked for."""


class Mover:
    def __init__(
        self,
        book: Ledger,
        layout: Layout,
        device: Device,
        disk: Disk | None,
        durable: DurableFiles | None,
        ends: Endings,
    ) -> None:
        self.book, self.layout, self.device, self.disk, self.durable = book, layout, device, disk, durable
        self.lock, self._ends = ends.lock, ends
        self.written: deque[Written] = deque()
        self._queued = threading.Condition()  # some part's copy
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="mover", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Called under no lock; the thread ends when its step is done."""
        with self.lock:
            self._closing = True
            self.lock.notify_all()
        self._thread.join()

    # -- the mover's thread ----------------------------------------------------------------------

    def _run(self) -> None:
        answered = -1  # the policy had nothing to do: it is asked again behind the next change
        while True:
            with self.lock:
                step = None
                while not (self._closing or self.written or step):
                    if answered != self.lock.changes:
                        changes, step = self.lock.changes, self._next()
                        answered = -1 if step else changes
                    else:
                        self.lock.wait()
                if self._closing:
                    return
                step = step or self.written.popleft()
                begun = self._safely(self._begin, step)
            if begun:
                self._safely(self._carry_out, step)

    def _safely(self, work: Callable[[Step | Written], None], step: Step | Written) -> bool:
        """Whether it went well. A defect must not end the thread that all sessions share: it is told to the one concerned."""
        try:
            work(step)
        except Exception as error:
            log.exception("paging failed")
            self._failed(step, error)
            return False
        return True

    def _failed(self, step: Step | Written, error: Exception) -> None:
        """What has begun with a file ends as if that had failed: else its bytes would be under way for ever."""
        match step:
            case Spill(body=body):
                call_safely(partial(self._ends.spilled, body, error))
            case Fetch(body=body):
                call_safely(partial(self._ends.fetched, body, error))
            case Save(saving=saving):
                call_safely(partial(self._ends.saved, saving, error))
            case _:
                concerned = step.request if isinstance(step, Grant | Refuse) else step
                residence = getattr(concerned, "residence", None)
                self._ends.fail(residence, ServerFault(f"paging failed: {type(error).__name__}: {error}"))

    def _next(self) -> Step | None:
        """Under the lock: what the policy decides. A defect in it fails those who wait, or it would meet them again."""
        try:
            return policy.next_step(self.book)
        except Exception as error:
            log.exception("the paging policy failed")
            for request in list(self.book.waiting):
                self._ends.fail(request.residence, ServerFault(f"paging failed: {type(error).__name__}: {error}"))
            return None

    def _begin(self, step: Step | Written) -> None:
        """Under the lock still, so that what was decided is true: a copy that ends meanwhile, or a session that is closed,
        changes it. Who comes back is not resident, and has a gate before each part."""
        match step:
            case Evicted():
                self._ends.moved["evictions"] += 1
            case Move(transfer=transfer, residence=residence) if transfer.direction != "out" and transfer.moves:
                residence.resident.clear()
                residence.gates = {key: PartGate(self._queued) for key, _ in transfer.moves}
            case Grant(request=request):
                self._ends.let_in(request)
            case Refuse(request=request):
                self.book.refuse(request)
            case RefuseSave(saving=saving):
                saves.withdraw(self.book, saving)
                self.lock.notify_all()  # a drain that finds it being saved waits for the end of that

    def _carry_out(self, step: Step | Written) -> None:
        match step:
            case Written():
                self._mirror(step)
            case Move(transfer=transfer, residence=residence, request=request):
                if transfer.direction == "out":
                    self._ends.moved["evictions"] += 1
                    self._queue_out(transfer, residence, f"evict {residence.key[:8]}")
                else:
                    self._ends.moved["evictions"] += step.evicted
                    self._queue_in(transfer, residence, request)
            case Grant(request=request):
                request.then(None)
            case Refuse(request=request, error=error):
                request.then(error)
            case Spill(body=body):
                self.disk.write(str(body.serial), self.layout.host_pages(body), partial(self._ends.spilled, body))
            case Fetch(body=body, key=key):
                self._queue_fetch(body, key)
            case Save(saving=saving):
                saving.write(self._pages(saving.residence), partial(self._ends.saved, saving))
            case RefuseSave(saving=saving, error=error):
                saving.then(error)
            case RefuseRead(body=body, error=error):
                with self.lock:
                    self._ends.readers.refuse(body, error)

    def _queue_fetch(self, body: Body, key: str) -> None:
        pages = self.layout.host_pages(body)
        done = partial(self._ends.fetched, body)
        if body.durable:
            self.disk.run("read", pages, lambda: self.durable.read(key, pages), done)
        else:
            self.disk.read(str(body.serial), pages, done)

    def _pages(self, residence: Residence) -> Iterable[Iterable[Buffer]]:
        """What a session's file holds, from where its bytes lie: the host pool, or another file."""
        body = residence.body
        parts = [part for part in body.parts.values() if part.live]
        if body.durable:
            pages = self.durable.pages(residence.key)
        elif body.disk_bytes:
            pages = self.disk.pieces(str(body.serial), [part.live for part in parts])
        else:
            pages = ([memoryview(piece.numpy()) for piece in page] for page in self.layout.host_pages(body))
        return (page for page, part in zip(pages, parts, strict=True) if not part.dropped)

    def _mirror(self, item: Written) -> None:
        with self.lock:
            residence = item.residence
            body = residence.body
            part = body.parts.get(item.key)
            if residence.released or body.epoch != item.epoch or not (part and part.device):
                return
            transfer = evictions.begin_mirror(self.book, residence, item.key, item.live)
        if transfer:
            self._queue_out(transfer, residence, f"write through {residence.key[:8]}", item.mark)

    def _queue_out(self, transfer: Transfer, residence: Residence, name: str, written: Mark | None = None) -> None:
        try:
            if written:
                self.device.out.after(written, Wait.OUT_AFTER_COMPUTE)
            self.device.out.copy(name, self.layout.copies("out", transfer.moves))
        except Exception as error:  # noqa: BLE001  what is queued must end first; then it is told
            transfer.problem = error
        left = partial(self._ends.left, transfer, residence, written is not None)
        call_at_end(self.device.out, left, Wait.FREE_AFTER_OUT)

    def _queue_in(self, transfer: Transfer, residence: Residence, request: Request | None) -> None:
        if not transfer.moves:
            self._ends.landed(transfer, residence, None)
            return
        waited = {key for key, _ in transfer.moves}
        coming = transfer.direction == "in"
        early = request is not None and request.first is not None and coming
        if early:
            waited &= request.first
        if early and not waited:
            self._ends.first_is_here(transfer, request, None)
        name = f"{'restore' if coming else 'grow'} {residence.key[:8]}"
        stream = self.device.into if coming else self.device.across
        try:
            for group in groups(transfer.moves, len(waited) if early else 0):
                stream.copy(name, self.layout.copies(transfer.direction, group))
                mark = stream.mark()
                for key, _ in group:
                    residence.gates[key].open(mark)
                    waited.discard(key)
                if early and not waited:
                    stream.call(partial(self._ends.first_is_here, transfer, request), Wait.READY_AFTER_IN)
                    early = False
        except Exception as error:  # noqa: BLE001  as above
            transfer.problem = error
        self._ends.moved["restores"] += coming
        call_at_end(stream, partial(self._ends.landed, transfer, residence), Wait.FREE_AFTER_IN)
