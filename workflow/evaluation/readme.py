"""The README's numbers, made from the reference results."""

from __future__ import annotations

import json
from pathlib import Path

from evaluation.answers import subject, table, tally, warnings
from evaluation.peers_table import capabilities, workload


class ReferenceLacks(ValueError):
    """The reference results do not hold what a document says of them."""


def block(reference: Path) -> str:
    """The results block, without its markers."""
    missing = [name for name in ("campaign.json", "combined.json", "claims.json") if not (reference / name).exists()]
    if missing:
        raise ReferenceLacks(f"{reference} lacks {', '.join(missing)}: python -m evaluation.campaign reference")
    campaign, results, answers = (
        json.loads((reference / name).read_text()) for name in ("campaign.json", "combined.json", "claims.json")
    )
    if not results["raw"]:
        raise ReferenceLacks(f"{reference}/combined.json holds no measurement")
    device = campaign["device"]
    lines = [
        f"Measured at {campaign['scale']} scale with {subject(results, next(iter(results['raw'])))}, "
        f"{device['cores']} cores, {campaign['started'][:10]}, commit {campaign['commit'][:12]}; "
        f"measuring took {duration(results['measured_s'])}. Of the {len(answers)} claims: {tally(answers)}. "
        f"The numbers behind each verdict stand in `results/reference/{reference.name}/claims.md`.",
        "",
        *[f"> {warning}" for warning in warnings(results)],
        *table(answers),
        "",
        "What each system can do, every cell filled by a probe that ran; what was seen and what refused stands in "
        f"`results/reference/{reference.name}/peers.md`:",
        "",
        *capabilities(results["peers"]),
        "",
        *workload(results["workload"]),
    ]
    return "\n".join(lines)


def duration(seconds: float) -> str:
    """`4 min 10 s`."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
