"""What was promised, what tried it, and what failed: one file for each suite, and `docs/reliability.md` made of them.

    python -m evaluation.reliability [SUITE ...]

runs the long form of every suite (or of those named), one after the other, and has the documents written anew. A suite's
file says {suite, command, promises: [{promise, test, tried, failed, unit}], facts, seconds, machine, commit, dirty}.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evaluation import records

FOLDER = Path("results/reference/reliability")


@dataclass(frozen=True)
class Suite:
    """A suite's name, what it does, and the command of its long form; `file`: the tests that make it, if it is made of tests."""

    name: str
    does: str
    command: str
    file: str = ""


def _tests(name: str, does: str, file: str, setting: str = "") -> Suite:
    command = f"{setting}python -m pytest {file} --write-reliability {FOLDER}"
    return Suite(name, does, command, file)


SUITES = (
    Suite(
        "soak", "half an hour of everything at once, with faults", f"python -m benchmarks.soak --out {FOLDER}/soak.json"
    ),
    Suite("load", "two hundred clients at once", f"python -m benchmarks.soak.load --out {FOLDER}/load.json"),
    Suite(
        "fuzz",
        "bad input, silent and slow clients",
        f"PYTHONPATH=tests python -m fuzz --exchanges 100000 --seed 1 --out {FOLDER}/fuzz.json",
    ),
    _tests("kills", "servers that are killed while they write", "tests/test_kills.py", "DJINN_KILLS=1 "),
    _tests("faults", "each fault in each step of a session's life", "tests/test_faults.py"),
    _tests("traces", "random lives against the accounts of memory", "tests/test_ledger.py"),
    _tests("retries", "lines that break", "tests/test_retries.py"),
    _tests("keys", "who is let in", "tests/test_keys.py"),
)


def write_suite(
    out: Path, suite: str, command: str, promises: Sequence[dict[str, Any]], facts: dict[str, Any], seconds: float
) -> None:
    """Write a suite's file: promises as above, with where and of which code it ran."""
    commit, dirty = records.commit_of(records.ROOT)
    records.write_json(
        out,
        {
            "suite": suite,
            "command": command,
            "promises": list(promises),
            "facts": facts,
            "seconds": seconds,
            "machine": {"device": records.device_facts("cpu"), "versions": records.versions()},
            "commit": commit,
            "dirty": dirty,
        },
    )


# -- the page ------------------------------------------------------------------------------------------------


def block(reference: Path) -> str:
    """The page's tables. reference: the folder of a scale's reference, beside which the suites' files lie."""
    folder = reference.parent / FOLDER.name
    lines = ["| suite | what it does | cases tried | failures | took | command |", "|---|---|---|---|---|---|"]
    lines += [_row(suite, _read(folder, suite)) for suite in SUITES]
    for suite in SUITES:
        if found := _read(folder, suite):
            lines += ["", *_section(suite, found)]
    return "\n".join(lines)


def _read(folder: Path, suite: Suite) -> dict[str, Any] | None:
    path = folder / f"{suite.name}.json"
    return json.loads(path.read_text()) if path.exists() else None


def _row(suite: Suite, found: dict[str, Any] | None) -> str:
    if found is None:
        return f"| {suite.name} | {suite.does} | **not run** | **not run** | – | `{suite.command}` |"
    tried = ", ".join(f"{count:,} {unit}" for unit, count in _tried(found).items())
    failed = sum(one["failed"] for one in found["promises"])
    took = _took(found["seconds"])
    return f"| {suite.name} | {suite.does} | {tried} | {failed} | {took} | `{found['command']}` |"


def _tried(found: dict[str, Any]) -> dict[str, int]:
    """By unit: the most of any promise, for the same cases may try several."""
    units: dict[str, int] = {}
    for one in found["promises"]:
        units[one["unit"]] = max(units.get(one["unit"], 0), one["tried"])
    return units


def _section(suite: Suite, found: dict[str, Any]) -> list[str]:
    changed = ", changed since" if found.get("dirty") else ""
    device = found["machine"].get("device", found["machine"])
    lines = [
        f"## {suite.name}: {suite.does}",
        "",
        f"On {device['name']}, {device['cores']} cores; commit {found['commit'][:12]}{changed}.",
        "",
        "| promise | test | tried | failed |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| {one['promise']} | `{one['test']}` | {one['tried']:,} {one['unit']} | {one['failed']} |"
        for one in found["promises"]
    ]
    return [*lines, "", *_told(found["facts"])]


def _told(facts: dict[str, Any]) -> list[str]:
    """Every fact in its place: a list of them that is empty is said to be."""
    return [f"- {name.replace('_', ' ')}: {_value(value)}" for name, value in facts.items()]


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_value(one)}" for name, one in value.items()) or "none"
    if isinstance(value, list):
        nested = any(isinstance(one, list) for one in value)
        return ("; " if nested else ", ").join(map(_value, value)) or "none"
    return f"{value:,}" if isinstance(value, int | float) else str(value)


def _took(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


# -- running them ----------------------------------------------------------------------------------------------


def run(suite: Suite) -> int:
    """Its exit code; it writes its file itself."""
    words = shlex.split(suite.command)
    python = words.index("python")
    settings = dict(word.split("=", 1) for word in words[:python])
    return subprocess.run([sys.executable, *words[python + 1 :]], env=os.environ | settings).returncode


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m evaluation.reliability", description=__doc__.split("\n")[0])
    parser.add_argument("suites", nargs="*", metavar="SUITE", help=f"of {', '.join(s.name for s in SUITES)} (all)")
    chosen = parser.parse_args(arguments).suites
    if unknown := set(chosen) - {suite.name for suite in SUITES}:
        parser.error(f"no suite {', '.join(sorted(unknown))}")
    FOLDER.mkdir(parents=True, exist_ok=True)
    failed = []
    for suite in SUITES:
        if not chosen or suite.name in chosen:
            print(f"reliability: {suite.command}", file=sys.stderr, flush=True)
            if run(suite):
                failed.append(suite.name)
    documents = subprocess.run([sys.executable, "-m", "evaluation.documents"]).returncode
    if failed:
        print(f"reliability: failed: {', '.join(failed)}", file=sys.stderr)
    return int(bool(failed or documents))


if __name__ == "__main__":
    sys.exit(main())
