"""The tier behind the host pool: one file for each session that is there, written and read by a thread of its own.

The files are for this server's life alone and are gone with it: durable files are written by others (djinn/durable).
Cost: the session's live bytes once each way, through the page cache.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import queue
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from io import FileIO
from pathlib import Path

import torch

from djinn.tiers.streams import call_safely
from djinn.timeline import Timeline

log = logging.getLogger(__name__)
Pages = Sequence[Sequence[torch.Tensor]]  # part after part of a session, each in pieces of the host pool (uint8)
PREFIX = "djinn-spilled-"
CHUNK = 1 << 20  # bytes read at a time where they go through


class Disk:
    def __init__(self, timeline: Timeline, folder: Path | None = None, prefix: str = PREFIX) -> None:
        """Its files lie in a new folder below `folder` (None: the system's for temporary files, where nothing is left of servers
        that were killed), whose name has that prefix."""
        if folder is None:
            _sweep(Path(tempfile.gettempdir()))
        self._folder, self._held = _own(folder, prefix)
        self._timeline = timeline
        self._work: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="disk", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while (work := self._work.get()) is not None:
            call_safely(work)

    def path(self, name: str) -> Path:
        return Path(self._folder.name) / name

    def write(self, name: str, pages: Pages, done: Callable[[Exception | None], None]) -> None:
        """Write host bytes one after the other into the file `name`; then `done(what went wrong)`."""
        self.run("write", pages, lambda: self._write(self.path(name), pages), done)

    def read(self, name: str, pages: Pages, done: Callable[[Exception | None], None]) -> None:
        """Fill host bytes from the file `name`, then remove it; then `done(what went wrong)`, and the file is as it was."""
        self.run("read", pages, lambda: self._read(self.path(name), pages), done)

    def run(
        self, what: str, pages: Pages, carry_out: Callable[[], None], done: Callable[[Exception | None], None]
    ) -> None:
        """Do some other reading or writing of these pages in its turn."""
        self._work.put(lambda: self._timed(what, pages, carry_out, done))

    def pieces(self, name: str, sizes: Sequence[int]) -> Iterator[Iterator[bytes]]:
        """The parts of the file `name` in pieces, for another file; read when they are asked for, on the asker's thread."""
        with open(self.path(name), "rb", buffering=0) as file:
            start = 0
            for size in sizes:
                file.seek(start)  # the one before may have been left out: nobody read it
                yield _pieces(file, size)
                start += size

    def forget(self, name: str) -> None:
        """The session is closed, or has another file; this one goes when what is queued before is done."""
        self._work.put(lambda: self.path(name).unlink(missing_ok=True))

    def _timed(
        self, what: str, pages: Pages, carry_out: Callable[[], None], done: Callable[[Exception | None], None]
    ) -> None:
        began, problem = time.monotonic_ns(), None
        try:
            carry_out()
        except Exception as error:  # noqa: BLE001  told to those whose session it is
            log.error("the disk's %s failed: %s", what, error)
            problem = error
        nbytes = sum(piece.nbytes for page in pages for piece in page)
        self._timeline.add("disk", what, began, time.monotonic_ns(), bytes=nbytes)
        done(problem)

    @staticmethod
    def _write(path: Path, pages: Pages) -> None:
        try:
            with open(path, "wb", buffering=0) as file:
                for view in views(pages):
                    while view:
                        view = view[file.write(view) :]
        except OSError:
            path.unlink(missing_ok=True)  # half of it would hold the room that is missing
            raise

    @staticmethod
    def _read(path: Path, pages: Pages) -> None:
        with open(path, "rb", buffering=0) as file:
            for view in views(pages):
                while view:
                    count = file.readinto(view)
                    if not count:
                        raise OSError(errno.EIO, f"{path.name} is shorter than what was written")
                    view = view[count:]
        os.unlink(path)

    def close(self) -> None:
        self._work.put(None)
        self._thread.join()
        self._folder.cleanup()
        os.close(self._held)


def _own(below: Path | None, prefix: str) -> tuple[tempfile.TemporaryDirectory, int]:
    """A new folder, and a lock on it: the kernel gives it back when this process dies, however it dies."""
    while True:
        folder = tempfile.TemporaryDirectory(prefix=prefix, dir=below)
        held = _locked(folder.name)
        if held is None:  # somebody who sweeps was faster
            continue
        if os.path.exists(folder.name):
            return folder, held
        os.close(held)  # and here between the two


def _sweep(below: Path) -> None:
    """Remove the folders of servers that are gone: of one that was killed they hold all that had been put out."""
    for left in below.glob(PREFIX + "*"):
        held = _locked(left)
        if held is not None:
            shutil.rmtree(left, ignore_errors=True)
            os.close(held)


def _locked(folder: str | Path) -> int | None:
    """A lock on the folder; None where it is another's, or gone. Raises OSError where this process can open nothing more."""
    try:
        held = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except (PermissionError, NotADirectoryError, FileNotFoundError):  # of another user, a link, or removed just now
        return None
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(held)
        return None
    return held


def views(pages: Pages) -> Iterator[memoryview]:
    return (memoryview(piece.numpy()) for page in pages for piece in page)


def _pieces(file: FileIO, size: int) -> Iterator[bytes]:
    while size:
        piece = file.read(min(size, CHUNK))
        if not piece:
            raise OSError(errno.EIO, f"{file.name} is shorter than what was written")
        size -= len(piece)
        yield piece
