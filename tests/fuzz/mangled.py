"""Messages that are damaged: recorded real ones cut, flipped, mixed, overgrown or lying about themselves, and plain noise."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import msgspec

from djinn.wire.frames import MAX_HEADER_BYTES, MAX_TENSOR_BYTES
from fuzz.exchange import Exchange, Frames, one
from fuzz.stage import OWN, Stage

pack, unpack = msgspec.msgpack.encode, msgspec.msgpack.decode


def real(stage: Stage, rng: random.Random) -> Frames:
    return stage.readdressed(rng.randrange(len(stage.recorded)), rng.choice(OWN))


def with_tensor(stage: Stage, rng: random.Random) -> Frames:
    while len(frames := real(stage, rng)) < 2:
        pass
    return frames


def noise(stage: Stage, rng: random.Random) -> Exchange:
    return one([rng.randbytes(rng.choice([0, 1, 7, 60, 900])) for _ in range(rng.randrange(5))])


def anything(rng: random.Random, deep: int = 3) -> Any:
    """A value of any type that msgpack has."""
    simple = [None, True, 0, -1, 2**63 - 1, -(2**63), 2**64 - 1, 1.5, float("nan"), float("inf"), "", "ß" * 40, b"\xff"]
    choice = rng.randrange(6 if deep else 4)
    if choice < 4:
        return rng.choice([*simple, rng.getrandbits(40), rng.randbytes(rng.randrange(30)), "x" * rng.randrange(200)])
    items = [anything(rng, deep - 1) for _ in range(rng.randrange(5))]
    return items if choice == 4 else {f"k{i}": item for i, item in enumerate(items)}


def other_words(stage: Stage, rng: random.Random) -> Exchange:
    """msgpack, and not of the protocol."""
    header = anything(rng)
    if rng.random() < 0.5:
        keys = ("id", "body", "tensors", "sender", "op", "more")
        header = {key: anything(rng) for key in rng.sample(keys, rng.randrange(1, 6))}
    return one([pack(header), *[b""] * rng.randrange(2)])


def flipped(stage: Stage, rng: random.Random) -> Exchange:
    frames = real(stage, rng)
    for _ in range(rng.randrange(1, 9)):
        at = rng.randrange(len(frames))
        if frames[at]:
            damaged = bytearray(frames[at])
            damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
            frames[at] = bytes(damaged)
    return one(frames)


def truncated(stage: Stage, rng: random.Random) -> Exchange:
    frames = real(stage, rng)
    at = rng.randrange(len(frames))
    cut = rng.randrange(len(frames[at]) + 1)
    frames[at] = frames[at][:cut] if rng.random() < 0.7 else frames[at][cut:]
    return one(frames)


def spliced(stage: Stage, rng: random.Random) -> Exchange:
    """The beginning of one and the end of another."""
    one_, other = real(stage, rng), real(stage, rng)
    if rng.random() < 0.5:
        return one([one_[0], *other[1:]])
    return one([one_[0][: rng.randrange(len(one_[0]))] + other[0][rng.randrange(len(other[0])) :], *one_[1:]])


def moved_frames(stage: Stage, rng: random.Random) -> Exchange:
    frames = real(stage, rng)
    choice = rng.randrange(4)
    if choice == 0:
        frames *= 2
    elif choice == 1:
        frames.insert(rng.randrange(len(frames) + 1), rng.choice([b"", frames[0], b"\x00" * 64]))
    elif choice == 2:
        del frames[rng.randrange(len(frames))]
    else:
        rng.shuffle(frames)
    return one(frames)


def lying_specs(stage: Stage, rng: random.Random) -> Exchange:
    """A header that describes other tensors than those that come with it."""
    frames = with_tensor(stage, rng)
    header = unpack(frames[0])
    size = len(frames[1])
    header["tensors"] = rng.choice(
        [
            [{"dtype": "int64", "shape": [size]}],
            [{"dtype": rng.choice(["uint16", "float16"]), "shape": [size // 2]}],
            [{"dtype": "float32", "shape": [MAX_TENSOR_BYTES // 4]}],
            [{"dtype": "float32", "shape": [1, 1 << 13, 1 << 14]}],
            [{"dtype": "float32", "shape": [2**31, 2**31, 2**31, 2**31]}],
            [{"dtype": "float32", "shape": [-1, -size // 4]}],
            [{"dtype": "float32", "shape": [0, 2**62]}],
            [{"dtype": "float32", "shape": [0]}],
            [{"dtype": "float32", "shape": [1] * rng.choice([5, 64, 65, 5000])}],
            [{"dtype": rng.choice(["float64", "object", "O", "<f4", "V8", "int32"]), "shape": [size]}],
            [{"dtype": "float32", "shape": [size // 4]}] * rng.choice([0, 2, 3, 50]),
        ]
    )
    return one([pack(header), *frames[1:]])


def changed_field(stage: Stage, rng: random.Random) -> Exchange:
    """One field gone, added or of another value, in the envelope or in the body."""
    frames = real(stage, rng)
    header = unpack(frames[0])
    place = rng.choice([header, header["body"], header["body"], header["sender"]])
    key = rng.choice([*place, "more"])
    if rng.random() < 0.2:
        place.pop(key, None)
    else:
        place[key] = anything(rng)
    return one([pack(header), *frames[1:]])


def oversized(stage: Stage, rng: random.Random) -> Exchange:
    """Headers that are long, deep or full, within the limit and beyond; tensors of more rows than anything has."""
    frames = real(stage, rng)
    header = unpack(frames[0])
    many = rng.choice([1000, 30_000])
    match rng.randrange(7):
        case 0:
            return one([bytes(MAX_HEADER_BYTES + 1)])
        case 1:
            return one([frames[0] + bytes(rng.choice([1, MAX_HEADER_BYTES])), *frames[1:]])
        case 2:
            return one([b"\x91" * rng.choice([900, 200_000])])
        case 3:
            header["sender"]["client"] = "x" * many
        case 4:
            session = stage.sessions["paused"]
            edit = {"edit": "scale", "factor": 1.0, "positions": [0] * many}
            header["body"] = {"op": "resume", "session": session, "stop_tokens": list(range(many)), "edits": [edit] * 3}
        case 5:
            header["tensors"] = [{"dtype": "float32", "shape": [1] * many}] * (len(frames) - 1)
        case 6:
            return one([b"\x84\xa2id\x01\xa4body" + b"\x91" * many + b"\x01"])
    return one([pack(header), *frames[1:]])


MANGLED: dict[Callable[[Stage, random.Random], Exchange], int] = {
    noise: 2,
    other_words: 4,
    flipped: 10,
    truncated: 5,
    spliced: 4,
    moved_frames: 3,
    lying_specs: 4,
    changed_field: 8,
    oversized: 1,
}
