"""arena.sessions: how many whole sessions the card holds beside the weights, with a server that is given all of it."""

from __future__ import annotations

import torch

import djinn
from benchmarks.metal.bench import Bench
from benchmarks.metal.report import Report, say
from djinn.errors import BudgetTooSmall, OutOfMemory, ServerFault, ServerGone

STEP = 2**28  # bytes given up after a start, or a first prefill, that failed
TRIES = 8


def measure(bench: Bench, report: Report) -> None:
    s = bench.setting
    bench.stop()
    bench.drop_local()  # what is free now is what the next server can have
    total = torch.cuda.mem_get_info(s.device)[0] if s.device != "cpu" else s.budget
    for reserve in (s.card_reserve + number * STEP for number in range(TRIES)):
        try:
            client = bench.full(
                device_budget=total - reserve, host_budget=4 * s.shape.kv_bytes(s.session_tokens + s.new_tokens)
            )
            first = client.open()
            first.prefill(bench.prompts(1, s.session_tokens)[0], logits="none")
            first.close()
            break
        except (BudgetTooSmall, ServerGone, ServerFault) as error:
            bench.stop()
            say(f"a budget of {total - reserve} bytes is too large: {error}")
    else:
        raise RuntimeError(f"no server runs with {reserve} bytes of the card left to others")
    report.attempt("arena.sessions", lambda: fill(bench, report, client, total - reserve))
    bench.stop()


def fill(bench: Bench, report: Report, client: djinn.Client, budget: int) -> None:
    """Sessions one after another, until the first of them would be put out."""
    s = bench.setting
    prompts, held = bench.prompts(200, s.session_tokens), 0
    for prompt in prompts:
        try:
            client.open().prefill(prompt, max_new_tokens=s.new_tokens, logits="none")
        except OutOfMemory:  # the small host pool behind it is full of copies already
            break
        lives = client.stats()["bytes"]
        if lives["host_bytes"] or lives["disk_bytes"]:
            break
        held += 1
    report.samples("arena.sessions", [float(held)], "sessions", budget=budget, plan=client.server.plan)
