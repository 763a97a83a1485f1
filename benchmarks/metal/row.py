"""One row of the table, and the few ways in which its numbers are made of samples. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.metal.samples import FOR_P99, Missing, Run

Number = Callable[[Run], float]


@dataclass(frozen=True)
class Row:
    id: str
    what: str
    unit: str
    op: str  # <= >= == or "" (reported only)
    target: float | None
    value: Number
    floor: Number | None = None  # in `floor_unit`: what the same run measured, or a bound of arithmetic
    floor_unit: str = "ms"
    samples: str = ""  # the name whose p95 and p99 are shown

    def holds(self, value: float) -> bool | None:
        return {
            "<=": lambda: value <= self.target,
            ">=": lambda: value >= self.target,
            "==": lambda: value == self.target,
        }.get(self.op, lambda: None)()


def median(name: str) -> Number:
    return lambda run: run.median(name)


def p99(name: str) -> Number:
    def value(run: Run) -> float:
        if len(run.values(name)) < FOR_P99:
            raise Missing(name)
        return run.percentile(name, 99)

    return value


def over(a: str, b: str) -> Number:
    return lambda run: run.over(a, b)


def medians(a: str, b: str) -> Number:
    """Of samples that were not taken in turn."""
    return lambda run: run.median(a) / run.median(b)


def peak(run: Run) -> float:
    """GB/s of the best pinned copy to the device in the same run."""
    return max(run.median("ceiling.copy.back"), run.median("ceiling.copy.back.queued"))


def copy_ms(name: str) -> Number:
    """The least that the bytes of these samples take."""
    return lambda run: run.about(name, "bytes") / peak(run) / 1e6


def in_ms(name: str, what: str, floor: Number) -> Row:
    return Row(name, what, "ms", "", None, median(name), floor, samples=name)


def reported_or_held(name: str, what: str, target: float | None, value: Number) -> Row:
    return Row(name, what, "×", ">=" if target else "", target, value)
