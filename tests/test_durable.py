"""One session's file, and the folder of many: a changed bit is noticed, and a write that stops leaves the file of before."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import queue
import random
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest
import torch
from safetensors import safe_open

from djinn.durable import files
from djinn.durable.folder import StateFolder
from djinn.durable.record import FORMAT, Chooser, Identity, Kept, Part, Record
from djinn.durable.store import Store
from djinn.errors import BadRequest, StateInUse, StateRefused
from djinn.sampling import GREEDY
from djinn.tiers import disk as disk_module
from djinn.tiers.disk import CHUNK, Disk
from djinn.timeline import Timeline

KEY = "0123456789abcdef"
NUMBERS = {"kv.0": torch.randn(5, 2, 1, 8), "kv.1": torch.randn(3, 2, 1, 8), "logits": torch.randn(11)}


def record(key: str = KEY, **more) -> Record:
    kept = Kept(name="pause-1", layer=3, ids=(1, 2, 3), past=0, chooser=None)
    parts = tuple(
        Part(name=name, dtype="float32", shape=tuple(values.shape), nbytes=values.nbytes)
        for name, values in NUMBERS.items()
    )
    fields = {
        "format": FORMAT,
        "key": key,
        "owner": "somebody",
        "model": Identity(name="tiny", dtype="float32", config_sha256="c", weights_sha256="w"),
        "ids": (),
        "length": 3,
        "lengths": (5, 3),
        "unfed": (7,),
        "pause": kept,
        "checkpoints": (msgspec.structs.replace(kept, chooser=Chooser(sampling=GREEDY, stream=b"\x00\xff")),),
        "chooser": Chooser(sampling=GREEDY, stream=None),
        "serial": 4,
        "parts": parts,
    }
    return Record(**fields | more)


def pieces() -> list[list[bytes]]:
    """Each part in two pieces, as the host pool hands them out."""
    whole = [values.numpy().tobytes() for values in NUMBERS.values()]
    return [[content[:13], content[13:]] for content in whole]


@pytest.fixture
def written(tmp_path) -> Path:
    path = tmp_path / f"{KEY}.safetensors"
    files.write(path, record(), pieces())
    return path


def pages() -> list[list[memoryview]]:
    return [
        [memoryview(bytearray(b"?" * (values.nbytes - 9))), memoryview(bytearray(9))] for values in NUMBERS.values()
    ][:2]


def read_all(path: Path) -> None:
    """Everything that a restart and a resume would read."""
    found, _ = files.read_record(path)
    files.read_pages(path, pages())
    files.read_part(path, found.parts[-1].name)


def test_what_is_written_is_read(written):
    found, _ = files.read_record(written)
    checked = [part.crc32 for part in found.parts]
    assert len(set(checked)) == 3 and "0" * 8 not in checked
    blank = tuple(msgspec.structs.replace(part, crc32="0" * 8) for part in found.parts)
    assert msgspec.structs.replace(found, parts=blank) == record()
    into = pages()
    files.read_pages(written, into)
    assert [b"".join(page) for page in into] == [b"".join(part) for part in pieces()[:2]]
    assert [b"".join(page) for page in files.pages_of(written)] == [b"".join(part) for part in pieces()[:2]]
    assert bytes(files.read_part(written, "logits")) == b"".join(pieces()[2])
    assert written.stat().st_size == files.size(record())
    assert written.stat().st_mode & 0o777 == 0o600, "it holds what people asked"


def test_safetensors_opens_it(written):
    with safe_open(written, "pt") as opened:
        assert set(opened.keys()) == set(NUMBERS)
        for name, values in NUMBERS.items():
            assert torch.equal(opened.get_tensor(name), values)


def test_a_flip_of_any_bit_is_noticed(written):
    content = bytearray(written.read_bytes())
    draw = random.Random(3)
    for at in [*range(8), *range(8, len(content), 3)]:
        bit = 1 << draw.randrange(8)
        content[at] ^= bit
        written.write_bytes(content)
        with pytest.raises(StateRefused):
            read_all(written)
        content[at] ^= bit
    written.write_bytes(content)
    read_all(written)


def test_a_file_that_ends_too_early_or_too_late_is_noticed(written):
    content = written.read_bytes()
    for size in [*range(0, len(content), 5), len(content) - 1, len(content) + 1]:
        written.write_bytes((content + b"\0")[:size])
        with pytest.raises(files.Damaged):
            read_all(written)


def test_a_record_of_another_format_is_refused_and_not_called_damaged(written):
    files.write(written, record(format=FORMAT + 1), pieces())
    with pytest.raises(StateRefused, match=f"format {FORMAT + 1}") as refused:
        files.read_record(written)
    assert not isinstance(refused.value, files.Damaged)


def test_a_header_in_another_form_is_read_and_one_with_another_table_is_not(written):
    """As another version of what encodes it would write it: the record's words are under their seal, as they are."""
    content = written.read_bytes()
    length = 8 + int.from_bytes(content[:8], "little")
    table = json.loads(content[8:length])

    def rewrite(changed: dict) -> None:
        text = json.dumps(changed, indent=1).encode()
        written.write_bytes(len(text).to_bytes(8, "little") + text + content[length:])

    words = json.dumps(dict(reversed(json.loads(table["__metadata__"]["djinn"]).items())))
    sealed = {"djinn": words, "sha256": hashlib.sha256(words.encode()).hexdigest()}
    rewrite(dict(reversed(table.items())) | {"__metadata__": sealed})
    read_all(written)
    first = table["kv.0"]
    for other in ({}, {"shape": [2, 5, 1, 8]}, {"dtype": "F16"}, {"data_offsets": [4, 324]}, {"more": 1}):
        rewrite(table | {("kv.0" if other else "kv.9"): first | other})
        with pytest.raises(files.Damaged, match="table of tensors"):
            files.read_record(written)
    del table["kv.0"]
    rewrite(table)
    with pytest.raises(files.Damaged, match="table of tensors"):
        files.read_record(written)


