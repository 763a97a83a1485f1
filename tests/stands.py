"""The ways in which a session can stand, and how it goes on from each: by any client, on whichever server it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

import djinn
from djinn.client.results import Checkpoint

PROMPT = [(7 * i * i + 3) % 509 for i in range(100)]
NEW = 6


@dataclass(frozen=True)
class Stand:
    """A way for a session to stand, and how it goes on from there."""

    begin: Callable[[djinn.Session, list[int]], None]
    go_on: Callable[[djinn.Session], djinn.Out]


def at_checkpoint(session: djinn.Session) -> djinn.Out:
    return session.resume(Checkpoint(session, "checkpoint@3-1", 3), max_new_tokens=NEW)


def paused_in_decode(session: djinn.Session, ids: list[int]) -> None:
    session.prefill(ids, max_new_tokens=4, break_at=5, break_token=3)


DRAWN = djinn.Sampling(temperature=0.9, top_k=40, seed=11)
STANDS = {
    "idle": Stand(lambda s, ids: s.prefill(ids, max_new_tokens=2), lambda s: s.generate(max_new_tokens=NEW)),
    "idle, drawn": Stand(
        lambda s, ids: s.prefill(ids, max_new_tokens=3, sampling=DRAWN), lambda s: s.generate(max_new_tokens=NEW)
    ),
    "paused in prefill": Stand(lambda s, ids: s.prefill(ids, break_at=3), lambda s: s.resume(max_new_tokens=NEW)),
    "paused in prefill, drawn": Stand(
        lambda s, ids: s.prefill(ids, break_at=8, sampling=DRAWN), lambda s: s.resume(max_new_tokens=NEW)
    ),
    "paused in decode": Stand(paused_in_decode, lambda s: s.resume(max_new_tokens=NEW)),
    "with a checkpoint": Stand(lambda s, ids: s.prefill(ids, checkpoint_at=[3], sampling=DRAWN), at_checkpoint),
}


def again(client: djinn.Client, session: djinn.Session) -> djinn.Session:
    """The same session, through another connection."""
    return client.attach(session.id)


def same(found: djinn.Out, expected: djinn.Out) -> bool:
    return found.tokens.tolist() == expected.tokens.tolist() and np.array_equal(found.logits, expected.logits)


def expected_of(client: djinn.Client, name: str, ids: list[int]) -> djinn.Out:
    session = client.open()
    STANDS[name].begin(session, ids)
    out = STANDS[name].go_on(session)
    session.close()
    return out


def turned(by: int) -> list[int]:
    return PROMPT[by:] + PROMPT[:by]
