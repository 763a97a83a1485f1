"""A server process, and bad input over its socket: whole messages from ZeroMQ's own sockets."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import zmq

from djinn.launch import READY
from fuzz.house import BUDGET, DISK, HOST, LIMITS, arguments, model

PEERS = 8  # more than any exchange has messages


class Outside:
    """A house in another process; each peer is a socket of its own, so messages handed in at once come in any order."""

    engine = None
    in_order = False

    def __init__(self, endpoint: str, pid: int) -> None:
        self.endpoint, self.pid = endpoint, pid
        self._poller = zmq.Poller()
        self._sockets = [zmq.Context.instance().socket(zmq.DEALER) for _ in range(PEERS)]
        for each in self._sockets:
            each.linger = 0
            each.connect(endpoint)
            self._poller.register(each, zmq.POLLIN)

    def post(self, peer: int, frames: list[bytes]) -> None:
        self._sockets[peer].send_multipart(frames or [b""])

    def reply(self, seconds: float) -> tuple[int, list[bytes]] | None:
        for each, _ in self._poller.poll(seconds * 1000):
            return self._sockets.index(each), each.recv_multipart()
        return None

    def close(self) -> None:
        for each in self._sockets:
            each.close()


@contextmanager
def outside() -> Iterator[Outside]:
    """A server of the same model, limits and bounds as the one within this process. It ends with this."""
    options = {
        "parent": os.getpid(),
        "device": "cpu",
        "device-budget": BUDGET,
        "host-budget": HOST,
        "disk-budget": DISK,
        "max-sessions": LIMITS.max_sessions,
        "max-sessions-per-owner": LIMITS.max_sessions_per_owner,
        "max-requests": LIMITS.max_requests,
    }
    with model() as path:
        command = [sys.executable, "-m", "fuzz.forgetful", *arguments(path)]
        command += [f"--{name}={value}" for name, value in options.items()]
        # What goes wrong is said in its replies; its log would be as long as what is handed in.
        with subprocess.Popen(
            command, cwd=Path(__file__).parents[1], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        ) as process:
            endpoint = next(line.removeprefix(READY).strip() for line in process.stdout if line.startswith(READY))
            made = Outside(endpoint, process.pid)
            try:
                yield made
            finally:  # else who leaves by an error waits for the server for ever
                made.close()
                process.terminate()
