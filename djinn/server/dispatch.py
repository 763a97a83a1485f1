"""From frames to the engine and back: who asks, whether he may, and what is to be done. Knows no socket.

`handle` takes the frames of one request; replies leave through `send`, now or from another thread. It raises nothing that a
client could cause.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from djinn.engine.engine import Engine
from djinn.engine.session import Result, Session
from djinn.errors import DjinnError, LimitReached, NotAllowed, ProtocolError
from djinn.server.leases import Leases
from djinn.server.limits import ServerLimits
from djinn.server.replies import Call, Replies, Send
from djinn.server.requests import (
    Computes,
    check_activation_size,
    check_reply_size,
    failure,
    fault,
    reply_of,
    work_of,
)
from djinn.states import State
from djinn.wire import messages as m
from djinn.wire.frames import pack, unpack

log = logging.getLogger(__name__)


def owner_of(key: bytes | None, token: str) -> str:
    """To whom a session belongs: to a client's public key, or without keys to a token, of which only a digest is kept."""
    return f"key:{key.decode()}" if key is not None else f"token:{hashlib.sha256(token.encode()).hexdigest()}"


class Dispatcher:
    def __init__(
        self,
        engine: Engine,
        welcome: m.Welcome,
        limits: ServerLimits,
        leases: Leases,
        send: Send,
        connected: Callable[[bytes], bool],
    ) -> None:
        """connected: looks for the client that a peer is; called by the thread that calls `handle`."""
        self.engine, self.welcome, self.limits, self.leases = engine, welcome, limits, leases
        self.replies = Replies(send, limits.max_requests, connected)
        self._send, self._connected = send, connected

    def handle(
        self, peer: bytes, key: bytes | None, frames: Sequence[Any], accepted_ns: int, shut_out: bool = False
    ) -> None:
        """peer: where replies go. key: the public key that the client was let in with; None where there are no keys.
        shut_out: it has been taken off the list since."""
        number, call = 0, None
        try:
            envelope, body, arrays = unpack(frames, "request")
            number = envelope.id
            if shut_out:
                raise NotAllowed("this key is not let in any more")
            owner = owner_of(key, envelope.sender.token)
            self.leases.renew(owner)
            call = self.replies.begin(owner, envelope, body, peer)
            if call is not None:
                self._carry_out(call, body, arrays, accepted_ns)
        except DjinnError as error:
            self._refuse(peer, getattr(error, "number", number), call, failure(error))
        except Exception as error:  # a defect in answering one request must not end the server; it is reported
            log.exception("request failed")
            self._refuse(peer, number, call, fault(error))

    def end_leases(self) -> None:
        """Cancel the sessions of owners who have given no sign of life for a whole lease."""
        sessions = list(self.engine.sessions.values())

        def present(owner: str) -> bool:
            return self.replies.under_way(owner) > 0 or any(map(self._connected, self.replies.peers(owner)))

        over = set(self.leases.ended({session.owner for session in sessions}, present))
        for session in sessions:
            if session.owner in over:
                log.warning("session %s is cancelled: its lease ended", session.key[:8])
                try:
                    self.engine.end(session, State.CANCELLED, "its lease ended")
                except Exception:
                    # One that cannot be ended as it should must not end the server, and all others with it.
                    log.exception("session %s could not be ended", session.key)

    def _refuse(self, peer: bytes, number: int, call: Call | None, reason: m.Failure) -> None:
        if call is not None:
            self.replies.finish(call, reason)
        else:
            self._send(peer, number, pack(number, reason), False)

    def _carry_out(self, call: Call, body: m.AnyRequest, arrays: list[np.ndarray], accepted_ns: int) -> None:
        if isinstance(body, Computes):
            self._submit(call, body, arrays, accepted_ns)
        elif isinstance(body, m.FetchActivation):
            self._fetch(call, body)
        elif isinstance(body, m.Spans):
            threading.Thread(target=self._tell_spans, args=(call,), name="spans", daemon=True).start()
        elif isinstance(body, m.Cancel | m.Close) or (isinstance(body, m.Park) and body.durable):
            self._when_on_disk(call, body)
        else:
            self.replies.finish(call, self._answer(call.owner, body))

    def _submit(self, call: Call, body: Computes, arrays: list[np.ndarray], accepted_ns: int) -> None:
        """The replies come later, from the compute or mover thread."""

        def reply(result: Result) -> None:
            self.replies.finish(call, *reply_of(result))

        def on_token(index: int, token: int) -> None:
            self.replies.token(call, index, token)

        with self.engine.lock:  # where the session stands now is where the work begins
            work = work_of(self.engine.find(body.session, call.owner), body, arrays, accepted_ns, reply)
            check_reply_size(work, self.engine.limits.vocabulary)
            work.on_token = on_token if body.stream else None
            self.engine.submit(work)

    def _fetch(self, call: Call, body: m.FetchActivation) -> None:
        """The reply comes now, or when the session has been read from the disk."""

        def give(hidden: torch.Tensor | DjinnError) -> None:
            if isinstance(hidden, DjinnError):
                self.replies.finish(call, failure(hidden))
            else:
                dtype = str(hidden.dtype).removeprefix("torch.")
                plain = hidden.view(torch.uint16) if hidden.dtype == torch.bfloat16 else hidden
                self.replies.finish(call, m.ActivationReply(dtype=dtype), [plain.numpy()])

        with self.engine.lock:  # what is kept there is what is given
            session = self.engine.find(body.session, call.owner)
            check_activation_size(session, body.name, self.engine.pager.shape)
            self.engine.activation(session, body.name, give)

    def _tell_spans(self, call: Call) -> None:
        """On a thread of its own, of which an owner has no more than requests: with 1,000 sessions they take 0.2 s."""
        try:
            self.replies.finish(call, m.SpansReply(spans=tuple(self.engine.spans())))
        except Exception as error:
            log.exception("request failed")
            self.replies.finish(call, fault(error))

    def _when_on_disk(self, call: Call, body: m.Park | m.Cancel | m.Close) -> None:
        """The reply comes when the session is in its file, or its file is gone."""

        def then(error: DjinnError | None) -> None:
            self.replies.finish(call, failure(error) if error else m.Done())

        engine, key, owner = self.engine, body.session, call.owner
        match body:
            case m.Park():
                engine.park_durably(engine.find(key, owner), then)
            case m.Cancel():
                engine.end(engine.find(key, owner), State.CANCELLED, gone=then)
            case m.Close():
                engine.close(key, owner, then)

    def _answer(self, owner: str, body: m.AnyRequest) -> m.AnyReply:
        engine = self.engine
        match body:
            case m.Hello(protocol=protocol):
                if protocol != m.PROTOCOL:
                    raise ProtocolError(
                        f"client speaks protocol {protocol}, this server {m.PROTOCOL}: use the same version of djinn"
                    )
                return self.welcome
            case m.Stats():
                stats = engine.stats()
                sessions, waits = stats.pop("sessions"), stats.pop("waits")
                return m.StatsReply(bytes=stats, sessions=sessions, waits=waits, clock_ns=time.monotonic_ns())
            case m.Open():
                return m.Opened(session=self._opened(owner, lambda: engine.open(owner)).key)
            case m.Fork(session=key):
                return m.Opened(session=self._opened(owner, lambda: engine.fork(engine.find(key, owner))).key)
            case m.Sessions():
                return m.SessionsReply(sessions=tuple(self._listed(s) for s in self._sessions_of(owner)))
            case m.Describe(session=key):
                machine = engine.machine(key, owner)
                left = self.leases.left_s(owner) if key in engine.sessions else None
                return m.Described(state=str(machine.state), history=tuple(machine.stamps()), lease_left_s=left)
            case m.Attach(session=key):
                return _attached(engine.find(key, owner))
            case m.Discard(session=key, name=name):
                engine.discard(engine.find(key, owner), name)
            case m.Park(session=key):
                engine.park(engine.find(key, owner))
        return m.Done()

    def _sessions_of(self, owner: str) -> list[Session]:
        return [session for session in list(self.engine.sessions.values()) if session.owner == owner]

    def _opened(self, owner: str, make: Callable[[], Session]) -> Session:
        """One more of the owner's. Raises LimitReached."""
        limits = self.limits
        if len(self.engine.sessions) >= limits.max_sessions:
            raise LimitReached(
                f"{limits.max_sessions} sessions are open on this server, which is its limit: wait until some are closed, "
                "or raise --max-sessions"
            )
        if len(self._sessions_of(owner)) >= limits.max_sessions_per_owner:
            raise LimitReached(
                f"{limits.max_sessions_per_owner} sessions of yours are open, which is this server's limit: close() some, or "
                "raise --max-sessions-per-owner"
            )
        session = make()
        self.leases.begin(owner)
        return session

    def _listed(self, session: Session) -> m.Listed:
        return m.Listed(
            id=session.key,
            state=str(session.machine.state),
            tokens=len(session.token_ids()),
            lease_left_s=self.leases.left_s(session.owner),
        )


def _attached(session: Session) -> m.Attached:
    def kept(one: Any) -> m.Kept:
        return m.Kept(name=one.name, layer=one.layer, rows=len(one.ids))

    return m.Attached(
        token_ids=session.token_ids(),
        pause=kept(session.pause) if session.pause else None,
        checkpoints=tuple(kept(one) for one in list(session.checkpoints.values())),
    )
