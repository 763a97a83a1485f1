"""The tier behind the host pool: one file for each session that is there, written and read by a thread of its own.

The files are for this server's life alone and are gone with it; they are not the durable parking, which has to survive a
power cut. Cost: the session's live bytes once each way, through the page cache.
"""

from __future__ import annotations

import logging
import os
import queue
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from djinn.tiers.streams import call_safely
from djinn.timeline import Timeline

log = logging.getLogger(__name__)


class Disk:
    def __init__(self, folder: Path | None, timeline: Timeline) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="djinn-", dir=folder)
        self._timeline = timeline
        self._work: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="disk", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while (work := self._work.get()) is not None:
            call_safely(work)

    def path(self, name: str) -> Path:
        return Path(self._folder.name) / name

    def write(self, name: str, parts: Sequence[torch.Tensor], done: Callable[[OSError | None], None]) -> None:
        """Write host bytes (uint8) one after the other into the file `name`; then `done(what went wrong)`."""
        self._work.put(lambda: self._timed("write", name, parts, done, self._write))

    def read(self, name: str, parts: Sequence[torch.Tensor], done: Callable[[OSError | None], None]) -> None:
        """Fill host bytes from the file `name`, then remove it; then `done(what went wrong)`."""
        self._work.put(lambda: self._timed("read", name, parts, done, self._read))

    def forget(self, name: str) -> None:
        """The session is closed; its file goes when what is queued before is done."""
        self._work.put(lambda: self.path(name).unlink(missing_ok=True))

    def _timed(self, what: str, name: str, parts, done, carry_out) -> None:
        began, error = time.monotonic_ns(), None
        try:
            carry_out(self.path(name), parts)
        except OSError as problem:
            log.error("%s of %s failed: %s", what, name, problem)
            error = problem
        self._timeline.add("disk", what, began, time.monotonic_ns(), bytes=sum(p.nbytes for p in parts))
        done(error)

    @staticmethod
    def _write(path: Path, parts: Sequence[torch.Tensor]) -> None:
        with open(path, "wb", buffering=0) as file:
            for part in parts:
                view = memoryview(part.numpy())
                while view:
                    view = view[file.write(view) :]

    @staticmethod
    def _read(path: Path, parts: Sequence[torch.Tensor]) -> None:
        with open(path, "rb", buffering=0) as file:
            for part in parts:
                view = memoryview(part.numpy())
                while view:
                    count = file.readinto(view)
                    if not count:
                        raise OSError(f"{path.name} is shorter than what was written")
                    view = view[count:]
        os.unlink(path)

    def close(self) -> None:
        self._work.put(None)
        self._thread.join()
        self._folder.cleanup()
