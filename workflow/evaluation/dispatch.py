"""From the client's call to the server: idle and while it is busy; resumes of evicted sessions under that load; fetching.

Dispatch is client_called → accepted: both stamps are of the same machine's monotonic clock. Busy is MEASURES' *loaded*: a
prefill of resume.prompt_tokens always in flight, and eight sessions decoding all the time, asked for by another client.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import djinn
from evaluation import lengths
from evaluation.load import DECODING, Load
from evaluation.parking import put_aside
from evaluation.prompts import load_prompts
from evaluation.servers import budget_for, server_for

SHORT = 16  # tokens of a session that is asked only to see how long asking takes
WARM_UP = 3
PACE_S = 0.02  # between two requests to a busy server
Progress = Callable[[str], None]


def measure(settings: Any, progress: Progress) -> dict[str, Any]:
    length, samples = settings.resume.prompt_tokens, settings.dispatch.samples
    layer = settings.oversubscription.break_at
    prompts = load_prompts(settings.model, samples + DECODING, length)
    # the prefill in flight, the one behind it, the resumed session, and those that decode
    longest = lengths.dispatch(settings)
    budget = budget_for(settings.weights, DECODING + 4, length, longest)
    with ExitStack() as stack:
        server = stack.enter_context(server_for(settings, longest, budget))
        client = stack.enter_context(djinn.connect(server.endpoint))
        shared = same_clock(client)
        progress(f"dispatch: {samples} requests of each kind to an idle server, and as many activations fetched")
        idle = asked(client, prompts[0][:SHORT], WARM_UP + samples, waiting=True)
        fetched = fetch(client, prompts[0], layer, WARM_UP + samples)
        progress(f"dispatch: {samples} sessions paused at layer {layer} and evicted")
        sessions = [client.open() for _ in prompts[:samples]]
        for session, prompt in zip(sessions, prompts, strict=False):
            session.prefill(prompt, break_at=layer)
        put_aside(sessions)
        progress("dispatch: the same requests, and the evicted sessions resumed, while the server is busy")
        with Load(server.endpoint, prompts[samples:]) as load:
            busy = asked(client, prompts[0][:SHORT], WARM_UP + samples, waiting=False)
            resumed = [session.resume().stamps for session in sessions]
            done = load.done()
        for session in sessions:
            session.close()
    return {
        "prompt_tokens": length,
        "layer": layer,
        "same_clock": shared,
        "idle_ms": idle if shared else None,
        "busy_ms": busy if shared else None,
        "fetch": fetched,
        "loaded": {
            "ready_ms": [(stamps["ready"] - stamps["accepted"]) / 1e6 for stamps in resumed],
            "logits_ms": [(stamps["logits"] - stamps["accepted"]) / 1e6 for stamps in resumed],
            **done,
        },
    }


def same_clock(client: djinn.Client) -> bool:
    """Whether the server reads the clock that this process reads: not so for one behind a tunnel."""
    before = time.monotonic_ns()
    there = client.stats()["clock_ns"]
    return before <= there <= time.monotonic_ns()


def asked(client: djinn.Client, prompt: list[int], samples: int, waiting: bool) -> dict[str, list[float]]:
    """Dispatch (ms) by kind of request: a prefill, a resume, and a resume that brings an activation.

    waiting: each request is sent when the reply to the one before is here; else they are sent PACE_S apart, since a busy
    server has other work before theirs and dispatch ends when a request is read.
    """
    sessions = [client.open() for _ in range(samples)]

    def each(ask: Callable[[djinn.Session], Any]) -> list[Any]:
        pendings = []
        for session in sessions:
            pendings.append(ask(session))
            if waiting:
                pendings[-1].result()
            else:
                time.sleep(PACE_S)
        return [pending.result() for pending in pendings]

    found = {"prefill": each(lambda session: session.prefill(prompt, break_at=1, wait=False))}
    pauses = each(lambda session: session.resume(break_at=client.server.depth, wait=False))
    hidden = {pause.session.id: pause.activation() for pause in pauses}
    found["resume"] = pauses
    found["resume_with_activation"] = each(lambda session: session.resume(activation=hidden[session.id], wait=False))
    for session in sessions:
        session.close()
    return {kind: [_dispatch(reply.stamps) for reply in replies[WARM_UP:]] for kind, replies in found.items()}


def _dispatch(stamps: dict[str, int]) -> float:
    return (stamps["accepted"] - stamps["client_called"]) / 1e6


def fetch(client: djinn.Client, prompt: list[int], layer: int, samples: int) -> dict[str, Any]:
    """A whole prompt's activation, float32, to the client: bytes, and ms of each fetch."""
    session = client.open()
    pause = session.prefill(prompt, break_at=layer)
    times, size = [], 0
    for _ in range(samples):
        began = time.perf_counter()
        size = pause.activation().nbytes
        times.append(1000 * (time.perf_counter() - began))
    session.close()
    return {"bytes": size, "ms": times[WARM_UP:]}
