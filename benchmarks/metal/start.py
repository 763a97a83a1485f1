"""server.accepts, server.first_pause: a server with the full budgets, from its process' start."""

from __future__ import annotations

import time

from benchmarks.metal.bench import Bench
from benchmarks.metal.report import Report


def measure(bench: Bench, report: Report) -> None:
    s = bench.setting
    bench.stop()
    bench.drop_local()
    (prompt,) = bench.prompts(1, s.tokens)
    accepts: list[float] = []
    paused: list[float] = []

    def once() -> None:
        began = time.perf_counter()
        client = bench.full(wait_for_pool=False)
        session = client.open()
        session.prefill(prompt, break_at=s.middle)
        paused.append(time.perf_counter() - began)
        accepts.append(bench.server.start_s)
        bench.stop()

    for number in range(s.rounds):
        report.attempt(f"start {number + 1}", once)
    report.samples("server.accepts", accepts, "s")
    report.samples("server.first_pause", paused, "s")
