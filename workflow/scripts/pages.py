"""Write the report's own pages: the claims, and what they were measured with."""

from evaluation.lifeline import die_with_parent

die_with_parent()

import argparse
from pathlib import Path

from evaluation.console import log_to
from evaluation.pages import claims_page, environment_page

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--combined", type=Path, required=True, help="claims.json and raw/ lie beside it")
parser.add_argument("--log", type=Path, required=True)
parser.add_argument("--out", type=Path, nargs=2, required=True, metavar=("CLAIMS", "ENVIRONMENT"))
args = parser.parse_args()

log_to(args.log)
for page, out in zip((claims_page, environment_page), args.out, strict=True):
    out.write_text(page(args.combined.parent))
