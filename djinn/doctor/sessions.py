"""The four troubles that the seed lists, as checks against a running server. Each opens its own small sessions and closes them.

Cost: a few prefills of 64 tokens and some forty decode steps; nothing of other sessions is touched, but on a full server
theirs may be evicted to make room.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

import djinn
from djinn.client.client import Client
from djinn.client.session import Session
from djinn.doctor.finding import Finding
from djinn.edits import Scale
from djinn.errors import ProtocolError
from djinn.wire import frames
from djinn.wire import messages as m

TOKENS, NEW = 64, 8
RESUMES = 20
EVICTION_S = 30.0
ON_THE_WAY_OUT = ("io_wait", "evicting")


def prompt_for(client: Client) -> np.ndarray:
    """int64 `(n,)`: ids that any vocabulary has, no two prompts' worth of them alike in a row."""
    count = max(2, min(TOKENS, client.server.max_tokens - 2 * RESUMES - NEW))
    return np.array([(7 * i * i + 3) % client.server.vocabulary for i in range(count)], dtype=np.int64)


def middle(client: Client) -> int:
    return max(1, client.server.depth // 2)


@contextmanager
def session_of(client: Client) -> Iterator[Session]:
    session = client.open()
    try:
        yield session
    finally:
        session.close()


def server(client: Client, device: str | None) -> Finding:
    """That it is the version of this client, and on the device that was asked for."""
    hello = client.server
    model = f"{hello.model['name']} ({hello.model['source']}, {hello.model['dtype']})"
    seen = f"{model} on {hello.device}, djinn {hello.server_version}"
    if hello.server_version != djinn.__version__:
        return Finding(
            "server",
            False,
            f"{seen}; this client is {djinn.__version__}",
            "use the same version of djinn on both sides",
        )
    if device is not None and hello.device != device:
        return Finding("server", False, f"{seen}; {device} was expected", f"start it with --device {device}")
    return Finding("server", True, seen)


def token_accuracy(client: Client) -> Finding:
    """`Token Accuracy 0.0%`: a session that is paused, parked and resumed against the same prompt left alone."""
    prompt, layer = prompt_for(client), middle(client)
    with session_of(client) as plain, session_of(client) as paused:
        alone = plain.prefill(prompt, max_new_tokens=NEW)
        paused.prefill(prompt[None, :], break_at=layer)  # the other legal shape, (1, n)
        paused.park()
        evicted = _evicted(paused)
        out = paused.resume(max_new_tokens=NEW)
    same = float(np.mean(alone.tokens == out.tokens)) if len(alone.tokens) == len(out.tokens) else 0.0
    apart = float(np.abs(alone.logits - out.logits).max())
    return Finding(
        "token accuracy",
        same == 1.0 and apart == 0.0,
        f"{100 * same:.1f} % of {NEW} tokens after a pause at layer {layer}{' and an eviction' if evicted else ''}, "
        f"largest difference of the last logits {apart:.3g}",
        "compare with a session of the same server, run first and alone; give ids as (n,) or (1, n); look at the device in the "
        "line `server`. With --deterministic off neighbours may change the last bits; else this is a defect: keep the server's log",
    )


def checkpoint(client: Client) -> Finding:
    """`Checkpoint fails: Truncated dict entry`: whatever is cut off is refused, and a whole checkpoint comes back whole."""
    prompt, layer = prompt_for(client), middle(client)
    advice = "use the same version of djinn on both sides; what stands between them (a tunnel, a proxy) must pass messages on whole"
    taken, expected = _cuts_taken(), (1, len(prompt), client.server.hidden_size)
    with session_of(client) as session:
        hidden = session.prefill(prompt, break_at=layer).activation()
        if hidden.shape != expected or not np.isfinite(hidden).all():
            seen = f"the activation came back as {hidden.shape}, expected {expected} and every number finite"
            return Finding("checkpoint", False, seen, advice)
        out = session.resume(activation=hidden)
    with session_of(client) as session:
        session.prefill(prompt, break_at=layer)
        plain = session.resume()
    equal = np.array_equal(out.logits, plain.logits)
    return Finding(
        "checkpoint",
        taken == 0 and equal,
        f"activation {hidden.shape} came back whole; sent up again it gives {'the same' if equal else 'other'} logits; "
        f"{taken} messages that were cut short were taken for whole ones",
        advice,
    )


def _cuts_taken() -> int:
    """How many of all the ways to cut a message short are read as if nothing were missing."""
    body = m.Resume(session="s", edits=(Scale(0.9),))
    header, tensor = frames.pack(1, body, [np.zeros((1, 2, 3), dtype=np.float32)])
    cuts = [[bytes(header)[:end], tensor] for end in range(len(header))] + [
        [header, tensor[:end]] for end in range(len(tensor))
    ]
    taken = 0
    for cut in [*cuts, [header]]:
        try:
            frames.unpack(cut, "request")
        except ProtocolError:
            continue
        taken += 1
    return taken


def steering(client: Client, factor: float = 0.9) -> Finding:
    """`Steering output unchanged`: an edit of the middle layer shows in the logits, and factor 1.0 changes not a bit."""
    prompt, layer = prompt_for(client), middle(client)
    with session_of(client) as session:
        checkpoints, _ = session.prefill(prompt, checkpoint_at=[layer])
        plain, edited, unity = (
            session.resume(checkpoints[layer], edit=edit, logits="all").logits
            for edit in ((), Scale(factor), Scale(1.0))
        )
    moved, control = (float(np.abs(each - plain).max()) for each in (edited, unity))
    return Finding(
        "steering",
        moved > 0.0 and control == 0.0,
        f"scaling layer {layer} by {factor} moves the logits by up to {moved:.3g}, by 1.0 by {control:.3g}",
        f"pass the edit to resume(edit=djinn.Scale({factor})), at a layer in 1..{client.server.depth}; in the workflow see "
        "activation_steering.enabled, .steering_layer and .modification_factor. A factor of 1.0 that changes something is a defect",
    )


def resume_latency(client: Client, limit_ms: float) -> Finding:
    """`Resume latency > 5ms`: accepted → ready of decode pauses that were evicted, and what stands beside a slow one."""
    prompt, layer = prompt_for(client), middle(client)
    before = os.getloadavg()[0]
    samples = []
    with session_of(client) as session:
        session.prefill(prompt)
        for _ in range(RESUMES):
            session.generate(max_new_tokens=1, break_at=layer, break_token=1)
            session.park()
            if not _evicted(session):
                advice = "look at `djinn status`: are the host pool and the disk tier full? Then raise --host-budget"
                return Finding(
                    "resume latency", False, f"a parked session was not evicted within {EVICTION_S:.0f} s", advice
                )
            stamps = session.resume().stamps
            samples.append((stamps["ready"] - stamps["accepted"]) / 1e6)
    median, worst = statistics.median(samples), max(samples)
    lives = client.stats()["bytes"]
    full = lives["device_bytes"] / max(1, lives["arena_bytes"])
    return Finding(
        "resume latency",
        median <= limit_ms,
        f"median {median:.3g} ms (worst {worst:.3g}) of {RESUMES} evicted resumes of {len(prompt)} tokens, {limit_ms:g} ms allowed",
        f"system load was {before:.1f} on {os.cpu_count()} cores: end what else runs; the arena is {full:.0%} live: with more "
        "--device-budget less must be put out first; `djinn trace` shows what compute and copies did meanwhile",
    )


def _evicted(session: Session) -> bool:
    end = time.monotonic() + EVICTION_S
    while session.state in ON_THE_WAY_OUT:
        if time.monotonic() > end:
            return False
        time.sleep(0.002)
    return True
