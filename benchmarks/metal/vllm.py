"""vLLM, which cannot pause: the same prompts to the same new tokens, and going on with a session whose blocks it dropped.

--vllm FOLDER is put on its PYTHONPATH; --vllm PYTHON is a Python that has it. Its weights are dummies of the same shape.
"""

from __future__ import annotations

import sys
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path

from benchmarks.metal.bench import Bench
from benchmarks.metal.report import Report
from benchmarks.metal.rivals import alone_on_the_card, job_of, python_path, shape_folder
from evaluation.contenders.asking import Asked

SETTINGS = {"": {}, "eager": {"enforce_eager": True}}


def measure(bench: Bench, report: Report) -> None:
    alone_on_the_card(bench)
    for name, setting in SETTINGS.items():
        report.attempt(f"vllm {name}".strip(), partial(engine, bench, report, name, setting))


def engine(bench: Bench, report: Report, name: str, setting: dict) -> None:
    s = bench.setting
    sizes = sorted(sessions for sessions, tokens in s.oversub if tokens == s.session_tokens)
    job = job_of(bench, sizes[-1], s.session_tokens, setting)
    place = Path(bench.vllm) if bench.vllm else None
    python = str(place) if place and place.is_file() else sys.executable
    path = python_path(str(place)) if place and place.is_dir() else nullcontext()
    with (
        shape_folder(bench) as folder,
        path,
        Asked("vllm_peer", replace(job, weights=str(folder)), python, choice=None) as asked,
    ):
        report.fact("versions", asked.ask("versions"))
        asked.ask("workload", sessions=2)
        suffix = f".{name}" if name else ""
        for sessions in sizes:
            totals = [asked.ask("workload", sessions=sessions)["seconds"] for _ in range(s.rounds)]
            report.samples(f"vllm.total_s@{sessions}{suffix}", totals, "s", setting=setting)
        if not name:
            for kept, times in asked.ask("continued", warmup=2, samples=s.samples).items():
                report.samples(f"vllm.{kept}_ms", times, "ms", tokens=s.session_tokens)
