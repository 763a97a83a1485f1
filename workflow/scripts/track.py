"""Log a campaign to the MLflow database, which all scales share; the receipt says what was logged."""

from evaluation.lifeline import die_with_parent

die_with_parent()

import argparse
import json
from pathlib import Path

from evaluation.console import log_to
from evaluation.records import write_json
from evaluation.tracking import log_campaign

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--campaign", type=Path, required=True, help="its results lie beside it")
parser.add_argument("--database", type=Path, required=True)
parser.add_argument("--log", type=Path, required=True)
parser.add_argument("--out", type=Path, required=True)
args = parser.parse_args()

log_to(args.log)
log_campaign(args.campaign.parent, args.database)
campaign = json.loads(args.campaign.read_text())
write_json(args.out, {"campaign": campaign["id"], "database": str(args.database)})
