"""Put a campaign's raw results into one file."""

from evaluation.lifeline import die_with_parent

die_with_parent()

import argparse
from pathlib import Path

from evaluation.combine import combine
from evaluation.console import log_to

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--campaign", type=Path, required=True, help="its raw results are in the folder raw beside it")
parser.add_argument("--log", type=Path, required=True)
parser.add_argument("--out", type=Path, required=True)
args = parser.parse_args()

log_to(args.log)
combine(args.campaign.parent / "raw", args.campaign, args.out)
