"""Hold the combined results against the claims, met or not."""

from evaluation.lifeline import die_with_parent

die_with_parent()

import argparse
from pathlib import Path

from evaluation.claims import evaluate
from evaluation.console import log_to

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--combined", type=Path, required=True)
parser.add_argument("--claims", type=Path, required=True, help="the claims, as YAML")
parser.add_argument("--log", type=Path, required=True)
parser.add_argument("--out", type=Path, nargs=2, required=True, metavar=("JSON", "MD"))
args = parser.parse_args()

log_to(args.log)
evaluate(args.combined, args.claims, *args.out)
