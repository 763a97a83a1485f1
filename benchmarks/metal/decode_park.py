"""decode_park.next_token: every layer of an idle session on the host, the arena full; one more token.

Held against the larger of copying its bytes and one decode step with all of them there, taken in turn.
"""

from __future__ import annotations

from functools import partial

from benchmarks.metal.bench import Bench, ms
from benchmarks.metal.cold import Arena, Cold
from benchmarks.metal.report import Report


def measure(bench: Bench, report: Report) -> None:
    for tokens in sorted({bench.setting.session_tokens, bench.setting.tokens}):
        if not report.attempt(f"decode_park@{tokens}", partial(row, bench, report, tokens)):
            bench.stop()


def row(bench: Bench, report: Report, tokens: int) -> None:
    s, client = bench.setting, bench.small()
    prompts = bench.prompts(s.parked, tokens, seed=1)
    arena = Arena(client, prompts)
    cold = Cold(arena, prompts, None, s.parked)
    away, step = [], []
    for number in range(-2, s.samples):
        parked = cold()
        session = cold.done[-1]  # the same one, now all there
        stays = session.resume(max_new_tokens=1).stamps
        if number >= 0:
            away.append(parked)
            step.append(stays)
    cold.close()
    arena.empty()
    moved = s.shape.kv_bytes(tokens)
    report.samples(f"decode_park.next_ms@{tokens}", [ms(one, "logits", "accepted") for one in away], "ms", bytes=moved)
    report.samples(f"decode_park.resident_ms@{tokens}", [ms(one, "resident", "accepted") for one in away], "ms")
    report.samples(
        f"decode_park.client_ms@{tokens}", [ms(one, "client_received", "client_called") for one in away], "ms"
    )
    report.samples(f"decode_park.step_ms@{tokens}", [ms(one, "logits", "accepted") for one in step], "ms")
