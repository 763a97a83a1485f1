"""One oversubscribed run as a picture: what compute and both copy streams did, and how many sessions stood where.

    python -m benchmarks.metal.picture raw/1/oversub.json n50_1600 docs/oversubscribed.svg

Of the last round: its sessions' stamps are in the raw file, the spans in the timeline beside it.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import pyplot as plt

from benchmarks.metal.samples import load
from benchmarks.overlap import Spans, merged
from evaluation.figures.style import BLUE, GREEN, GREY, RC, VERMILION

TRACKS = ("compute", "copy out", "copy in")
COLOURS = (BLUE, VERMILION, GREEN)
NS = 1e9

PAGE_IN = 7.0  # width of a page of a two-column paper


def spans_of(trace: dict[str, Any], begin_s: float, end_s: float) -> dict[str, Spans]:
    """track → its busy times inside the window, seconds from its begin."""
    names = {event["tid"]: event["args"]["name"] for event in trace["traceEvents"] if event["ph"] == "M"}
    found: dict[str, Spans] = {track: [] for track in TRACKS}
    for event in trace["traceEvents"]:
        track = names.get(event["tid"])
        if event["ph"] == "X" and track in found and begin_s <= event["ts"] / 1e6 <= end_s:
            start = event["ts"] / 1e6 - begin_s
            found[track].append((start, start + event["dur"] / 1e6))
    return {track: merged(spans) for track, spans in found.items()}


def states(stamps: dict[str, list[dict[str, int]]], times: np.ndarray) -> dict[str, np.ndarray]:
    """How many sessions at each moment (s) stand paused, go on, or have finished."""
    paused = np.array([one["done"] for one in stamps["second"]]) / NS
    resumed = np.array([one["ready"] for one in stamps["last"]]) / NS
    done = np.array([one["done"] for one in stamps["last"]]) / NS

    def count(moments: np.ndarray) -> np.ndarray:
        return (moments[None] <= times[:, None]).sum(1)

    return {
        "paused": count(paused) - count(resumed),
        "going on": count(resumed) - count(done),
        "finished": count(done),
    }


def draw(raw: dict[str, Any], row: str, trace: dict[str, Any], out: Path) -> None:
    last = raw["samples"][f"oversub.{row}.total"]["rounds"][-1]
    stamps = last["stamps"]
    begin = min(one["accepted"] for one in stamps["first"]) / NS
    end = max(one["done"] for one in stamps["last"]) / NS
    times = np.linspace(begin, end, 500)
    plt.rcParams.update(RC)
    figure, (above, below) = plt.subplots(
        2, 1, figsize=(PAGE_IN, 3.4), sharex=True, height_ratios=(3, 2), layout="constrained"
    )
    for place, spans in enumerate(spans_of(trace, begin, end).values()):
        busy = sum(stop - start for start, stop in spans)
        above.broken_barh([(start, stop - start) for start, stop in spans], (-place - 0.4, 0.8), color=COLOURS[place])
        above.text(1.01 * (end - begin), -place, f"{busy:.2f} s busy", va="center")
    above.set_yticks([-place for place in range(len(TRACKS))], TRACKS)
    for (name, many), colour in zip(states(stamps, times).items(), (GREY, BLUE, GREEN), strict=False):
        below.plot(times - begin, many, label=name, color=colour)
    for axes in (above, below):
        axes.axvline(last["to_barrier_s"], color="black", linewidth=0.8, linestyle=":")
    below.set_ylabel("sessions")
    below.set_xlabel(f"seconds; dotted: the barrier. {raw['device']['name']}, commit {raw['commit'][:12]}")
    below.legend(loc="center left")
    figure.savefig(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("raw", type=Path)
    parser.add_argument("row", help="such as n50_1600")
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    timeline = args.raw.with_name(f"{args.raw.name.split('.')[0]}-{args.row}-timeline.json.gz")
    draw(load(args.raw), args.row, load(timeline), args.out)


if __name__ == "__main__":
    main()
