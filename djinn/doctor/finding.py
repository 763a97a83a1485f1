"""What a check found. Pure."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

MARKS = {True: "ok", False: "WRONG", None: "not checked"}


@dataclass(frozen=True)
class Finding:
    """ok: None where the check could not look, and `seen` says why. advice: what to do, where something is wrong."""

    check: str
    ok: bool | None
    seen: str
    advice: str = ""


def report(findings: Sequence[Finding]) -> str:
    """One line a check, the advice below what is wrong, and a last line that sums up."""
    width = max(len(finding.check) for finding in findings)
    lines = []
    for finding in findings:
        lines.append(f"{MARKS[finding.ok]:<12} {finding.check:<{width}}  {finding.seen}")
        if finding.ok is False:
            advice = textwrap.wrap(finding.advice, 100)
            lines += [
                f"{'':<12} {'':<{width}}  {'→' if not number else ' '} {line}" for number, line in enumerate(advice)
            ]
    counts = {mark: sum(finding.ok is state for finding in findings) for state, mark in MARKS.items()}
    lines.append(", ".join(f"{count} {mark}" for mark, count in counts.items() if count))
    return "\n".join(lines)
