"""Every claim of config/claims.yaml beside its answer of one campaign, which may be older than the claim."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evaluation.claims import Claim, load

CLAIMS = Path(__file__).resolve().parents[2] / "config" / "claims.yaml"


@dataclass(frozen=True)
class Answered:
    """answer: an entry of claims.json; for a claim that the campaign does not know, one that says so."""

    claim: Claim
    answer: dict[str, Any]


def answered(claims_yaml: Path, claims_json: Path) -> list[Answered]:
    answers = {answer["id"]: answer for answer in json.loads(claims_json.read_text())}
    return [Answered(claim, answers.get(claim.id) or _not_asked(claim)) for claim in load(claims_yaml)]


def _not_asked(claim: Claim) -> dict[str, Any]:
    return {
        "id": claim.id,
        "statement": claim.statement,
        "seed": claim.seed,
        "value": None,
        "unit": claim.unit,
        "op": claim.op,
        "target": claim.target if isinstance(claim.target, (int, float)) else None,
        "tolerance": claim.tolerance,
        "met": None,
        "verdict": "not run",
        "reason": "not measured: this campaign is older than the claim",
        "source": ", ".join(f"raw/{rule}.json" for rule in claim.source),
    }
