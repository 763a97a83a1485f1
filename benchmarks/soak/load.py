"""Two hundred clients at once, each with a connection and a token of its own, and a few short sessions.

    python -m benchmarks.soak.load --clients 200 --out results/reference/reliability/load.json

All wait for each other and begin at once, on a server whose device holds a tenth of the sessions. Every step is compared to
the bit. Times are reported and held to nothing: other machines are slower. Exits with 1 when anything failed.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import threading
import time
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import djinn
from benchmarks.soak import programs
from benchmarks.soak.report import table
from benchmarks.soak.site import FORKED, MODEL_BYTES, SESSION_BYTES, unbalanced
from djinn.lifeline import die_with_parent
from evaluation.reliability import write_suite

THREADS = 50  # clients in one process: ZeroMQ's sockets are counted
TEST = "benchmarks/soak/load.py"


@dataclass
class Served:
    """By one client: seconds of each session, steps that were equal, and what went wrong."""

    seconds: list[float] = field(default_factory=list)
    same: int = 0
    wrong: list[str] = field(default_factory=list)


class Start:
    """Of one process: its clients say that they are there, and go when all of all processes are."""

    def __init__(self, parent: Connection, clients: int) -> None:
        self._parent, self._left, self._lock, self._go = parent, clients, threading.Lock(), threading.Event()

    def here(self) -> None:
        with self._lock:
            self._left -= 1
            last = not self._left
        if last:
            self._parent.send("here")
            self._parent.recv()
            self._go.set()
        self._go.wait()


def serve_one(endpoint: str, seed: str, sessions: int, catalogue: dict[str, programs.Program], start: Start) -> Served:
    """One client: its sessions one after the other, parked once on the way and closed in the end."""
    draw, found = random.Random(seed), Served()
    try:
        client = djinn.connect(endpoint)
    finally:
        start.here()
    with client:
        for _ in range(sessions):
            name = draw.choice(programs.NAMES)
            program, began = catalogue[name], time.monotonic()
            session = client.open()
            parked = draw.randrange(program.end)
            for at, step in enumerate(program.steps):
                if programs.same(programs.begin(session, name, step).result(), program.given[at]):
                    found.same += 1
                else:
                    found.wrong.append(f"{name}, step {at}")
                if at == parked:
                    session.park()
            session.close()
            found.seconds.append(time.monotonic() - began)
    return found


def serve_many(endpoint: str, seeds: list[str], sessions: int, catalogue: Any, parent: Connection) -> None:
    """One process: a thread for each client. What a client broke off with is its result."""
    die_with_parent()
    results: SimpleQueue[Served] = SimpleQueue()
    start = Start(parent, len(seeds))

    def one(seed: str) -> None:
        try:
            results.put(serve_one(endpoint, seed, sessions, catalogue, start))
        except Exception as error:  # noqa: BLE001  reported as that client's failure
            results.put(Served(wrong=[f"client {seed}: {type(error).__name__}: {error}"]))

    for seed in seeds:
        threading.Thread(target=one, args=(seed,)).start()
    found = [results.get() for _ in seeds]
    parent.send(found)


def run(args: argparse.Namespace) -> tuple[list[Served], list[str]]:
    """What each client found, and what the server held when all had closed their sessions."""
    room = args.clients * SESSION_BYTES // 10
    with (
        djinn.serve(
            "tiny-llama",
            dtype="float32",
            threads=1,
            max_tokens=256,
            device_budget=MODEL_BYTES + max(room, 4 * SESSION_BYTES),
            host_budget=max(2 * room, 4 * SESSION_BYTES),
            disk_budget=args.clients * SESSION_BYTES,
        ) as server,
        djinn.connect(server.endpoint) as first,
    ):
        catalogue = programs.learned(first)
        seeds = [f"{args.seed} {number}" for number in range(args.clients)]
        pipes = []
        for at in range(0, args.clients, THREADS):
            ours, theirs = FORKED.Pipe()
            part = (server.endpoint, seeds[at : at + THREADS], args.sessions, catalogue, theirs)
            FORKED.Process(target=serve_many, args=part, daemon=True).start()
            theirs.close()
            pipes.append(ours)
        for word in ("here", "go"):
            for pipe in pipes:
                pipe.recv() if word == "here" else pipe.send(word)
        print(f"{args.clients} clients are there", file=sys.stderr, flush=True)
        found = [one for pipe in pipes for one in pipe.recv()]
        return found, unbalanced(first)


def promises(found: list[Served], held: list[str]) -> list[dict[str, Any]]:
    steps, wrong = sum(one.same for one in found), [what for one in found for what in one.wrong]
    rows = [
        (
            "All clients that come at once are served to the end",
            "clients",
            len(found),
            sum(not one.seconds for one in found),
        ),
        ("Each of their sessions gives to the bit what it gives alone", "steps", steps + len(wrong), len(wrong)),
        ("When all are closed, every byte of every tier is free", "runs", 1, int(bool(held))),
    ]
    return [
        {"promise": promise, "test": TEST, "tried": tried, "failed": failed, "unit": unit}
        for promise, unit, tried, failed in rows
    ]


def facts(found: list[Served], held: list[str]) -> dict[str, Any]:
    """Whether somebody starved is seen in the slowest client, beside the others."""
    whole = sorted(sum(one.seconds) for one in found if one.seconds)
    one = sorted(seconds for each in found for seconds in each.seconds)
    return {
        "clients": len(found),
        "sessions": len(one),
        "seconds_of_a_client": _spread(whole),
        "seconds_of_a_session": _spread(one),
        "slowest_client_over_median": round(whole[-1] / statistics.median(whole), 3) if whole else None,
        "wrong": [*(what for each in found for what in each.wrong), *held],
    }


def _spread(ordered: list[float]) -> dict[str, float]:
    quantiles = {"least": 0.0, "median": 0.5, "95 %": 0.95, "most": 1.0} if ordered else {}
    return {name: round(ordered[round(q * (len(ordered) - 1))], 3) for name, q in quantiles.items()}


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.soak.load", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--sessions", type=int, default=2, help="of each client (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="write the result here, as JSON")
    args = parser.parse_args()
    began = time.monotonic()
    found, held = run(args)
    rows, told = promises(found, held), facts(found, held)
    print(table(rows, told))
    if args.out:
        command = (
            f"python -m benchmarks.soak.load --clients {args.clients} --sessions {args.sessions} --seed {args.seed}"
        )
        write_suite(args.out, "load", command, rows, told, time.monotonic() - began)
    return int(any(row["failed"] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
