"""What the seed and the design say, each held against one number of `combined.json`.

`config/claims.yaml` says which number, and what would satisfy the claim; nothing here knows any claim by
name. An unmet claim is an answer, not an error. A claim written wrongly (an unknown key, a path that leads
nowhere) is an error.
"""

from __future__ import annotations

import difflib
import json
from pathlib import Path
from string import Formatter
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from evaluation.answers import promise, render, show, subject
from evaluation.combine import RULES
from evaluation.resumes import phase_of

Op = Literal[">=", "<=", ">", "<", "==", "~"]
Unit = Literal["ratio", "share", "ms", "s", "GB", "sessions", "logit"]
Log = Literal["Token Accuracy", "Checkpoint", "Overhead"]
Reviewer = Literal["steering", "checkpoint", "logits only"]
SEED_CARD = "H100"
SEED_MACHINE = f"Llama-2-13B on an {SEED_CARD}"


class ClaimsError(ValueError):
    """claims.yaml is written wrongly: which claim, which key, and what was expected."""


class Claim(BaseModel):
    """One entry of claims.yaml."""

    model_config = ConfigDict(extra="forbid")

    id: Annotated[str, Field(pattern=r"^[a-z0-9_]+$")]
    statement: str  # the seed's words, or the design's promise
    seed: str | None = None  # the seed's own number, as it stands there
    source: Annotated[list[str], Field(min_length=1)]  # the rules whose raw files the value comes from
    value: str  # path into combined.json
    unit: Unit
    op: Op
    target: float | str  # a number, or a path into combined.json
    tolerance: float | None = None  # for "~": allowed relative distance from the target
    better_at: float | None = None  # met by this much is "better" than promised
    absolute: bool = False  # tied to the seed's machine: elsewhere it can be met, but not "better"
    scales: list[str] | None = None  # asked only at these scales
    # shown when the claim is not met, there if it says where
    note: str | dict[Literal["cpu", "cuda"], str] | None = None
    log: Log | None = None  # the word under which the seed's log is searched for it
    reviewer: Reviewer | None = None  # the seed's reviewer whom it answers
    row: str | None = (
        None  # the same quantity's id in docs/performance.md, at paper scale; {layer}, {sessions}, {tokens} filled in
    )

    @model_validator(mode="after")
    def _fits(self) -> Claim:
        if (self.op == "~") != (self.tolerance is not None):
            raise ValueError('tolerance belongs to op "~", and only to it')
        if self.better_at is not None and self.op not in (">=", "<=", ">", "<"):
            raise ValueError(f"better_at has no direction with op {self.op!r}")
        unknown = [rule for rule in self.source if rule not in RULES]
        if unknown:
            raise ValueError(f"source {unknown} is no rule; rules: {', '.join(RULES)}")
        return self


def evaluate(combined: Path, claims_yaml: Path, out_json: Path, out_md: Path) -> None:
    """Write claims.json (every claim with its verdict) and claims.md."""
    results = json.loads(combined.read_text())
    answers = [judge(claim, results) for claim in load(claims_yaml)]
    out_json.parent.mkdir(parents=True, exist_ok=True)
    out_json.write_text(json.dumps(answers, indent=1, ensure_ascii=False) + "\n")
    out_md.write_text(render(json.loads(out_json.read_text()), results))


def load(claims_yaml: Path) -> list[Claim]:
    try:
        entries = yaml.safe_load(claims_yaml.read_text())
    except yaml.YAMLError as error:
        raise ClaimsError(f"{claims_yaml.name} is not YAML: {error}") from error
    if not isinstance(entries, list) or not entries:
        raise ClaimsError(f"{claims_yaml.name} must be a list of claims")
    claims = [_claim(entry, number, claims_yaml.name) for number, entry in enumerate(entries, 1)]
    twice = sorted({claim.id for claim in claims if [other.id for other in claims].count(claim.id) > 1})
    if twice:
        raise ClaimsError(f"{claims_yaml.name}: the id {', '.join(twice)} is used twice")
    return claims


def _claim(entry: Any, number: int, name: str) -> Claim:
    try:
        return Claim.model_validate(entry)
    except ValidationError as error:
        given = entry.get("id", "without id") if isinstance(entry, dict) else repr(entry)
        which = f"{name}, claim {number} ({given})"
        raise ClaimsError("; ".join(f"{which}: {_explain(fault)}" for fault in error.errors())) from error


def _explain(fault: Any) -> str:
    key = ".".join(map(str, fault["loc"][:1])) or "claim"
    if fault["type"] == "extra_forbidden":
        near = difflib.get_close_matches(key, Claim.model_fields, n=1)
        return f"unknown key {key!r}" + (
            f", did you mean {near[0]!r}?" if near else f"; keys: {', '.join(Claim.model_fields)}"
        )
    return f"{key}: {fault['msg']} (got {fault['input']!r})"


