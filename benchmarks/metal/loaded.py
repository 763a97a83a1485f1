"""resume.ready.loaded: cold resumes while a prefill is always in flight and sessions decode. The load is a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from benchmarks.metal.bench import Bench, ms
from benchmarks.metal.cold import Arena, Cold
from benchmarks.metal.report import Report
from djinn.model.presets import PRESETS
from evaluation.lifeline import PARENT


@contextmanager
def load(bench: Bench) -> Iterator[dict[str, list[tuple[int, int]]]]:
    """Inside, the load runs; afterwards what is yielded holds the spans of its work: {"prefill": [(ns, ns)], "decode": ...}."""
    s, spans = bench.setting, {}
    words = [bench.server.endpoint, s.tokens, s.decoders, s.tokens // 4, PRESETS[s.model]["vocab_size"]]
    with subprocess.Popen(
        [sys.executable, "-m", "benchmarks.metal.load", *map(str, words)],
        env={**os.environ, PARENT: str(os.getpid())},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            if process.stdout.readline().strip() != "running":
                raise RuntimeError("the load did not start: its words are on stderr")
            yield spans
            process.stdin.close()
            spans.update(json.loads(process.stdout.readline()))
        finally:
            process.kill()


def measure(bench: Bench, report: Report) -> None:
    layers = bench.setting.layers
    for layer in layers:
        wanted = bench.setting.tail if layer == layers[len(layers) // 2] else bench.setting.samples
        if not report.attempt(f"resume.ready.loaded@{layer}", partial(row, bench, report, layer, wanted)):
            bench.stop()


def row(bench: Bench, report: Report, layer: int, wanted: int) -> None:
    s, client = bench.setting, bench.small()
    prompts = bench.prompts(s.parked, s.tokens, seed=2)
    arena = Arena(client, prompts)
    cold = Cold(arena, prompts, layer, s.parked, still=False)
    with load(bench) as spans:
        stamps = [cold() for _ in range(wanted + 1)][1:]
    cold.close()
    arena.empty()
    name = f"resume.ready.loaded@{layer}"
    report.samples(name, [ms(one, "ready", "accepted") for one in stamps], "ms", **beside(stamps, spans))
    report.samples(f"resume.logits.loaded_ms@{layer}", [ms(one, "logits", "accepted") for one in stamps], "ms")


def beside(stamps: list[dict[str, Any]], spans: dict[str, list[tuple[int, int]]]) -> dict[str, list[int]]:
    """How many of each kind were in flight when each sample was accepted: whether the load was there."""
    return {
        f"{kind}_in_flight": [sum(begin <= one["accepted"] <= end for begin, end in listed) for one in stamps]
        for kind, listed in spans.items()
    }
