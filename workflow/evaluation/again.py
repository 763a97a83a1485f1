"""`make campaign`: put the finished campaign of a scale away, and measure a new one of that scale.

python -m evaluation.again --name my-change --cores 1 --config scale=smoke    # all but the name are Snakemake's own words
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import yaml

from evaluation.campaign import CampaignError, archive
from evaluation.scale import choose_scale

CONFIG = Path("config/config.yaml")


def scale_of(files: Sequence[Path], words: Sequence[str]) -> str:
    """The scale that Snakemake will take: the last word on it, of the configuration's files and then of --config."""
    wanted: dict[str, str] = {}
    for path in files:
        wanted |= yaml.safe_load(path.read_text()) or {}
    wanted |= dict(word.split("=", 1) for word in words if "=" in word)
    return choose_scale(wanted["scale"])[0]


def is_dry(words: Sequence[str]) -> bool:
    """Whether Snakemake would start nothing: -n may stand in one word with other switches."""
    return any(word in ("--dry-run", "--dryrun") or re.fullmatch("-[Fkp]*n[Fkp]*", word) for word in words)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m evaluation.again",
        description="puts the finished campaign of a scale away and measures a new one; what is not listed here goes to Snakemake",
        allow_abbrev=False,
    )
    parser.add_argument("--name", help="of the new campaign")
    parser.add_argument("--config", "-C", nargs="*", action="extend", default=[], metavar="KEY=VALUE")
    parser.add_argument("--configfile", "--configfiles", nargs="+", action="extend", default=[], type=Path)
    chosen, words = parser.parse_known_args(arguments)
    # Once each: of two --config Snakemake reads the last alone.
    config = [*([f"name={chosen.name}"] if chosen.name else []), *chosen.config]
    words += ["--configfile", *map(str, chosen.configfile)] if chosen.configfile else []
    words += ["--config", *config] if config else []
    snakemake = [sys.executable, "-m", "snakemake", *words]
    # A finished campaign is not put away for words that Snakemake does not take.
    if code := subprocess.call([*snakemake, "--dry-run", "--quiet"]):
        sys.exit(code)
    if is_dry(words):
        print("campaign: Snakemake takes these words; nothing is moved and nothing started")
        return
    try:
        target = archive(Path("results"), scale_of([CONFIG, *chosen.configfile], chosen.config))
    except CampaignError as error:
        print(f"campaign: {error}", file=sys.stderr)
        sys.exit(1)
    print(f"campaign: moved to {target}; a new campaign starts", flush=True)
    os.execv(sys.executable, snakemake)


if __name__ == "__main__":
    main()
