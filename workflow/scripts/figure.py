"""Draw one figure from the combined results."""

from evaluation.lifeline import die_with_parent

die_with_parent()

import argparse
from importlib import import_module
from pathlib import Path

from evaluation.console import log_to
from evaluation.figures import FIGURES

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("figure", choices=FIGURES, help="a module of evaluation.figures")
parser.add_argument("--combined", type=Path, required=True)
parser.add_argument("--log", type=Path, required=True)
parser.add_argument("--out", type=Path, nargs=3, required=True, metavar=("PDF", "PNG", "CSV"))
args = parser.parse_args()

log_to(args.log)
import_module(f"evaluation.figures.{args.figure}").draw(args.combined, *args.out)
