"""Concurrent breakpoints: many clients, each in a thread of its own, all paused at once at different layers, all resumed.

Each must give what the same session gives alone: tokens and last logits, bit for bit.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

import djinn
from evaluation import lengths
from evaluation.prompts import load_prompts
from evaluation.servers import budget_for, server_for

Progress = Callable[[str], None]
WAIT_S = 600.0  # for the slowest client at the barrier


def measure(settings: Any, progress: Progress) -> dict[str, Any]:
    clients, length = settings.concurrent.clients, settings.resume.prompt_tokens
    new_tokens = settings.oversubscription.new_tokens
    prompts = load_prompts(settings.model, clients, length)
    longest = lengths.concurrent(settings)
    budget = budget_for(settings.weights, clients, longest, longest)
    with (
        server_for(settings, longest, budget, held=clients) as server,
        djinn.connect(server.endpoint) as client,
    ):
        layers = spread(client.server.depth, clients)
        progress(f"concurrent: {clients} clients, each paused in its prefill, at layers {', '.join(map(str, layers))}")
        barrier = threading.Barrier(clients)
        with ThreadPoolExecutor(clients) as pool:
            asked = [
                pool.submit(one_client, server.endpoint, prompt, layer, new_tokens, barrier)
                for prompt, layer in zip(prompts, layers, strict=True)
            ]
            found = [future.result() for future in asked]
        progress("concurrent: the same sessions, one after the other")
        rows = []
        for prompt, layer, (pause, out) in zip(prompts, layers, found, strict=True):
            session = client.open()
            alone = session.prefill(prompt, max_new_tokens=new_tokens)
            session.close()
            rows.append(
                {
                    "layer": layer,
                    "paused_ns": pause.stamps["done"],
                    "resumed_ns": out.stamps["accepted"],
                    "tokens_equal": int(np.sum(alone.tokens == out.tokens)),
                    "bit_equal": bool(np.array_equal(alone.logits, out.logits)),
                }
            )
    return {
        "prompt_tokens": length,
        "new_tokens": new_tokens,
        "clients": rows,
        "paused_at_once": max(row["paused_ns"] for row in rows) < min(row["resumed_ns"] for row in rows),
    }


def spread(depth: int, clients: int) -> list[int]:
    """A layer for each client, from the first to the last, all different where there are layers enough."""
    return [1 + round(number * (depth - 1) / max(1, clients - 1)) for number in range(clients)]


def one_client(
    endpoint: str, prompt: list[int], layer: int, new_tokens: int, barrier: threading.Barrier
) -> tuple[djinn.Pause, djinn.Out]:
    """Pause, wait until every other client has paused too, resume to the end."""
    with djinn.connect(endpoint) as client:
        try:
            session = client.open()
            pause = session.prefill(prompt, break_at=layer)
            barrier.wait(WAIT_S)
            out = session.resume(max_new_tokens=new_tokens)
            session.close()
        except Exception:
            barrier.abort()  # nobody waits for one that will not come
            raise
    return pause, out
