"""Every quantity of a raw result that was sampled, by name: whatever rule made it. Pure.

A quantity is a list of times. Its unit is in its key, as everywhere here (`_ms`, `_s`, `seconds`), or in the key above it
(`"ms": {"offloaded": [...]}`). Single numbers have no spread and are left to the claims.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

TIMES = re.compile(r"(^|_)(ms|seconds)(_|$)|_s$")
IDENTITY = ("name", "system", "what", "phase", "temperature", "layer")  # what tells the entries of a list apart


def sampled(result: dict[str, Any], where: str = "") -> Iterator[tuple[str, list[float]]]:
    """(name, samples): `prefill cold L=15 ready_ms`, `systems.djinn.seconds`."""
    for key, value in result.items():
        path = f"{where}{key}"
        if isinstance(value, dict):
            yield from sampled(value, f"{path}.")
        elif isinstance(value, list) and value and all(_number(each) for each in value):
            if any(TIMES.search(part) for part in path.split(".")[-2:]):
                yield path, [float(each) for each in value]
        elif isinstance(value, list):
            for entry in value:
                label = _label(entry) if isinstance(entry, dict) else ""
                if label:
                    yield from _entry(entry, f"{where}{label}")


def _entry(entry: dict[str, Any], label: str) -> Iterator[tuple[str, list[float]]]:
    """An entry that says which one it is; its `samples` are dicts with one time for each interval."""
    rows = entry.get("samples")
    if isinstance(rows, list) and rows and all(isinstance(row, dict) for row in rows):
        for interval in dict.fromkeys(key for row in rows for key in row):
            values = [float(row[interval]) for row in rows if _number(row.get(interval))]
            if values and TIMES.search(interval):
                yield f"{label} {interval}", values
    yield from sampled({key: value for key, value in entry.items() if key != "samples"}, f"{label} ")


def _label(entry: dict[str, Any]) -> str:
    words = [f"L={entry[key]}" if key == "layer" else str(entry[key]) for key in IDENTITY if key in entry]
    return " ".join(word for word in words if word != "none")


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
