"""Draw Figure 7, resume latency."""

from evaluation.lifeline import die_with_parent

die_with_parent()

import argparse
from pathlib import Path

from evaluation.console import log_to
from evaluation.figures.figure7 import draw

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--combined", type=Path, required=True)
parser.add_argument("--log", type=Path, required=True)
parser.add_argument("--out", type=Path, nargs=3, required=True, metavar=("PDF", "PNG", "CSV"))
args = parser.parse_args()

log_to(args.log)
draw(args.combined, *args.out)
