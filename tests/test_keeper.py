"""Durable files as the engine has them: whose disk is slow or broken holds up nobody else."""

from __future__ import annotations

import errno
import queue
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from asking import ask, durably, small_engine

from djinn.durable import files
from djinn.durable.folder import StateFolder
from djinn.engine.engine import Engine
from djinn.errors import StorageError

PROMPT = tuple((7 * i * i + 3) % 509 for i in range(100))


@pytest.fixture
def engine(tmp_path) -> Iterator[Engine]:
    with small_engine("--threads=1", f"--state-dir={tmp_path}", disk=None) as made:
        yield made


def keys(folder: Path) -> set[str]:
    return {path.stem for path in folder.glob("*.safetensors")}


def test_who_is_closed_while_anothers_folder_is_synced_holds_up_nobody(engine, tmp_path, monkeypatch):
    """One that has no file is gone at once, one that has it behind that, and one that is just written gets none."""
    plain, filed, kept, written, busy = (engine.open() for _ in range(5))
    for session in (filed, kept, written, busy):
        ask(engine, session, ids=PROMPT)
    for session in (filed, kept):
        durably(engine, session)
    sync, syncing, go_on = files.sync_folder, threading.Event(), threading.Event()

    def slow(folder: Path) -> None:
        syncing.set()
        assert go_on.wait(120)
        sync(folder)

    monkeypatch.setattr(files, "sync_folder", slow)
    told: dict[str, queue.SimpleQueue] = {what: queue.SimpleQueue() for what in ("plain", "filed", "written", "park")}
    engine.park_durably(written, told["park"].put)
    assert syncing.wait(120)
    engine.close(plain.key, gone=told["plain"].put)
    assert told["plain"].get_nowait() is None
    engine.close(filed.key, gone=told["filed"].put)
    engine.close(written.key, gone=told["written"].put)
    assert len(ask(engine, busy, max_new_tokens=2).tokens) == 2
    assert told["filed"].empty() and told["written"].empty(), "their files are there still"
    go_on.set()
    assert [told[what].get(timeout=120) for what in ("filed", "written")] == [None, None]
    assert keys(tmp_path) == {kept.key}


def test_a_file_that_cannot_be_removed_is_told_and_stands_in_the_log(engine, tmp_path, monkeypatch, caplog):
    session = engine.open()
    ask(engine, session, ids=PROMPT)
    durably(engine, session)

    def fails(folder: StateFolder, key: str) -> None:
        raise OSError(errno.EROFS, "read-only")

    told = queue.SimpleQueue()
    with monkeypatch.context() as patch:
        patch.setattr(StateFolder, "forget", fails)
        engine.close(session.key, gone=told.put)
        with pytest.raises(StorageError, match="cannot be removed"):
            raise told.get(timeout=120)
    assert session.key in caplog.text and keys(tmp_path) == {session.key}
    assert session.key not in engine.sessions and engine.stats()["durable_bytes"] == 0
