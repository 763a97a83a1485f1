"""Messages that are well-formed, and mean what cannot be: each kind a function of the stage and a random stream."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any

import numpy as np

import djinn
from djinn.wire import messages as m
from fuzz.exchange import OK, REFUSED, Exchange, May, one
from fuzz.house import HIDDEN, LAYERS, TOKENS, VOCABULARY
from fuzz.stage import OWN, ROWS, STILL, Stage, ids

AIMED = (*OWN, *STILL, "honest")  # at what its owner misuses; the honest one's goes on as if nothing had been
NOWHERE: May = frozenset({"no_such_session"})
HUGE = (2**31, 2**53, 2**62, -(2**62))
NAN, INF = math.nan, math.inf


def an_op(rng: random.Random, session: str) -> tuple[Any, list[np.ndarray]]:
    """Any request that names a session, as it would be meant."""
    name = rng.choice(["pause-1", "checkpoint@1-1", "checkpoint@3-2"])
    return rng.choice(
        [
            (m.Prefill(session=session, break_at=2), [ids()]),
            (m.Generate(session=session, max_new_tokens=2), [ids(2)]),
            (m.Resume(session=session, max_new_tokens=1), []),
            (m.Resume(session=session, checkpoint=name), []),
            (m.FetchActivation(session=session, name=name), []),
            (m.Discard(session=session, name=name), []),
            (m.Park(session=session), []),
            (m.Park(session=session, durable=True), []),
            (m.Cancel(session=session), []),
            (m.Close(session=session), []),
            (m.Describe(session=session), []),
            (m.Attach(session=session), []),
        ]
    )


def a_call(rng: random.Random, session: str, **how: Any) -> tuple[Any, list[np.ndarray]]:
    """One that computes, with these arguments."""
    kind = rng.choice([m.Prefill, m.Generate, m.Resume])
    return kind(session=session, **how), [] if kind is m.Resume else [ids(rng.randrange(1, ROWS))]


def refused(stage: Stage, rng: random.Random, body: Any, tensors: Any = (), slot: str | None = None) -> Exchange:
    return one(stage.owner_of(slot or "fresh").pack(body, tensors), REFUSED)


def wrong_session(stage: Stage, rng: random.Random) -> Exchange:
    key = rng.choice(["0" * 32, "", "x" * 64, "\x00" * 8, "ß" * 20, f"{rng.getrandbits(128):032x}", None])
    body, tensors = an_op(rng, stage.sessions["ended"] if key is None else key)
    if isinstance(body, m.Describe) and key is None:  # how one's own session ended may be read
        return one(stage.ann.pack(body, tensors), frozenset({OK}))
    return one(stage.ann.pack(body, tensors), frozenset({OK}) if isinstance(body, m.Close) else NOWHERE)


def anothers_session(stage: Stage, rng: random.Random) -> Exchange:
    thief, theirs = rng.choice(
        [(stage.ann, "bobs"), (stage.ann, "honest"), (stage.bob, "honest"), (stage.bob, "still")]
    )
    body, tensors = an_op(rng, stage.sessions[theirs])
    return one(thief.pack(body, tensors), frozenset({OK}) if isinstance(body, m.Close) else NOWHERE)


def pause_over(stage: Stage, rng: random.Random) -> Exchange:
    slot = rng.choice(AIMED)
    gone = "pause-1" if slot == "moved" else rng.choice(["pause-999", "", "checkpoint@9-9", "pause--1", "x" * 64])
    session = stage.sessions[slot]
    kinds = [
        m.Resume(session=session, pause=gone, max_new_tokens=1),
        m.Resume(session=session, checkpoint=gone),
        m.FetchActivation(session=session, name=gone),
        m.Discard(session=session, name=gone),
    ]
    if slot == "still":  # what it stands at cannot be thrown away
        kinds.append(m.Discard(session=session, name="pause-1"))
    return refused(stage, rng, rng.choice(kinds), slot=slot)


def out_of_range(stage: Stage, rng: random.Random) -> Exchange:
    slot = rng.choice(AIMED)
    layer = rng.choice([0, -1, LAYERS + 1, *HUGE])
    how = rng.choice(
        [
            {"break_at": layer},
            {"break_at": 2, "break_token": rng.choice([0, -1, 3, *HUGE]), "max_new_tokens": 2},
            {"break_token": 1, "max_new_tokens": 2},
            {"max_new_tokens": rng.choice([-1, TOKENS + 1, *HUGE])},
        ]
    )
    body, tensors = a_call(rng, stage.sessions[slot], **how)
    choice = rng.randrange(4)
    if choice == 0:
        body = m.Prefill(session=stage.sessions[slot], checkpoint_at=(1, layer))
        tensors = [ids()]
    elif choice == 1:
        token = rng.choice([-1, VOCABULARY, 2**63 - 1, -(2**63)])
        body, tensors = m.Generate(session=stage.sessions[slot], max_new_tokens=1), [np.array([1, token, 2])]
    elif choice == 2:
        edit = rng.choice([djinn.Scale, djinn.Ablate])
        at = {"positions": (0, rng.choice([TOKENS, -TOKENS - 1, *HUGE]))}
        body, tensors = m.Resume(session=stage.sessions[slot], edits=(edit(*[2.0] * (edit is djinn.Scale), **at),)), []
    return refused(stage, rng, body, tensors, slot)


def wrong_sampling(stage: Stage, rng: random.Random) -> Exchange:
    slot = rng.choice(AIMED)
    sampling = rng.choice(
        [{"temperature": t} for t in (-0.1, 1e-30, NAN, INF)]
        + [{"top_k": k} for k in (0, -5, -(2**62))]
        + [{"top_p": p} for p in (0.0, -1.0, 1.5, NAN)]
        + [{"seed": -1}]
    )
    how = {"sampling": djinn.Sampling(**sampling), "max_new_tokens": rng.choice([0, 1])}
    return refused(stage, rng, *a_call(rng, stage.sessions[slot], **how), slot)


def not_finite(stage: Stage, rng: random.Random) -> Exchange:
    slot = rng.choice(["still", "paused", "parked", "honest"])
    session, state = stage.sessions[slot], np.full((1, ROWS, HIDDEN), 0.5, np.float32)
    state[0, rng.randrange(ROWS), rng.randrange(HIDDEN)] = rng.choice([NAN, INF, -INF])
    edits = [
        djinn.Scale(rng.choice([NAN, INF, 1e39])),
        djinn.Add([rng.choice([NAN, 1e300])] * HIDDEN),
        djinn.Set([INF] * HIDDEN),
        djinn.ProjectOut(rng.choice([[0.0] * HIDDEN, [NAN] * HIDDEN])),
    ]
    how = rng.choice([{}, {"break_at": LAYERS}, {"max_new_tokens": 2}, {"sampling": djinn.Sampling(seed=1)}])
    if rng.random() < 0.5:
        return refused(stage, rng, m.Resume(session=session, **how), [state], slot)
    return refused(stage, rng, m.Resume(session=session, edits=(rng.choice(edits),), **how), (), slot)


def wrong_shape(stage: Stage, rng: random.Random) -> Exchange:
    slot = rng.choice(["still", "paused", "parked", "honest"])
    session = stage.sessions[slot]
    shape = rng.choice(
        [(1, ROWS, HIDDEN - 1), (1, 0, HIDDEN), (HIDDEN,), (1, 1, 1, HIDDEN), (2, ROWS, HIDDEN), (), (0,)]
    )
    state, tokens = np.zeros(shape, np.float32), np.zeros(shape, np.int64)
    vector = djinn.Set([1.0] * rng.choice([0, 1, HIDDEN - 1, HIDDEN + 1, 5000]))
    resume = m.Resume(session=session)
    pairs = [
        (resume, [state]),
        (resume, [np.zeros((1, ROWS, HIDDEN), rng.choice([np.int64, np.float16, np.uint16]))]),
        (resume, [np.zeros((1, ROWS, HIDDEN), np.float32)] * 2),
        (m.Resume(session=session, edits=(vector,)), []),
        (m.Generate(session=session, max_new_tokens=1), [tokens if len(shape) > 1 else tokens.reshape(1, -1)]),
        (m.Generate(session=session, max_new_tokens=1), [state]),
        (m.Prefill(session=session), rng.choice([[], [ids(), ids()], [ids().astype(np.float32)]])),
        (m.Prefill(session=session), [np.zeros(rng.choice([0, TOKENS + 1, 100_000]), np.int64)]),
    ]
    return refused(stage, rng, *rng.choice(pairs), slot)


def wrong_order(stage: Stage, rng: random.Random) -> Exchange:
    virgin, still, moved = (stage.sessions[slot] for slot in STILL)
    body, *tensors = rng.choice(
        [
            (m.Resume(session=virgin),),
            (m.Resume(session=virgin, edits=(djinn.Scale(2.0),)),),
            (m.Resume(session=virgin), np.zeros((1, ROWS, HIDDEN), np.float32)),
            (m.Generate(session=virgin, max_new_tokens=2), ids(0)),
            (m.FetchActivation(session=virgin, name="pause-1"),),
            (m.Park(session=virgin, durable=True),),
            (m.Prefill(session=virgin, break_at=2, checkpoint_at=(1,)), ids()),
            (m.Prefill(session=still), ids()),
            (m.Resume(session=still, break_at=rng.choice([1, 2, 3])),),
            (m.Resume(session=moved, edits=(djinn.Ablate(),)),),
            (m.Prefill(session=moved, max_new_tokens=1), ids(3)),
            (m.Resume(session=still, pause="pause-1", checkpoint="pause-1"),),
        ]
    )
    return refused(stage, rng, body, tensors)


def stranger(stage: Stage, rng: random.Random) -> Exchange:
    """Who did not say hello, or in another version's words."""
    actor = type(stage.ann)("ann", f"stranger-{rng.getrandbits(64)}")
    if rng.random() < 0.3:
        wrong = rng.choice([0, m.PROTOCOL + 1, -1, 2**40])
        return one(stage.rough.pack(m.Hello(protocol=wrong)), frozenset({"protocol"}))
    body = rng.choice([m.Open(), m.Stats(), m.Sessions(), m.Park(session=stage.sessions["still"])])
    return one(actor.pack(body, number=rng.choice([0, 1, 2**63 - 1])), frozenset({"server_gone"}))


MEANINGS: dict[Callable[[Stage, random.Random], Exchange], int] = {
    wrong_session: 5,
    anothers_session: 5,
    pause_over: 5,
    out_of_range: 8,
    wrong_sampling: 4,
    not_finite: 5,
    wrong_shape: 7,
    wrong_order: 5,
    stranger: 2,
}
