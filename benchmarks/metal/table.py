"""The table from raw results: id, floor, target, what was measured, its tails and its spread over runs, held or missed.

    python -m benchmarks.metal.table raw/1 raw/2 raw/3
    python -m benchmarks.metal.table --markdown docs/performance.md raw/1 raw/2 raw/3

A folder is a run. Every number comes from the raw files; the predictions, written down before measuring, from
predictions.yaml beside this file.
"""

from __future__ import annotations

import argparse
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from benchmarks.metal.row import Row
from benchmarks.metal.rows import rows
from benchmarks.metal.samples import FOR_P99, Missing, Run, read

PREDICTIONS = Path(__file__).with_name("predictions.yaml")
MARKS = ("<!-- metal:begin -->", "<!-- metal:end -->")


@dataclass(frozen=True)
class Line:
    row: Row
    values: tuple[float, ...]  # one a run
    floor: float | None
    tails: tuple[float, float] | None  # p95, p99 of all runs' samples; p99 is nan when these are too few
    n: int  # of these samples

    @property
    def value(self) -> float:
        return float(np.median(self.values))

    @property
    def verdict(self) -> str:
        return {True: "held", False: "missed", None: "reported"}[self.row.holds(self.value)]


def line(row: Row, runs: list[Run]) -> Line | None:
    """None when no run has what the row is made of."""
    values, floors, samples = [], [], []
    for run in runs:
        run.used_own = False
        try:
            value = row.value(run)
        except Missing:
            continue
        if not run.used_own:
            continue
        values.append(value)
        if row.floor:
            with suppress(Missing):
                floors.append(row.floor(run))
        if row.samples:
            samples += run.values(row.samples)
    if not values:
        return None
    tails = None
    if samples:
        p99 = float(np.percentile(samples, 99)) if len(samples) >= FOR_P99 else float("nan")
        tails = (float(np.percentile(samples, 95)), p99)
    return Line(row, tuple(values), float(np.median(floors)) if floors else None, tails, len(samples))


def figure(number: float) -> str:
    return f"{number:.3g}" if abs(number) < 1000 else f"{number:.0f}"


def cells(one: Line, predictions: dict[str, Any]) -> list[str]:
    row = one.row
    spread = f" ({figure(min(one.values))}–{figure(max(one.values))})" if len(one.values) > 1 else ""
    tails = ""
    if one.tails:
        tails = figure(one.tails[0]) + ("" if np.isnan(one.tails[1]) else f" / {figure(one.tails[1])}")
    sign = {"<=": "≤", ">=": "≥", "==": "="}.get(row.op, "")
    return [
        row.id,
        row.what,
        f"{figure(one.floor)} {row.floor_unit}" if one.floor is not None else "",
        str(predictions.get(row.id, "")),
        f"{sign} {row.target:g}" if sign else "",
        f"{figure(one.value)} {row.unit}{spread}",
        tails + (f" (n = {one.n})" if one.n else ""),
        one.verdict,
    ]


HEAD = ["id", "what", "floor or rival, same runs", "predicted", "target", "measured: median (runs)", "p95 / p99", ""]


def missing(settings: dict[str, Any], runs: list[Run]) -> list[str]:
    return [row.id for row in rows(settings) if row.target is not None and line(row, runs) is None]


def lines(runs: list[Run]) -> list[Line]:
    return [found for row in rows(runs[0].raws[0]["settings"]) if (found := line(row, runs))]


def text(table: list[list[str]]) -> str:
    """For a terminal: without what each row is."""
    table = [[row[0], *row[2:]] for row in table]
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table
    )


def markdown(table: list[list[str]]) -> str:
    head, *body = table
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *body))


def origin(runs: list[Run]) -> str:
    """Which card, code and versions these runs come from."""
    raws = [raw for run in runs for raw in run.raws]
    device, versions = raws[0]["device"], raws[0]["versions"]
    commits = sorted({raw["commit"][:12] + (" with changes" if raw["dirty"] else "") for raw in raws})
    return (
        f"{device['name']}, {raws[0]['settings']['model']} {raws[0]['settings']['dtype']}, torch {versions['torch']}, "
        f"transformers {versions['transformers']}; commit {', '.join(commits)}; {len(runs)} "
        f"run{'s' if len(runs) > 1 else ''} from {min(raw['started'] for raw in raws)[:10]}"
    )


def tables(variants: dict[str, list[Run]], predictions: dict[str, Any], how: Any) -> str:
    parts = []
    for variant, runs in sorted(variants.items()):
        found = lines(runs)
        title = f"Variant {variant}: {runs[0].raws[0]['settings']['options']}" if variant else ""
        parts += [title, origin(runs), "", how([HEAD, *[cells(one, predictions) for one in found]]), ""]
        if not variant and (gone := missing(runs[0].raws[0]["settings"], runs)):
            parts += [f"Not in these raw files: {', '.join(gone)}.", ""]
    return "\n".join(parts).strip() + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("raw", nargs="+", type=Path)
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the table between the marks of this file")
    parser.add_argument("--predictions", type=Path, default=PREDICTIONS)
    args = parser.parse_args()
    variants, predictions = read(args.raw), yaml.safe_load(args.predictions.read_text()) or {}
    if args.markdown:
        begin, end = MARKS
        before, _, rest = args.markdown.read_text().partition(begin)
        after = rest.partition(end)[2]
        args.markdown.write_text(f"{before}{begin}\n{tables(variants, predictions, markdown)}{end}{after}")
    else:
        print(tables(variants, predictions, text))


if __name__ == "__main__":
    main()
