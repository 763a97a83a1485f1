"""Memory taken once at start: the device arena and the host pool. Nothing is allocated on the request path.

Cost: one allocation each. Host memory is made ready in chunks by a thread behind the model load, and not handed out
before: touched once, so that no request meets its page faults, and pinned for a CUDA device. Pinning holds a lock of the
driver's that every launch and allocation needs, and it takes the pages too if nobody has: 0.77 s for 2 GB on an H100's host,
and a model of 26 GB loaded in 71 s instead of 18 beside it. Taken before, as huge pages, they are pinned in 0.04 s. One
thread took 90 GB in 46 s there, three times what the load took: several take them, each chunk before its turn to be pinned.
"""

from __future__ import annotations

import ctypes
import logging
import mmap
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from djinn.tiers.extents import Extent, Extents

log = logging.getLogger(__name__)
CHUNK = 1 << 29  # bytes made ready at a time
PAGE = 4096
TOUCHING = 8  # threads at most that take pages, and half of the processors: the load wants the others


class Pool:
    """`capacity` bytes on one device, handed out as extents. Not thread-safe: the pager holds the lock."""

    def __init__(self, capacity: int, place: torch.device, unit: int) -> None:
        self.extents = Extents(capacity, unit)
        self.bytes = torch.empty(self.extents.capacity, dtype=torch.uint8, device=place)
        if place.type == "cpu":
            self.bytes[::PAGE] = 0  # no request meets its page faults

    @property
    def capacity(self) -> int:
        return self.extents.capacity

    def at(self, start: int, nbytes: int) -> torch.Tensor:
        """`nbytes` uint8 from address `start`; no copy."""
        return self.bytes[start : start + nbytes]

    def view(self, extent: Extent, dtype: torch.dtype, *shape: int) -> torch.Tensor:
        """The start of `extent` as a tensor of `shape`; no copy."""
        count = torch.Size(shape).numel() * dtype.itemsize
        # Of one kind wherever it is asked for, within a pass or not: torch compiles for each of the two kinds of tensors.
        with torch.inference_mode(False):
            return self.at(extent.start, count).view(dtype).view(*shape)


class HostMemory:
    """Host memory made ready chunk by chunk from the moment this is made, beside whatever the caller does next.

    chunk: bytes that are pinned as one piece, across whose ends no copy may go.
    """

    def __init__(self, capacity: int, pinned: bool, chunk: int = CHUNK) -> None:
        self.bytes = torch.empty(capacity, dtype=torch.uint8)
        _ask_for_huge_pages(self.bytes)
        self.pinned = pinned
        self.chunks = [(start, min(chunk, capacity - start)) for start in range(0, capacity, chunk)]
        self.changed = threading.Condition()
        self.ready = 0  # chunks
        self.failed = False
        self._stop = False
        self._thread = threading.Thread(target=self._prepare, name="host memory", daemon=True)
        self._thread.start()

    @property
    def preparing(self) -> bool:
        return self.ready < len(self.chunks) and not (self.failed or self._stop)

    def _prepare(self) -> None:
        memory = self.bytes.numpy()
        with ThreadPoolExecutor(max(1, min(TOUCHING, (os.cpu_count() or 1) // 2)), "host pages") as touching:
            taken = [touching.submit(_touch, memory[start : start + size]) for start, size in self.chunks]
            while self.preparing:
                start, size = self.chunks[self.ready]
                taken[self.ready].result()
                problem = self._pin(self.bytes[start : start + size])
                with self.changed:
                    self.failed = problem is not None
                    self.ready += not self.failed
                    self.changed.notify_all()
            touching.shutdown(cancel_futures=True)
        if self.failed:
            log.error("the host pool stays at %d of %d chunks: %s", self.ready, len(self.chunks), problem)

    def _pin(self, chunk: torch.Tensor) -> str | None:
        """What went wrong, if anything did."""
        if not self.pinned:
            return None
        began = time.monotonic()
        code = int(torch.cuda.cudart().cudaHostRegister(chunk.data_ptr(), chunk.nbytes, 0))
        # It held a lock that every copy and every kernel wants: who waits gets it now. While a pool was pinned without that, on
        # a host that was slow to pin, resumes took up to 1.6 s where they take 1.5 ms.
        time.sleep(time.monotonic() - began)
        return f"{chunk.nbytes} bytes could not be pinned (CUDA error {code})" if code else None

    def wait(self) -> bool:
        """Until no more is being made ready; whether all of it is."""
        self._thread.join()
        return self.ready == len(self.chunks)

    def close(self) -> None:
        """Stop preparing, and unpin. A second close does nothing."""
        self._stop = True
        self._thread.join()
        for start, _ in self.chunks[: self.ready] if self.pinned else ():
            torch.cuda.cudart().cudaHostUnregister(self.bytes[start:].data_ptr())
        self.ready = 0


def _touch(chunk: np.ndarray) -> None:
    chunk[::PAGE] = 0  # numpy lets other threads run meanwhile, and takes one thread, whatever torch was told


def _ask_for_huge_pages(memory: torch.Tensor) -> None:
    """A wish: without it, or where the kernel has none, the same memory comes in small pages and takes longer to get."""
    start = -(-memory.data_ptr() // PAGE) * PAGE
    size = memory.data_ptr() + memory.nbytes - start
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(size), mmap.MADV_HUGEPAGE):
        log.info("no huge pages for the host pool (errno %d)", ctypes.get_errno())


class HostPool(Pool):
    """Host memory, handed out as it becomes ready.

    No copy may cross from one pinned chunk to the next: the end of each is never handed out, so none lie together.
    """

    def __init__(self, memory: HostMemory, unit: int) -> None:
        self.memory, self.bytes = memory, memory.bytes
        self.extents = Extents(0, unit)
        self._usable = [Extent(start, (size - 1) // unit * unit) for start, size in memory.chunks]
        self.extents.capacity = sum(extent.size for extent in self._usable)
        self._thread: threading.Thread | None = None
        self.growing = True  # more room will come without anybody's doing

    def open(self, lock: threading.Condition) -> None:
        """Hand out what is ready now, and the rest when it is; `lock` guards the extents and is notified."""
        self._thread = threading.Thread(target=self._follow, args=(lock,), name="host pool", daemon=True)
        self._thread.start()

    def _follow(self, lock: threading.Condition) -> None:
        memory, given = self.memory, 0
        while self.growing:
            with memory.changed:
                while memory.ready == given and memory.preparing:
                    memory.changed.wait(1.0)
                ready, more = memory.ready, memory.preparing
            with lock:
                for extent in self._usable[given:ready]:
                    self.extents.give(extent)
                self.growing = more
                if not more:
                    self.extents.capacity = sum(extent.size for extent in self._usable[:ready])
                lock.notify_all()
            given = ready

    def close(self) -> None:
        self.memory.close()
        if self._thread:
            self._thread.join()
