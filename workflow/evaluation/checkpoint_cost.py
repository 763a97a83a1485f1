"""What checkpoints cost: those who take them, until they lie in host memory, and others while such copies are under way.

dispatch: the server does not time single checkpoints, so this is a paired difference: a prefill that keeps the state after
every layer, against the same prefill that keeps none (ready → logits, on the server's clock), divided by their number.
drained: from that prefill's logits to the end of the last copy off the device; most is copied behind the prefill, before the
session is parked. interference: another session's prefill and decode, with and without copies in flight, in turn.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from typing import Any

import djinn
from evaluation import lengths
from evaluation.copying import Copying, busy_share, last_copy_out
from evaluation.parking import put_aside
from evaluation.prompts import load_prompts
from evaluation.servers import budget_for, checkpointed_bytes, server_for, shape_of

WARM_UP = 2  # pairs
Progress = Callable[[str], None]


def measure(settings: Any, progress: Progress) -> dict[str, Any]:
    length, pairs = settings.checkpoint_cost.prompt_tokens, settings.checkpoint_cost.pairs
    shape = shape_of(settings.weights)
    moved = checkpointed_bytes(settings.weights, Copying.SESSIONS + 1, length)
    room = budget_for(settings.weights, 2, length, length) + moved
    prompts = load_prompts(settings.model, Copying.SESSIONS + 2, length)
    with ExitStack() as stack:
        server = stack.enter_context(server_for(settings, length, room, held=Copying.SESSIONS + 2))
        client = stack.enter_context(djinn.connect(server.endpoint))
        progress(f"checkpoint cost: {pairs} prefills with {shape.layers} checkpoints and without, in turn")
        taken = taking(client, prompts[0], shape.layers, WARM_UP + pairs)
        progress("checkpoint cost: a prefill and a decode while copies are under way and while none is, in turn")
        beside = interference(stack, server.endpoint, client, prompts, WARM_UP + pairs)
    return {"prompt_tokens": length, "checkpoints": shape.layers, **taken, "interference": beside}


def taking(client: djinn.Client, prompt: list[int], depth: int, pairs: int) -> dict[str, Any]:
    """Prefills without and with a checkpoint after every layer, A B A B, and the draining of the latter.

    behind_bytes: of drained_bytes, what had been copied before the session was parked. parked_ms: from then until all is in
    host memory.
    """
    times: dict[str, list[float]] = {"without": [], "with": []}
    found: dict[str, list[float]] = {name: [] for name in ("drained_ms", "drained_bytes", "behind_bytes", "parked_ms")}
    for _ in range(pairs):
        session = client.open()
        times["without"].append(_ms(session.prefill(prompt).stamps, "ready", "logits"))
        session.close()
        before = _copied_out(client)
        session = client.open()
        _, out = session.prefill(prompt, checkpoint_at=list(range(1, depth + 1)))
        times["with"].append(_ms(out.stamps, "ready", "logits"))
        found["behind_bytes"].append(_copied_out(client) - before)
        put_aside([session])
        found["parked_ms"].append(_ms(dict(session.history()[1]), "io_wait", "host"))
        found["drained_bytes"].append(_copied_out(client) - before)
        session.close()
        # 0 where the last copy had ended when the logits came
        found["drained_ms"].append(max(0.0, last_copy_out(client) - out.stamps["logits"]) / 1e6)
    return {
        "prefill_ms": {name: listed[WARM_UP:] for name, listed in times.items()},
        **{name: listed[WARM_UP:] for name, listed in found.items()},
    }


def interference(
    stack: ExitStack, endpoint: str, client: djinn.Client, prompts: list[list[int]], pairs: int
) -> dict[str, Any]:
    """prefill_ms, decode_ms (of one pass): alone and beside copies, A B A B. copied_bytes: during each of the latter.

    decode_passes: how many a decode was timed over.
    busy: of every tenth pair, the share of the timed work during which a copy ran (asking for it takes time).
    """
    copying = stack.enter_context(Copying(endpoint, prompts[2:]))
    decoder = client.open()
    kept, _ = decoder.prefill(prompts[0], checkpoint_at=[client.server.depth])
    start = kept[client.server.depth]
    found: dict[str, Any] = {"prefill_ms": {"alone": [], "beside": []}, "decode_ms": {"alone": [], "beside": []}}
    passes = lengths.DECODED - 1  # the first new token is chosen from the logits, where the clock starts
    busy: list[float] = []
    copied: list[int] = []
    for number in range(pairs):
        for way in ("alone", "beside"):
            before = _copied(client)
            with copying.under_way() if way == "beside" else nullcontext():
                session = client.open()
                prefilled = session.prefill(prompts[1]).stamps
                decoded = decoder.resume(start, max_new_tokens=lengths.DECODED).stamps
            session.close()
            found["prefill_ms"][way].append(_ms(prefilled, "ready", "done"))
            found["decode_ms"][way].append(_ms(decoded, "logits", "done") / passes)
            if way == "beside":
                copied.append(_copied(client) - before)
                if number in range(WARM_UP, pairs, 10):
                    busy.append(busy_share(client, [(one["ready"], one["done"]) for one in (prefilled, decoded)]))
    decoder.close()
    kept_of = {what: {way: listed[WARM_UP:] for way, listed in ways.items()} for what, ways in found.items()}
    return {**kept_of, "decode_passes": passes, "copied_bytes": copied[WARM_UP:], "busy": busy}


def _copied_out(client: djinn.Client) -> int:
    return client.stats()["bytes"]["evicted_bytes"]


def _copied(client: djinn.Client) -> int:
    lives = client.stats()["bytes"]
    return lives["evicted_bytes"] + lives["restored_bytes"]


def _ms(stamps: dict[str, int], start: str, end: str) -> float:
    return (stamps[end] - stamps[start]) / 1e6
