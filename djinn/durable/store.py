"""The thread that writes and removes durable files, in turn, so that neither the compute nor the copies wait for a disk."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch

from djinn.durable import files
from djinn.durable.folder import StateFolder
from djinn.durable.record import Record
from djinn.errors import StateRefused
from djinn.tiers.streams import call_safely
from djinn.timeline import Timeline

log = logging.getLogger(__name__)


class Store:
    def __init__(self, folder: StateFolder, timeline: Timeline) -> None:
        self.folder, self._timeline = folder, timeline
        self._work: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="durable", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while (work := self._work.get()) is not None:
            call_safely(work)

    def save(
        self,
        record: Record,
        parts: Iterable[Iterable[files.Buffer]],
        wanted: Callable[[], bool],
        done: Callable[[Exception | None], None],
    ) -> None:
        """Write the session's file, its parts in pieces; then `done(what went wrong)`, on the store's thread."""

        def write() -> None:
            began, problem = time.monotonic_ns(), None
            try:
                with self._setting_aside(record.key):  # the file of before, where it is all there was to write from
                    self.folder.write(record, parts, wanted)
            except Exception as error:  # noqa: BLE001  told to the one who asked for it: the session must not stay pinned
                problem = error
            nbytes = sum(part.nbytes for part in record.parts)
            self._timeline.add("durable", "write", began, time.monotonic_ns(), bytes=nbytes)
            done(problem)

        self._work.put(write)

    def read(self, key: str, pages: Sequence[Sequence[torch.Tensor]]) -> None:
        """Fill host bytes (uint8) with the session's pages, on this thread. Raises StateRefused, having set the file aside,
        where they are not what was written; OSError."""
        path = self.folder.file(key)
        with self._setting_aside(key):
            files.read_pages(path, [[memoryview(piece.numpy()) for piece in page] for page in pages])

    def pages(self, key: str) -> Iterator[Iterator[bytes]]:
        """The session's pages in pieces, for its next file; read and checked when they are asked for."""
        return files.pages_of(self.folder.file(key))

    def forget(self, key: str, gone: Callable[[OSError | None], None]) -> None:
        """The session is closed: its file goes, behind one that is being written; then `gone(what went wrong)`, on the store's
        thread."""

        def remove() -> None:
            problem = None
            try:
                self.folder.forget(key)
            except OSError as error:
                log.error("session %s is over, and its file cannot be removed for good: %s", key, error)
                problem = error
            gone(problem)

        self._work.put(remove)

    @contextmanager
    def _setting_aside(self, key: str) -> Iterator[None]:
        """Raises StateRefused for Damaged; OSError where the file cannot even be set aside."""
        try:
            yield
        except files.Damaged as reason:
            raise self.refused(key, reason) from reason

    def refused(self, key: str, reason: StateRefused) -> StateRefused:
        """Set the damaged file aside; the reason with where it is now."""
        aside = self.folder.set_aside(key)
        log.error("%s; kept as %s", reason, aside)
        return StateRefused(f"the session's file is damaged, and kept as {aside.name}: {reason}")

    def close(self) -> None:
        """End the thread when what is queued is written."""
        self._work.put(None)
        self._thread.join()
