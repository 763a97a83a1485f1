"""Every raw file of one campaign in one `combined.json`; figures, claims and the README read nothing else.

Nothing is measured or typed here. A raw file that is missing is listed as missing; one that belongs to
another campaign or is not what its rule promises is refused by name.
"""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any

from evaluation.experiments import EXPERIMENTS, experiments
from evaluation.headline import headlines
from evaluation.peers import PEERS
from evaluation.records import BadRaw, raw_contents
from evaluation.resumes import compare, crossovers, summarise_cases
from evaluation.rivals import peers_section, workload_section
from evaluation.summary import DEFINITIONS, summarise

RESUME_RULES = {
    "recompute": "recompute",
    "manual_activation": "manual_activation",
    "manual_full": "manual_full",
    "manual_pageable": "manual_pageable",
    "djinn_resume": "djinn",
}
RULES = (
    *("provision", "eager", *RESUME_RULES, "oversubscription", *EXPERIMENTS),
    *(f"peer_{system}" for system in PEERS),
    "workload",
)
ENVELOPE = (
    "rule",
    "scale",
    "campaign",
    "started",
    "seconds",
    "commit",
    "dirty",
    "config_digest",
    "device",
    "weights",
    "result",
)


class ForeignRaw(ValueError):
    """A raw file that belongs to another campaign."""


def combine(raw_dir: Path, campaign: Path, out: Path) -> None:
    """Write `out` from `campaign` (campaign.json) and the raw files in `raw_dir`."""
    combined = combined_of(raw_dir, json.loads(campaign.read_text()))
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(combined, indent=1) + "\n")


def combined_of(raw_dir: Path, campaign: dict[str, Any]) -> dict[str, Any]:
    raws: dict[str, dict[str, Any]] = {}
    files: dict[str, dict[str, Any]] = {}
    found = raw_contents(raw_dir)
    for rule in RULES:
        if rule in found:
            name, content = found[rule]
            raws[rule] = read(raw_dir / name, content, rule, campaign)
            files[rule] = {"file": f"raw/{name}", "sha256": hashlib.sha256(content).hexdigest()}
            files[rule] |= {
                key: raws[rule][key]
                for key in ("started", "seconds", "commit", "dirty", "config_digest", "device", "weights")
            }
    results = {rule: raw["result"] for rule, raw in raws.items()}
    commits = sorted({str(stamp["commit"]) for stamp in [campaign, *raws.values()]})
    digests = sorted({str(stamp["config_digest"]) for stamp in [campaign, *raws.values()]})
    try:
        body = sections(results)
    except (KeyError, TypeError, IndexError) as error:
        raise BadRaw(
            f"a raw file in {raw_dir} lacks what its rule promises ({error!r}); rerun the rule with --forcerun"
        ) from error
    combined = {
        "schema": 1,
        "campaign": campaign,
        "mixed_commits": len(commits) > 1,
        "commits": commits,
        "mixed_config": len(digests) > 1,
        "config_digests": digests,
        "dirty": sorted(rule for rule, raw in raws.items() if raw["dirty"]),
        "definitions": DEFINITIONS,
        "raw": files,
        "missing": [rule for rule in RULES if rule not in raws],
        "unread": sorted(name for rule, (name, _) in found.items() if rule not in RULES),
        "measured_s": sum(raw["seconds"] for raw in raws.values()),
        **body,
    }
    return combined | {"headline": headlines(combined)}


def read(path: Path, content: bytes, rule: str, campaign: dict[str, Any]) -> dict[str, Any]:
    """One raw file, checked: whole, of this rule and this campaign, every number finite."""
    raw = whole(path, content, rule)
    if (raw["campaign"], raw["scale"]) != (campaign["id"], campaign["scale"]):
        raise ForeignRaw(
            f"{path} belongs to campaign {raw['campaign']} ({raw['scale']}), "
            f"not to {campaign['id']} ({campaign['scale']}): rerun it (snakemake --forcerun {rule}), "
            "or put the old campaign away first (python -m evaluation.campaign archive)"
        )
    return raw


def whole(path: Path, content: bytes, rule: str) -> dict[str, Any]:
    """One raw file of whatever campaign. Raises BadRaw."""
    try:
        raw = json.loads(content, parse_constant=_not_finite)
    except ValueError as error:
        raise BadRaw(
            f"{path} is not a whole JSON file ({error}); rerun its rule: snakemake --forcerun {rule}"
        ) from error
    missing = [key for key in ENVELOPE if not isinstance(raw, dict) or key not in raw]
    if missing or raw["rule"] != rule:
        raise BadRaw(
            f"{path} is not the raw file of the rule {rule}: "
            + (f"it lacks {missing}" if missing else f"it says {raw['rule']!r}")
        )
    return raw


def _not_finite(name: str) -> float:
    raise ValueError(f"{name} is not a measurement")


def sections(results: dict[str, dict[str, Any]]) -> dict[str, Any]:
    cases = {system: results[rule]["cases"] for rule, system in RESUME_RULES.items() if rule in results}
    resume = {system: summarise_cases(system, listed) for system, listed in cases.items()}
    return {
        "resume": resume,
        "resume_prompt_tokens": {
            RESUME_RULES[rule]: results[rule]["prompt_tokens"] for rule in RESUME_RULES if rule in results
        },
        "crossover": crossovers(resume),
        "comparisons": compare(cases),
        "oversubscription": _oversubscription(results.get("oversubscription")),
        "eager": _eager(results.get("eager")),
        **experiments(results),
        "provision": results.get("provision"),
        "peers": peers_section(results),
        "workload": workload_section(results.get("workload")),
    }


def _oversubscription(result: dict[str, Any] | None) -> dict[str, Any] | None:
    if result is None:
        return None
    kept = {key: value for key, value in result.items() if key != "client_dispatch_ms"}
    peaks = [row["process_bytes"] for row in result["timeline"] if row["process_bytes"] is not None]
    return kept | {
        "client_dispatch_ms": summarise(result["client_dispatch_ms"]),
        "process_peak_bytes": max(peaks, default=None),
    }


def _eager(result: dict[str, Any] | None) -> dict[str, Any] | None:
    if result is None:
        return None
    by_name = {setting["name"]: setting for setting in result["settings"]}
    best = by_name[result["best"]]
    return result | {"best_sessions": best["sessions"], "best_live_over_headroom": best["live_over_headroom"]}


def same(one: Any, other: Any) -> bool:
    """Whether two combined files say the same; floats may differ in the last digits."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=1e-9)
    return bool(one == other)
