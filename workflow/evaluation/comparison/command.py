"""`djinn compare A B`: find the two campaigns, read their files, print what changed."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from evaluation.campaign import CampaignError
from evaluation.combine import whole
from evaluation.comparison.rows import changed, claimed, measured
from evaluation.comparison.table import render
from evaluation.records import BadRaw, raw_contents

PLACES = ("*/campaign.json", "campaigns/*/campaign.json", "reference/*/campaign.json")


def find(which: str, results: Path) -> Path:
    """The folder of a campaign: a path, or the id or name of one under `results`. Raises CampaignError."""
    given = Path(which)
    folder = given.parent if given.suffix == ".json" else given
    if (folder / "campaign.json").is_file():
        return folder
    known = {path.parent: _read(path) for place in PLACES for path in sorted(results.glob(place))}
    matches = {
        campaign["id"]: path
        for path, campaign in reversed(known.items())
        if which in (campaign["id"], campaign["name"])
    }
    if len(matches) > 1:
        raise CampaignError(f"{len(matches)} campaigns are named {which!r}: say which, {' or '.join(sorted(matches))}")
    if not matches:
        listed = ", ".join(dict.fromkeys(_called(campaign) for campaign in known.values())) or "none"
        raise CampaignError(
            f"no campaign {which!r}: neither a folder with campaign.json, nor the id or name of one in {results} ({listed})"
        )
    return next(iter(matches.values()))


def _called(campaign: dict[str, Any]) -> str:
    return f"{campaign['id']} {campaign['name']}" if campaign["name"] else campaign["id"]


def load(folder: Path) -> tuple[dict[str, Any], dict[str, dict[str, Any]], list[dict[str, Any]]]:
    """(campaign, raw files by rule, answered claims). Raises CampaignError where there is nothing to compare, BadRaw."""
    found = raw_contents(folder / "raw")
    raws = {rule: whole(folder / "raw" / name, content, rule) for rule, (name, content) in found.items()}
    claims = folder / "claims.json"
    if not raws:
        raise CampaignError(f"{folder} holds no measurement (raw/*.json): run snakemake to its end")
    if not claims.is_file():
        raise CampaignError(
            f"{folder} lacks claims.json: run snakemake to its end, or, if it is kept or was brought here, "
            f"python -m evaluation.redraw {folder}"
        )
    return _read(folder / "campaign.json"), raws, _read(claims)


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise CampaignError(f"{path} is not a whole JSON file ({error}): make it again, or move it away") from error


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="djinn compare",
        description="Hold campaign B against campaign A: every sampled quantity as the ratio of its medians with its spread and a "
        "verdict, every claim, and what was not the same when they were measured.",
    )
    parser.add_argument("a", metavar="A", help="a campaign's folder, id or name")
    parser.add_argument("b", metavar="B", help="the one held against it")
    parser.add_argument(
        "--results", type=Path, default=Path("results"), help="where ids and names are looked for (%(default)s)"
    )
    parser.add_argument("--all", action="store_true", help="show what did not change, too")
    chosen = parser.parse_args(arguments)
    try:
        (a, raws_a, claims_a), (b, raws_b, claims_b) = (
            load(find(each, chosen.results)) for each in (chosen.a, chosen.b)
        )
    except (CampaignError, BadRaw) as error:
        print(f"djinn compare: {error}", file=sys.stderr)
        return 2
    rows, answers = measured(raws_a, raws_b), claimed(claims_a, claims_b)
    sys.stdout.write(render((a, b), changed(raws_a, raws_b), answers, rows, chosen.all))
    return 0


if __name__ == "__main__":
    sys.exit(main())
