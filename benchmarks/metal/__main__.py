"""Measure groups of rows, one raw file each; exits with 1 when a row failed, after all others were tried."""

from __future__ import annotations

import argparse
import importlib
import sys
import time
from dataclasses import replace
from pathlib import Path

from benchmarks.metal.bench import Bench
from benchmarks.metal.report import BEGAN, Report, say
from benchmarks.metal.setting import SCALES, read_variant

# In this order: those that share a server lie together.
GROUPS = (
    *("ceilings", "resume", "decode_park", "loaded", "prefill", "client"),
    *("oversub", "decode", "checkpoint", "arena", "deterministic", "start"),
    *("handswap", "hf_cb", "vllm"),
)


def main() -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.metal", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for the raw files: one for each run")
    parser.add_argument("--rows", default=",".join(GROUPS), help="groups, with commas (default: all)")
    parser.add_argument("--scale", default="paper", choices=SCALES)
    parser.add_argument(
        "--variant",
        default="",
        help="NAME:KEY=VALUE,... of djinn.serve: plain:without=graphs+compiling",
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=N", help="another count or size than the scale's"
    )
    parser.add_argument("--layers", help="pauses of the resume rows, with commas")
    parser.add_argument("--oversub", help="workloads, as 50x1600,100x1600")
    parser.add_argument(
        "--vllm", default=None, help="folder with vLLM to put on its PYTHONPATH, or a Python that has it"
    )
    parser.add_argument("--until", type=float, default=float("inf"), help="seconds after which no further group begins")
    args = parser.parse_args()
    wanted = args.rows.split(",")
    if unknown := set(wanted) - set(GROUPS):
        parser.error(f"no rows {', '.join(sorted(unknown))}: there are {', '.join(GROUPS)}")
    changes = {key: int(value) for key, value in (pair.split("=") for pair in args.set)}
    setting = replace(SCALES[args.scale], **changes)
    if args.layers:
        setting = replace(setting, layers=tuple(map(int, args.layers.split(","))))
    if args.oversub:
        pairs = tuple(tuple(map(int, one.split("x"))) for one in args.oversub.split(","))
        setting = replace(setting, oversub=pairs)
    if args.variant:
        name, options = read_variant(args.variant)
        setting = replace(setting, variant=name, options=options)
    bench, failed = Bench(setting, args.vllm), []
    try:
        for group in [group for group in GROUPS if group in wanted]:
            if time.monotonic() - BEGAN > args.until:
                say(f"{group}: not begun, {args.until:g} s are over")
                failed.append(group)
                continue
            report = Report(args.out, group, setting)
            work = importlib.import_module(f"benchmarks.metal.{group}")
            if not report.attempt(group, lambda work=work, report=report: work.measure(bench, report)):
                bench.stop()
            failed += report.raw["failed"]
            report.save()
    finally:
        bench.stop()
    say(f"failed: {', '.join(failed)}" if failed else "all done")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
