"""oversub.vs_hf_cb: transformers' continuous batching, which cannot pause: as shipped, and tuned as well as can be."""

from __future__ import annotations

from functools import partial

from benchmarks.metal.bench import Bench
from benchmarks.metal.report import Report, say
from benchmarks.metal.rivals import alone_on_the_card, workload
from evaluation.contenders.hf_batching import HFBatching

SHIPPED, *TUNED = HFBatching.TUNED


def measure(bench: Bench, report: Report) -> None:
    alone_on_the_card(bench)
    rounds = bench.setting.rounds
    report.attempt(
        "hf_cb@shipped", partial(workload, bench, report, "hf_cb.total_s@shipped", "hf_batching", SHIPPED, rounds)
    )
    for number, setting in enumerate(TUNED):
        name = f"hf_cb.total_s@setting{number + 1}"
        report.attempt(f"hf_cb {setting}", partial(workload, bench, report, name, "hf_batching", setting, 1))
    tried = {
        name: kept["values"] for name, kept in report.raw["samples"].items() if name.startswith("hf_cb.total_s@setting")
    }
    if not tried:
        return
    best = min(tried, key=lambda name: min(tried[name]))
    setting = report.raw["samples"][best]["setting"]
    say(f"the fastest of its settings: {setting}")
    report.attempt(
        f"hf_cb@tuned {setting}",
        partial(workload, bench, report, "hf_cb.total_s@tuned", "hf_batching", setting, rounds),
    )
