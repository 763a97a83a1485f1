"""What changed between two campaigns: the configuration, every sampled quantity with its spread, every claim. Pure.

The spread is that of `evaluation.summary`: a bootstrap 95 % interval of the ratio of two medians. It is what the samples of
a campaign say; what a machine does from one day to the next is not in it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from evaluation.comparison.samples import sampled
from evaluation.points import merged
from evaluation.summary import ratio, resampled_medians, summarise

FEWEST = 5  # samples on each side; of fewer a bootstrap says nothing
Raws = dict[str, dict[str, Any]]  # rule → its raw file
Answers = list[dict[str, Any]]  # claims.json


@dataclass(frozen=True)
class Row:
    """One quantity of one rule. a, b: medians, in the unit that the name ends in; ratio: b / a with its 95 % bounds."""

    rule: str
    name: str
    a: float | None
    b: float | None
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    verdict: str = ""  # better | worse | same | few samples | no ratio | only in A | only in B


@dataclass(frozen=True)
class Answer:
    """One claim in both campaigns; its own verdicts stand for what a single number cannot say about a spread."""

    claim: str
    unit: str
    a: float | None
    b: float | None
    verdict: str  # `reproduced`, or `reproduced → not reproduced`


@dataclass(frozen=True)
class Difference:
    """A key of the configuration, a version or a fact of the machine that is not the same; None: not there."""

    key: str
    a: str | None
    b: str | None


def measured(a: Raws, b: Raws) -> list[Row]:
    """Every sampled time of the raw files: less of it is better."""
    rows = []
    for rule in dict.fromkeys([*a, *b]):
        one, other = (dict(sampled(raws[rule]["result"])) if rule in raws else {} for raws in (a, b))
        rows += [_row(rule, name, one.get(name), other.get(name)) for name in dict.fromkeys([*one, *other])]
    return rows


def _row(rule: str, name: str, a: list[float] | None, b: list[float] | None) -> Row:
    ends = [None if samples is None else float(summarise(samples)["median"]) for samples in (a, b)]
    if a is None or b is None:
        return Row(rule, name, *ends, verdict="only in A" if b is None else "only in B")
    drawn = [resampled_medians(samples, f"{side}/{rule}/{name}") for side, samples in (("A", a), ("B", b))]
    found = ratio(b, a, drawn[1], drawn[0])
    if found is None:
        return Row(rule, name, *ends, verdict="no ratio")
    if min(len(a), len(b)) < FEWEST:
        return Row(rule, name, *ends, ratio=found["ratio"], verdict="few samples")
    verdict = "worse" if found["low"] > 1 else "better" if found["high"] < 1 else "same"
    return Row(rule, name, *ends, **found, verdict=verdict)


def claimed(a: Answers, b: Answers) -> list[Answer]:
    """Every claim that either campaign answered, in the order of the newer list first met."""
    one, other = ({answer["id"]: answer for answer in answers} for answers in (a, b))
    rows = []
    for claim in dict.fromkeys([*one, *other]):
        sides = [answers.get(claim) for answers in (one, other)]
        verdicts = ["not asked" if side is None else side["verdict"] for side in sides]
        rows.append(
            Answer(
                claim,
                next(side["unit"] for side in sides if side),
                *[None if side is None else side["value"] for side in sides],
                verdict=verdicts[0] if verdicts[0] == verdicts[1] else " → ".join(verdicts),
            )
        )
    return rows


def changed(a: Raws, b: Raws) -> list[Difference]:
    """What was not the same when the two were measured, once for each key however many rules saw it."""
    one, other = _described(a), _described(b)
    return [
        Difference(key, one.get(key), other.get(key))
        for key in sorted(one.keys() | other.keys())
        if one.get(key) != other.get(key)
    ]


def _described(raws: Raws) -> dict[str, str]:
    return merged(
        {
            **raw["settings"],
            "versions": raw["versions"],
            "weights": raw["weights"] or {},
            "machine": raw["device"],
            "commit": raw["commit"],
            "uncommitted changes": raw["dirty"],
        }
        for raw in raws.values()
    )
