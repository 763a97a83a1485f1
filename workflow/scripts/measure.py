"""Run one measurement of the evaluation and write its raw result."""

from evaluation.lifeline import die_with_parent

die_with_parent()

import argparse
import json
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib import import_module
from pathlib import Path

from evaluation.console import log_to
from evaluation.records import Stopwatch, device_facts, write_raw
from evaluation.settings import digest, of_this_run, read_part

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("measurement", help="a module of evaluation, manual_MODE or peer_SYSTEM")
parser.add_argument("--settings", required=True, help="the config keys it uses, as JSON")
parser.add_argument("--campaign", type=Path, required=True)
parser.add_argument("--weights", type=Path, required=True)
parser.add_argument("--log", type=Path, required=True)
parser.add_argument("--out", type=Path, required=True)
args = parser.parse_args()

progress = log_to(args.log)
settings = read_part(args.settings)
whole = of_this_run()
settings.server, settings.served_by = whole.server, None
settings.weights = json.loads(args.weights.read_text())
kind, _, which = args.measurement.partition("_")
match kind:
    case "manual":
        measure = partial(import_module("evaluation.manual_offload").measure, mode=which)
    case "peer":
        measure = partial(import_module("evaluation.peer").measure, system=which)
    case "workload":
        measure = partial(import_module("evaluation.workload").measure, results=args.out.parent)
    case _:
        measure = import_module(f"evaluation.{args.measurement}").measure
stopwatch = Stopwatch()
with ThreadPoolExecutor(1, "facts") as beside:
    # It imports torch: while a server starts, not behind the measurement.
    facts = beside.submit(device_facts, settings.device)
    result = measure(settings, progress)
write_raw(
    args.out,
    args.measurement,
    result,
    stopwatch=stopwatch,
    campaign=json.loads(args.campaign.read_text()),
    device=facts.result(),
    weights=settings.weights,
    settings=json.loads(args.settings),
    config_digest=digest(whole),
    served_by=settings.served_by,
)
progress(f"{args.measurement}: done")