def test_a_renamed_file_and_one_that_holds_no_session_are_refused(written, tmp_path):
    other = written.rename(tmp_path / "other.safetensors")
    with pytest.raises(files.Damaged, match="renamed"):
        files.read_record(other)
    for words in (b"{}", b"[1]", b'{"__metadata__": {"djinn": 3, "sha256": ""}}', b"\xff" * 9):
        other.write_bytes(len(words).to_bytes(8, "little") + words)
        with pytest.raises(files.Damaged):
            files.read_record(other)


def test_parts_that_are_not_as_long_as_announced_are_not_written(tmp_path):
    short = pieces()
    short[1].pop()
    with pytest.raises(OSError, match=r"kv\.1"):
        files.write(tmp_path / "x", record(), short)


# -- the folder ---------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    made = StateFolder(tmp_path)
    yield made
    made.close()


def always() -> bool:
    return True


FAILS = {
    "write": (files, "write_all"),
    "fsync": (os, "fsync"),
    "rename": (os, "replace"),
    "sync": (files, "sync_folder"),
}


@pytest.mark.parametrize("what", FAILS)
def test_a_write_that_fails_leaves_the_file_of_before(folder, monkeypatch, what):
    folder.write(record(), pieces(), always)
    before = folder.file(KEY).read_bytes()

    def fails(*_: object) -> None:
        raise OSError(errno.EIO, "no")

    for key in (KEY, "another"):
        with monkeypatch.context() as patch:
            patch.setattr(*FAILS[what], fails if what != "rename" else only_the_first(fails))
            with pytest.raises(OSError, match="no"):
                folder.write(record(key, serial=5), pieces(), always)
        assert sorted(path.name for path in folder.path.iterdir()) == [f"{KEY}.safetensors", "lock"]
        assert folder.file(KEY).read_bytes() == before


