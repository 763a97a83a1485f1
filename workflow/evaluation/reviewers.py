"""The numbers behind docs/reviewers.md: for each of the seed's reviewers, the claims that answer, and what stands behind them."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

from evaluation.answered import CLAIMS, answered
from evaluation.answers import table
from evaluation.claims import Reviewer

REVIEWERS = get_args(Reviewer)


def block(reference: Path, reviewer: str, claims: Path = CLAIMS) -> str:
    """A table of the claims that config/claims.yaml marks with this reviewer, and the numbers behind each verdict."""
    answers = [one.answer for one in answered(claims, reference / "claims.json") if one.claim.reviewer == reviewer]
    if not answers:
        return f"Not measured: no claim in `config/claims.yaml` is marked `reviewer: {reviewer}`."
    behind = [f"- {answer['id']}: {answer['reason']}." for answer in answers]
    return "\n".join([*table(answers), "", *behind])
