"""The long form: `PYTHONPATH=tests python -m fuzz --exchanges 100000 --seed 1 --out FILE`, or one exchange played again."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sessions import small_server

import djinn
from evaluation.reliability import write_suite
from fuzz import judge, lines, seeded
from fuzz.house import inside
from fuzz.outside import outside
from fuzz.run import BLOCK, WRONG_MEANING, Fuzzer, Report
from fuzz.slow import Served, crowd, slow_reader, slow_writers

COMMAND = "PYTHONPATH=tests python -m fuzz"
SAID_EVERY_S = 10.0
OVER_A_SOCKET = 10  # of so many exchanges, one comes over a socket: enough that a young process has grown to its size
LINES_EVERY = 50  # and so many as one line of bytes that are no messages
SILENT, GREETED, ASKS, WRITERS = 1000, 200, 3500, 50


def main(arguments: list[str] | None = None) -> int:
    p = argparse.ArgumentParser(prog=COMMAND, description=__doc__)
    p.add_argument("--exchanges", type=int, default=100_000, help="without a socket (default: %(default)s)")
    p.add_argument("--seed", type=int, default=1, help="(default: %(default)s)")
    p.add_argument("--from", type=int, dest="at", help="play this exchange again, from the beginning of its block")
    p.add_argument("--out", type=Path, help="a file for the result (default: none is written)")
    args = p.parse_args(arguments)
    if args.at is not None:
        return replay(args.seed, args.at)
    result = everything(args.exchanges, args.seed)
    for promise in result["promises"]:
        print(f"{promise['tried']:>9,} {promise['unit']:<12} {promise['failed']} failed: {promise['promise']}")
    if args.out:
        write_suite(args.out, "fuzz", f"{COMMAND} --exchanges {args.exchanges} --seed {args.seed}", **result)
    return int(any(promise["failed"] for promise in result["promises"]))


def replay(seed: int, at: int) -> int:
    """Print the exchanges of its block up to `at`, with the code of each answer."""
    first = at // BLOCK * BLOCK
    with inside() as house:
        try:
            Fuzzer(house, seed).block(first, at - first + 1, show=print)
        except judge.Found as found:
            print(found, file=sys.stderr)
            return 1
    return 0


def everything(exchanges: int, seed: int) -> dict[str, Any]:
    """{promises, facts, seconds}. What stops at what it finds counts one failure for all of it."""
    began = time.monotonic()
    with inside() as house:
        within = Fuzzer(house, seed).run(exchanges, _teller("without a socket", exchanges))
    with outside() as there:
        fuzzer, over = Fuzzer(there, seed), exchanges // OVER_A_SOCKET
        across = fuzzer.run(over, _teller("over a socket", over))
        said, wrong_line = _tried(lambda: lines.play(there.endpoint, seed, exchanges // LINES_EVERY, fuzzer.alive))
    bugs = {bug.about: [check for check, _ in seeded.hunt(bug, seed).found] for bug in seeded.BUGS}
    missed = [bug.about for bug in seeded.BUGS if not set(bugs[bug.about]) & bug.by]
    with small_server() as running, djinn.connect(running.endpoint, timeout=300) as client:
        served, place = Served(client), (running.endpoint, running.pid)
        quiet, wrong_crowd = _tried(lambda: crowd(*place, served, SILENT, GREETED))
        reader, wrong_reader = _tried(lambda: slow_reader(*place, served, ASKS))
        writers, wrong_writers = _tried(lambda: slow_writers(*place, served, WRITERS))
    found = [*within.found, *across.found, *wrong_line, *wrong_crowd, *wrong_reader, *wrong_writers]
    for check, what in found:
        print(f"{check}: {what}", file=sys.stderr)
    both = within.exchanges + across.exchanges
    meant_wrong = within.meant_wrong + across.meant_wrong
    failed, fuzz, door = len(within.found) + len(across.found), "tests/test_fuzz.py", "tests/test_door.py"
    rows = [
        ("Whatever comes is answered once, by what it asked for or a typed error", both, "exchanges", failed, fuzz),
        (
            "Of these, what is well-formed and means what cannot be harms nothing",
            meant_wrong,
            "exchanges",
            failed,
            fuzz,
        ),
        ("Others are served between them, to the bit", within.honest + across.honest, "requests", failed, fuzz),
        ("Bytes that are no messages are hung up on", sum((said or {}).values()), "lines", len(wrong_line), fuzz),
        ("A bug that is put in on purpose is found", len(seeded.BUGS), "bugs", len(missed), fuzz),
        ("Who says nothing is hung up on", SILENT + GREETED, "clients", len(wrong_crowd), door),
        ("Who reads slowly holds nobody up and takes bounded memory", 2, "clients", len(wrong_reader), door),
        (
            "Who writes slowly holds nobody up and takes bounded memory",
            2 * WRITERS,
            "clients",
            len(wrong_writers),
            door,
        ),
    ]
    return {
        "promises": [
            {"promise": what, "test": test, "tried": tried, "failed": failed, "unit": unit}
            for what, tried, unit, failed, test in rows
        ],
        "facts": {
            "wrong_meaning_share": round(meant_wrong / both, 3),
            "wrong_meaning_kinds": sorted(WRONG_MEANING),
            "without_a_socket": _facts(within),
            "over_a_socket": _facts(across),
            "lines": dict(said or {}),
            "bugs_found_by": bugs,
            "silent": quiet,
            "slow_reader": reader,
            "slow_writers": writers,
            "found": found,
        },
        "seconds": round(time.monotonic() - began, 1),
    }


def _facts(report: Report) -> dict[str, Any]:
    return {
        "exchanges": report.exchanges,
        "by_kind": dict(report.kinds.most_common()),
        "by_code": dict(report.codes.most_common()),
        "rss_mb_medians": report.windows_mb,
        "peak_grown_mb": round(report.peak_bytes / 1e6, 1),
    }


def _tried(suite: Callable[[], Any]) -> tuple[Any, list[tuple[str, str]]]:
    try:
        return suite(), []
    except judge.Found as found:
        return None, [(found.check, str(found))]


def _teller(where: str, whole: int) -> Callable[[Report], None]:
    """Says how far it is, now and then."""
    last = time.monotonic()

    def tell(report: Report) -> None:
        nonlocal last
        if time.monotonic() - last > SAID_EVERY_S:
            last = time.monotonic()
            print(f"{where}: {report.exchanges:,} of {whole:,} exchanges, {len(report.found)} failures", flush=True)

    return tell


if __name__ == "__main__":
    sys.exit(main())
