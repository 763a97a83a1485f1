"""Virtual memory for sessions: policy and tiers put together.

One thread, the mover, makes room and copies whole sessions; the compute thread never waits for memory, it is handed
sessions that have all they need. A session's whole need is reserved before its restore starts.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable

from djinn.errors import DjinnError, IllegalMove, OutOfMemory, ServerFault
from djinn.layout import Layout
from djinn.policy import Candidate, choose_victim
from djinn.residence import Kept, Need, Residence
from djinn.sizes import KVShape, format_bytes
from djinn.states import END, PARKED, STOPPED, State
from djinn.tiers.copier import Copier
from djinn.tiers.extents import Extent, aligned
from djinn.tiers.pools import Pool
from djinn.transfers import Then, Transfers

log = logging.getLogger(__name__)


class Pager:
    def __init__(self, shape: KVShape, device: Pool, host: Pool, copier: Copier) -> None:
        self.shape, self.device, self.host = shape, device, host
        self.layout = Layout(shape, device, host)
        self.lock = threading.Condition(threading.RLock())
        self.transfers = Transfers(self.layout, copier, self.lock)
        self._residences: dict[str, Residence] = {}
        self._closing = False
        self._jobs: queue.SimpleQueue[tuple[Callable[[], None], Then] | None] = queue.SimpleQueue()
        self._mover = threading.Thread(target=self._work, name="mover", daemon=True)
        self._mover.start()

    # -- asked for by the engine -----------------------------------------------------------------

    def open(self, residence: Residence) -> None:
        with self.lock:
            self._residences[residence.key] = residence

    def admit(self, residence: Residence, need: Need, then: Then) -> None:
        """Bring the session to the device with all of `need`; `then(None)` is called as soon as it may run.

        `then(error)` if no tier can hold it: OutOfMemory, the session is as it was. May be called from this thread.
        """
        with self.lock:
            residence.wanted = True
            here = residence.slabs and need.tokens <= residence.capacity
            extents = self.device.extents.take(*map(self.shape.hidden_bytes, need.keeps.values())) if here else None
            if extents is not None:
                self._keep(residence, need, extents)
                residence.resident.set()
                self.transfers.ready(residence, resident=True)
        if extents is not None:
            then(None)
        else:
            self._jobs.put((lambda: self._admit(residence, need, then), then))

    def park(self, residence: Residence) -> None:
        """Move to IO_WAIT and start the eviction at once. A second park does nothing."""
        with self.lock:
            if residence.machine.state in PARKED:
                return
            residence.machine.move(State.IO_WAIT)
        self._jobs.put((lambda: self.transfers.evict_parked(residence), lambda refusal: None))

    def stopped(self, residence: Residence) -> None:
        """The session paused or became idle: it may be a victim now."""
        with self.lock:
            residence.wanted = False
            self.lock.notify_all()

    def drop(self, residence: Residence, name: str) -> None:
        """A kept hidden state is no longer needed."""
        with self.lock:
            kept = residence.kept.pop(name, None)
            if kept and kept.device:
                self.device.extents.give(kept.device)
            self.lock.notify_all()

    def release(self, residence: Residence) -> None:
        """Give back everything, at once or when the copy in flight has completed."""
        with self.lock:
            self._residences.pop(residence.key, None)
            self.transfers.release(residence)

    def usage(self) -> dict[str, int]:
        """Live bytes by authoritative tier, and what the tiers can hold."""
        with self.lock:
            live = list(self._residences.values())
            return {
                "device_bytes": sum(r.live_bytes() for r in live if r.host is None),
                "host_bytes": sum(r.live_bytes() for r in live if r.host is not None),
                "disk_bytes": 0,
                "arena_bytes": self.device.capacity,
                "arena_free_bytes": self.device.extents.free_bytes,
                "host_budget_bytes": self.host.capacity,
                "host_free_bytes": self.host.extents.free_bytes,
                **self.transfers.moved,
            }

    def shut_down(self) -> None:
        """End the mover's thread; who waits for memory is refused."""
        with self.lock:
            self._closing = True
            self.lock.notify_all()
        self._jobs.put(None)
        self._mover.join()

    # -- the mover's thread ----------------------------------------------------------------------

    def _work(self) -> None:
        while (item := self._jobs.get()) is not None:
            job, then = item
            try:
                job()
            except Exception as error:  # a defect must not end the thread that all sessions share; it is reported
                log.exception("paging failed")
                then(ServerFault(f"paging failed: {type(error).__name__}: {error}"))

    def _admit(self, residence: Residence, need: Need, then: Then) -> None:
        try:
            if residence.slabs:  # it must grow: out, and back into a larger place
                self._step_aside(residence)
            self._reserve(residence, need)
            if residence.host is not None:
                self.transfers.restore(residence, then)
                return
        except DjinnError as refusal:
            with self.lock:
                residence.wanted = False
                self.lock.notify_all()
            then(refusal)
            return
        residence.resident.set()
        then(None)

    def _reserve(self, residence: Residence, need: Need) -> None:
        """Take every extent of `need`, evicting others until they fit. Nothing is held while it waits."""
        sizes = residence.device_sizes(need)
        total = sum(map(aligned, sizes))
        while True:
            with self.lock:
                if self._closing:
                    raise IllegalMove("the server is shutting down")
                if residence.machine.state in END:
                    raise IllegalMove(f"the session was {residence.machine.state} before there was room for it")
                extents = self.device.extents.take(*sizes)
                if extents is not None:
                    residence.slabs, rest = extents[: self.shape.layers], extents[self.shape.layers :]
                    residence.capacity = need.tokens
                    for kept in residence.kept.values():
                        kept.device = rest.pop(0)
                    self._keep(residence, need, rest)
                    return
                if total > self.device.capacity:
                    raise OutOfMemory(
                        f"the session needs {format_bytes(total)}, the whole arena has {format_bytes(self.device.capacity)}"
                    )
                victim = self._victim(fresh=residence.host is None, asking=residence.shape.kv_bytes(need.tokens))
                if victim is None:
                    if not self._somebody_runs():
                        raise self._full(total)
                    self.lock.wait()
                    continue
            self._step_aside(victim)

    def _step_aside(self, residence: Residence) -> None:
        if not self.transfers.evict(residence):
            raise self._full(residence.host_bytes())

    def _victim(self, fresh: bool, asking: int) -> Residence | None:
        candidates = [
            Candidate(r.key, r.wanted, r.machine.state is State.IO_WAIT, r.machine.history[-1][1], r.host_bytes())
            for r in self._residences.values()
            if r.slabs and r.machine.state in STOPPED | {State.IO_WAIT}
        ]
        # A session that is new leaves room in the host pool for one to step aside: with both tiers full to the brim no
        # evicted session could ever come back. One that comes back may use that room, it frees its own.
        room = self.host.extents.free_bytes
        if fresh:
            room -= max([asking, *(r.host_bytes() for r in self._residences.values())])
        chosen = choose_victim(candidates, room)
        return self._residences[chosen.key] if chosen else None

    def _somebody_runs(self) -> bool:
        """Whether memory will come free without anybody's doing: a request that has all it needs will end."""
        return any(
            r.slabs and r.machine.state in (State.QUEUED, State.READY, State.RUNNING) for r in self._residences.values()
        )

    def _full(self, total: int) -> OutOfMemory:
        return OutOfMemory(
            f"no room for {format_bytes(total)}: arena {format_bytes(self.device.extents.free_bytes)} of "
            f"{format_bytes(self.device.capacity)} free, host pool {format_bytes(self.host.extents.free_bytes)} of "
            f"{format_bytes(self.host.capacity)} free. Close a session, or start with a larger host_budget"
        )

    @staticmethod
    def _keep(residence: Residence, need: Need, extents: list[Extent]) -> None:
        for (name, rows), extent in zip(need.keeps.items(), extents, strict=True):
            residence.kept[name] = Kept(rows, extent)
