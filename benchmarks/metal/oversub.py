"""oversub.*: MEASURES' barrier. N sessions, all asked for at once by one client, more than the device holds.

Each is paused in the middle of its prefill, resumed, and paused again in the middle of its first new token's pass. At the
barrier all are paused and alive; then each goes on for the new tokens. Afterwards each is run alone and compared bit for bit.
"""

from __future__ import annotations

import gzip
import json
import time
from functools import partial
from typing import Any

import numpy as np

import djinn
from benchmarks.metal.bench import Bench
from benchmarks.metal.report import Report, say

MOVED = ("evicted_bytes", "restored_bytes", "mirrored_bytes", "spilled_bytes", "evictions", "restores")
STOPPED = ("paused", "io_wait", "evicting", "host", "disk")


class NotOversubscribed(RuntimeError):
    """The barrier did not hold what the row is about."""


def measure(bench: Bench, report: Report) -> None:
    for sessions, tokens in bench.setting.oversub:
        if not report.attempt(f"n{sessions}_{tokens}", partial(row, bench, report, sessions, tokens)):
            bench.stop()


def row(bench: Bench, report: Report, sessions: int, tokens: int) -> None:
    s, client, name = bench.setting, bench.full(), f"oversub.n{sessions}_{tokens}"
    report.fact("plan", client.server.plan)
    prompts = bench.prompts(sessions, tokens)
    first = one_round(client, prompts, s.middle, s.new_tokens)  # what is compiled or captured at first use, is
    report.fact(f"{name}.warm_up_s", first["seconds"])
    rounds: list[dict[str, Any]] = []
    for number in range(s.rounds):
        rounds.append(one_round(client, prompts, s.middle, s.new_tokens))
        say(f"{name}: round {number + 1} of {s.rounds}: {rounds[-1]['seconds']:.2f} s")
        report.samples(
            f"{name}.total", [one["seconds"] for one in rounds], "s", rounds=[without(one) for one in rounds]
        )
    keep_timeline(report, client, name)
    last = rounds[-1]
    again = [alone(client, prompt, s.new_tokens) for prompt in prompts]
    equal = [
        bool(np.array_equal(one.tokens[1:], out.tokens) and np.array_equal(one.logits, out.logits))
        for one, out in zip(again, last["outs"], strict=True)
    ]
    same = all(
        np.array_equal(a.tokens, b.tokens) for one in rounds for a, b in zip(one["outs"], last["outs"], strict=True)
    )
    report.fact(f"{name}.bit_equal", {"sessions": sessions, "equal": sum(equal), "rounds_agree": same})


def one_round(client: djinn.Client, prompts: np.ndarray, middle: int, new: int) -> dict[str, Any]:
    before = client.stats()["bytes"]
    sessions = [client.open() for _ in prompts]
    began = time.perf_counter()
    first = {
        session.prefill(prompt, break_at=middle, wait=False): number
        for number, (session, prompt) in enumerate(zip(sessions, prompts, strict=True))
    }
    second: dict[int, djinn.Pending] = {}
    for pending in djinn.as_completed(list(first)):
        number = first[pending]
        pending.result()
        second[number] = sessions[number].resume(max_new_tokens=1, break_at=middle, break_token=1, wait=False)
    pauses = [second[number].result() for number in range(len(sessions))]
    barrier = time.perf_counter()
    held = barrier_of(client, len(sessions))
    outs = [pending.result() for pending in [session.resume(max_new_tokens=new, wait=False) for session in sessions]]
    ended = time.perf_counter()
    after = client.stats()["bytes"]
    for session in sessions:
        session.close()
    return {
        "seconds": ended - began,
        "to_barrier_s": barrier - began,
        "from_barrier_s": ended - barrier,
        "barrier": held,
        "moved": {key: after[key] - before[key] for key in MOVED},
        "stamps": {
            "first": [pending.result().stamps for pending in first],
            "second": [pause.stamps for pause in pauses],
            "last": [out.stamps for out in outs],
        },
        "parts": parts(pauses, outs),
        "outs": outs,
    }


def barrier_of(client: djinn.Client, wanted: int) -> dict[str, Any]:
    """What is alive, and where its bytes are. Raises NotOversubscribed."""
    stats = client.stats()
    lives, plan = stats["bytes"], client.server.plan
    alive = sum(stats["sessions"].get(state, 0) for state in STOPPED)
    off = lives["host_bytes"] + lives["disk_bytes"]
    demand = lives["device_bytes"] + off + plan["weights_bytes"]
    budget = plan["device_budget_bytes"]
    if alive < wanted or demand <= budget or off < demand - budget:
        raise NotOversubscribed(
            f"{alive} of {wanted} sessions paused ({stats['sessions']}), demand {demand}, budget {budget}, {off} off the device"
        )
    return {"alive": alive, "demand_bytes": demand, "budget_bytes": budget, "off_device_bytes": off}


def parts(pauses: list[djinn.Pause], outs: list[djinn.Out]) -> dict[str, float]:
    """Means over the sessions (s): parked; from the request to what its next layer needs; from there to the last token."""
    each = list(zip((p.stamps for p in pauses), (o.stamps for o in outs), strict=True))
    return {
        "parked": float(np.mean([(out["accepted"] - pause["done"]) / 1e9 for pause, out in each])),
        "restore_wait": float(np.mean([(out["ready"] - out["accepted"]) / 1e9 for _, out in each])),
        "decode": float(np.mean([(out["done"] - out["ready"]) / 1e9 for _, out in each])),
    }


def without(one: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in one.items() if key != "outs"}


def alone(client: djinn.Client, prompt: np.ndarray, new: int) -> djinn.Out:
    session = client.open()
    out = session.prefill(prompt, max_new_tokens=1 + new)
    session.close()
    return out


def keep_timeline(report: Report, client: djinn.Client, name: str) -> None:
    """Beside the raw file, in Chrome's trace format: the last round is its end."""
    path = report.path.with_name(f"{report.path.stem}-{name.removeprefix('oversub.')}-timeline.json.gz")
    path.write_bytes(gzip.compress(json.dumps(client.timeline()).encode()))
