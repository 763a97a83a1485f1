"""How much of a timeline's copying went on behind compute: busy times of its tracks, and of each two together.

    python -m benchmarks.overlap timeline.json

The file is what `client.timeline()` returned (Chrome's trace format); `benchmarks.oversubscribe --trace` writes one.
"""

from __future__ import annotations

import argparse
import json
from itertools import combinations
from pathlib import Path
from typing import Any

TRACKS = ("compute", "copy out", "copy in", "disk")
Spans = list[tuple[float, float]]  # (start, end), microseconds; sorted, none touching the next


def merged(spans: Spans) -> Spans:
    """The moments at which at least one of `spans` was running."""
    whole: Spans = []
    for start, end in sorted(spans):
        if whole and start <= whole[-1][1]:
            whole[-1] = (whole[-1][0], max(whole[-1][1], end))
        else:
            whole.append((start, end))
    return whole


def both(one: Spans, other: Spans) -> Spans:
    """The moments at which both were running; each merged."""
    common: Spans = []
    i = j = 0
    while i < len(one) and j < len(other):
        start, end = max(one[i][0], other[j][0]), min(one[i][1], other[j][1])
        if start < end:
            common.append((start, end))
        if one[i][1] < other[j][1]:
            i += 1
        else:
            j += 1
    return common


def milliseconds(spans: Spans) -> float:
    return sum(end - start for start, end in spans) / 1000


def overlap(trace: dict[str, Any]) -> dict[str, Any]:
    """busy_ms of each track, both_ms of each two, bytes copied on each, and the span of time they cover."""
    events = trace["traceEvents"]
    names = {event["tid"]: event["args"]["name"] for event in events if event["ph"] == "M"}
    ran: dict[str, Spans] = {track: [] for track in TRACKS}
    copied = dict.fromkeys(TRACKS, 0)
    for event in events:
        track = names.get(event["tid"])
        if event["ph"] == "X" and track in ran:
            ran[track].append((event["ts"], event["ts"] + event["dur"]))
            copied[track] += event["args"].get("bytes", 0)
    busy = {track: merged(spans) for track, spans in ran.items() if spans}
    if not busy:
        raise SystemExit("no spans in this timeline: was it taken before anything ran?")
    return {
        "seconds": (max(spans[-1][1] for spans in busy.values()) - min(spans[0][0] for spans in busy.values())) / 1e6,
        "busy_ms": {track: milliseconds(spans) for track, spans in busy.items()},
        "bytes": {track: copied[track] for track in busy if copied[track]},
        "both_ms": {
            f"{one} & {other}": milliseconds(both(busy[one], busy[other])) for one, other in combinations(busy, 2)
        },
    }


def print_overlap(found: dict[str, Any]) -> None:
    print(f"timeline of {found['seconds']:.1f} s")
    for track, busy in found["busy_ms"].items():
        copied = found["bytes"].get(track, 0)
        print(f"{track:>9}: {busy:9.0f} ms busy" + (f", {copied / 1e9:.2f} GB" if copied else ""))
    for pair, together in found["both_ms"].items():
        shorter = min(found["busy_ms"][track] for track in pair.split(" & "))
        print(f"{pair}: {together:.0f} ms at the same time, {together / shorter:.0%} of the shorter")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("timeline", type=Path)
    print_overlap(overlap(json.loads(parser.parse_args().timeline.read_text())))


if __name__ == "__main__":
    main()
