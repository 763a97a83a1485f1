"""Set every system of the comparison beside Djinn, as tables."""

from evaluation.lifeline import die_with_parent

die_with_parent()

import argparse
import json
from pathlib import Path

from evaluation.console import log_to
from evaluation.peers_table import render

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--combined", type=Path, required=True)
parser.add_argument("--log", type=Path, required=True)
parser.add_argument("--out", type=Path, required=True)
args = parser.parse_args()

log_to(args.log)
args.out.write_text(render(json.loads(args.combined.read_text())))
