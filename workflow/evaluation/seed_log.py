"""The log that the seed searches, made from the answered claims:

    tail -100 results/laptop/exp3_osdi.log | grep "Token Accuracy\\|Checkpoint\\|Overhead"

Every claim is a line. Those that config/claims.yaml marks with `log` begin with the seed's word for them; a word without any
claim says so, so that the search never comes back empty without a reason.
"""

from __future__ import annotations

from typing import Any, get_args

from evaluation.answered import Answered
from evaluation.answers import promise, show, tally
from evaluation.claims import Log


def render(campaign: dict[str, Any], every: list[Answered]) -> str:
    """campaign: campaign.json."""
    device = campaign["device"]
    lines = [
        f"campaign {campaign['id']}, {campaign['scale']} scale, commit {campaign['commit'][:12]}, started {campaign['started']}, "
        f"{device.get('name') or device['kind']}",
        f"{len(every)} claims: {tally([one.answer for one in every])}",
        *(_line("Claim", one) for one in every if one.claim.log is None),
    ]
    for word in get_args(Log):
        marked = [_line(word, one) for one in every if one.claim.log == word]
        lines += marked or [f"{word}: not measured: no claim in config/claims.yaml is marked `log: {word}`"]
    return "".join(f"{line}\n" for line in lines)


def _line(word: str, one: Answered) -> str:
    answer = one.answer
    if answer["value"] is None:
        return f"{word}: {answer['statement']}: {answer['verdict']}: {answer['reason']} [{answer['source']}]"
    asked = promise(answer["op"], answer["target"], answer["unit"], answer["tolerance"])
    measured = show(answer["value"], answer["unit"])
    return f"{word}: {answer['statement']}: {measured} ({asked} asked), {answer['verdict']} [{answer['source']}]"
