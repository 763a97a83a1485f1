"""The state directory: one server's at a time, one file a session, and what could not be used kept aside.

lock                      the pid of the server that has it
ID.safetensors            a session
ID.partial                one being written: never acknowledged, removed at the next start
ID.safetensors.corrupt    one that was refused for damage
spilled-*                 the disk tier of a server: means nothing without it, removed at the next start
"""

from __future__ import annotations

import fcntl
import itertools
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from djinn.durable import files
from djinn.durable.record import Record
from djinn.errors import BadRequest, StateInUse, StateRefused

SUFFIX, PARTIAL, BEFORE, CORRUPT, SPILLED = ".safetensors", ".partial", ".before", ".corrupt", "spilled-"


class StateFolder:
    """May be used from any thread, but for `write` and `forget`: one after the other, so that who is forgotten gets no file."""

    def __init__(self, path: Path) -> None:
        """Raises BadRequest where there is no such folder or nothing can be written there, StateInUse, with its pid, where another
        server has it."""
        if not path.is_dir():
            raise BadRequest(f"--state-dir {path} is not a folder: make it first")
        self.path = path.resolve()
        try:
            self._take(path)
        except OSError as error:
            raise BadRequest(
                f"--state-dir {path} cannot be used: {error.strerror}. Give a folder to write to"
            ) from error

    def _take(self, path: Path) -> None:
        # The kernel gives the lock back when its process dies, however it dies: none is ever stale.
        self._lock = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = os.pread(self._lock, 32, 0).decode() or "that is just starting"
            os.close(self._lock)
            raise StateInUse(
                f"--state-dir {path} belongs to the running server {pid}: end that one, or give another folder"
            ) from None
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, str(os.getpid()).encode(), 0)
        for left in (*self.path.glob("*" + PARTIAL), *self.path.glob("*" + BEFORE)):
            left.unlink()
        for left in self.path.glob(SPILLED + "*"):
            shutil.rmtree(left)

    def close(self) -> None:
        os.close(self._lock)

    def room(self) -> int:
        """Bytes that its file system can take, what sessions hold there already among them."""
        held = sum(path.stat().st_size for path in self.path.glob("*" + SUFFIX))
        return shutil.disk_usage(self.path).free + held

    def file(self, key: str) -> Path:
        return self.path / (key + SUFFIX)

    def found(self) -> Iterator[tuple[str, Record | StateRefused | OSError]]:
        """Every session's id, and its record or why there is none."""
        for path in sorted(self.path.glob("*" + SUFFIX)):
            try:
                yield path.stem, files.read_record(path)[0]
            except (StateRefused, OSError) as reason:
                yield path.stem, reason

    def aside(self) -> Iterator[tuple[str, str]]:
        """Of every damaged file that is kept: the session's id, and the file's name."""
        for path in sorted(self.path.glob(f"*{SUFFIX}{CORRUPT}*")):
            yield path.name.partition(SUFFIX)[0], path.name

    def write(self, record: Record, parts: Iterable[Iterable[files.Buffer]], wanted: Callable[[], bool]) -> None:
        """The session's file, in place of the one before, is there for good when this returns. Raises OSError: as before.

        wanted: false once it is closed, behind which `forget` comes.
        """
        partial, before = (self.path / (record.key + suffix) for suffix in (PARTIAL, BEFORE))
        try:
            files.write(partial, record, parts)
            if wanted():
                self._put_in_place(partial, before, self.file(record.key))
        finally:
            partial.unlink(missing_ok=True)
            before.unlink(missing_ok=True)

    def _put_in_place(self, partial: Path, before: Path, path: Path) -> None:
        """Where the folder cannot be synced, the file of before is back: what is not there for good must not be taken for it.

        Not so on a file system without hard links, where nothing can hold that file meanwhile: the new one stays, whole and
        synced itself, and after a power cut either of them may be there.
        """
        first = not path.exists()
        held = not first and _linked(path, before)
        os.replace(partial, path)
        try:
            files.sync_folder(self.path)
        except OSError:
            if held:
                os.replace(before, path)
            elif first:
                path.unlink()
            raise

    def forget(self, key: str) -> None:
        """The session is closed: it must not come back, after a power cut neither. Raises OSError."""
        path = self.file(key)
        if path.exists():
            path.unlink()
            files.sync_folder(self.path)

    def set_aside(self, key: str) -> Path:
        """Keep a damaged file under another name, where no later one takes its place."""
        path = self.file(key)
        for number in itertools.count():
            aside = path.with_name(f"{path.name}{CORRUPT}{f'-{number}' if number else ''}")
            if not aside.exists():
                os.replace(path, aside)
                return aside
        raise AssertionError("a count has no end")


def _linked(path: Path, other: Path) -> bool:
    try:
        os.link(path, other)
    except OSError:  # exFAT, SMB and some others have no hard links
        return False
    return True
