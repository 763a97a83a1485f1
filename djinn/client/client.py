"""Sessions as a user sees them. Shapes and units stand with each call; every call raises typed errors of djinn.errors.

Calls that compute take `wait=False` and then return a `Pending`, so that one client can drive many sessions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec
import numpy as np

from djinn.client.connection import Connection
from djinn.edits import AnyEdit
from djinn.errors import BadRequest
from djinn.wire import messages as m

Logits = Literal["last", "all", "none"]
TokenIds = Sequence[int] | np.ndarray


@dataclass(frozen=True)
class Out:
    """tokens: int64, the new ones only. logits: float32 `(vocabulary,)` of the last position computed, or
    `(positions, vocabulary)` with `logits="all"`, or None. stamps: monotonic ns, the server's (accepted, ready,
    first_layer, logits, resident, done) and the client's (client_called, client_received)."""

    tokens: np.ndarray
    logits: np.ndarray | None
    stamps: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Checkpoint:
    """A layer of a pass that ran on; `session.resume(checkpoint)` rewinds to it."""

    session: Session
    name: str
    layer: int

    def activation(self) -> np.ndarray:
        """The hidden state after `layer` layers, float32 `(1, tokens, hidden)`; fetched when called."""
        reply = self.session.connection.ask(
            m.FetchActivation(session=self.session.id, name=self.name), make=lambda _, arrays: arrays[0]
        )
        return reply.result()


@dataclass(frozen=True)
class Pause(Checkpoint):
    """The forward stands after `layer` layers. tokens: sampled in this call. rows: tokens of the stopped pass."""

    rows: int
    tokens: np.ndarray
    stamps: dict[str, int] = field(default_factory=dict)

    @property
    def state(self) -> str:
        """Where the session is now: paused, io_wait, evicting, host, …"""
        return self.session.state


class Session:
    """One session on the server. Made by `client.open()`."""

    def __init__(self, connection: Connection, key: str) -> None:
        self.connection, self.id = connection, key

    def prefill(
        self,
        token_ids: TokenIds,
        *,
        break_at: int | None = None,
        checkpoint_at: Sequence[int] = (),
        max_new_tokens: int = 0,
        break_token: int | None = None,
        logits: Logits = "last",
        stop_tokens: Sequence[int] = (),
        wait: bool = True,
    ) -> Any:
        """Run the prompt `(n,)` or `(1, n)`.

        break_at=L: stop after L layers (1..num_layers) and return a Pause; with break_token=k, in the pass whose input
        is the k-th new token. checkpoint_at: run on, keep the state after these layers, return `({layer: Checkpoint}, Out)`.
        Else return an Out.
        """
        body = m.Prefill(
            session=self.id,
            checkpoint_at=tuple(checkpoint_at),
            **_common(max_new_tokens, break_at, break_token, logits, stop_tokens),
        )
        return self._run(body, [_ids(token_ids)], wait, keep=bool(checkpoint_at))

    def generate(
        self,
        more_ids: TokenIds = (),
        *,
        max_new_tokens: int,
        break_at: int | None = None,
        break_token: int | None = None,
        logits: Logits = "last",
        stop_tokens: Sequence[int] = (),
        wait: bool = True,
    ) -> Any:
        """Go on with an idle session, with more input (or none): a Pause or an Out."""
        body = m.Generate(session=self.id, **_common(max_new_tokens, break_at, break_token, logits, stop_tokens))
        return self._run(body, [_ids(more_ids, empty=True)], wait)

    def resume(
        self,
        checkpoint: Checkpoint | None = None,
        *,
        activation: np.ndarray | None = None,
        edit: AnyEdit | Sequence[AnyEdit] = (),
        max_new_tokens: int = 0,
        break_at: int | None = None,
        break_token: int | None = None,
        logits: Logits = "last",
        stop_tokens: Sequence[int] = (),
        wait: bool = True,
    ) -> Any:
        """Go on from the pause, or rewind to `checkpoint` and go on from there: a Pause or an Out.

        activation: float32 `(1, rows, hidden)` in place of the kept state. edit: applied to it on the server.
        """
        edits = (edit,) if isinstance(edit, msgspec.Struct) else tuple(edit)
        name = None if checkpoint is None else checkpoint.name
        where = {"pause": name} if isinstance(checkpoint, Pause) else {"checkpoint": name}
        body = m.Resume(
            session=self.id,
            **where,
            edits=edits,
            **_common(max_new_tokens, break_at, break_token, logits, stop_tokens),
        )
        arrays = [] if activation is None else [np.asarray(activation, dtype=np.float32)]
        return self._run(body, arrays, wait)

    def park(self, *, durable: bool = False) -> None:
        """Move to IO_WAIT: the session's memory may be taken, and its eviction starts at once."""
        self.connection.ask(m.Park(session=self.id, durable=durable)).result()

    def cancel(self) -> None:
        """End it, whatever it does; a pass that runs is the last."""
        self.connection.ask(m.Cancel(session=self.id)).result()

    def close(self) -> None:
        """End it and give its memory back."""
        self.connection.ask(m.Close(session=self.id)).result()

    @property
    def state(self) -> str:
        return self.history()[0]

    def history(self) -> tuple[str, tuple[tuple[str, int], ...]]:
        """(state, moves): the last 64 moves as (state, the server's monotonic ns)."""
        reply = self.connection.ask(m.Describe(session=self.id)).result()
        return reply.state, reply.history

    def _run(self, body: m.AnyRequest, arrays: list[np.ndarray], wait: bool, keep: bool = False) -> Any:
        def make(reply: Any, tensors: list[np.ndarray]) -> Any:
            tokens = np.array(reply.tokens, dtype=np.int64)
            if isinstance(reply, m.PausedReply):
                return Pause(self, reply.name, reply.layer, reply.rows, tokens, reply.stamps)
            out = Out(tokens, tensors[0] if tensors else None, reply.stamps)
            if not keep:
                return out
            return {layer: Checkpoint(self, name, layer) for layer, name in reply.checkpoints.items()}, out

        pending = self.connection.ask(body, arrays, make)
        return pending.result() if wait else pending


