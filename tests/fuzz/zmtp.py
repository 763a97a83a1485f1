"""As much of ZeroMQ's protocol (ZMTP 3.0, NULL) as a client needs who writes and reads the bytes himself."""

from __future__ import annotations

import socket
from collections.abc import Sequence

SIGNATURE = b"\xff" + bytes(8) + b"\x7f"
MORE, LONG, COMMAND = 1, 2, 4


def greeting(mechanism: bytes = b"NULL", version: bytes = b"\x03\x00") -> bytes:
    return SIGNATURE + version + mechanism.ljust(20, b"\0") + bytes(32)


def frame(body: bytes, flags: int = 0) -> bytes:
    if len(body) < 256:
        return bytes([flags, len(body)]) + body
    return bytes([flags | LONG]) + len(body).to_bytes(8, "big") + body


def ready(kind: bytes = b"DEALER", **more: bytes) -> bytes:
    """The command that ends the handshake."""
    properties = {b"Socket-Type": kind} | {name.encode(): value for name, value in more.items()}
    body = b"\x05READY"
    for name, value in properties.items():
        body += bytes([len(name)]) + name + len(value).to_bytes(4, "big") + value
    return frame(body, COMMAND)


def message(frames: Sequence[bytes]) -> bytes:
    return b"".join(frame(each, MORE * (at < len(frames) - 1)) for at, each in enumerate(frames))


def address(endpoint: str) -> tuple[str, int]:
    host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
    return host, int(port)


def connect(endpoint: str, receive_bytes: int | None = None) -> socket.socket:
    """receive_bytes: what the system may keep for us unread; its own choice unless given."""
    line = socket.socket()
    if receive_bytes:
        line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    line.settimeout(120)
    line.connect(address(endpoint))
    return line


def _exactly(line: socket.socket, count: int) -> bytes:
    got = b""
    while len(got) < count:
        part = line.recv(count - len(got))
        if not part:
            raise ConnectionResetError(f"hung up behind {len(got)} of {count} bytes")
        got += part
    return got


def read_message(line: socket.socket) -> list[bytes]:
    """The next message on a line whose greeting has been read. Commands, such as the server's heartbeats, are left out."""
    frames = []
    while True:
        flags = _exactly(line, 1)[0]
        size = int.from_bytes(_exactly(line, 8 if flags & LONG else 1), "big")
        body = _exactly(line, size)
        if not flags & COMMAND:
            frames.append(body)
            if not flags & MORE:
                return frames


def shake_hands(line: socket.socket) -> None:
    """Say and hear the greeting. The server's READY is left out as any command is."""
    line.sendall(greeting() + ready())
    _exactly(line, 64)
