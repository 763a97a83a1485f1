"""Sessions as a user sees them. Shapes and units stand with each call; every call raises typed errors of djinn.errors."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Literal

import msgspec
import numpy as np

from djinn.client import arguments
from djinn.client.arguments import TokenIds
from djinn.client.connection import Connection
from djinn.client.pending import Pending, Stream
from djinn.client.results import Checkpoint, Out, Pause
from djinn.edits import AnyEdit
from djinn.errors import BadRequest
from djinn.sampling import Sampling
from djinn.wire import messages as m

Logits = Literal["last", "all", "none"]


class Session:
    """One session on the server. Made by `client.open()`.

    The calls that compute share these keywords:
    max_new_tokens: tokens to choose. break_at=L: stop after L layers (1..num_layers) and return a Pause, in the pass at
    hand; with break_token=k in the pass whose input is the k-th new token (an Out, where a stop token is met before it).
    logits: float32, `(vocabulary,)` of the last position computed ("last": those that chose `tokens[-1]`, where any token
    was), `(positions, vocabulary)` of all that the call computes ("all"), or None ("none"). stop_tokens: ids that end the
    call, kept in its tokens. sampling: from this call on, with its seed; None goes on with the session's (greedy at
    first). wait=False returns a Pending at once, stream=True a Stream.
    They raise BadRequest, IllegalMove, OutOfMemory, NotFinite, NoSuchSession, LimitReached (requests under way), Draining,
    StateRefused and StorageError (of a session that came back from its file), and ServerGone.
    """

    def __init__(self, connection: Connection, key: str, max_tokens: int | None = None) -> None:
        self.connection, self.id, self._max_tokens = connection, key, max_tokens

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Session) and self.id == other.id

    def __hash__(self) -> int:
        return hash(self.id)

    def __repr__(self) -> str:
        return f"Session({self.id!r})"

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
        sampling: Sampling | None = None,
        wait: bool = True,
        stream: bool = False,
    ) -> Any:
        """Run the prompt, integers `(n,)` or `(1, n)`: a Pause or an Out.

        checkpoint_at: run on, keep the state after these layers, return `({layer: Checkpoint}, Out)`. Raises BadRequest,
        OutOfMemory, and IllegalMove if the session holds tokens already.
        """
        body = m.Prefill(
            session=self.id,
            checkpoint_at=checkpoint_at,
            max_new_tokens=max_new_tokens,
            break_at=break_at,
            break_token=break_token,
            logits=logits,
            stop_tokens=stop_tokens,
            sampling=sampling,
            stream=stream,
        )
        return self._run(body, [arguments.token_ids(token_ids, self._max_tokens)], wait)

    def generate(
        self,
        more_ids: TokenIds = (),
        *,
        max_new_tokens: int,
        break_at: int | None = None,
        break_token: int | None = None,
        logits: Logits = "last",
        stop_tokens: Sequence[int] = (),
        sampling: Sampling | None = None,
        wait: bool = True,
        stream: bool = False,
    ) -> Any:
        """Go on, with more input, integers `(n,)` or `(1, n)`, or none: a Pause or an Out. A paused session finishes its
        pass first, unedited. Raises BadRequest, OutOfMemory, NotFinite, and IllegalMove where the session holds nothing to
        go on from or a request of it is under way.
        """
        body = m.Generate(
            session=self.id,
            max_new_tokens=max_new_tokens,
            break_at=break_at,
            break_token=break_token,
            logits=logits,
            stop_tokens=stop_tokens,
            sampling=sampling,
            stream=stream,
        )
        return self._run(body, [arguments.token_ids(more_ids, self._max_tokens, empty=True)], wait)

    def resume(
        self,
        checkpoint: Checkpoint | None = None,
        *,
        activation: np.ndarray | None = None,
        edit: AnyEdit | Sequence[AnyEdit] | None = (),
        max_new_tokens: int = 0,
        break_at: int | None = None,
        break_token: int | None = None,
        logits: Logits = "last",
        stop_tokens: Sequence[int] = (),
        sampling: Sampling | None = None,
        wait: bool = True,
        stream: bool = False,
    ) -> Any:
        """Go on from the pause, rewind to `checkpoint` and go on from there, or go on with an idle session: a Pause or an Out.

        activation: floats `(1, rows, hidden)` in place of the kept state. edit: one or several, applied to it in turn on
        the server. A rewind brings the sampling and its random stream back too. Raises BadRequest, OutOfMemory, and
        IllegalMove where the session holds nothing to go on from or the pause or checkpoint is over.
        """
        if not isinstance(checkpoint, Checkpoint | None):
            raise BadRequest(f"resume() takes a Pause or a Checkpoint, not {type(checkpoint).__name__}")
        if checkpoint is not None and checkpoint.session.id != self.id:
            raise BadRequest("that is a pause or checkpoint of another session: resume it there")
        name = None if checkpoint is None else checkpoint.name
        body = m.Resume(
            session=self.id,
            pause=name if isinstance(checkpoint, Pause) else None,
            checkpoint=None if isinstance(checkpoint, Pause) else name,
            edits=(edit,) if isinstance(edit, msgspec.Struct) else edit,
            max_new_tokens=max_new_tokens,
            break_at=break_at,
            break_token=break_token,
            logits=logits,
            stop_tokens=stop_tokens,
            sampling=sampling,
            stream=stream,
        )
        return self._run(body, [] if activation is None else [arguments.activation(activation)], wait)

    def fork(self) -> Session:
        """Another session that stands where this one does, its pause and its checkpoints among it; each goes on by itself.

        Nothing is copied until one of them does. Raises IllegalMove while a request of it is under way, or where its only
        bytes are its durable file's, and LimitReached.
        """
        return Session(self.connection, self.connection.ask(m.Fork(session=self.id)).body.session, self._max_tokens)

    def park(self, *, durable: bool = False) -> None:
        """Move to IO_WAIT: the session's memory may be taken, and its eviction starts at once.

        durable: return when it is in a file of the server's `state_dir`, from which it comes back after a crash.
        Raises IllegalMove while a request of it is under way, and NoSuchSession; durable also BadRequest where the server
        has no `state_dir`, OutOfMemory where the file has no room, and StorageError: it is parked all the same.
        """
        self.connection.ask(m.Park(session=self.id, durable=durable))

    def cancel(self) -> None:
        """End it, whatever it does; a pass that runs is the last. A call under way raises IllegalMove.

        Raises NoSuchSession where it has ended already.
        """
        self.connection.ask(m.Cancel(session=self.id))

    def close(self) -> None:
        """End it and give its memory back. Closing what has ended does nothing; a call under way raises as by cancel()."""
        self.connection.ask(m.Close(session=self.id))

    @property
    def state(self) -> str:
        """Where it stands on the server now: a value of `djinn.states.State`."""
        return self.history()[0]

    def history(self) -> tuple[str, tuple[tuple[str, int], ...]]:
        """(state, moves): the last 64 moves as (state, the server's monotonic ns), after its end too.

        Raises NoSuchSession where it is not one of this client's, or ended long ago.
        """
        body = self.connection.ask(m.Describe(session=self.id)).body
        return body.state, body.history

    @property
    def lease_left_s(self) -> float | None:
        """Seconds for which it is kept if its owner gives no sign of life from now on; None when it has ended."""
        return self.connection.ask(m.Describe(session=self.id)).body.lease_left_s

    @property
    def pause(self) -> Pause | None:
        """The pause at which it stands now; `tokens` and `stamps` of the call that made it are not known any more.

        None where it stands at none. Raises NoSuchSession after its end.
        """
        kept = self.look().pause
        return None if kept is None else Pause(self, kept.name, kept.layer, kept.rows, np.zeros(0, np.int64))

    @property
    def checkpoints(self) -> dict[int, Checkpoint]:
        """What can be rewound to now, by layer. Raises NoSuchSession after its end."""
        return {kept.layer: Checkpoint(self, kept.name, kept.layer) for kept in self.look().checkpoints}

    @property
    def token_ids(self) -> np.ndarray:
        """All tokens that it holds now, given and chosen, int64 `(n,)`. Raises NoSuchSession after its end."""
        return np.array(self.look().token_ids, dtype=np.int64)

    def look(self) -> m.Attached:
        """What the server knows to go on from: token_ids, pause, checkpoints. Raises NoSuchSession."""
        return self.connection.ask(m.Attach(session=self.id)).body

    def _run(self, body: m.Prefill | m.Generate | m.Resume, arrays: list[np.ndarray], wait: bool) -> Any:
        def make(reply: Any, tensors: list[np.ndarray]) -> Any:
            tokens = np.array(reply.tokens, dtype=np.int64)
            if isinstance(reply, m.PausedReply):
                return Pause(self, reply.name, reply.layer, reply.rows, tokens, reply.stamps)
            out = Out(tokens, tensors[0] if tensors else None, reply.stamps)
            if not reply.checkpoints:
                return out
            return {layer: Checkpoint(self, name, layer) for layer, name in reply.checkpoints.items()}, out

        called_ns = time.monotonic_ns()
        kind = Stream if body.stream else Pending
        pending = kind(self.connection, self.connection.send(arguments.settled(body), arrays), called_ns, make)
        return pending.result() if wait and not body.stream else pending
