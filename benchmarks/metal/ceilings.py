"""What the card itself gives, measured in the same run: copies, memory, matrix products, the plain forward."""

from __future__ import annotations

from functools import partial

import torch

from benchmarks.metal.bench import Bench
from benchmarks.metal.beside import paired_ms
from benchmarks.metal.local import copies, gemms, read_rate, timed
from benchmarks.metal.report import Report

MIB = 2**20


def measure(bench: Bench, report: Report) -> None:
    s, local = bench.setting, bench.local()
    block = 1024 * MIB if s.device != "cpu" else 8 * MIB

    def copying() -> None:
        for name, rates in copies(local.device, block, min(20 * MIB, block // 4), s.samples).items():
            report.samples(f"ceiling.{name}", rates, "GB/s")

    def memory() -> None:
        report.samples("ceiling.memory", read_rate(local.device, block, s.samples), "GB/s")

    def products() -> None:
        for tokens in sorted({s.session_tokens, s.tokens}):
            report.samples(f"ceiling.gemms@{tokens}", timed(local, gemms(local, tokens), s.samples), "ms")

    def plain() -> None:
        for tokens in sorted({s.session_tokens, s.tokens}):
            (prompt,) = bench.prompts(1, tokens)
            times = [local.prefill_ms(prompt) for _ in range(s.samples + 2)]
            report.samples(f"ceiling.plain_prefill@{tokens}", times[2:], "ms")

    def beside() -> None:
        source = torch.zeros(block, dtype=torch.uint8, device=local.device)
        works = {"products": gemms(local, s.session_tokens), "memory": partial(torch.clone, source)}
        for name, work in works.items():
            alone, loud = paired_ms(local.device, work, s.pairs)
            report.samples(f"ceiling.{name}.alone_ms", alone, "ms")
            report.samples(f"ceiling.{name}.beside_ms", loud, "ms")

    rows = {"copies": copying, "memory": memory, "gemms": products, "plain prefill": plain}
    if s.device != "cpu":
        rows["beside copies"] = beside
    for row, work in rows.items():
        report.attempt(row, work)
