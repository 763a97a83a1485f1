"""Bytes that are not even ZeroMQ's: greetings cut short, other protocols, frames that announce what never comes."""

from __future__ import annotations

import random
import socket
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from djinn.wire import messages as m
from fuzz.exchange import Actor
from fuzz.judge import Found, hold
from fuzz.zmtp import COMMAND, LONG, MORE, connect, frame, greeting, message, ready

Bytes = Callable[[random.Random], bytes]
ANSWER_BYTES = 1 << 20  # more than a server says to one line of these
OTHERS = (
    b"GET / HTTP/1.1\r\nHost: djinn\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),
    b"SSH-2.0-OpenSSH_9.6\r\n",
    b"*1\r\n$4\r\nPING\r\n",
)


def a_request(rng: random.Random) -> list[bytes]:
    body = rng.choice([m.Hello(), m.Open(), m.Stats(), m.Sessions()])
    return Actor("line", f"line-{rng.getrandbits(40)}").pack(body)


def noise(rng: random.Random) -> bytes:
    return rng.randbytes(rng.choice([1, 9, 64, 3000]))


def other_protocol(rng: random.Random) -> bytes:
    return rng.choice(OTHERS)


def cut_greeting(rng: random.Random) -> bytes:
    whole = greeting() + ready() + message(a_request(rng))
    return whole[: rng.randrange(len(whole))]


def wrong_greeting(rng: random.Random) -> bytes:
    version = bytes([rng.choice([0, 1, 2, 3, 4, 255]), rng.choice([0, 1, 255])])
    mechanism = rng.choice([b"NULL", b"PLAIN", b"CURVE", b"GSSAPI", b"", rng.randbytes(20)])
    return greeting(mechanism, version) + rng.choice([b"", ready(), rng.randbytes(40)])


def wrong_handshake(rng: random.Random) -> bytes:
    name = b"\x0bSocket-Type"
    commands = [
        ready(rng.choice([b"PUB", b"REQ", b"", b"ROUTER", b"x" * 300])),
        ready(Identity=rng.randbytes(rng.choice([0, 1, 255, 256, 5000]))),
        frame(b"\x05READY" + name + (2**31).to_bytes(4, "big") + b"DEALER", COMMAND),
        frame(b"\x05READY\xff" + name, COMMAND),
        frame(b"\xffREADY", COMMAND),
        frame(b"\x05ERROR\x03bad", COMMAND),
        frame(b"", COMMAND),
        message(a_request(rng)),
        rng.randbytes(50),
    ]
    return greeting() + rng.choice(commands) + rng.choice([b"", message(a_request(rng))])


def wrong_frames(rng: random.Random) -> bytes:
    size = rng.choice([2**22 + 2**20, 2**31, 2**40, 2**62, 2**63, 2**64 - 1])
    frames = [
        bytes([LONG]) + size.to_bytes(8, "big") + bytes(100),
        bytes([LONG | MORE]) + size.to_bytes(8, "big"),
        bytes([rng.randrange(8, 256), 4]) + b"flag",
        frame(b"\x04PING\x00\x00" + rng.randbytes(rng.choice([0, 16, 17, 200])), COMMAND) * rng.randrange(1, 50),
        frame(b"\x04PONG" + rng.randbytes(20), COMMAND),
        frame(b"\x09SUBSCRIBEx", COMMAND),
        frame(rng.randbytes(rng.randrange(1, 40)), COMMAND),
        frame(b"", MORE) * rng.choice([1, 3000]),
        message(a_request(rng))[:-3],
        rng.randbytes(300),
    ]
    return greeting() + ready() + rng.choice([b"", message(a_request(rng))]) + rng.choice(frames)


def damaged(rng: random.Random) -> bytes:
    whole = bytearray(greeting() + ready() + message(a_request(rng)) * 2)
    for _ in range(rng.randrange(1, 6)):
        whole[rng.randrange(len(whole))] ^= 1 << rng.randrange(8)
    return bytes(whole)


def whole(rng: random.Random) -> bytes:
    return greeting() + ready() + message(a_request(rng))


LINES: Sequence[Bytes] = (
    noise,
    other_protocol,
    cut_greeting,
    wrong_greeting,
    wrong_handshake,
    wrong_frames,
    damaged,
    whole,
)


def say(endpoint: str, said: bytes) -> None:
    """Say it, hang up half, and read what comes until the server lets go. Raises Found where it does not."""
    with connect(endpoint) as line:
        came = 0
        try:
            line.sendall(said)
            line.shutdown(socket.SHUT_WR)
            while part := line.recv(1 << 16):
                came += len(part)
                hold("short answer", came < ANSWER_BYTES, f"{came} bytes for {said[:100]!r}")
        except TimeoutError as error:
            raise Found("hung up on", f"{said[:100]!r}") from error
        except OSError:  # it let go before it had heard all
            return


def play(endpoint: str, seed: int, count: int, between: Callable[[], Any]) -> Counter[str]:
    """`count` lines; `between()` now and then: whether others are served."""
    kinds: Counter[str] = Counter()
    for at in range(count):
        rng = random.Random(f"{seed}/line/{at}")
        kind = rng.choice(LINES)
        say(endpoint, kind(rng))
        kinds[f"line: {kind.__name__}"] += 1
        if at % 50 == 49:
            between()
    return kinds
