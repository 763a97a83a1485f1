"""The README's numbers, made from the reference results: `python -m evaluation.readme`, `--check` to compare.

Between the two markers nothing is typed by hand: the block is made from `results/reference/<scale>/`.
"""

from __future__ import annotations

import argparse
import difflib
import json
import sys
from pathlib import Path

from evaluation.answers import subject, table, tally, warnings
from evaluation.peers_table import capabilities, workload

BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"


class ReadmeError(ValueError):
    """The README or the reference results are not as the block needs them."""


def block(reference: Path) -> str:
    """The results block, without its markers."""
    missing = [name for name in ("campaign.json", "combined.json", "claims.json") if not (reference / name).exists()]
    if missing:
        raise ReadmeError(f"{reference} lacks {', '.join(missing)}: python -m evaluation.campaign reference")
    campaign, results, answers = (
        json.loads((reference / name).read_text()) for name in ("campaign.json", "combined.json", "claims.json")
    )
    if not results["raw"]:
        raise ReadmeError(f"{reference}/combined.json holds no measurement")
    device = campaign["device"]
    lines = [
        f"Measured at {campaign['scale']} scale with {subject(results, next(iter(results['raw'])))}, "
        f"{device['cores']} cores, {campaign['started'][:10]}, commit {campaign['commit'][:12]}; "
        f"measuring took {duration(results['measured_s'])}. Of the {len(answers)} claims: {tally(answers)}. "
        f"The numbers behind each verdict stand in `{reference.as_posix()}/claims.md`.",
        "",
        *[f"> {warning}" for warning in warnings(results)],
        *table(answers),
        "",
        "What each system can do, every cell filled by a probe that ran; what was seen and what refused stands in "
        f"`{reference.as_posix()}/peers.md`:",
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


def rendered(readme: str, made: str) -> str:
    """The README's text with the block between its markers replaced."""
    if readme.count(BEGIN) != 1 or readme.count(END) != 1 or readme.index(BEGIN) > readme.index(END):
        raise ReadmeError(f"the README needs {BEGIN} and {END}, once each and in this order")
    before, after = readme.split(BEGIN)[0], readme.split(END)[1]
    return f"{before}{BEGIN}\n{made}\n{END}{after}"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m evaluation.readme",
        description="writes the README's results block from the reference results",
    )
    parser.add_argument("--check", action="store_true", help="write nothing; fail when the README says something else")
    parser.add_argument("--readme", type=Path, default=Path("README.md"))
    parser.add_argument("--reference", type=Path, default=Path("results/reference/laptop"))
    chosen = parser.parse_args(arguments)
    try:
        text = chosen.readme.read_text()
        wanted = rendered(text, block(chosen.reference))
    except (ReadmeError, FileNotFoundError) as error:
        print(f"readme: {error}", file=sys.stderr)
        return 1
    if not chosen.check:
        chosen.readme.write_text(wanted)
    elif text != wanted:
        sys.stderr.writelines(
            difflib.unified_diff(
                text.splitlines(True), wanted.splitlines(True), str(chosen.readme), str(chosen.reference), n=0
            )
        )
        print(
            f"readme: {chosen.readme} does not say what {chosen.reference} says: python -m evaluation.readme",
            file=sys.stderr,
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