def test_without_hard_links_a_file_is_replaced_and_stays_where_the_folder_cannot_be_synced(folder, monkeypatch):
    """As on exFAT or SMB: there is nothing that could be put back, and of two files one must be there."""

    def fails(*_: object) -> None:
        raise OSError(errno.EPERM, "no")

    monkeypatch.setattr(os, "link", fails)
    for serial in (1, 2):
        folder.write(record(serial=serial), pieces(), always)
        assert files.read_record(folder.file(KEY))[0].serial == serial
    monkeypatch.setattr(files, "sync_folder", fails)
    for key in (KEY, "another"):
        with pytest.raises(OSError, match="no"):
            folder.write(record(key, serial=3), pieces(), always)
    assert sorted(path.name for path in folder.path.iterdir()) == [f"{KEY}.safetensors", "lock"]
    assert files.read_record(folder.file(KEY))[0].serial == 3
    read_all(folder.file(KEY))


def only_the_first(fails):
    whole, calls = os.replace, []

    def replace(*args: object) -> None:
        calls.append(args)
        (fails if len(calls) == 1 else whole)(*args)

    return replace


def test_a_session_that_is_closed_while_it_is_written_gets_no_file(folder):
    folder.write(record(), pieces(), lambda: False)
    assert not list(folder.found())
    folder.write(record(), pieces(), always)
    folder.forget(KEY)
    folder.forget(KEY)
    assert not list(folder.found())


def test_a_closed_sessions_file_is_gone_for_good_when_that_is_told(folder, monkeypatch):
    """An unlink that is not synced is undone by a power cut."""
    store, told, left = Store(folder, Timeline()), queue.SimpleQueue(), []
    folder.write(record(), pieces(), always)
    monkeypatch.setattr(files, "sync_folder", lambda path: left.append(sorted(each.name for each in path.iterdir())))
    for _ in range(2):  # of one that has no file there is nothing to sync
        store.forget(KEY, told.put)
        assert told.get(timeout=30) is None and left == [["lock"]]

    def fails(*_: object) -> None:
        raise OSError(errno.EIO, "no")

    folder.write(record(), pieces(), always)
    monkeypatch.setattr(files, "sync_folder", fails)
    store.forget(KEY, told.put)
    assert told.get(timeout=30).errno == errno.EIO
    store.close()


def test_damaged_files_are_kept_under_names_of_their_own(folder):
    for number in range(3):
        folder.write(record(serial=number), pieces(), always)
        folder.set_aside(KEY)
    kept = sorted(path.name.partition(".safetensors")[2] for path in folder.path.glob(f"{KEY}*"))
    assert kept == [".corrupt", ".corrupt-1", ".corrupt-2"]
    assert list(folder.aside()) == [(KEY, f"{KEY}.safetensors{suffix}") for suffix in kept]


def test_what_a_dead_server_left_half_done_is_removed_and_nothing_else(tmp_path):
    first = StateFolder(tmp_path)
    first.write(record(), pieces(), always)
    first.close()
    (tmp_path / "other.partial").write_bytes(b"half")
    os.link(first.file(KEY), tmp_path / f"{KEY}.before")
    (tmp_path / "spilled-1").mkdir()
    (tmp_path / "spilled-1" / "3").write_bytes(b"pages")
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "x.safetensors.corrupt").write_bytes(b"?")
    second = StateFolder(tmp_path)
    assert [key for key, _ in second.found()] == [KEY]
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"lock", f"{KEY}.safetensors", "notes.txt", "x.safetensors.corrupt"}
    second.close()


def test_one_server_at_a_time(tmp_path, folder):
    with pytest.raises(StateInUse, match=str(os.getpid())):
        StateFolder(tmp_path)
    code = "import sys; from pathlib import Path; from djinn.durable.folder import StateFolder; StateFolder(Path(sys.argv[1]))"
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True)
    assert f"running server {os.getpid()}" in done.stderr
    with pytest.raises(BadRequest, match="make it first"):
        StateFolder(tmp_path / "nowhere")


