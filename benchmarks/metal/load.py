"""Work for a server while something else is measured: one prefill always in flight, and sessions that decode.

    python -m benchmarks.metal.load ENDPOINT PREFILL_TOKENS DECODERS CONTEXT_TOKENS VOCABULARY < pipe

A process of its own, so that it costs the measuring client nothing. It says `running` once everything runs, goes on until
its input ends, and then prints what ran when (ns of the machine's monotonic clock) as one JSON line.
"""

from __future__ import annotations

import json
import sys
import threading
from typing import Any

import numpy as np

import djinn
from evaluation.lifeline import die_with_parent

AHEAD = 2  # prefills asked for at a time, so that one is in flight while the next reply is read
NEW = 64  # tokens of one decode request


def main() -> None:
    endpoint, prefill, decoders, context, vocabulary = sys.argv[1], *map(int, sys.argv[2:])
    ended = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()
    draw = np.random.default_rng(7)
    with djinn.connect(endpoint) as client:
        longest = client.server.max_tokens
        spans: dict[str, list[tuple[int, int]]] = {"prefill": [], "decode": []}
        work: dict[Any, tuple[str, djinn.Session, int]] = {}

        def begin_prefill() -> None:
            session = client.open()
            pending = session.prefill(draw.integers(3, vocabulary, prefill), logits="none", wait=False)
            work[pending] = ("prefill", session, prefill)

        def begin_decoder() -> None:
            session = client.open()
            session.prefill(draw.integers(3, vocabulary, context), logits="none")
            go_on(session, context)

        def go_on(session: djinn.Session, length: int) -> None:
            pending = session.generate(max_new_tokens=NEW, logits="none", wait=False)
            work[pending] = ("decode", session, length + NEW)

        for _ in range(decoders):
            begin_decoder()
        for _ in range(AHEAD):
            begin_prefill()
        print("running", flush=True)
        while not ended.is_set():
            pending = next(iter(djinn.as_completed(list(work))))
            kind, session, length = work.pop(pending)
            stamps = pending.result().stamps
            spans[kind].append((stamps["accepted"], stamps["done"]))
            if kind == "prefill":
                session.close()
                begin_prefill()
            elif length + NEW + 1 > longest:
                session.close()
                begin_decoder()
            else:
                go_on(session, length)
        for _, session, _ in work.values():
            session.cancel()
    print(json.dumps(spans), flush=True)


if __name__ == "__main__":
    die_with_parent()
    main()
