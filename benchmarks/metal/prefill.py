"""executor.*: a prefill that can be paused between any two layers, in turn with transformers' plain forward."""

from __future__ import annotations

from functools import partial

from benchmarks.metal.bench import Bench, ms
from benchmarks.metal.report import Report
from evaluation.continuation import Timer


def measure(bench: Bench, report: Report) -> None:
    if not report.attempt("executor.prefill", partial(served, bench, report)):
        bench.stop()
    report.attempt("executor.generic", partial(generic, bench, report))


def served(bench: Bench, report: Report) -> None:
    """Server: accepted → last logits on the host, one session alone. Plain: the call → the same."""
    s, client, local = bench.setting, bench.small(), bench.local()
    for tokens in sorted({s.session_tokens, s.tokens}):
        (prompt,) = bench.prompts(1, tokens)
        ours, plain = [], []
        for number in range(-3, s.samples):
            session = client.open()
            stamps = session.prefill(prompt).stamps
            session.close()
            other = local.prefill_ms(prompt)
            if number >= 0:
                ours.append(ms(stamps, "logits", "accepted"))
                plain.append(other)
        report.samples(f"executor.prefill_ms@{tokens}", ours, "ms")
        report.samples(f"executor.plain_ms@{tokens}", plain, "ms")


def generic(bench: Bench, report: Report) -> None:
    """Re-entry into the model's own forward, in this process, against the same forward untouched."""
    from benchmarks.pausing import Bench as Pausing

    s = bench.setting
    bench.drop_local()
    pausing = Pausing(s.model, s.dtype, s.device, s.session_tokens)
    timer = Timer(pausing.device)
    ours, plain = [], []
    for number in range(-3, s.samples):
        for way, times in ((pausing.pausable, ours), (pausing.plain, plain)):
            began = timer.now()
            way()
            took = timer.now() - began
            if number >= 0:
                times.append(took)
    report.samples("executor.generic_ms", ours, "ms")
    report.samples("executor.generic_plain_ms", plain, "ms")
