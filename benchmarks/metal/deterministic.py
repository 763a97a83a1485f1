"""deterministic.cost: the first oversubscribed workload with and without fixed decode rows; a server each, A B A B."""

from __future__ import annotations

from benchmarks.metal.bench import Bench
from benchmarks.metal.oversub import alone, one_round
from benchmarks.metal.report import Report
from djinn.sizes import UNIT_TOKENS

TURNS = 2


def measure(bench: Bench, report: Report) -> None:
    s = bench.setting
    sessions, tokens = s.oversub[0]
    prompts = bench.prompts(sessions, tokens)
    longest = tokens + s.new_tokens + 2 * UNIT_TOKENS  # with what is lost to whole units
    demand = s.weights_bytes + sessions * s.shape.kv_bytes(longest)
    host = demand - s.budget + s.budget // 8  # no more than this workload needs: pinning it costs the start
    totals: dict[bool, list[float]] = {True: [], False: []}

    def one(fixed: bool) -> None:
        client = bench.full(host_budget=host, deterministic=fixed)
        alone(client, prompts[0], s.new_tokens)
        one_round(client, prompts, s.middle, s.new_tokens)
        totals[fixed] += [one_round(client, prompts, s.middle, s.new_tokens)["seconds"] for _ in range(s.rounds)]

    for turn in range(TURNS):
        for fixed in (True, False):
            if not report.attempt(f"deterministic={fixed}, turn {turn + 1}", lambda fixed=fixed: one(fixed)):
                bench.stop()
    for fixed, name in ((True, "on"), (False, "off")):
        if totals[fixed]:
            report.samples(f"deterministic.{name}_s", totals[fixed], "s")
