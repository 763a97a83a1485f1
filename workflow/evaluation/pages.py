"""The report's own pages, each one HTML file that needs nothing beside itself: the claims, and what they were measured with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from evaluation.answers import promise, show, tally, warnings
from evaluation.points import merged, params
from evaluation.records import raw_contents

TEMPLATES = Path(__file__).resolve().parents[1] / "report"


def claims_page(results: Path) -> str:
    """results: the campaign's folder, with combined.json and claims.json."""
    combined, answers = _read(results, "combined"), _read(results, "claims")
    rows = [
        {
            **answer,
            "measured": show(answer["value"], answer["unit"]),
            "asked": promise(answer["op"], answer["target"], answer["unit"], answer["tolerance"]),
        }
        for answer in answers
    ]
    return _render(
        "claims.html", campaign=combined["campaign"], rows=rows, tally=tally(answers), warnings=warnings(combined)
    )


def environment_page(results: Path) -> str:
    """Machine, versions, weights, configuration and time of every rule, from the raw files themselves."""
    combined = _read(results, "combined")
    contents = raw_contents(results / "raw")
    raws = {rule: json.loads(contents[rule][1]) for rule in combined["raw"]}
    return _render(
        "environment.html",
        campaign=combined["campaign"],
        device=params(combined["campaign"]["device"]),
        versions=merged(raw["versions"] for raw in raws.values()).items(),
        weights=merged(raw["weights"] or {} for raw in raws.values()).items(),
        settings=merged(raw["settings"] for raw in raws.values()).items(),
        rules=[
            {
                "name": rule,
                "seconds": raw["seconds"],
                "share": raw["seconds"] / combined["measured_s"],
                "started": raw["started"],
                "commit": raw["commit"],
                "bytes": len(contents[rule][1]),
            }
            for rule, raw in raws.items()
        ],
        total_s=combined["measured_s"],
        missing=combined["missing"],
    )


def _read(results: Path, name: str) -> Any:
    return json.loads((results / f"{name}.json").read_text())


def _render(template: str, **values: Any) -> str:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(**values)
