"""Every document that holds numbers, made from the reference results: `python -m evaluation.documents`, `--check` to compare.

Between `<!-- NAME:begin -->` and `<!-- NAME:end -->` nothing is typed by hand: the block is made from
`results/reference/<scale>/`. A number that is not there yet is written as not measured, with the reason.
"""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from evaluation import artifact, readme, reliability, reviewers
from evaluation.combine import ForeignRaw
from evaluation.records import BadRaw

SCALE = "laptop"  # whose reference the documents speak of; the README of the paper scale's beside it too
Block = Callable[[Path], str]  # the reference's folder in, Markdown out
DOCUMENTS: dict[str, dict[str, Block]] = {
    "README.md": {"results": readme.block},
    "docs/artifact.md": {"machine": artifact.machine, "claims": artifact.claims},
    "docs/reliability.md": {"suites": reliability.block},
    "docs/reviewers.md": {who.replace(" ", "-"): partial(reviewers.block, reviewer=who) for who in reviewers.REVIEWERS},
}


class DocumentError(ValueError):
    """A document lacks its markers, or the reference what the document says of it."""


def rendered(text: str, made: str, name: str) -> str:
    """`text` with what stands between the markers of the block `name` replaced by `made`."""
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise DocumentError(f"it needs {begin} and {end}, once each and in this order")
    return f"{text.split(begin)[0]}{begin}\n{made}\n{end}{text.split(end)[1]}"


def made(text: str, blocks: dict[str, Block], reference: Path) -> str:
    """A document's text with all its blocks as the reference has them."""
    for name, block in blocks.items():
        try:
            text = rendered(text, block(reference), name)
        except (readme.ReferenceLacks, BadRaw, ForeignRaw) as error:
            raise DocumentError(str(error)) from error
        except KeyError as error:
            raise DocumentError(
                f"{reference} has no {error}: it is older than this code, make a new campaign"
            ) from error
    return text


def refresh(top: Path, reference: Path, check: bool = False) -> list[str]:
    """Write every document under `top` that can be written; what is wrong with the others (or, with `check`, differs)."""
    wrong = []
    for name, blocks in DOCUMENTS.items():
        try:
            text = (top / name).read_text()
            wanted = made(text, blocks, reference)
        except (DocumentError, FileNotFoundError) as error:
            wrong.append(f"{name}: {error}")
            continue
        if not check:
            (top / name).write_text(wanted)
        elif text != wanted:
            lines = difflib.unified_diff(text.splitlines(True), wanted.splitlines(True), name, str(reference), n=0)
            wrong.append("".join(lines) + f"{name} does not say what {reference} says: python -m evaluation.documents")
    return wrong


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m evaluation.documents",
        description=f"writes what {', '.join(DOCUMENTS)} say of the reference results",
    )
    parser.add_argument("--check", action="store_true", help="write nothing; fail when a document says something else")
    parser.add_argument("--top", type=Path, default=Path(), help="the checkout (default: here)")
    parser.add_argument("--reference", type=Path, default=Path("results/reference") / SCALE)
    chosen = parser.parse_args(arguments)
    wrong = refresh(chosen.top, chosen.reference, chosen.check)
    for line in wrong:
        print(f"documents: {line}", file=sys.stderr)
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
