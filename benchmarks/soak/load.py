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
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import djinn
from benchmarks.soak import programs
from benchmarks.soak.report import table
from benchmarks.soak.site import FORKED, MODEL_BYTES, SESSION_BYTES, unbalanced
from djinn.lifeline import die_with_parent
from evaluation.reliability import write_suite

WAIT_S = 300.0  # for the last client to be there
THREADS = 50  # clients in one process: ZeroMQ's sockets are counted
TEST = "benchmarks/soak/load.py"
Served = dict[str, Any]  # of one client: seconds of its sessions, steps that were equal, and what went wrong


def serve_one(endpoint: str, seed: str, sessions: int, catalogue: dict[str, programs.Program], ready: Any) -> Served:
    """One client: its sessions one after the other, parked once on the way and closed in the end."""
    draw, seconds, same, wrong = random.Random(seed), [], 0, []
    with djinn.connect(endpoint) as client:
        ready.wait(WAIT_S)
        for _ in range(sessions):
            name = draw.choice(programs.NAMES)
            program, began = catalogue[name], time.monotonic()
            session = client.open()
            parked = draw.randrange(program.end)
            for at, step in enumerate(program.steps):
                if programs.same(programs.begin(session, name, step).result(), program.given[at]):
                    same += 1
                else:
                    wrong.append(f"{name}, step {at}")
                if at == parked:
                    session.park()
            session.close()
            seconds.append(time.monotonic() - began)
    return {"seconds": seconds, "same": same, "wrong": wrong}


def serve_many(endpoint: str, seeds: list[str], sessions: int, catalogue: Any, ready: Any, results: Any) -> None:
    """One process: a thread for each client. What a client broke off with is its result."""
    die_with_parent()
    found: SimpleQueue[Served] = SimpleQueue()

    def one(seed: str) -> None:
        try:
            found.put(serve_one(endpoint, seed, sessions, catalogue, ready))
        except Exception as error:  # noqa: BLE001  reported as that client's failure
            found.put({"seconds": [], "same": 0, "wrong": [f"client {seed}: {type(error).__name__}: {error}"]})

    threads = [threading.Thread(target=one, args=(seed,)) for seed in seeds]
    for thread in threads:
        thread.start()
    for _ in threads:
        results.send(found.get())


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
        ready, processes, pipes = FORKED.Barrier(args.clients), [], []
        for at in range(0, args.clients, THREADS):
            ours, theirs = FORKED.Pipe(duplex=False)
            part = (server.endpoint, seeds[at : at + THREADS], args.sessions, catalogue, ready, theirs)
            processes.append(FORKED.Process(target=serve_many, args=part, daemon=True))
            processes[-1].start()
            theirs.close()
            pipes += [ours] * len(part[1])
        found = []
        for number, pipe in enumerate(pipes, 1):
            found.append(pipe.recv())
            print(f"\r{number} of {args.clients} clients are done", end="", file=sys.stderr, flush=True)
        print(file=sys.stderr)
        for process in processes:
            process.join()
        return found, unbalanced(first.stats())


def promises(found: list[Served], held: list[str]) -> list[dict[str, Any]]:
    steps, wrong = sum(one["same"] for one in found), [what for one in found for what in one["wrong"]]
    rows = [
        (
            "All clients that come at once are served to the end",
            "clients",
            len(found),
            sum(not one["seconds"] for one in found),
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
    whole = sorted(sum(one["seconds"]) for one in found if one["seconds"])
    one = sorted(seconds for each in found for seconds in each["seconds"])
    return {
        "clients": len(found),
        "sessions": len(one),
        "seconds_of_a_client": _spread(whole),
        "seconds_of_a_session": _spread(one),
        "slowest_client_over_median": round(whole[-1] / statistics.median(whole), 3) if whole else None,
        "wrong": [*(what for each in found for what in each["wrong"]), *held],
    }


def _spread(ordered: list[float]) -> dict[str, float]:
    quantiles = {"least": 0.0, "median": 0.5, "95 %": 0.95, "most": 1.0} if ordered else {}
    return {name: round(ordered[round(q * (len(ordered) - 1))], 3) for name, q in quantiles.items()}


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.soak.load", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--sessions", type=int, default=3, help="of each client (default: %(default)s)")
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
