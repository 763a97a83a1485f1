"""The people of one block of exchanges, and how their sessions stand when it begins.

Every block is set anew, so that it can be played alone: what its exchanges do depends on the seed and their numbers only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import numpy as np

from djinn.wire import messages as m
from fuzz.exchange import Actor, Frames
from fuzz.house import VOCABULARY

ROWS = 20  # of the prompts
OWN = ("fresh", "paused", "kept", "parked")  # slots that anything may happen to
STILL = ("virgin", "still", "moved")  # slots that only what must be refused is aimed at
Ask = Callable[[Frames], tuple[Any, list[np.ndarray]]]  # the lawful way: raises AssertionError where it is refused


def ids(count: int = ROWS, salt: int = 0) -> np.ndarray:
    return (7 * np.arange(count, dtype=np.int64) ** 2 + salt) % VOCABULARY


class Stage:
    """sessions: by slot. recorded: real requests to make others from (body, tensors)."""

    def __init__(self, ask: Ask, block: int, honest: str, recorded: Sequence[tuple[Any, list[np.ndarray]]]) -> None:
        """honest: the session that somebody goes on with meanwhile."""
        self._ask, self.block, self.recorded = ask, block, recorded
        self.ann, self.bob = Actor("ann", f"ann-{block}"), Actor("bob", f"bob-{block}")
        self.honest = Actor("honest", f"misuse-{block}")
        self._wild = 0
        for actor in (self.ann, self.bob, self.honest):
            ask(actor.pack(m.Hello()))
        self.rough = self.replaced()
        self.sessions = {slot: self._open(self.ann) for slot in (*OWN, *STILL, "ended")} | {"honest": honest}
        self.sessions["bobs"] = self._open(self.bob)
        self._prefill("paused", break_at=2)
        self._prefill("parked", break_at=3)
        self._prefill("still", break_at=3)
        self._prefill("moved", break_at=1)
        self._do(m.Resume(session=self.sessions["moved"], max_new_tokens=1))
        self._prefill("kept", checkpoint_at=(1, 3), max_new_tokens=2)
        self._do(m.Park(session=self.sessions["parked"]))
        self._do(m.Cancel(session=self.sessions["ended"]))
        ask(self.bob.pack(m.Prefill(session=self.sessions["bobs"], break_at=2), [ids(salt=5)]))

    def replaced(self) -> Actor:
        """A client of ann's for what may spoil its numbering: after that, another."""
        self._wild += 1
        self.rough = Actor("ann", f"rough-{self.block}-{self._wild}")
        self._ask(self.rough.pack(m.Hello()))
        return self.rough

    def owner_of(self, slot: str) -> Actor:
        return {"honest": self.honest, "bobs": self.bob}.get(slot, self.ann)

    def readdressed(self, index: int, slot: str) -> Frames:
        """A recorded request, as the rough client's about the session of `slot`."""
        body, tensors = self.recorded[index % len(self.recorded)]
        if hasattr(body, "session"):
            body = msgspec.structs.replace(body, session=self.sessions[slot])
        return self.rough.pack(body, tensors)

    def _open(self, actor: Actor) -> str:
        return self._ask(actor.pack(m.Open()))[0].session

    def _do(self, body: m.AnyRequest, *tensors: np.ndarray) -> None:
        self._ask(self.ann.pack(body, tensors))

    def _prefill(self, slot: str, **how: Any) -> None:
        self._do(m.Prefill(session=self.sessions[slot], **how), ids(salt=len(slot)))
