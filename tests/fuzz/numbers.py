"""Requests that are lawful one by one, and come twice, too late, all at once, or to a session that is at work."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np

import djinn
from djinn.wire import messages as m
from fuzz.exchange import Exchange, one
from fuzz.house import LAYERS
from fuzz.stage import OWN, Stage, ids


def lawful_body(stage: Stage, rng: random.Random) -> tuple[Any, list[np.ndarray]]:
    """What a client may ask, of a session that may be elsewhere by now."""
    session = stage.sessions[rng.choice(OWN)]
    how: dict[str, Any] = {"max_new_tokens": rng.randrange(4), "stream": rng.random() < 0.3}
    how["logits"] = rng.choice(["last", "all", "none"])
    if rng.random() < 0.5:
        how["break_at"] = rng.randrange(1, LAYERS + 1)
    if rng.random() < 0.3:
        how["sampling"] = djinn.Sampling(rng.choice([0.0, 0.7]), rng.choice([None, 5]), seed=rng.randrange(9))
    edit = rng.choice([djinn.Scale(rng.random()), djinn.Ablate(positions=(0,)), djinn.Scale(0.5, positions=())])
    checkpoint = rng.choice(["checkpoint@1-1", "checkpoint@3-2"])
    return rng.choice(
        [
            (m.Prefill(session=session, **how), [ids(rng.randrange(1, 24))]),
            (m.Prefill(session=session, checkpoint_at=(rng.randrange(1, LAYERS),)), [ids(8)]),
            (m.Generate(session=session, **how), [ids(rng.randrange(4))]),
            (m.Resume(session=session, **how), []),
            (m.Resume(session=session, edits=(edit,), **how), []),
            (m.Resume(session=session, checkpoint=checkpoint, **how), []),
            (m.FetchActivation(session=session, name=rng.choice(["pause-1", checkpoint])), []),
            (m.Discard(session=session, name=checkpoint), []),
            (m.Park(session=session), []),
            (m.Park(session=session), []),
            (m.Attach(session=session), []),
            (m.Describe(session=session), []),
        ]
    )


def lawful(stage: Stage, rng: random.Random) -> Exchange:
    others = [m.Stats(), m.Spans(), m.Sessions(), m.Hello(), m.Open(), m.Cancel(session=stage.sessions["fresh"])]
    if rng.random() < 0.1:
        return one(stage.ann.pack(rng.choice(others)))
    return one(stage.ann.pack(*lawful_body(stage, rng)))


def _once(stage: Stage, rng: random.Random) -> tuple[Any, list[np.ndarray]]:
    """What must not be carried out twice."""
    body, tensors = m.Open(), []
    while rng.random() < 0.7 or isinstance(body, m.Reads):
        body, tensors = lawful_body(stage, rng)
    if hasattr(body, "stream"):
        body = type(body)(**{name: getattr(body, name) for name in body.__struct_fields__} | {"stream": False})
    return body, tensors


def replayed(stage: Stage, rng: random.Random) -> Exchange:
    """The same number again, with the same words or others: the answer is the first one, to the byte."""
    first = stage.ann.pack(*_once(stage, rng))
    number = stage.ann.number
    again = [first if rng.random() < 0.6 else stage.ann.pack(*_once(stage, rng), number=number) for _ in range(2)]
    return Exchange([first, *again], [None] * 3, in_turn=True, same=True)


def acknowledged(stage: Stage, rng: random.Random) -> Exchange:
    """A number whose reply was had, and one lower than any: neither is carried out."""
    first = stage.ann.pack(*_once(stage, rng))
    number = rng.choice([stage.ann.number, rng.randrange(stage.ann.number + 1), 0])
    late = stage.ann.pack(*_once(stage, rng), number=number, answered=stage.ann.number)
    return Exchange([first, late], [None, frozenset({"reply_gone"})], in_turn=True)


def joined(stage: Stage, rng: random.Random) -> Exchange:
    """Three times at once under one number."""
    session = stage.sessions[rng.choice(OWN)]
    body, tensors = rng.choice(
        [
            (m.Prefill(session=session, max_new_tokens=3), [ids(16)]),
            (m.Generate(session=session, max_new_tokens=3), [ids(2)]),
            (m.Resume(session=session, max_new_tokens=3), []),
        ]
    )
    return Exchange([stage.ann.pack(body, tensors)] * 3, [None] * 3, joined=True)


def at_work(stage: Stage, rng: random.Random) -> Exchange:
    """All of one session at once."""
    session = stage.sessions[rng.choice(OWN)]
    first = rng.choice(
        [
            (m.Prefill(session=session, max_new_tokens=6), [ids(16)]),
            (m.Generate(session=session, max_new_tokens=6, stream=True), [ids(2)]),
            (m.Resume(session=session, max_new_tokens=6), []),
        ]
    )
    others = [lawful_body(stage, rng) for _ in range(rng.randrange(1, 3))]
    if rng.random() < 0.1:
        others.append((rng.choice([m.Cancel, m.Close])(session=session), []))
    messages = [stage.ann.pack(*each, answered=0) for each in (first, *others)]
    return Exchange(messages, [None] * len(messages))


def crowded(stage: Stage, rng: random.Random) -> Exchange:
    """More at once, or more sessions, than one owner may have."""
    if rng.random() < 0.3:
        messages = [stage.ann.pack(m.Open(), answered=0) for _ in range(6)]
    else:
        calls = [m.Generate(session=stage.sessions[slot], max_new_tokens=3) for slot in (*OWN, "paused", "kept")]
        messages = [stage.ann.pack(call, [ids(1)], answered=0) for call in calls]
    return Exchange(messages, [None] * 6)


NUMBERS: dict[Callable[[Stage, random.Random], Exchange], int] = {
    lawful: 8,
    replayed: 2,
    acknowledged: 2,
    joined: 1,
    at_work: 2,
    crowded: 1,
}