def test_a_folder_that_cannot_be_written_to_is_refused_with_why(tmp_path):
    (tmp_path / "lock").mkdir()
    with pytest.raises(BadRequest, match="cannot be used: Is a directory"):
        StateFolder(tmp_path)


def test_the_store_writes_in_turn_and_tells_what_went_wrong(folder):
    store, told, done = Store(folder, Timeline()), [], threading.Event()
    store.save(record(), pieces()[:1], always, told.append)  # too few parts: a defect, and told
    store.save(record(), pieces(), always, lambda problem: (told.append(problem), done.set()))
    assert done.wait(30)
    assert isinstance(told[0], ValueError) and told[1] is None
    into = [[torch.empty(values.nbytes, dtype=torch.uint8)] for values in NUMBERS.values()][:2]
    store.read(KEY, into)
    assert bytes(into[1][0].numpy()) == b"".join(pieces()[1])
    content = bytearray(folder.file(KEY).read_bytes())
    content[-60] ^= 1
    folder.file(KEY).write_bytes(content)
    with pytest.raises(StateRefused, match=r"kept as .*corrupt: .*kv\.1"):
        store.read(KEY, into)
    assert not folder.file(KEY).exists()
    store.close()


def test_of_a_spilled_sessions_file_a_part_that_was_discarded_is_passed_over():
    """A durable file made of it leaves that part out, and no other's bytes move up into its place."""
    disk, told = Disk(Timeline()), queue.SimpleQueue()
    parts = [torch.full((size,), fill, dtype=torch.uint8) for fill, size in enumerate((3, 2 * CHUNK + 1, 5))]
    disk.write("1", [[part] for part in parts], told.put)
    assert told.get(timeout=30) is None
    pages = zip(disk.pieces("1", [part.numel() for part in parts]), (True, False, True), strict=True)
    assert [b"".join(page) for page, wanted in pages if wanted] == [b"\0" * 3, b"\2" * 5]
    disk.close()


def test_what_a_killed_server_had_put_out_is_swept_away_and_a_living_ones_is_not(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    code = f"""
import os, tempfile
tempfile.tempdir = {str(tmp_path)!r}
from djinn.tiers.disk import Disk
from djinn.timeline import Timeline
Disk(Timeline()).path("1").write_bytes(b"x")
os._exit(1)
"""
    subprocess.run([sys.executable, "-c", code], check=False)
    (left,) = tmp_path.iterdir()
    living = Disk(Timeline())
    assert not left.exists()
    living.path("2").write_bytes(b"y")
    other = Disk(Timeline())
    assert living.path("2").read_bytes() == b"y"
    living.close()
    other.close()
    assert not list(tmp_path.iterdir())


def test_where_nothing_more_can_be_opened_a_disk_says_so(tmp_path, monkeypatch):
    """And does not make folder after folder, looking for one that nobody has swept away."""

    def full(*_: object) -> int:
        raise OSError(errno.EMFILE, "too many open files")

    monkeypatch.setattr(disk_module, "os", SimpleNamespace(**vars(os) | {"open": full}))
    with pytest.raises(OSError, match="too many open files"):
        Disk(Timeline(), tmp_path)


def test_a_damaged_file_that_cannot_be_set_aside_is_told_too(folder, monkeypatch):
    """Who asked would wait for ever, and a drain behind him."""
    store, told = Store(folder, Timeline()), queue.SimpleQueue()

    def fails(*_: object) -> None:
        raise OSError(errno.EROFS, "read-only")

    def damaged() -> Iterator[Iterator[bytes]]:
        raise files.Damaged("a bit flipped")
        yield

    monkeypatch.setattr(folder, "set_aside", fails)
    store.save(record(), damaged(), always, told.put)
    assert told.get(timeout=30).errno == errno.EROFS
    store.close()
