"""The README's numbers, made from the reference results: the paper scale on a card, and what a machine without one gives."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evaluation.answers import quoted, side_by_side, subject, tally, warnings
from evaluation.combine import RULES, combined_of
from evaluation.peers_table import capabilities, workload

PAPERS = ("h100-80gb", "h200-141gb")  # beside the reference: the paper scale's campaigns, the seed's kind of card first


class ReferenceLacks(ValueError):
    """The reference results do not hold what a document says of them."""


@dataclass(frozen=True)
class Campaign:
    """One that is kept in the repository."""

    folder: Path
    about: dict[str, Any]  # campaign.json
    results: dict[str, Any]  # combined.json, made here where it is not kept
    answers: list[dict[str, Any]]  # claims.json

    @property
    def name(self) -> str:
        """Its scale, and which of several of that."""
        scale = self.about["scale"]
        return scale if self.folder.name == scale else f"{scale}, {self.folder.name}"

    def sentence(self) -> str:
        """What was measured on what, when, and how the claims came out."""
        about, results, folder = self.about, self.results, f"results/reference/{self.folder.name}"
        return (
            f"**{about['scale'].capitalize()} scale**: {subject(results, next(iter(results['raw'])))}, "
            f"{about['device']['cores']} cores, {about['started'][:10]}, commit {about['commit'][:12]}; "
            f"{len(results['raw'])} of {len(RULES)} measuring rules in {duration(results['measured_s'])}. Of the "
            f"{len(self.answers)} claims: {tally(self.answers)}. The numbers behind each verdict stand in `{folder}/claims.md`, "
            "what was seen of the other systems and what refused in `peers.md` there."
        )


def campaign_in(folder: Path) -> Campaign:
    """Raises ReferenceLacks."""
    missing = [name for name in ("campaign.json", "raw", "claims.json") if not (folder / name).exists()]
    if missing:
        raise ReferenceLacks(f"{folder} lacks {', '.join(missing)}: python -m evaluation.campaign reference")
    about, answers = (json.loads((folder / name).read_text()) for name in ("campaign.json", "claims.json"))
    combined = folder / "combined.json"
    results = json.loads(combined.read_text()) if combined.exists() else combined_of(folder / "raw", about)
    if not results["raw"]:
        raise ReferenceLacks(f"{folder} holds no measurement")
    return Campaign(folder, about, results, answers)


def block(reference: Path) -> str:
    """The results block, without its markers."""
    shown = [campaign_in(reference.parent / name) for name in (*PAPERS, reference.name)]
    paper, lines = shown[0], []
    for campaign in shown:
        lines += [campaign.sentence(), ""]
    for campaign in shown:
        lines += quoted([f"{campaign.name}: {warning}" for warning in warnings(campaign.results)])
    lines += [
        *side_by_side({campaign.name: campaign.answers for campaign in shown}),
        "",
        f"What each system can do on a card ({paper.folder.name}), every cell filled by a probe that ran:",
        "",
        *capabilities(paper.results["peers"]),
        "",
        *workload(paper.results["workload"]),
    ]
    return "\n".join(lines)


def duration(seconds: float) -> str:
    """`4 min 10 s`."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
