"""What the sessions of the soak do, and what each step of it gives where nothing disturbs it.

A program is a chain of calls. Where a session stands is a place in it: how many steps are done, and how far the next one
came before a server that was told to go stopped it between two tokens. The tokens, pause and checkpoints that `attach`
tells say which place that is, so that a session can be found again without having been told.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

import djinn

VOCABULARY, HIDDEN = 512, 256  # of tiny-llama
PROMPT = [(7 * i * i + 3) % 509 for i in range(72)]
Place = tuple[
    int, int
]  # steps done; and of the next one 0: nothing, 1: its input was computed, 1 + n: and n tokens chosen
BEGIN: Place = (0, 0)


@dataclass(frozen=True)
class Step:
    call: str  # prefill, generate, or resume
    new: int = 0
    ids: tuple[int, ...] = ()
    break_at: int | None = None
    break_token: int | None = None
    checkpoint_at: tuple[int, ...] = ()
    rewind: int | None = None  # to the checkpoint of that layer
    edit: tuple[Any, ...] = ()
    times: float | None = None  # the kept activation is fetched, multiplied, and given back
    sampling: djinn.Sampling | None = None
    logits: str = "last"


@dataclass(frozen=True)
class Look:
    """What tells where a session stands."""

    token_ids: tuple[int, ...] = ()
    pause: int | None = None
    checkpoints: tuple[int, ...] = ()


@dataclass(frozen=True)
class Given:
    """What a step gives: tokens, logits (none where it pauses), and the hidden states kept then, by layer."""

    tokens: tuple[int, ...]
    logits: np.ndarray | None
    hidden: dict[int, np.ndarray]


@dataclass(frozen=True)
class Program:
    steps: tuple[Step, ...]
    looks: tuple[Look, ...] = (Look(),)  # at each place with no step half done
    given: tuple[Given, ...] = ()  # by each step

    def look(self, place: Place) -> Look:
        at, done = place
        if not done:
            return self.looks[at]
        target = self.looks[at + 1]
        whole = len(target.token_ids) - len(self.given[at].tokens)
        return Look(target.token_ids[: whole + done - 1], None, target.checkpoints)

    def half_way(self, at: int) -> list[Place]:
        """The places between two tokens of the step behind `at`."""
        tokens = len(self.given[at].tokens)
        return [(at, done) for done in range(1, 1 + tokens)] if self.steps[at].new else []

    def find(self, look: Look, places: Iterable[Place]) -> Place | None:
        """Which of the places it is."""
        return next((place for place in places if self.look(place) == look), None)

    @property
    def end(self) -> int:
        return len(self.steps)


DRAWN = djinn.Sampling(temperature=0.9, top_k=40, seed=11)
ALONG = [((7 * i) % 13 - 6) / 8 for i in range(HIDDEN)]
MORE = (5, 40, 300)
STEPS: dict[str, tuple[Step, ...]] = {
    "paused and edited": (
        Step("prefill", break_at=3),
        Step("resume", new=3, edit=(djinn.Scale(0.9),)),
        Step("generate", new=4, sampling=DRAWN),
        Step("generate", new=4, ids=MORE, break_at=5, break_token=2),
        Step("resume", new=4, edit=(djinn.ProjectOut(ALONG), djinn.Scale(1.1, positions=(-1,)))),
    ),
    "rewound": (
        Step("prefill", checkpoint_at=(3, 6), sampling=DRAWN),
        Step("resume", new=4, rewind=6),
        Step("resume", new=3, rewind=3, edit=(djinn.Add(ALONG),)),
        Step("generate", new=3),
    ),
    "given another activation": (
        Step("prefill", break_at=6),
        Step("resume", new=4, times=0.5),
        Step("generate", break_at=4, new=5, break_token=3),
        Step("resume", new=3, times=1.5),
    ),
    "chosen token by token": (
        Step("prefill", new=5, sampling=djinn.Sampling(temperature=1.2, top_p=0.9, seed=5)),
        Step("generate", new=9),
        Step("generate", new=3, ids=MORE, logits="all"),
    ),
}
NAMES = [f"{name}, {by}" for name in STEPS for by in (0, 17, 53)]


def prompt_of(name: str) -> list[int]:
    by = int(name.rpartition(", ")[2])
    return PROMPT[by:] + PROMPT[:by]


def look(session: djinn.Session) -> Look:
    told = session.look()
    layers = sorted(one.layer for one in told.checkpoints)
    return Look(tuple(told.token_ids), told.pause and told.pause.layer, tuple(layers))


def kept(session: djinn.Session, layer: int) -> djinn.client.session.Checkpoint:
    """The pause or the checkpoint behind that layer."""
    pause = session.pause
    return pause if pause is not None and pause.layer == layer else session.checkpoints[layer]


def begin(session: djinn.Session, name: str, step: Step, done: int = 0, stream: bool = False) -> djinn.Pending:
    """Ask for a step, or for the rest of one that came so far."""
    chosen = max(0, done - 1)
    how: dict[str, Any] = {"stream": True} if stream else {"wait": False}
    how |= {"max_new_tokens": step.new - chosen, "break_at": step.break_at, "logits": step.logits}
    if step.break_token is not None:
        how["break_token"] = step.break_token - chosen
    if done:
        return session.generate(**how)
    how["sampling"] = step.sampling
    if step.call == "prefill":
        return session.prefill(prompt_of(name), checkpoint_at=step.checkpoint_at, **how)
    if step.call == "generate":
        return session.generate(step.ids, **how)
    source = None if step.rewind is None else session.checkpoints[step.rewind]
    hidden = None if step.times is None else session.pause.activation() * np.float32(step.times)
    return session.resume(source, edit=step.edit, activation=hidden, **how)


def out_of(result: Any) -> djinn.Out | djinn.Pause:
    """Without the checkpoints that a prefill gives beside it."""
    return result[1] if isinstance(result, tuple) else result


def same(result: Any, given: Given, done: int = 0) -> bool:
    """Whether it is, to the bit, what the step gives, or the rest of it."""
    out = out_of(result)
    if tuple(out.tokens.tolist()) != given.tokens[max(0, done - 1) :]:
        return False
    if given.logits is None:
        return isinstance(out, djinn.Pause)
    if done:  # of the rows only the last is certain to be of both
        rows = np.atleast_2d(out.logits)
        if not len(rows):  # no pass ran: one token was left, and is chosen of logits that were there
            return len(out.tokens) == 1
        return np.array_equal(rows[-1], np.atleast_2d(given.logits)[-1])
    return np.array_equal(out.logits, given.logits)


def learned(client: djinn.Client) -> dict[str, Program]:
    """Every program, run undisturbed on a server that has nothing else to do."""
    return {name: _learned(client, name, STEPS[name.rpartition(", ")[0]]) for name in NAMES}


def _learned(client: djinn.Client, name: str, steps: tuple[Step, ...]) -> Program:
    session, looks, given = client.open(), [Look()], []
    for step in steps:
        out = out_of(begin(session, name, step).result())
        looks.append(look(session))
        layers = {*looks[-1].checkpoints, *([looks[-1].pause] if looks[-1].pause else [])}
        hidden = {layer: kept(session, layer).activation() for layer in layers}
        logits = None if isinstance(out, djinn.Pause) else out.logits
        given.append(Given(tuple(out.tokens.tolist()), logits, hidden))
    session.close()
    assert len(set(looks)) == len(looks), f"two places of {name} look the same"
    return Program(steps, tuple(looks), tuple(given))
