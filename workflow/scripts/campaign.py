"""Fix what a campaign is: its id, name, config digest, commit and device."""

from evaluation.lifeline import die_with_parent

die_with_parent()

import argparse
from pathlib import Path

from evaluation.campaign import start
from evaluation.console import log_to
from evaluation.settings import of_this_run

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--log", type=Path, required=True)
parser.add_argument("--out", type=Path, required=True)
args = parser.parse_args()

log_to(args.log)
settings = of_this_run()
start(args.out, settings, settings.name)
