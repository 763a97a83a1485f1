"""Somebody who uses the server as it is meant, beside the bad input: what he gets stays the same to the bit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import numpy as np

import djinn
from djinn.wire import messages as m
from fuzz.exchange import Actor, Frames
from fuzz.house import HIDDEN
from fuzz.stage import ids

Reply = tuple[Any, list[np.ndarray]]


class Honest:
    """`step()` asks one thing more, `seen` is what came of all of them; `session` is his first, for others to aim at."""

    def __init__(self, client: str) -> None:
        self._actor = Actor("honest", client)
        self._script = self._play()
        self._next = next(self._script)
        self.session, self.over = "", False
        self.asked: list[tuple[Any, list[np.ndarray]]] = []
        self.seen: list[Any] = []

    def step(self, ask: Callable[[Frames], Reply]) -> None:
        """`ask` may raise: the same is asked again next time."""
        body, tensors = self._next
        reply = ask(self._actor.pack(body, tensors))
        self.asked.append((body, tensors))
        self.seen.append(_bits(reply))
        try:
            self._next = self._script.send(reply)
        except StopIteration:
            self.over = True

    def _play(self) -> Iterator[tuple[Any, list[np.ndarray]]]:
        yield m.Hello(), []
        opened, _ = yield m.Open(), []
        one = self.session = opened.session
        pause, _ = yield m.Prefill(session=one, break_at=2), [ids(24)]
        yield m.FetchActivation(session=one, name=pause.name), []
        edits = (djinn.Scale(0.9), djinn.Add([0.1] * HIDDEN, positions=(0, -1)))
        pause, _ = yield (
            m.Resume(session=one, pause=pause.name, edits=edits, max_new_tokens=3, break_at=3, break_token=2),
            [],
        )
        yield m.Park(session=one), []
        _, (state,) = yield m.FetchActivation(session=one, name=pause.name), []
        yield m.Attach(session=one), []
        opened, _ = yield m.Fork(session=one), []
        fork = opened.session
        yield m.Resume(session=one, pause=pause.name, max_new_tokens=2, logits="all"), [state * np.float32(1.5)]
        yield m.Generate(session=one, max_new_tokens=4, sampling=djinn.Sampling(0.8, 20, 0.9, seed=3)), [ids(4, 9)]
        opened, _ = yield m.Open(), []
        two = opened.session
        out, _ = yield m.Prefill(session=two, checkpoint_at=(1, 3), max_new_tokens=3), [ids(16, 2)]
        yield m.Resume(session=two, checkpoint=out.checkpoints[3], edits=(djinn.Ablate(positions=(2,)),)), []
        yield m.Park(session=two), []
        yield m.Resume(session=two, checkpoint=out.checkpoints[1], max_new_tokens=5, stop_tokens=(77,)), []
        yield m.Discard(session=two, name=out.checkpoints[1]), []
        yield m.Close(session=two), []
        yield m.Resume(session=fork, max_new_tokens=3, edits=(djinn.Scale(1.1),)), []
        yield m.Generate(session=one, max_new_tokens=1), [ids(0)]
        yield m.Close(session=fork), []
        yield m.Close(session=one), []


def _bits(reply: Reply) -> Any:
    """What of a reply is the same in every run: not its stamps, nor what sessions and states are called."""
    body, tensors = reply
    return _without_names(msgspec.to_builtins(body)), [tensor.tobytes() for tensor in tensors]


def _without_names(fields: dict[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in fields.items() if key not in ("stamps", "session", "name")}
    if kept.get("pause"):
        kept["pause"] = _without_names(kept["pause"])
    if isinstance(kept.get("checkpoints"), dict):
        kept["checkpoints"] = sorted(kept["checkpoints"])  # the layers
    return kept
