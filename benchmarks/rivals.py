"""The workload of many sessions by some systems alone: one row each of the artifact's table, without its other rules.

    snakemake results/paper/weights.json --config scale=paper
    python -m benchmarks.rivals --scale paper --systems djinn vllm --choices vllm=0 vllm=2

A choice is one of the settings that a system can be tried with, by its number (0: as shipped, and the default). Each
choice is a row. One after another on a card, which holds one system at a time; in turn where `peers.together` is set.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from types import SimpleNamespace

import yaml

from benchmarks.paired import print_ratio, print_times, write
from evaluation.contenders.asking import Asked
from evaluation.peers import MODULES, PEERS, interpreters, job_for
from evaluation.prompts import load_prompts
from evaluation.workload import Timed, loaded_in_turn


def read_scale(scale: str) -> SimpleNamespace:
    config = json.loads(
        json.dumps(yaml.safe_load(Path(f"config/scales/{scale}.yaml").read_text())),
        object_hook=lambda keys: SimpleNamespace(**keys),
    )
    config.weights = json.loads(Path(f"results/{scale}/weights.json").read_text())
    return config


def choices(given: list[str], systems: list[str]) -> list[tuple[str, int]]:
    """[(system, number)]: those that were given, and 0 for a system of which none was."""
    chosen = [(system, int(number)) for system, _, number in (one.partition("=") for one in given)]
    return [(system, n) for system in systems for n in [n for named, n in chosen if named == system] or [0]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", default="laptop")
    parser.add_argument("--systems", nargs="+", default=["djinn", "handswap_pinned"], choices=PEERS)
    parser.add_argument("--choices", nargs="+", default=[], metavar="SYSTEM=NUMBER")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="write the raw result here, as JSON")
    args = parser.parse_args()
    settings, rows, times = read_scale(args.scale), {}, {}
    wanted = settings.oversubscription
    prompts = load_prompts(settings.model, wanted.sessions, wanted.prompt_tokens)
    with job_for(settings, prompts, args.systems) as job, interpreters(settings.peers) as python:
        every = {}
        for system, number in choices(args.choices, args.systems):
            with Asked(MODULES[system], None, python(system)) as asked:
                setting = asked.tuned[number]
            every[f"{system} {setting or ''}".strip()] = Timed(
                system, {"reason": None, "setting": setting}, job, python(system)
            )
        reference = next(iter(every.values()))
        for group in [list(every.values())] if settings.peers.together else [[one] for one in every.values()]:
            loaded_in_turn(group, args.rounds, lambda line: print(line, flush=True))
        for name, one in every.items():
            if one.unable:
                print(f"{name}: not run: {one.unable}")
            rows[name] = one.row(reference.tokens)
            times |= {name: rows[name]["seconds"]} if not one.unable else {}
    if times:
        print_times(times)
        for name in list(times)[1:]:
            print_ratio(times, name, next(iter(times)))
    if args.out:
        told = {**vars(args), "device": settings.device, "config": json.loads(json.dumps(settings, default=vars))}
        write(args.out, "rivals", told, times, systems=rows)


if __name__ == "__main__":
    main()
