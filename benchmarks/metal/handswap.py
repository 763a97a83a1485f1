"""oversub.vs_handswap: a hand-written swap of whole sessions, pageable and pinned; one session at a time, and batched."""

from __future__ import annotations

from functools import partial

from benchmarks.metal.bench import Bench
from benchmarks.metal.report import Report
from benchmarks.metal.rivals import alone_on_the_card, workload

BATCH = 8  # what the batched one decodes together


def measure(bench: Bench, report: Report) -> None:
    alone_on_the_card(bench)
    batch = min(BATCH, bench.setting.oversub[0][0] // 4)
    ways = {
        "pinned": ("handswap_pinned", {"batch": 1}, bench.setting.rounds),
        "pinned.batched": ("handswap_pinned", {"batch": batch}, bench.setting.rounds),
        "pageable": ("handswap_pageable", {"batch": 1}, 1),  # minutes
    }
    for name, (module, setting, rounds) in ways.items():
        report.attempt(
            f"handswap@{name}",
            partial(workload, bench, report, f"handswap.total_s@{name}", module, setting, rounds),
        )
