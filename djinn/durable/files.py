"""One session's file: written aside, synced, renamed; checked in every bit before anything of it is used.

The format is that of safetensors, so that its own tools open the files. The record stands in the metadata under a SHA-256,
every part under a CRC-32. The writer is our own because the library takes each tensor as one `bytes`: a copy of the whole
session, where the host pool hands it out in pieces. Cost: the bytes once through CRC and `write`, two fsyncs.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from djinn.durable.record import FORMAT, Part, Record
from djinn.errors import StateRefused

Buffer = memoryview | bytes
CHUNK = 1 << 20  # bytes checked and written at a time: they are still in the cache when they are written
LONGEST_HEADER = 100_000_000  # bytes; safetensors' own limit
TYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}


class Damaged(StateRefused):
    """The file is not what was written: nothing in it can be used."""


def header(record: Record) -> bytes:
    """Length and JSON, as safetensors has them. Its length does not depend on the checksums."""
    words = msgspec.json.encode(record).decode()
    metadata = {"djinn": words, "sha256": hashlib.sha256(words.encode()).hexdigest()}
    text = json.dumps({"__metadata__": metadata} | tensors(record), separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def tensors(record: Record) -> dict[str, Any]:
    """What safetensors says of the parts."""
    table, at = {}, 0
    for part in record.parts:
        offsets = [at, at + part.nbytes]
        table[part.name] = {"dtype": TYPES[part.dtype], "shape": list(part.shape), "data_offsets": offsets}
        at += part.nbytes
    return table


def size(record: Record) -> int:
    """Bytes of the file."""
    return len(header(record)) + sum(part.nbytes for part in record.parts)


def write(path: Path, record: Record, parts: Iterable[Iterable[Buffer]]) -> None:
    """Write and sync a file that nobody looks at yet: for each part of the record its bytes, in pieces. Raises OSError."""
    checked = []
    with open(path, "wb", buffering=0, opener=private) as file:
        file.seek(len(header(record)))
        for part, pieces in zip(record.parts, parts, strict=True):
            crc = count = 0
            for piece in chunks(pieces):
                crc, count = zlib.crc32(piece, crc), count + len(piece)
                write_all(file.fileno(), piece)
            if count != part.nbytes:
                raise OSError(errno.EIO, f"{part.name} has {count} bytes, {part.nbytes} were announced")
            checked.append(msgspec.structs.replace(part, crc32=f"{crc:08x}"))
        file.seek(0)
        write_all(file.fileno(), memoryview(header(msgspec.structs.replace(record, parts=tuple(checked)))))
        os.fsync(file.fileno())


def private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_all(handle: int, piece: memoryview) -> None:
    while piece:
        piece = piece[os.write(handle, piece) :]


def chunks(pieces: Iterable[Buffer]) -> Iterable[memoryview]:
    for piece in pieces:
        view = memoryview(piece).cast("B")
        for at in range(0, len(view), CHUNK):
            yield view[at : at + CHUNK]


def read_record(path: Path) -> tuple[Record, int]:
    """(the record, where the numbers begin). Raises Damaged for a file that is not whole, StateRefused for one of another
    format, OSError."""
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 0 < length <= LONGEST_HEADER:
            raise Damaged(f"{path.name}: the header cannot be {length} bytes long: the file is torn")
        text = file.read(length)
    if len(text) < length:
        raise Damaged(f"{path.name} is truncated: it ends inside its header")
    try:
        table = json.loads(text)
        metadata = table.pop("__metadata__")
        words, seal = metadata["djinn"].encode(), metadata["sha256"]
    except (ValueError, LookupError, TypeError, AttributeError) as reason:
        raise Damaged(f"{path.name}: the header is not that of a session: {reason}") from reason
    if hashlib.sha256(words).hexdigest() != seal:
        raise Damaged(f"{path.name}: the header does not match its checksum")
    record = _decode(path, words)
    # Not byte by byte: another version of msgspec or json may write the same words in another form.
    if table != tensors(record):
        raise Damaged(f"{path.name}: the header's table of tensors is not that of its record")
    found, expected = path.stat().st_size, 8 + length + sum(part.nbytes for part in record.parts)
    if found != expected:
        raise Damaged(f"{path.name} is truncated or torn: {found} bytes of {expected}")
    if record.key != path.stem:
        raise Damaged(f"{path.name} holds the session {record.key}: it was renamed")
    return record, 8 + length


def _decode(path: Path, words: bytes) -> Record:
    try:
        form = msgspec.json.decode(words)["format"]
        if form != FORMAT:
            raise StateRefused(f"{path.name} is of format {form}, this version of djinn reads {FORMAT}: it is kept")
        return msgspec.json.decode(words, type=Record)
    except (msgspec.DecodeError, LookupError, TypeError) as reason:
        raise Damaged(f"{path.name}: the header is not that of a session: {reason}") from reason


def read_pages(path: Path, pages: Sequence[Sequence[memoryview]]) -> None:
    """Fill host bytes with the file's pages, one list of pieces for each. Raises Damaged where a checksum differs, OSError."""
    record, at = read_record(path)
    with open(path, "rb", buffering=0) as file:
        file.seek(at)
        for part, pieces in zip(record.pages(), pages, strict=True):
            crc = 0
            for piece in chunks(pieces):
                fill(file, piece)
                crc = zlib.crc32(piece, crc)
            check(path, part.name, part.crc32, crc)


def pages_of(path: Path) -> Iterator[Iterator[bytes]]:
    """The pages in pieces, for another file; read and checked when they are asked for. Raises as `read_pages` does."""
    record, at = read_record(path)
    for part in record.pages():
        yield _page(path, part, at)
        at += part.nbytes


def _page(path: Path, part: Part, at: int) -> Iterator[bytes]:
    crc, left = 0, part.nbytes
    with open(path, "rb", buffering=0) as file:
        file.seek(at)
        while left:
            piece = bytearray(min(CHUNK, left))
            fill(file, memoryview(piece))
            crc, left = zlib.crc32(piece, crc), left - len(piece)
            yield bytes(piece)
    check(path, part.name, part.crc32, crc)


def read_part(path: Path, name: str) -> bytearray:
    """One part, checked. Raises as `read_pages` does, LookupError where there is no such part."""
    record, at = read_record(path)
    for part in record.parts:
        if part.name == name:
            content = bytearray(part.nbytes)
            with open(path, "rb", buffering=0) as file:
                file.seek(at)
                fill(file, memoryview(content))
            check(path, name, part.crc32, zlib.crc32(content))
            return content
        at += part.nbytes
    raise LookupError(name)


def fill(file: Any, piece: memoryview) -> None:
    while piece:
        count = file.readinto(piece)
        if not count:
            raise OSError(errno.EIO, f"{file.name} is shorter than what was written")
        piece = piece[count:]


def check(path: Path, name: str, expected: str, crc: int) -> None:
    if f"{crc:08x}" != expected:
        raise Damaged(f"{path.name}: {name} does not match its checksum: {crc:08x} instead of {expected}")
