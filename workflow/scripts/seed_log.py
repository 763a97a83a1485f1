"""Write the log that the seed searches, from the answered claims."""

from evaluation.lifeline import die_with_parent

die_with_parent()

import argparse
import json
from pathlib import Path

from evaluation.answered import answered
from evaluation.console import log_to
from evaluation.seed_log import render

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--campaign", type=Path, required=True)
parser.add_argument("--claims", type=Path, required=True, help="the claims, as YAML")
parser.add_argument("--answers", type=Path, required=True, help="the campaign's claims.json")
parser.add_argument("--log", type=Path, required=True)
parser.add_argument("--out", type=Path, required=True)
args = parser.parse_args()

log_to(args.log)
args.out.write_text(render(json.loads(args.campaign.read_text()), answered(args.claims, args.answers)))
