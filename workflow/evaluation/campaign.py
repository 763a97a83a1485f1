"""A campaign: one run of the whole DAG, with an identity that its results carry.

`start` writes campaign.json when the first rule runs. `python -m evaluation.campaign archive` puts the
current campaign away, so that the next `snakemake` starts a new one; `... reference` keeps a copy of it in
the repository.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import secrets
import shutil
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from evaluation.combine import RULES
from evaluation.figures import FIGURES
from evaluation.scale import SCALES

ANALYSED = (
    "combined.json",
    "claims.json",
    "claims.md",
    "peers.md",
    "exp3_osdi.log",
    *(f"figures/{name}.{kind}" for name in FIGURES.values() for kind in ("pdf", "png", "csv")),
)
DONE = (*ANALYSED, "report/claims.html", "report/environment.html", "mlflow.json")
KEPT = ("campaign.json", "weights.json", "raw", *ANALYSED)  # of a reference
APART = ("campaigns", "reference")  # folders of results/ that are no scale


class CampaignError(RuntimeError):
    """The campaign is not in a state for what was asked; the message says what to do."""


def start(out: Path, settings: Any, name: str | None = None) -> dict[str, Any]:
    """Write campaign.json to `out`: who measured what, where, from which commit and configuration."""
    from evaluation import records  # asks git and the device, which reading results does not need
    from evaluation.settings import digest

    commit, dirty = records.commit_of(records.ROOT)
    now = datetime.now(UTC)
    campaign = {
        "id": f"{now:%Y%m%d}-{secrets.token_hex(3)}",
        "name": name if name is not None else settings.name,
        "scale": settings.scale,
        "commit": commit,
        "dirty": dirty,
        "config_digest": digest(settings),
        "device": records.device_facts(settings.device),
        "started": now.isoformat(timespec="seconds"),
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    records.write_json(out, campaign)
    return campaign


def current(results: Path, scale: str | None) -> Path:
    """The folder of the current campaign; several scales may be there, then one must be named."""
    found = sorted(path.parent for path in results.glob("*/campaign.json") if path.parent.name not in APART)
    if scale is not None:
        found = [path for path in found if path.name == scale]
    if not found:
        raise CampaignError(f"no campaign in {results}/{scale or '<scale>'}: snakemake starts one")
    if len(found) > 1:
        raise CampaignError(
            f"campaigns of several scales are in {results}: say which, "
            f"--scale {' or --scale '.join(path.name for path in found)}"
        )
    return found[0]


def unfinished(folder: Path) -> list[str]:
    """What the campaign still lacks, and raw files that changed after they were combined."""
    lacking = [name for name in DONE if not (folder / name).exists()]
    lacking += [f"raw/{rule}.json" for rule in RULES if not (folder / "raw" / f"{rule}.json").exists()]
    if (folder / "combined.json").exists():
        combined = json.loads((folder / "combined.json").read_text())
        for entry in combined["raw"].values():
            path = folder / entry["file"]
            if path.exists() and hashlib.sha256(path.read_bytes()).hexdigest() != entry["sha256"]:
                lacking.append(f"{entry['file']} as it is now (combined.json was made from an older one)")
    return lacking


def archive(results: Path, scale: str | None = None, allow_unfinished: bool = False) -> Path:
    """Move the current campaign to results/campaigns/<id>/; returns that folder."""
    folder = current(results, scale)
    lacking = unfinished(folder)
    if lacking and not allow_unfinished:
        raise CampaignError(
            f"the campaign in {folder} is unfinished, it lacks {', '.join(lacking)}: "
            "run snakemake to its end, or put it away as it is: "
            f"python -m evaluation.campaign archive --scale {folder.name} --unfinished"
        )
    campaign = json.loads((folder / "campaign.json").read_text())
    target = results / "campaigns" / campaign["id"]
    if target.exists():
        raise CampaignError(f"{target} is there already; move it away first")
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(folder, target)
    return target


def reference(results: Path, scale: str | None = None) -> Path:
    """Copy the current campaign to results/reference/<scale>/, if its numbers can stand for one commit."""
    folder = current(results, scale)
    lacking = unfinished(folder)
    if lacking:
        raise CampaignError(
            f"the campaign in {folder} is unfinished, it lacks {', '.join(lacking)}: run snakemake to its end"
        )
    combined = json.loads((folder / "combined.json").read_text())
    against = []
    if combined["mixed_commits"]:
        against.append(f"its results are of mixed commits ({', '.join(commit[:12] for commit in combined['commits'])})")
    if combined["mixed_config"]:
        against.append(f"its results are of mixed configurations ({', '.join(combined['config_digests'])})")
    if combined["dirty"] or combined["campaign"]["dirty"]:
        against.append(f"it ran with uncommitted changes ({', '.join(combined['dirty'] or ['campaign.json'])})")
    if "unknown" in combined["commits"]:
        against.append("its commit is unknown (no git repository)")
    if against:
        raise CampaignError(
            f"the campaign in {folder} cannot be the reference: {'; '.join(against)}. "
            "Commit, archive it (python -m evaluation.campaign archive) and run snakemake again"
        )
    target = results / "reference" / folder.name
    if target.exists():
        shutil.rmtree(target)
    for name in KEPT:
        source, copy = folder / name, target / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, copy)
        elif source.exists():
            shutil.copy2(source, copy)
    return target


def tell(top: Path, target: Path) -> int:
    """Have the documents under `top` say what `target` says, if it is a reference of theirs; the exit code of the command."""
    # Everything that is printed from results, which putting them away does not need.
    from evaluation import documents, readme

    kept, quoted = top / "results" / "reference", (documents.SCALE, *readme.PAPERS)
    # A campaign of one's own is named by its scale too: the place decides, not the name alone.
    if target.resolve() not in [(kept / name).resolve() for name in quoted]:
        print(f"campaign: the documents speak of {', '.join(quoted)} in results/reference, and stay as they are")
        return 0
    wrong = documents.refresh(top, target.parent / documents.SCALE)
    for line in wrong:
        print(f"campaign: {line}", file=sys.stderr)
    print(f"campaign: {len(documents.DOCUMENTS) - len(wrong)} of {len(documents.DOCUMENTS)} documents say what it says")
    return int(bool(wrong))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m evaluation.campaign", description="puts campaigns away, or keeps one as the reference"
    )
    parser.add_argument("--results", type=Path, default=Path("results"))
    commands = parser.add_subparsers(dest="command", required=True)
    away = commands.add_parser(
        "archive",
        help="move the current campaign to results/campaigns/<id>/; the next snakemake starts a new one",
    )
    away.add_argument("--unfinished", action="store_true", help="even if it is not complete")
    keep = commands.add_parser(
        "reference",
        help="copy the current campaign to results/reference/<scale>/, and have the documents say what it says",
    )
    for command in (away, keep):
        command.add_argument("--scale", choices=SCALES)
    chosen = parser.parse_args(arguments)
    try:
        if chosen.command == "archive":
            target = archive(chosen.results, chosen.scale, chosen.unfinished)
            print(f"campaign: moved to {target}; the next snakemake starts a new campaign")
        else:
            target = reference(chosen.results, chosen.scale)
            print(f"campaign: copied to {target}")
            return tell(chosen.results.absolute().parent, target)
    except CampaignError as error:
        print(f"campaign: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
