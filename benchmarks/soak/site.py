"""Where the soak's servers live one after the other: each started on the state directory that the last one left.

Clients are told by a file, `servers.json`, which is replaced whole: of each server its address, how it ended, and which
files of sessions were damaged behind it. What a client may expect of a session follows from that.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil

import djinn
from benchmarks.soak.faults import TAKEN_S, serve
from djinn.launch import READY

FORKED = multiprocessing.get_context(
    "forkserver"
)  # of a process that has imported everything: fast, and real processes
FORKED.set_forkserver_preload(["djinn.server.build", "benchmarks.soak.client"])
MODEL = ("--model=tiny-llama", "--dtype=float32", "--threads=1", "--max-tokens=256", "--port=0")
MODEL_BYTES, SESSION_BYTES = 26 * 10**6, 3 * 10**6 // 2  # with its workspace; of about 90 tokens
START_S = 120.0  # a server that does not accept by then is a failure


@dataclass
class Told:
    """What is told of one server."""

    endpoint: str = ""
    ended: str = ""  # killed, or drained
    damaged: list[str] = field(default_factory=list)  # sessions whose files were damaged behind it


def told(folder: Path) -> list[Told]:
    path = folder / "servers.json"
    return [Told(**one) for one in json.loads(path.read_text())] if path.exists() else []


def unbalanced(client: djinn.Client) -> list[str]:
    """What a server holds although every session is over, and its last copies have had time to end."""
    until = time.monotonic() + START_S
    while (held := _held(client.stats())) and time.monotonic() < until:
        time.sleep(0.05)
    return held


def _held(stats: Mapping[str, Any]) -> list[str]:
    now, unit = stats["bytes"], 256  # bytes: what the pools are divided into
    held = [f"{count} sessions {state}" for state, count in stats["sessions"].items()]
    for pool, size in (("arena", "arena_bytes"), ("host", "host_budget_bytes"), ("disk", "disk_budget_bytes")):
        whole = now[size] if pool == "disk" else now[size] // unit * unit
        if missing := whole - now[f"{pool}_free_bytes"]:
            held.append(f"{missing} bytes of the {pool}")
    return held


class Server:
    """One process. rss: resident bytes over its life, as (seconds of its age, bytes)."""

    def __init__(self, folder: Path, number: int, arguments: list[str]) -> None:
        self.number, self.out = number, folder / f"server-{number}.out"
        self.out.touch()
        orders, self._orders = FORKED.Pipe(duplex=False)
        self.process = FORKED.Process(
            target=serve, args=([*MODEL, *arguments], self.out, folder / "struck", orders), daemon=True
        )
        self.process.start()
        orders.close()
        self.began, self.endpoint = time.monotonic(), ""
        while not self.endpoint:
            lines = self.out.read_text().splitlines()
            self.endpoint = next((line.removeprefix(READY) for line in lines if line.startswith(READY)), "")
            if not self.process.is_alive() or self.age > START_S:
                raise RuntimeError(f"server {number} did not start: {self.log()[-2000:]}")
            time.sleep(0.01)
        self.began, self.rss = time.monotonic(), []  # it lives from when it accepts

    @property
    def age(self) -> float:
        return time.monotonic() - self.began

    def log(self) -> str:
        return self.out.with_suffix(".err").read_text()

    def arm(self, fault: str) -> None:
        self._orders.send(fault)

    def sample(self) -> None:
        if not self.process.is_alive():
            raise RuntimeError(
                f"server {self.number} ended by itself, with {self.process.exitcode}: {self.log()[-2000:]}"
            )
        self.rss.append((self.age, psutil.Process(self.process.pid).memory_info().rss))

    def end(self, number: int) -> int:
        """Send it the signal and wait; its exit code (-9: killed)."""
        os.kill(self.process.pid, number)
        self.process.join()
        self._orders.close()
        return self.process.exitcode


class Site:
    def __init__(self, folder: Path, arguments: list[str], seed: int) -> None:
        self.folder, self.state, self._arguments = folder, folder / "state", arguments
        self.state.mkdir()
        self._draw = random.Random(f"{seed} site")
        self._told: list[Told] = []
        self.servers: list[Server] = []
        self.codes: list[int] = []  # of those that were drained

    @property
    def server(self) -> Server:
        return self.servers[-1]

    def start(self) -> Server:
        drain = self._draw.choice(("0", "30"))
        arguments = [*self._arguments, f"--state-dir={self.state}", f"--drain-timeout={drain}"]
        self.servers.append(Server(self.folder, len(self.servers), arguments))
        self._told.append(Told(endpoint=self.server.endpoint))
        self._publish()
        return self.server

    def kill(self, damage: bool) -> str | None:
        """kill -9; `damage`: one session's file too, where there is one. Returns whose."""
        self.server.end(signal.SIGKILL)
        ended = self._told[-1]
        found = sorted(self.state.glob("*.safetensors")) if damage else []
        if found:
            path = self._draw.choice(found)
            self._damage(path)
            ended.damaged.append(path.stem)
        ended.ended = "killed"
        return ended.damaged[-1] if found else None

    def drain(self) -> None:
        """SIGTERM, with no fault about: a drain that finds the disk full loses what it says it loses."""
        self.server.arm("none")
        time.sleep(2 * TAKEN_S)
        self.codes.append(self.server.end(signal.SIGTERM))
        self._told[-1].ended = "drained"

    def _damage(self, path: Path) -> None:
        """As a disk does it: a bit, a torn end, or nothing left."""
        size = path.stat().st_size
        how = self._draw.choice(("bit", "bit", "torn", "empty"))
        if how == "bit":
            at = self._draw.randrange(size)
            with open(path, "r+b") as file:
                file.seek(at)
                (byte,) = file.read(1)
                file.seek(at)
                file.write(bytes([byte ^ 1 << self._draw.randrange(8)]))
        else:
            os.truncate(path, self._draw.randrange(size) if how == "torn" else 0)

    def _publish(self) -> None:
        aside = self.folder / "servers.partial"
        aside.write_text(json.dumps([asdict(one) for one in self._told]))
        aside.replace(self.folder / "servers.json")
