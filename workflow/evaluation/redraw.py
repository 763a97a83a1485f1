"""Everything that is made from a campaign's raw files, made again where they lie: no device, no server, no Snakemake.

python -m evaluation.redraw                                  # the reference at laptop scale, and the documents that quote it
python -m evaluation.redraw results/reference/h100-80gb      # another campaign's folder
"""

from __future__ import annotations

import argparse
import json
import sys
from importlib import import_module
from pathlib import Path

from evaluation.campaign import tell
from evaluation.claims import evaluate
from evaluation.combine import ForeignRaw, combine
from evaluation.figures import FIGURES, style
from evaluation.pages import claims_page, environment_page
from evaluation.peers_table import render
from evaluation.records import BadRaw


def redraw(folder: Path, claims: Path) -> list[str]:
    """Write combined.json, claims, peers.md, the report's pages and figures beside `folder`/raw; says which figures its raw
    files cannot fill."""
    combined = folder / "combined.json"
    combine(folder / "raw", folder / "campaign.json", combined)
    evaluate(combined, claims, folder / "claims.json", folder / "claims.md")
    results = json.loads(combined.read_text())
    (folder / "peers.md").write_text(render(results))
    for name in ("report", "figures"):
        (folder / name).mkdir(exist_ok=True)
    (folder / "report" / "claims.html").write_text(claims_page(folder))
    (folder / "report" / "environment.html").write_text(environment_page(folder))
    lacking = []
    for rule, name in FIGURES.items():
        outs = [folder / "figures" / f"{name}.{kind}" for kind in ("pdf", "png", "csv")]
        try:
            import_module(f"evaluation.figures.{rule}").draw(combined, *outs)
        except style.NothingToDraw as reason:
            lacking.append(f"{name}: {reason}")
    return lacking


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m evaluation.redraw", description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path, nargs="?", default=Path("results/reference/laptop"))
    parser.add_argument("--claims", type=Path, default=Path("config/claims.yaml"))
    chosen = parser.parse_args(arguments)
    if not (chosen.folder / "campaign.json").exists():
        print(f"redraw: {chosen.folder} is no campaign: it has no campaign.json", file=sys.stderr)
        return 1
    try:
        lacking = redraw(chosen.folder, chosen.claims)
    except (BadRaw, ForeignRaw) as error:
        print(f"redraw: {error}", file=sys.stderr)
        return 1
    for line in lacking:
        print(f"redraw: {line}")
    return tell(Path().absolute(), chosen.folder.absolute())


if __name__ == "__main__":
    sys.exit(main())
