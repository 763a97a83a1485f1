"""decode.single, decode.batch25: tokens by sessions whose KV is all on the device, from the same length each time.

Every sample rewinds to the end of the prompt, so the length does not grow from one to the next.
"""

from __future__ import annotations

from functools import partial

import djinn
from benchmarks.metal.bench import Bench
from benchmarks.metal.report import Report

STEPS = 64  # tokens of a sample


def measure(bench: Bench, report: Report) -> None:
    works = {"single": partial(rate, bench, report, 1), "batch": partial(rate, bench, report, bench.setting.batch)}
    for name, work in works.items():
        if not report.attempt(f"decode.{name}", work):
            bench.stop()


def rate(bench: Bench, report: Report, count: int) -> None:
    s, client = bench.setting, bench.full()
    steps = min(STEPS, client.server.max_tokens - s.session_tokens - 2)
    sessions = [client.open() for _ in range(count)]
    starts = []
    for session, prompt in zip(sessions, bench.prompts(count, s.session_tokens), strict=True):
        kept, _ = session.prefill(prompt, checkpoint_at=[s.depth])
        starts.append(kept[s.depth])
    step_ms, tokens_s, off = [], [], 0
    for number in range(-2, s.samples):
        outs = together(sessions, starts, steps + 1)
        if number < 0:
            continue
        stamps = [out.stamps for out in outs]
        took = (max(one["done"] for one in stamps) - min(one["accepted"] for one in stamps)) / 1e9
        tokens_s.append(count * (steps + 1) / took)
        # the first token comes from the kept end of the prompt; the steps are counted behind the last of these
        step_ms.append((max(one["done"] for one in stamps) - max(one["logits"] for one in stamps)) / 1e6 / steps)
        off = max(off, client.stats()["bytes"]["host_bytes"])
    for session in sessions:
        session.close()
    about = {"sessions": count, "tokens": s.session_tokens, "steps": steps, "off_device_bytes": off}
    report.samples(f"decode.step_ms@{count}", step_ms, "ms", **about)
    report.samples(f"decode.tokens_s@{count}", tokens_s, "tokens/s", **about)


def together(sessions: list[djinn.Session], starts: list[djinn.Checkpoint], new: int) -> list[djinn.Out]:
    pendings = [
        session.resume(start, max_new_tokens=new, logits="none", wait=False)
        for session, start in zip(sessions, starts, strict=True)
    ]
    return [pending.result() for pending in pendings]