class Client:
    """A connection to one server; close it, or use it in a `with`. One client for each thread."""

    def __init__(self, endpoint: str, timeout: float = 600.0) -> None:
        self.connection = Connection(endpoint, timeout)
        try:
            self.server: m.Welcome = self.connection.ask(m.Hello()).result(min(timeout, 10.0))
        except BaseException:  # no server there, or Ctrl-C: nobody holds this client who could close it
            self.connection.close()
            raise

    def open(self) -> Session:
        return Session(self.connection, self.connection.ask(m.Open()).result().session)

    def stats(self) -> Mapping[str, Any]:
        """bytes: live bytes by tier and what the tiers hold; sessions: how many in each state; clock_ns."""
        reply = self.connection.ask(m.Stats()).result()
        return {"bytes": reply.bytes, "sessions": reply.sessions, "clock_ns": reply.clock_ns}

    def close(self) -> None:
        self.connection.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def connect(endpoint: str, timeout: float = 600.0) -> Client:
    """Connect to `tcp://host:port`. timeout: seconds to wait for any one reply. Raises ServerGone."""
    return Client(endpoint, timeout)


def _common(
    max_new_tokens: int, break_at: int | None, break_token: int | None, logits: Logits, stop_tokens: Sequence[int]
) -> dict:
    return {
        "max_new_tokens": max_new_tokens,
        "break_at": break_at,
        "break_token": break_token,
        "logits": logits,
        "stop_tokens": tuple(stop_tokens),
    }


def _ids(token_ids: TokenIds, empty: bool = False) -> np.ndarray:
    ids = np.asarray(token_ids)
    if ids.ndim == 2 and ids.shape[0] == 1:
        ids = ids[0]
    if ids.ndim != 1 or (ids.size and not np.issubdtype(ids.dtype, np.integer)):
        raise BadRequest(f"token ids must be integers of shape (n,) or (1, n), not {ids.dtype} {ids.shape}")
    if not (ids.size or empty):
        raise BadRequest("an empty prompt: give at least one token")
    return ids.astype(np.int64)
