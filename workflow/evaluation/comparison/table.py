"""The comparison as text: what changed, the claims, and the measured quantities, in tables that are Markdown too."""

from __future__ import annotations

from collections import Counter
from typing import Any

from evaluation.answers import show
from evaluation.comparison.rows import Answer, Difference, Row

QUIET = ("same", "few samples", "no ratio")  # left out unless everything is asked for


def render(
    campaigns: tuple[dict[str, Any], dict[str, Any]],
    differences: list[Difference],
    answers: list[Answer],
    rows: list[Row],
    everything: bool,
) -> str:
    lines = [*_aligned([["", "campaign", "name", "scale", "commit", "device", "started"], *_heads(campaigns)]), ""]
    lines += ["## What was not the same", ""]
    lines += (
        _aligned([["key", "A", "B"], *([d.key, _short(d.a), _short(d.b)] for d in differences)])
        if differences
        else ["Nothing: configuration, versions, weights, device and commit agree."]
    )
    lines += ["", "## Claims", "", *_claims(answers, everything)]
    lines += ["", "## Measured, B against A (medians; less is better)", "", *_measured(rows, everything)]
    return "\n".join(lines) + "\n"


def _heads(campaigns: tuple[dict[str, Any], dict[str, Any]]) -> list[list[str]]:
    return [
        [
            side,
            campaign["id"],
            campaign["name"] or "–",
            campaign["scale"],
            campaign["commit"][:12] + (" + changes" if campaign["dirty"] else ""),
            str(campaign["device"].get("name") or campaign["device"]["kind"]),
            campaign["started"][:16].replace("T", " "),
        ]
        for side, campaign in zip("AB", campaigns, strict=True)
    ]


def _claims(answers: list[Answer], everything: bool) -> list[str]:
    shown = [answer for answer in answers if everything or answer.a != answer.b or "→" in answer.verdict]
    table = [["claim", "A", "B", "B / A", "verdict"]]
    for answer in shown:
        over = f"{answer.b / answer.a:.3g}" if answer.a and answer.b is not None else "–"
        table.append([answer.claim, show(answer.a, answer.unit), show(answer.b, answer.unit), over, answer.verdict])
    turned = sum("→" in answer.verdict for answer in answers)
    note = (
        f"{len(answers)} claims, {turned} with another verdict; {len(answers) - len(shown)} the same in both left out."
    )
    return [*(_aligned(table) if shown else []), "", note]


def _measured(rows: list[Row], everything: bool) -> list[str]:
    shown = [row for row in rows if everything or row.verdict not in QUIET]
    table = [["rule", "quantity", "A", "B", "B / A", "95 % interval", "verdict"]]
    for row in shown:
        spread = f"{row.low:.3g}–{row.high:.3g}" if row.low is not None else "–"
        over = f"{row.ratio:.3g}" if row.ratio is not None else "–"
        table.append([row.rule, row.name, _number(row.a), _number(row.b), over, spread, row.verdict])
    counts = Counter(row.verdict for row in rows)
    judged = sum(counts[verdict] for verdict in ("better", "worse", "same"))
    tally = ", ".join(f"{count} {verdict}" for verdict, count in counts.most_common()) or "nothing was sampled"
    note = f"{len(rows)} quantities: {tally}. `same` is within the spread; the interval is a bootstrap of both medians."
    chance = f"Of {judged} with a spread about {judged / 20:.0f} would look changed by chance alone."
    return [*(_aligned(table) if shown else []), "", note, *([chance] if judged else [])]


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"


def _short(text: str | None) -> str:
    return "–" if text is None else text if len(text) <= 48 else f"{text[:45]}..."


def _aligned(cells: list[list[str]]) -> list[str]:
    """A Markdown table whose columns stand under each other."""
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in cells
    ]
    return [lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]]
