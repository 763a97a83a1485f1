"""Calls that a well-meant client would not make, and how often the others are made in which way."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

import djinn
from benchmarks.soak.programs import HIDDEN, PROMPT, VOCABULARY, Place
from djinn.client.results import Checkpoint
from djinn.errors import BadRequest, DjinnError, IllegalMove, NoSuchSession

WAYS = ("", "many", "elsewhere", "twice", "cut", "deaf")
OFTEN = (55, 20, 8, 8, 5, 4)
Wrong = tuple[str, type[DjinnError], Callable[[], object]]


def again(pending: djinn.Pending) -> None:
    """Send a request a second time under its number, as a client does whose connection broke."""
    connection = pending.connection
    if frames := connection._unanswered.get(pending._number):
        connection._send(frames)


def wrong(session: djinn.Session, place: Place, endpoint: str) -> list[Wrong]:
    """What is wrong with it, what it must be refused with, and the call."""

    def by_a_stranger() -> None:
        with djinn.connect(endpoint) as stranger:
            stranger.attach(session.id)

    found: list[Wrong] = [
        ("a token outside the vocabulary", BadRequest, lambda: session.generate([VOCABULARY], max_new_tokens=1)),
        ("fewer than no tokens", BadRequest, lambda: session.generate([1], max_new_tokens=-1)),
        ("a layer that is not there", BadRequest, lambda: session.generate([1], max_new_tokens=1, break_at=99)),
        ("more tokens than the server takes", BadRequest, lambda: session.generate([1], max_new_tokens=10**6)),
        ("a pause that is over", IllegalMove, lambda: session.resume(_over(session), max_new_tokens=1)),
        ("a checkpoint that never was", IllegalMove, lambda: session.resume(Checkpoint(session, "checkpoint@1-99", 1))),
        ("a stranger's look", NoSuchSession, by_a_stranger),
    ]
    if place[0]:
        nan = np.full((1, len(PROMPT), HIDDEN), np.nan)
        found.append(("numbers that are none", BadRequest, lambda: session.resume(activation=nan)))
        found.append(("a second prompt", IllegalMove, lambda: session.prefill([1, 2, 3])))
    return found


def _over(session: djinn.Session) -> djinn.Pause:
    return djinn.Pause(session, "pause-0", 1, 1, np.zeros(0, np.int64))
