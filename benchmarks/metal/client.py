"""client.*: what the wire costs: call → accepted with the server idle and busy, and a large activation to the client."""

from __future__ import annotations

import time
from functools import partial

import djinn
from benchmarks.metal.bench import Bench, ms
from benchmarks.metal.loaded import load
from benchmarks.metal.report import Report

SHORT = 16  # tokens of the request that is sent


def measure(bench: Bench, report: Report) -> None:
    works = {
        "client.dispatch@idle": partial(idle, bench, report),
        "client.dispatch@busy": partial(busy, bench, report),
        "client.activation": partial(activation, bench, report),
    }
    for name, work in works.items():
        if not report.attempt(name, work):
            bench.stop()


def dispatches(bench: Bench, client: djinn.Client, count: int) -> list[float]:
    """ms from the client's call of a short prefill to the server's accepted."""
    times = []
    for number, prompt in enumerate(bench.prompts(count + 3, SHORT, seed=3)):
        session = client.open()
        stamps = session.prefill(prompt).stamps
        session.close()
        if number >= 3:
            times.append(ms(stamps, "accepted", "client_called"))
    return times


def idle(bench: Bench, report: Report) -> None:
    client = bench.small()
    report.samples("client.dispatch@idle", dispatches(bench, client, bench.setting.tail), "ms")


def busy(bench: Bench, report: Report) -> None:
    client = bench.small()
    with load(bench) as spans:
        times = dispatches(bench, client, bench.setting.tail)
    report.samples("client.dispatch@busy", times, "ms", work={kind: len(listed) for kind, listed in spans.items()})


def activation(bench: Bench, report: Report) -> None:
    """GB/s of the hidden state in the model's own dtype, into a fresh array and into one again and again, in turn;
    delivered_bytes: what the client holds afterwards."""
    s, client = bench.setting, bench.small()
    session = client.open()
    (prompt,) = bench.prompts(1, s.tokens)
    pause = session.prefill(prompt, break_at=s.middle)
    own, room = s.shape.hidden_bytes(s.tokens), pause.activation()
    rates: dict[str, list[float]] = {"client.activation": [], "client.activation@out": []}
    for number in range(-3, s.samples):
        for listed, out in zip(rates.values(), (None, room), strict=True):
            began = time.perf_counter()
            pause.activation(out)
            took = time.perf_counter() - began
            if number >= 0:
                listed.append(own / took / 1e9)
    session.close()
    for name, listed in rates.items():
        report.samples(name, listed, "GB/s", own_bytes=own, delivered_bytes=room.nbytes)
