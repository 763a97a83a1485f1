"""Cold samples: sessions paused and evicted, the arena full of others, and one of them resumed."""

from __future__ import annotations

from typing import Any

import numpy as np

import djinn
from benchmarks.metal.bench import FILLERS, settle
from evaluation.parking import put_aside

MANY = 1000  # sessions; an arena that they do not fill is another than was asked for


class NotCold(RuntimeError):
    """A sample that should have been cold was not, or the arena was not full."""


class Arena:
    """The arena of one server, kept full by idle sessions that nobody waits for."""

    def __init__(self, client: djinn.Client, prompts: np.ndarray) -> None:
        self.client, self.prompts, self.filled = client, prompts, 0
        self.need = prompts.shape[1] * client.server.model["kv_bytes_per_token"]
        self.most = client.stats()["bytes"]["arena_bytes"] // self.need + FILLERS
        self.fillers: list[djinn.Session] = []

    def free(self) -> int:
        return self.client.stats()["bytes"]["arena_free_bytes"]

    def fill(self) -> None:
        """Idle sessions until no further one would fit."""
        for _ in range(MANY):
            if self.free() < self.need:
                return settle(self.client)
            session = self.client.open()
            session.prefill(self.prompts[self.filled % len(self.prompts)], logits="none")
            self.keep(session)
        raise NotCold(f"{MANY} sessions do not fill the arena")

    def keep(self, session: djinn.Session) -> None:
        """One more idle session for the arena; the oldest goes, so that the host pool is not filled with them."""
        self.filled += 1
        self.fillers.append(session)
        if len(self.fillers) > self.most:
            self.fillers.pop(0).close()

    def empty(self) -> None:
        for session in self.fillers:
            session.close()
        self.fillers = []


class Cold:
    """Call it for one cold resume of a pause at `layer` (None: an idle session with its first token chosen).

    Sessions are prepared `parked` at a time, untimed: prefilled, parked, on the host. The arena is full when one is resumed.
    """

    def __init__(self, arena: Arena, prompts: np.ndarray, layer: int | None, parked: int, still: bool = True) -> None:
        self.arena, self.prompts, self.layer, self.parked = arena, prompts, layer, parked
        self.still = still  # nothing else moves: a sample waits until copies of the one before have ended
        self.ready: list[djinn.Session] = []
        self.done: list[djinn.Session] = []
        self.logits: np.ndarray | None = None  # of the last sample of prompt 0

    def __call__(self) -> dict[str, Any]:
        """Stamps of the resume, and `fresh`: whether the arena had been filled for it just before."""
        fresh = not self.ready
        if fresh:
            self.prepare()
        number = len(self.done)
        session = self.ready.pop(0)
        if self.still:
            self.arena.fill()
        state, free = session.state, self.arena.free()
        if state != "host" or (self.still and free >= self.arena.need):
            raise NotCold(f"the session is {state}, {free} bytes of the arena are free")
        out = session.resume(max_new_tokens=0 if self.layer else 1)
        if number == 0:
            self.logits = out.logits
        self.done.append(session)
        return out.stamps | {"fresh": fresh}

    def prepare(self) -> None:
        self.close()
        self.ready = [self.arena.client.open() for _ in range(self.parked)]
        for session, prompt in zip(self.ready, self.prompts, strict=False):
            if self.layer is None:
                session.prefill(prompt, max_new_tokens=1, logits="none")
            else:
                session.prefill(prompt, break_at=self.layer)
        put_aside(self.ready)
        self.arena.fill()

    def close(self) -> None:
        for session in [*self.ready, *self.done]:
            session.close()
        self.ready, self.done = [], []
