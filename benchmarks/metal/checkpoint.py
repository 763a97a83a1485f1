"""checkpoint.*: what checkpoints cost the compute, and what copies under way cost others: the campaign's own measurement
(`evaluation.checkpoint_cost`), on the server of the paper setting."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial

from benchmarks.metal.bench import Bench
from benchmarks.metal.report import Report
from evaluation.checkpoint_cost import WARM_UP, interference, taking
from evaluation.copying import Copying


def measure(bench: Bench, report: Report) -> None:
    works = {
        "checkpoint.dispatch": partial(dispatch, bench, report),
        "checkpoint.interference": partial(beside, bench, report),
    }
    for name, work in works.items():
        if not report.attempt(name, work):
            bench.stop()


def dispatch(bench: Bench, report: Report) -> None:
    s, client = bench.setting, bench.full()
    (prompt,) = bench.prompts(1, s.session_tokens)
    times = taking(client, prompt.tolist(), s.depth, WARM_UP + s.pairs)["prefill_ms"]
    costs = [(loud - quiet) / s.depth for loud, quiet in zip(times["with"], times["without"], strict=True)]
    report.samples("checkpoint.dispatch_ms", costs, "ms", checkpoints=s.depth)
    report.samples("checkpoint.prefill_with_all_ms", times["with"], "ms")


def beside(bench: Bench, report: Report) -> None:
    s, client = bench.setting, bench.full()
    prompts = bench.prompts(Copying.SESSIONS + 2, s.session_tokens, seed=4).tolist()
    with ExitStack() as stack:
        found = interference(stack, bench.server.endpoint, client, prompts, WARM_UP + s.pairs)
    for kind in ("prefill", "decode"):
        times = found[f"{kind}_ms"]
        report.samples(f"checkpoint.{kind}.alone_ms", times["alone"], "ms")
        report.samples(f"checkpoint.{kind}.busy_ms", times["beside"], "ms", copies_busy=found["busy"])
