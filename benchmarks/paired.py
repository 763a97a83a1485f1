"""Time several ways of doing a thing in turn (A B C A B C …), and compare them round by round.

A machine that slows down for a while slows all of one round, so the ratio inside a round says more than two medians
taken one after the other. Reported: medians with quartiles, and the median of the ratios with its 95 % bounds (the
order statistics of a sign test, which assume nothing about the noise).
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from evaluation import records
from evaluation.summary import paired

Times = dict[str, list[float]]  # name -> seconds, one for each round


def in_turn(cases: Mapping[str, Callable[[], object]], rounds: int, warm_up: int = 2) -> Times:
    """Run every case once a round. A case that returns a float says its own seconds (a difference of stamps)."""
    times: Times = {name: [] for name in cases}
    for number in range(-warm_up, rounds):
        print(f"\rround {max(number + 1, 0)}/{rounds}", end="", file=sys.stderr, flush=True)
        for name, case in cases.items():
            began = time.perf_counter()
            own = case()
            took = time.perf_counter() - began
            if number >= 0:
                times[name].append(own if isinstance(own, float) else took)
    print(file=sys.stderr)
    return times


def print_times(times: Times) -> None:
    width = max(map(len, times))
    print(f"{'':{width}}  {'median':>10}  {'quartiles':>21}   n")
    for name, seconds in times.items():
        low, _, high = statistics.quantiles(seconds, n=4)
        span = f"{low * 1e3:.2f}–{high * 1e3:.2f} ms"
        print(f"{name:{width}}  {statistics.median(seconds) * 1e3:7.2f} ms  {span:>21}  {len(seconds):>2}")


def print_ratio(times: Times, this: str, to: str, promised: float | None = None) -> None:
    found = paired(times[this], times[to])
    says = (
        ""
        if promised is None
        else f"   promised ≤ {promised:g}: {'held' if found['ratio'] <= promised else 'NOT held'}"
    )
    print(f"{this} / {to} = {found['ratio']:.3f} ({found['low']:.3f}–{found['high']:.3f}){says}")


def write(out: Path, benchmark: str, settings: Mapping[str, Any], times: Times, **found: Any) -> None:
    """A raw result: every sample (seconds), and which machine, code and settings they come from."""
    commit, dirty = records.commit_of(records.ROOT)
    records.write_json(
        out,
        {
            "benchmark": benchmark,
            "started": records.Stopwatch().started,
            "commit": commit,
            "dirty": dirty,
            "device": records.device_facts(str(settings["device"])),
            "versions": records.versions(),
            "settings": {name: value for name, value in settings.items() if not isinstance(value, Path)},
            "seconds": times,
            **found,
        },
    )
