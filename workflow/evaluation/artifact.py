"""The numbers of the artifact appendix: the machine, and for every claim its command, time, disk, file and figure."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from djinn.sizes import format_bytes
from evaluation.answered import CLAIMS, answered
from evaluation.combine import RULES
from evaluation.figures import FIGURE_OF
from evaluation.readme import duration


def machine(reference: Path) -> str:
    """What the reference campaign ran on, how long all of it took, and what it left on the disk."""
    combined = _read(reference, "combined")
    campaign, device = combined["campaign"], combined["campaign"]["device"]
    weights = _read(reference, "weights")
    files = [path for path in reference.rglob("*") if path.is_file()]
    longest = max(combined["raw"], key=lambda rule: combined["raw"][rule]["seconds"])
    rows = [
        (
            "campaign",
            f"{campaign['id']}, {campaign['scale']} scale, commit {campaign['commit'][:12]}, {campaign['started'][:10]}",
        ),
        ("processor or card", f"{device.get('name') or device['kind']}, {device['cores']} cores, {device['platform']}"),
        ("memory", f"{format_bytes(device['total_bytes'])}"),
        (
            "model",
            f"{weights['name']} ({weights['source']}, {weights['dtype']}), weights of {format_bytes(weights['bytes'])}",
        ),
        ("all measuring rules together", f"{duration(combined['measured_s'])}; the longest is {longest}"),
        ("results on disk", f"{format_bytes(sum(path.stat().st_size for path in files))} in {len(files)} files"),
    ]
    lacking = [rule for rule in RULES if rule not in combined["raw"]]
    if lacking:
        rows.append(("not measured", f"{', '.join(lacking)}: this campaign is older than them, or they did not run"))
    return "\n".join(["| | |", "|---|---|", *(f"| {what} | {value} |" for what, value in rows)])


def claims(reference: Path) -> str:
    """Claim → command → file → figure, with the time of the rules behind it and the size of their raw files."""
    combined = _read(reference, "combined")
    scale = combined["campaign"]["scale"]
    lines = ["| claim | verdict | minutes | disk | command | files | figure |", "|---|---|---|---|---|---|---|"]
    for one in answered(CLAIMS, reference / "claims.json"):
        files = one.answer["source"].split(", ")
        rules = [Path(file).stem for file in files]
        command = f"`snakemake --force {' '.join(f'results/{scale}/{file}' for file in files)}`"
        figures = sorted({FIGURE_OF[rule] for rule in rules if rule in FIGURE_OF})
        lines.append(
            f"| {one.claim.id}: {one.answer['statement']} | {one.answer['verdict']} | {_time(combined, rules)} "
            f"| {_disk(reference, files)} | {command} | {', '.join(f'`{file}`' for file in files)} "
            f"| {', '.join(figures) or '–'} |"
        )
    return "\n".join(lines)


def _time(combined: dict[str, Any], rules: list[str]) -> str:
    lacking = [rule for rule in rules if rule not in combined["raw"]]
    if lacking:
        return f"not measured: no {', '.join(lacking)} in the reference"
    return duration(sum(combined["raw"][rule]["seconds"] for rule in rules))


def _disk(reference: Path, files: list[str]) -> str:
    present = [reference / file for file in files if (reference / file).exists()]
    return format_bytes(sum(path.stat().st_size for path in present)) if len(present) == len(files) else "not measured"


def _read(reference: Path, name: str) -> Any:
    return json.loads((reference / f"{name}.json").read_text())
