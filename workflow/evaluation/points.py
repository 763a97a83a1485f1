"""A raw file as points to plot: what runs over time, sessions or layers, and every single number. The claims' beside it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from statistics import fmean
from typing import Any

from evaluation.comparison.samples import sampled
from evaluation.summary import summarise

TIER_KEYS = ("device_bytes", "host_bytes", "disk_bytes", "demand_bytes", "process_bytes")
LAYER = re.compile(r" L=(\d+)")  # in the name of what was sampled
Point = tuple[str, float, int, int]  # metric, value, time (ms since 1970), step


def series(raw: dict[str, Any], began: int) -> Iterator[Point]:
    """What changes over time, sessions, layers or factors, and every series of samples as its median and p95.

    The step is the row's number, N, L, or the factor in percent (a mean over the prompts).
    """
    result = raw["result"]
    for step, row in enumerate(result.get("timeline", [])):
        yield from (
            (f"timeline.{key}", row[key], began + round(1000 * row["t_s"]), step)
            for key in TIER_KEYS
            if row.get(key) is not None
        )
    for row in result.get("by_n", []):
        yield from ((f"by_n.{key}", row[key], began, row["sessions"]) for key in TIER_KEYS if row.get(key) is not None)
    for setting in result.get("settings", []):
        yield f"{setting['name']}.sessions", setting["sessions"], began, 0
        yield f"{setting['name']}.live_over_headroom", setting["live_over_headroom"], began, 0
        for row in setting["curve"]:
            keys = ("live_kv_bytes", "process_bytes")
            yield from (
                (f"{setting['name']}.{key}", row[key], began, row["sessions"])
                for key in keys
                if row.get(key) is not None
            )
    for system, row in result.get("systems", {}).items():
        yield from ((f"{system}.seconds", seconds, began, step) for step, seconds in enumerate(row["seconds"]))
    for row in result.get("sweep", []):
        percent, found = round(100 * row["factor"]), row["by_prompt"]
        yield from ((f"sweep.{key}", fmean(one[key] for one in found), began, percent) for key in found[0])
    for name, samples in sampled(result):
        layer, numbers = LAYER.search(name), summarise(samples)
        metric, step = LAYER.sub("", name).replace(" ", "."), int(layer[1]) if layer else 0
        yield from ((f"{metric}.{key}", numbers[key], began, step) for key in ("median", "p95"))


def scalars(result: Any, began: int, prefix: str = "") -> Iterator[Point]:
    """Every plain number of a result by its path; lists are series or samples and are left to the JSON."""
    for key, value in result.items():
        if isinstance(value, dict):
            yield from scalars(value, began, f"{prefix}{key}.")
        elif isinstance(value, (bool, int, float)):
            yield f"{prefix}{key}", float(value), began, 0


def values_of(answers: list[dict[str, Any]]) -> dict[str, float]:
    """The claims' values (the unit is in the name), and how many have each verdict."""
    values = {f"claim.{one['id']} {one['unit']}": one["value"] for one in answers if one["value"] is not None}
    for verdict in ("reproduced", "better", "not reproduced", "not run"):
        values[f"claims {verdict}"] = sum(one["verdict"] == verdict for one in answers)
    return values


def params(described: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    flat: list[tuple[str, str]] = []
    for key, value in described.items():
        flat += params(value, f"{prefix}{key}.") if isinstance(value, dict) else [(f"{prefix}{key}", str(value))]
    return flat


def merged(parts: Iterable[dict[str, Any]]) -> dict[str, str]:
    """key → value over what several files say of themselves; where they differ, all the values."""
    found: dict[str, dict[str, None]] = {}
    for described in parts:
        for key, value in params(described):
            found.setdefault(key, {})[value] = None
    return {key: " / ".join(values) for key, values in sorted(found.items())}
