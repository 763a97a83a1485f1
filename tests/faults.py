"""Faults that are injected: each is there as long as its context is entered.

One line of FAULTS is one row of docs/faults.md (`pytest tests/test_faults.py --write-faults` writes it).
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from djinn.durable import files, folder
from djinn.engine.engine import Engine
from djinn.engine.session import Session
from djinn.tiers.disk import Disk
from djinn.tiers.streams import HostStream


@contextlib.contextmanager
def taken(engine: Engine, what: str) -> Iterator[None]:
    """Every free byte of a pool is somebody else's."""
    book = engine.pager.book
    extents = {"device": book.device, "host": book.host}[what]
    with engine.lock:
        held = extents.take_scattered(extents.free_bytes)
    try:
        yield
    finally:
        with engine.lock:
            for extent in held:
                extents.give(extent)
            engine.lock.notify_all()


@contextlib.contextmanager
def quota_used_up(engine: Engine, session: Session) -> Iterator[None]:
    book = engine.pager.book
    with engine.lock:
        held, book.disk_free = book.disk_free, 0
    try:
        yield
    finally:
        with engine.lock:
            book.give_disk(held)
            engine.lock.notify_all()


@contextlib.contextmanager
def nowhere_to_go(engine: Engine, session: Session) -> Iterator[None]:
    with taken(engine, "host"), quota_used_up(engine, session):
        yield


@contextlib.contextmanager
def patched(what: Any, name: str, replacement: Callable) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(what, name, replacement)
        yield


def raises(number: int) -> Callable:
    def fault(*args: Any, **kwargs: Any) -> None:
        raise OSError(number, os.strerror(number))

    return fault


def breaking(method: str, track: str) -> Callable[[Engine, Session], contextlib.AbstractContextManager]:
    """Copies of one direction fail, within the device too where it is in: while they are made (`carry_out`) or when they are
    queued (`copy`)."""
    whole = getattr(HostStream, method)

    def broken(stream: HostStream, *args: Any) -> None:
        if stream.track.replace("across", "in") == track:
            raise RuntimeError("the copy engine is on fire")
        whole(stream, *args)

    return lambda engine, session: patched(HostStream, method, broken)


@contextlib.contextmanager
def one_bit_of_its_file(engine: Engine, session: Session) -> Iterator[None]:
    path = engine.keeper.store.folder.file(session.key)
    if path.exists():
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    yield


@dataclass(frozen=True)
class Fault:
    name: str
    there: Callable[[Engine, Session], contextlib.AbstractContextManager]


FAULTS = [
    Fault("device refused", lambda engine, session: taken(engine, "device")),
    Fault("host refused", lambda engine, session: taken(engine, "host")),
    Fault("disk quota used up", quota_used_up),
    Fault("host refused, quota used up", nowhere_to_go),
    Fault("copy out fails", breaking("carry_out", "copy out")),
    Fault("copy in fails", breaking("carry_out", "copy in")),
    Fault("copy out not queued", breaking("copy", "copy out")),
    Fault("copy in not queued", breaking("copy", "copy in")),
    Fault("spill: disk full", lambda e, s: patched(Disk, "_write", staticmethod(raises(errno.ENOSPC)))),
    Fault("spill: read error", lambda e, s: patched(Disk, "_read", staticmethod(raises(errno.EIO)))),
    Fault("durable: disk full", lambda e, s: patched(files, "write_all", raises(errno.ENOSPC))),
    Fault("durable: fsync fails", lambda e, s: patched(files, "sync_folder", raises(errno.EIO))),
    Fault("durable: rename fails", lambda e, s: patched(folder.os, "replace", raises(errno.EIO))),
    Fault("durable: read error", lambda e, s: patched(files, "fill", raises(errno.EIO))),
    Fault("durable: a bit flipped", one_bit_of_its_file),
]
