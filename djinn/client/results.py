"""What a call on a session gives: tokens and logits, or where it stands and what is kept there."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from djinn.client.widen import widened
from djinn.wire import messages as m

if TYPE_CHECKING:
    from djinn.client.session import Session


@dataclass(frozen=True, eq=False)
class Out:
    """tokens: int64 `(n,)`, the new ones only. logits: float32 `(vocabulary,)` of the last position computed (those that
    chose `tokens[-1]`, where there is one), or `(positions, vocabulary)` with `logits="all"`, or None.
    stamps: monotonic ns, the server's (accepted, ready, first_layer, logits, resident, done) and the client's
    (client_called, client_received)."""

    tokens: np.ndarray
    logits: np.ndarray | None
    stamps: dict[str, int] = field(default_factory=dict)

    def __repr__(self) -> str:  # logits and stamps would fill the screen
        logits = None if self.logits is None else f"{self.logits.dtype} {self.logits.shape}"
        return f"Out(tokens={self.tokens!r}, logits={logits})"


@dataclass(frozen=True)
class Checkpoint:
    """A layer of a pass that ran on; `session.resume(checkpoint)` rewinds to it, as often as you like. layer: from 1.

    Two are equal when session and name are.
    """

    session: Session
    name: str
    layer: int = field(compare=False)

    def activation(self, out: np.ndarray | None = None) -> np.ndarray:
        """The hidden state after `layer` layers, float32 `(1, tokens, hidden)`, a copy; fetched when called.

        It is the residual stream behind that layer; behind the last it has not gone through the model's final norm.

        out: an array of that shape and dtype to write it to, which is returned: one that is used again and again saves finding
        fresh memory each time, a sixth of what a state of 2,048 tokens by 5,120 takes.
        Raises BadRequest when the pause is over, the checkpoint was discarded, or `out` cannot hold it, IllegalMove while a
        request of the session is under way, NoSuchSession after its end, StorageError and StateRefused where its file fails.
        """
        reply = self.session.connection.ask(m.FetchActivation(session=self.session.id, name=self.name))
        return widened(reply.arrays[0], reply.body.dtype, out)

    def discard(self) -> None:
        """Give its memory back: at once, or when a copy under way has ended.

        Raises BadRequest for the pause that the session stands at, and for what was discarded already.
        """
        self.session.connection.ask(m.Discard(session=self.session.id, name=self.name))


@dataclass(frozen=True)
class Pause(Checkpoint):
    """The forward stands after `layer` layers. tokens: int64 `(n,)`, chosen in this call; the last of them is the stopped
    pass's input, where it stopped in decode. rows: tokens of the stopped pass."""

    rows: int = field(compare=False)
    tokens: np.ndarray = field(compare=False)
    stamps: dict[str, int] = field(default_factory=dict, compare=False, repr=False)

    @property
    def state(self) -> str:
        """Where the session is now: paused, io_wait, evicting, host, …"""
        return self.session.state
