"""Mixed operations with faults, for half an hour and more; every session that survives is compared to the bit.

    python -m benchmarks.soak --minutes 30 --seed 0 --out results/reference/reliability/soak.json

A server with a state directory and room on the device for a quarter of the sessions, and several clients that are killed
now and then, as the server is. Goes on until each kind of fault has been met. Exits with 1 when anything was lost or wrong.
"""

from __future__ import annotations

import argparse
import random
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import djinn
from benchmarks.soak import client, programs
from benchmarks.soak.faults import FAULTS
from benchmarks.soak.journal import Tally
from benchmarks.soak.report import OWN, calls, facts, promises, table
from benchmarks.soak.site import FORKED, MODEL_BYTES, SESSION_BYTES, Site, unbalanced
from evaluation.reliability import write_suite

OVERTIME = 4  # times the minutes asked for, until each kind of fault must have been met
PROGRESS_S = 5.0
LOOK_S = 0.1
KILL_EVERY, ARM_EVERY = 50, 5  # calls, until a client is killed, and a fault of the server's is armed
MB = 10**6


class Soak:
    def __init__(self, folder: Path, args: argparse.Namespace) -> None:
        self.args, self.seconds = args, args.minutes * 60
        self.draw = random.Random(f"{args.seed} soak")
        quarter = args.clients * args.sessions * SESSION_BYTES // 4
        budgets = (
            f"--device-budget={MODEL_BYTES + quarter}",
            f"--host-budget={quarter}",
            f"--disk-budget={16 * quarter}",
        )
        self.site = Site(folder, list(budgets), args.seed)
        self.tally, self.clients, self.broke_off = Tally(), {}, []
        self.faults = dict.fromkeys(OWN, 0)
        self.deck: list[str] = []
        self.calls = self.armed = 0
        self.said = 0.0  # seconds

    # -- clients --------------------------------------------------------------------------------------

    def start_client(self, owner: int, catalogue: dict[str, programs.Program]) -> None:
        seed = f"{self.args.seed} {owner} {self.faults['client killed']}"
        arguments = (self.site.folder, owner, seed, catalogue, self.args.sessions)
        process = FORKED.Process(target=client.live, args=arguments, daemon=True)
        process.start()
        self.clients[owner] = process

    def kill_client(self, catalogue: dict[str, programs.Program]) -> None:
        owner = self.draw.choice(sorted(self.clients))
        if self.clients[owner].is_alive():
            self.clients[owner].kill()
            self.clients[owner].join()
            self.faults["client killed"] += 1
            self.start_client(owner, catalogue)

    # -- the run ----------------------------------------------------------------------------------------

    def life(self) -> tuple[int, float]:
        """How long the next server may live: until so many calls were made, and not less than so many seconds.

        Mostly short, by calls, so that faults are as frequent on a slow machine; some are looked at for their memory.
        """
        grows = len(self.site.servers) % 8 == 3
        return self.calls + self.draw.randrange(15, 60 if self.args.minutes < 5 else 400), self.seconds / 4 * grows

    def run(self) -> None:
        self.site.start()
        with djinn.connect(self.site.server.endpoint) as first:
            catalogue = programs.learned(first)
        for owner in range(self.args.clients):
            self.start_client(owner, catalogue)
        began, (most, least_s), next_kill = time.monotonic(), self.life(), KILL_EVERY
        while (past := time.monotonic() - began) < self.seconds or self.unmet():
            if past > OVERTIME * max(self.seconds, 60):
                self.broke_off.append(f"never met: {', '.join(self.unmet())}")
                break
            self.calls = calls(self.counts())
            if self.calls > most and self.site.server.age > least_s:
                self.end_server()
                most, least_s = self.life()
            if self.calls > next_kill:
                self.kill_client(catalogue)
                next_kill = self.calls + KILL_EVERY
            self.look(past)
            time.sleep(LOOK_S)
        self.finish()

    def end_server(self) -> None:
        if len(self.site.servers) % 2:
            self.faults["server killed"] += 1
            if self.site.kill(damage=self.draw.random() < 0.7):
                self.faults["state file damaged"] += 1
        else:
            self.faults["server drained"] += 1
            self.site.drain()
        self.site.start()

    def look(self, past: float) -> None:
        """What is due now and then: a fault, a sample of the memory, a line of progress."""
        self.site.server.sample()
        if self.calls > self.armed:
            self.armed = self.calls + ARM_EVERY
            if not self.deck:
                self.deck = self.draw.sample(FAULTS, len(FAULTS))
            self.site.server.arm(self.deck.pop())
        for owner, process in self.clients.items():
            if not process.is_alive() and process.exitcode:
                raise RuntimeError(f"client {owner} ended with {process.exitcode}: {self.counts() and self.tally.told}")
        if past - self.said > PROGRESS_S:
            self.said = past
            self.progress(past)

    def progress(self, past: float) -> None:
        counts = self.counts()
        print(
            f"{past:6.0f} s  {self.calls} calls, {sum(self.met().values())} faults, {len(self.site.servers)} servers, "
            f"{counts['same']} comparisons equal, {counts['differs']} not, {counts['finished']} sessions finished, "
            f"{counts['came back as promised']} came back, {counts['lost'] + counts['durable lost']} lost, "
            f"{self.site.server.rss[-1][1] / MB:.0f} MB",
            file=sys.stderr,
            flush=True,
        )

    def finish(self) -> None:
        """No faults any more: every session goes on to its end, and then nobody holds anything."""
        self.site.server.arm("none")
        (self.site.folder / "stop").touch()
        for owner, process in self.clients.items():
            process.join(600)
            if process.exitcode != 0:
                self.broke_off.append(f"client {owner} ended with {process.exitcode}")
        with djinn.connect(self.site.server.endpoint) as last:
            self.held = unbalanced(last)
        self.site.drain()
        left = {path.name for path in self.site.state.iterdir()} - {"lock"}
        self.left = sorted(name for name in left if ".corrupt" not in name)

    # -- what came of it ------------------------------------------------------------------------------------

    def counts(self) -> Any:
        return self.tally.read(sorted(self.site.folder.glob("owner-*.journal")))

    def met(self) -> dict[str, int]:
        """Faults by kind, as often as they were met."""
        struck = self.site.folder / "struck"
        found = self.faults | dict.fromkeys(FAULTS, 0)
        for line in struck.read_text().splitlines() if struck.exists() else ():
            found[line.split(" ", 1)[1]] += 1
        counts = self.counts()
        names = ("fault: line cut", "fault: replies lost", "fault: asked twice", "fault: bad request")
        return found | {name.removeprefix("fault: "): counts[name] for name in names}

    def unmet(self) -> list[str]:
        return [name for name, count in self.met().items() if not count]


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.soak", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=30.0, help="at least (default: %(default)g)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--clients", type=int, default=4, help="processes (default: %(default)s)")
    parser.add_argument("--sessions", type=int, default=8, help="open for each client, at most (default: %(default)s)")
    parser.add_argument("--out", type=Path, help="write the result here, as JSON")
    parser.add_argument("--keep", type=Path, help="an empty folder for logs, journals and state (default: not kept)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        soak = Soak(args.keep or Path(made), args)
        began = time.monotonic()
        soak.run()
        seconds = time.monotonic() - began
        found, told_ = promises(soak), facts(soak)
    print(table(found, told_))
    if args.out:
        command = f"python -m benchmarks.soak --minutes {args.minutes:g} --seed {args.seed}"
        write_suite(args.out, "soak", command, found, told_, seconds)
    return int(any(one["failed"] for one in found))


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends its processes, too
    sys.exit(main())
