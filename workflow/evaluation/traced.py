"""One request through the seed's architecture diagram, step by step, with the bytes that really crossed the wire.

The seed's flow: save the state at layer N and run on; only logits come back; the client takes the activation, changes it by
itself, and the server goes on from layer N with what it was given. Then the same with a real stop. All bytes are counted
by a relay between client and server, both ways; what stayed is read from the server's table of slabs.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

import djinn
from evaluation.prompts import load_prompts
from evaluation.servers import budget_for, server_for
from evaluation.wire_tap import WireTap

Progress = Callable[[str], None]


def measure(settings: Any, progress: Progress) -> dict[str, Any]:
    length, layer = settings.resume.prompt_tokens, settings.oversubscription.break_at
    factor = settings.activation_steering.modification_factor
    prompt = load_prompts(settings.model, 1, length)[0]
    with (
        server_for(settings, length, budget_for(settings.weights, 2, length, length), held=2) as server,
        djinn.connect(server.endpoint) as watcher,
        WireTap(server.endpoint) as tap,
        djinn.connect(tap.endpoint) as client,
    ):
        steps = Steps(tap)
        steps.take("open a session", client.open)
        session = steps.given
        steps.take("run with a checkpoint at the layer", lambda: session.prefill(prompt, checkpoint_at=[layer]))
        checkpoints, plain = steps.given
        stayed = watcher.stats()["bytes"]["device_bytes"]
        steps.take("fetch the activation", checkpoints[layer].activation)
        hidden = steps.given
        changed = hidden * np.float32(factor)
        steps.take(
            "go on from the layer with the changed one", lambda: session.resume(checkpoints[layer], activation=changed)
        )
        steered = steps.given
        session.close()

        session = client.open()
        steps.take("run and stop at the layer", lambda: session.prefill(prompt, break_at=layer))
        steps.take("go on from the stop", session.resume)
        unchanged = steps.given
        session.close()
    progress("traced: " + "; ".join(f"{s['step']}: {s['up_bytes']} B up, {s['down_bytes']} B down" for s in steps.rows))
    return {
        "prompt_tokens": length,
        "layer": layer,
        "factor": factor,
        "steps": steps.rows,
        "activation_bytes": hidden.nbytes,
        "logits_bytes": plain.logits.nbytes,
        "stayed_bytes": stayed,  # the session's KV and the checkpoint's hidden state
        "stop_equals_checkpoint": bool(np.array_equal(unchanged.logits, plain.logits)),
        "changed_logits": float(np.mean(steered.logits != plain.logits)),
    }


class Steps:
    """What each call sent and got, and how long it took. given: what the last call returned."""

    def __init__(self, tap: WireTap) -> None:
        self.tap, self.rows, self.given = tap, [], None

    def take(self, name: str, call: Callable[[], Any]) -> None:
        before, began = self.tap.counts, time.perf_counter()
        self.given = call()
        took, after = time.perf_counter() - began, self.tap.counts
        row = {"step": name, "up_bytes": after.up - before.up, "down_bytes": after.down - before.down}
        self.rows.append({**row, "ms": 1000 * took})
