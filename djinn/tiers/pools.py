"""Memory taken once at start: the device arena and the host pool. Nothing is allocated on the request path.

Cost: one allocation each. Host memory is made ready (pinned for a CUDA device, at about 1.5 GB/s on the card it was
measured on; else touched once, so that no request meets its page faults) in chunks, by a thread behind the model load; what
is not ready yet is not handed out.
"""

from __future__ import annotations

import logging
import threading

import torch

from djinn.tiers.extents import Extent, Extents

log = logging.getLogger(__name__)
CHUNK = 1 << 29  # bytes made ready at a time


class Pool:
    """`capacity` bytes on one device, handed out as extents. Not thread-safe: the pager holds the lock."""

    def __init__(self, capacity: int, place: torch.device, unit: int) -> None:
        self.extents = Extents(capacity, unit)
        self.bytes = torch.empty(self.extents.capacity, dtype=torch.uint8, device=place)

    @property
    def capacity(self) -> int:
        return self.extents.capacity

    def at(self, start: int, nbytes: int) -> torch.Tensor:
        """`nbytes` uint8 from address `start`; no copy."""
        return self.bytes[start : start + nbytes]

    def view(self, extent: Extent, dtype: torch.dtype, *shape: int) -> torch.Tensor:
        """The start of `extent` as a tensor of `shape`; no copy."""
        count = torch.Size(shape).numel() * dtype.itemsize
        return self.at(extent.start, count).view(dtype).view(*shape)


class HostPool(Pool):
    """Host memory that is handed out as it becomes ready.

    Chunks are pinned one by one, and no copy may cross from one to the next: one unit between them is never handed out.
    """

    def __init__(self, capacity: int, unit: int, pinned: bool) -> None:
        super().__init__(capacity, torch.device("cpu"), unit)
        self.pinned, self._unit = pinned, unit
        step = max(CHUNK // unit, 2) * unit
        whole = self.extents.capacity
        self._chunks = [(start, min(step, whole - start)) for start in range(0, whole, step)]
        self.extents = Extents(0, unit)
        self.extents.capacity = sum(size - unit for _, size in self._chunks)
        self._stop = threading.Event()
        self._done = 0  # chunks made ready
        self.preparing = False  # more room will come without anybody's doing
        self._thread: threading.Thread | None = None

    def prepare(self, lock: threading.Condition) -> None:
        """Begin to make it ready, beside whatever the caller does next; `lock` guards the extents and is notified."""
        self.preparing = bool(self._chunks)
        self._thread = threading.Thread(target=self._prepare, args=(lock,), name="host pool", daemon=True)
        self._thread.start()

    def _prepare(self, lock: threading.Condition) -> None:
        for start, size in self._chunks:
            chunk = self.at(start, size)
            problem = None if self._stop.is_set() else self._make_ready(chunk)
            with lock:
                if problem or self._stop.is_set():
                    self.extents.capacity = self.extents.free_bytes
                    log.error("the host pool stays at %d bytes: %s", self.extents.capacity, problem or "shutting down")
                else:
                    self.extents.give(Extent(start, size - self._unit))
                    self._done += 1
                self.preparing = self._done < len(self._chunks) and not (problem or self._stop.is_set())
                lock.notify_all()
                if not self.preparing:
                    return

    def _make_ready(self, chunk: torch.Tensor) -> str | None:
        """What went wrong, if anything did."""
        if not self.pinned:
            chunk[::4096] = 0
            return None
        code = int(torch.cuda.cudart().cudaHostRegister(chunk.data_ptr(), chunk.nbytes, 0))
        return f"{chunk.nbytes} bytes could not be pinned (CUDA error {code})" if code else None

    def close(self) -> None:
        """Stop preparing, and unpin."""
        self._stop.set()
        if self._thread:
            self._thread.join()
        for start, _ in self._chunks[: self._done] if self.pinned else ():
            torch.cuda.cudart().cudaHostUnregister(self.at(start, 1).data_ptr())
