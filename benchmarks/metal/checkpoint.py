"""checkpoint.*: what checkpoints cost the compute, and what draining sessions cost the others.

Draining: sessions that nobody has copied yet are parked together, and the other work is done while their bytes go. How
busy the copies were is read from the server's timeline and kept beside the samples.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

import djinn
from benchmarks.metal.bench import Bench, ms, settle
from benchmarks.metal.report import Report
from benchmarks.overlap import both, merged

DRAINED = 6  # sessions parked at once
STEPS = 8  # tokens of a decode sample
OTHERS = 8  # sessions of a decode sample


def measure(bench: Bench, report: Report) -> None:
    works = {
        "checkpoint.dispatch": partial(dispatch, bench, report),
        "checkpoint.interference@prefill": partial(interference, bench, report, "prefill"),
        "checkpoint.interference@decode": partial(interference, bench, report, "decode"),
    }
    for name, work in works.items():
        if not report.attempt(name, work):
            bench.stop()


def dispatch(bench: Bench, report: Report) -> None:
    """In turn: a prefill with a checkpoint at every layer, and one without; the difference ÷ their number."""
    s, client = bench.setting, bench.full()
    (prompt,) = bench.prompts(1, s.session_tokens)
    layers = list(range(1, s.depth + 1))
    costs: list[float] = []
    with_all: list[float] = []
    for number in range(-3, s.pairs):
        times = []
        for at in (layers, []):
            session = client.open()
            reply = session.prefill(prompt, checkpoint_at=at)
            stamps = (reply[1] if at else reply).stamps
            session.close()
            settle(client)
            times.append(ms(stamps, "logits", "accepted"))
        if number >= 0:
            with_all.append(times[0])
            costs.append((times[0] - times[1]) / len(layers))
    report.samples("checkpoint.dispatch_ms", costs, "ms", checkpoints=len(layers))
    report.samples("checkpoint.prefill_with_all_ms", with_all, "ms")


def interference(bench: Bench, report: Report, kind: str) -> None:
    s, client = bench.setting, bench.full()
    drained = min(DRAINED, len(s.layers) * 2)
    prompts = bench.prompts(drained + OTHERS + 1, s.session_tokens, seed=4)
    work = Others(client, prompts[drained:], kind)
    alone, busy, shares = [], [], []
    for number in range(-1, s.pairs):
        quiet = work.sample()
        sessions = begun(client, prompts[:drained])
        for session in sessions:
            session.park()
        loud = work.sample()
        share = out_share(client, loud)
        settle(client)
        for session in sessions:
            session.close()
        if number >= 0:
            alone.append(work.ms(quiet))
            busy.append(work.ms(loud))
            shares.append(share)
    work.close()
    report.samples(f"checkpoint.{kind}.alone_ms", alone, "ms")
    report.samples(f"checkpoint.{kind}.busy_ms", busy, "ms", copies_busy=shares)


def begun(client: djinn.Client, prompts: np.ndarray) -> list[djinn.Session]:
    sessions = [client.open() for _ in prompts]
    for session, prompt in zip(sessions, prompts, strict=True):
        session.prefill(prompt, logits="none")
    return sessions


class Others:
    """The work that is slowed down: one prefill, or several sessions that decode some tokens together."""

    def __init__(self, client: djinn.Client, prompts: np.ndarray, kind: str) -> None:
        self.client, self.prompt, self.kind = client, prompts[0], kind
        self.starts: list[djinn.Checkpoint] = []
        self.sessions = [client.open() for _ in prompts[1:]] if kind == "decode" else []
        for session, prompt in zip(self.sessions, prompts[1:], strict=False):
            depth = client.server.depth
            kept, _ = session.prefill(prompt, checkpoint_at=[depth])
            self.starts.append(kept[depth])

    def sample(self) -> list[dict[str, int]]:
        """Stamps of the requests."""
        if self.kind == "prefill":
            session = self.client.open()
            stamps = [session.prefill(self.prompt).stamps]
            session.close()
            return stamps
        pendings = [
            session.resume(start, max_new_tokens=STEPS, logits="none", wait=False)
            for session, start in zip(self.sessions, self.starts, strict=True)
        ]
        return [pending.result().stamps for pending in pendings]

    def ms(self, stamps: list[dict[str, int]]) -> float:
        begin, end = span(stamps)
        return (end - begin) / 1e6

    def close(self) -> None:
        for session in self.sessions:
            session.close()


def span(stamps: list[dict[str, int]]) -> tuple[int, int]:
    """ns of the first accepted and the last done."""
    return min(one["accepted"] for one in stamps), max(one["done"] for one in stamps)


def out_share(client: djinn.Client, stamps: list[dict[str, int]]) -> float:
    """The share of that time in which copies off the device ran."""
    begin, end = (ns / 1000 for ns in span(stamps))  # µs, as the timeline has them
    trace: dict[str, Any] = client.timeline()
    names = {event["tid"]: event["args"]["name"] for event in trace["traceEvents"] if event["ph"] == "M"}
    copying = merged(
        [
            (event["ts"], event["ts"] + event["dur"])
            for event in trace["traceEvents"]
            if event["ph"] == "X" and names.get(event["tid"]) == "copy out"
        ]
    )
    return sum(stop - start for start, stop in both(copying, [(begin, end)])) / (end - begin)
