"""The evaluation's own contenders on the same prompts, each in a process of its own with the card to itself."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.metal.bench import Bench
from benchmarks.metal.report import Report
from djinn.model.presets import PRESETS
from djinn.server.plan import workspace_bytes
from evaluation.contenders.asking import Asked
from evaluation.contenders.contender import Job
from evaluation.peers import write_shape


def job_of(bench: Bench, sessions: int, tokens: int, setting: dict[str, Any]) -> Job:
    """What every contender is given: the paper setting's budget and the prompts of the row of that size."""
    s = bench.setting
    preset = PRESETS[s.model]
    longest = tokens + s.new_tokens + 1
    workspace = workspace_bytes(s.shape, preset["intermediate_size"], preset["vocab_size"], longest)
    return Job(
        device=s.device,
        threads=1 if s.device == "cpu" else os.cpu_count() or 1,
        model={
            "name": s.model,
            "source": "random",
            "dtype": s.dtype,
            "seed": s.seed,
            "path": None,
            "hub_id": None,
            "revision": None,
        },
        weights="",
        device_budget=s.budget,
        given_out=s.budget,  # as to Djinn here: the rows are ratios of times, not of memory
        kv_room=s.budget - s.weights_bytes - workspace,
        kv_bytes_per_token=s.shape.kv_bytes(1),
        host_budget=s.full_host,
        layer=s.middle,
        prompts=bench.prompts(sessions, tokens).tolist(),
        new_tokens=s.new_tokens,
        setting=setting,
    )


@contextmanager
def shape_folder(bench: Bench) -> Iterator[Path]:
    with TemporaryDirectory(prefix="djinn-shape-") as folder:
        write_shape(bench.setting.model, bench.setting.dtype, Path(folder))
        yield Path(folder)


def workload(bench: Bench, report: Report, name: str, module: str, setting: dict[str, Any], rounds: int) -> None:
    """One contender's total for the first workload of the row, after a warm-up of two sessions."""
    s = bench.setting
    sessions, tokens = s.oversub[0]
    with Asked(module, job_of(bench, sessions, tokens, setting), choice=None) as asked:
        asked.ask("workload", sessions=2)
        done = [asked.ask("workload", sessions=sessions) for _ in range(rounds)]
    report.samples(
        *(name, [one["seconds"] for one in done], "s"),
        setting=setting,
        parts=[one["parts"] for one in done],
        off_device_bytes=done[-1]["off_device_bytes"],
    )


def alone_on_the_card(bench: Bench) -> None:
    bench.stop()
    bench.drop_local()


@contextmanager
def python_path(folder: str) -> Iterator[None]:
    """Inside, processes that are started find `folder` first."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [folder, before]))
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before