def resolve(path: str, results: dict[str, Any], claim: str) -> Any:
    """The thing at a dotted path of combined.json."""
    here: Any = results
    for step in path.split("."):
        if not isinstance(here, dict) or step not in here:
            near = difflib.get_close_matches(step, here, n=1) if isinstance(here, dict) else []
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ClaimsError(
                f"claim {claim}: the path {path!r} leads nowhere in combined.json, there is no {step!r}{hint}"
            )
        here = here[step]
    return here


def _number(path: str, results: dict[str, Any], claim: Claim) -> tuple[float | None, str]:
    """The value at a path and what stands behind it; null with the reason when the results do not have it."""
    found = resolve(path, results, claim.id)
    if isinstance(found, dict) and "value" in found:
        if path == claim.value and set(found["source"]) != set(claim.source):
            raise ClaimsError(f"claim {claim.id}: source is {claim.source}, but {path} comes from {found['source']}")
        return found["value"], found["detail"] or found["reason"] or ""
    if found is not None and (isinstance(found, bool) or not isinstance(found, (int, float))):
        raise ClaimsError(f"claim {claim.id}: the path {path!r} leads to {type(found).__name__}, not to a number")
    return found, "" if found is not None else f"{path} is empty in combined.json"


def _rules_behind(target: float | str, results: dict[str, Any], claim: Claim) -> list[str]:
    found = resolve(target, results, claim.id) if isinstance(target, str) else None
    return found["source"] if isinstance(found, dict) else []


def judge(claim: Claim, results: dict[str, Any]) -> dict[str, Any]:
    """One claim answered: reproduced | better | not reproduced | not run, and the reason in numbers."""
    scale = results["campaign"]["scale"]
    value, detail = _number(claim.value, results, claim)
    target, target_detail = (
        _number(claim.target, results, claim) if isinstance(claim.target, str) else (claim.target, "")
    )
    rules = list(dict.fromkeys([*claim.source, *_rules_behind(claim.target, results, claim)]))
    met: bool | None = None
    if claim.scales is not None and scale not in claim.scales:
        verdict, reason = (
            "not run",
            f"asked at {' and '.join(claim.scales)} scale only; this campaign is {scale} scale",
        )
    elif value is None or target is None:
        verdict, reason = "not run", detail if value is None else target_detail
    else:
        met = satisfied(value, claim, target)
        there = results["campaign"]["device"]
        alike = not claim.absolute or (scale == "paper" and SEED_CARD in there["name"])
        better = met and alike and claim.better_at is not None and satisfied(value, claim, claim.better_at)
        verdict = "better" if better else "reproduced" if met else "not reproduced"
        asked = promise(claim.op, target, claim.unit, claim.tolerance)
        parts = [
            f"{show(value, claim.unit)} measured, {asked} asked",
            detail,
        ]
        if not alike:
            parts.append(
                f"not like for like: the seed's number is for {SEED_MACHINE}, "
                f"this one for {subject(results, claim.source[0])}"
            )
        if not met:
            parts.append(claim.note.get(there["kind"], "") if isinstance(claim.note, dict) else claim.note or "")
        reason = "; ".join(filter(None, parts))
    return {
        "id": claim.id,
        "row": row_of(claim, results),
        "statement": claim.statement,
        "seed": claim.seed,
        "value": value if verdict != "not run" else None,
        "unit": claim.unit,
        "op": claim.op,
        "target": target,
        "tolerance": claim.tolerance,
        "met": met,
        "verdict": verdict,
        "reason": reason,
        "source": ", ".join(f"raw/{rule}.json" for rule in rules),
    }


def row_of(claim: Claim, results: dict[str, Any]) -> str | None:
    """Where its quantity stands in the table of one card's speed; None where it does not, or nothing says of which sizes it is."""
    if claim.row is None or results["campaign"]["scale"] != "paper":
        return None
    sizes: dict[str, Any] = {}
    if over := results["oversubscription"]:
        sizes = {"sessions": over["sessions"], "tokens": over["prompt_tokens"]}
    if layers := sorted(map(int, phase_of(results["resume"].get("djinn", {}), "prefill", "cold"))):
        sizes["layer"] = layers[len(layers) // 2]
    wanted = {name for _, name, _, _ in Formatter().parse(claim.row) if name}
    return claim.row.format(**sizes) if wanted <= sizes.keys() else None


def satisfied(value: float, claim: Claim, target: float) -> bool:
    return {
        ">=": value >= target,
        "<=": value <= target,
        ">": value > target,
        "<": value < target,
        "==": value == target,
        "~": abs(value - target) <= (claim.tolerance or 0) * abs(target),
    }[claim.op]
