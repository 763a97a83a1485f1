"""The wire thread: reads requests, hands them to the engine, sends what comes back.

`accepted` is stamped when a request's frames are read, before anything is looked up. Results come from the compute and
mover threads through a queue; an eventfd wakes this thread's poll. Nothing here waits for compute.
"""

from __future__ import annotations

import logging
import os
import queue
import time
from typing import Any

import numpy as np
import torch
import zmq

import djinn
from djinn.engine.engine import Engine
from djinn.engine.session import Outcome, Paused, Session, Work
from djinn.errors import BadRequest, DjinnError, IllegalMove, ProtocolError, ServerFault
from djinn.states import State
from djinn.wire import messages as m
from djinn.wire.frames import pack, unpack

log = logging.getLogger(__name__)
HIGH_WATER = 64  # messages a peer may leave unread; they are counted, not weighed
HEARTBEAT_MS, TIMEOUT_MS = 1000, 10000


class Service:
    def __init__(self, engine: Engine, welcome: m.Welcome, endpoint: str) -> None:
        self.engine, self.welcome = engine, welcome
        self._outbox: queue.SimpleQueue[list[Any]] = queue.SimpleQueue()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK)
        self._socket = zmq.Context.instance().socket(zmq.ROUTER)
        self._socket.router_mandatory = True  # a reply to a client that is gone is an error here, not silence
        self._socket.linger = 0
        self._socket.sndhwm = self._socket.rcvhwm = HIGH_WATER
        self._socket.heartbeat_ivl, self._socket.heartbeat_timeout = HEARTBEAT_MS, TIMEOUT_MS
        self._socket.bind(endpoint)
        self.endpoint = self._socket.last_endpoint.decode()
        self._stopping = False

    def stop(self) -> None:
        """End `serve` after the request at hand. May be called from a signal handler."""
        self._stopping = True
        os.eventfd_write(self._wake, 1)

    def serve(self) -> None:
        poller = zmq.Poller()
        poller.register(self._socket, zmq.POLLIN)
        poller.register(self._wake, zmq.POLLIN)
        while not self._stopping:
            ready = dict(poller.poll())
            if self._wake in ready:
                os.eventfd_read(self._wake)
            while not self._outbox.empty():
                self._send(self._outbox.get())
            if self._socket in ready:
                frames = self._socket.recv_multipart(copy=False)
                self._handle(frames[0].bytes, [f.buffer for f in frames[1:]], time.monotonic_ns())
        self._socket.close()

    def _send(self, frames: list[Any]) -> None:
        try:
            self._socket.send_multipart(frames, zmq.DONTWAIT, copy=False)
        except zmq.ZMQError as error:  # the client is gone or does not read; its sessions stay
            log.warning("a reply could not be delivered: %s", error)

    def _handle(self, peer: bytes, frames: list[Any], accepted_ns: int) -> None:
        number = 0
        try:
            number, body, arrays = unpack(frames, "request") if frames else (0, None, [])
            if body is None:
                raise ProtocolError("an empty message")
            reply = self._answer(body, arrays, accepted_ns, lambda result: self._later(peer, number, result))
        except DjinnError as error:
            number = getattr(error, "number", number)
            reply = m.Failure(code=error.code, message=str(error)), []
        except Exception as error:  # a defect in answering one request must not end the server; it is reported
            log.exception("request failed")
            reply = m.Failure(code=ServerFault.code, message=f"{type(error).__name__}: {error}"), []
        if reply is not None:
            self._send([peer, *pack(number, *reply)])

    def _later(self, peer: bytes, number: int, result: Paused | Outcome | Exception) -> None:
        """Called on the compute or mover thread: the reply is packed there and sent here."""
        tensors: list[np.ndarray] = []
        match result:
            case Paused(name=name, layer=layer, rows=rows, tokens=tokens, stamps=stamps):
                body = m.PausedReply(name=name, layer=layer, rows=rows, tokens=tuple(tokens), stamps=stamps)
            case Outcome(tokens=tokens, logits=logits, checkpoints=checkpoints, stamps=stamps):
                body = m.OutcomeReply(tokens=tuple(tokens), checkpoints=checkpoints, stamps=stamps)
                tensors = [] if logits is None else [logits.numpy()]
            case DjinnError() as error:
                body = m.Failure(code=error.code, message=str(error))
        self._outbox.put([peer, *pack(number, body, tensors)])
        os.eventfd_write(self._wake, 1)

    def _answer(self, body: m.AnyRequest, arrays: list[np.ndarray], accepted_ns: int, later) -> tuple[Any, list] | None:
        """The reply, or None when it comes later."""
        engine = self.engine
        match body:
            case m.Hello():
                if body.protocol != m.PROTOCOL:
                    raise ProtocolError(
                        f"client speaks protocol {body.protocol}, this server {m.PROTOCOL}: use the same version of djinn"
                    )
                return self.welcome, []
            case m.Stats():
                stats = engine.stats()
                sessions = stats.pop("sessions")
                return m.StatsReply(bytes=stats, sessions=sessions, clock_ns=time.monotonic_ns()), []
            case m.Open():
                return m.Opened(session=engine.open().key), []
        session = engine.find(body.session)
        match body:
            case m.Prefill() | m.Generate() | m.Resume():
                engine.submit(self._work(session, body, arrays, accepted_ns, later))
                return None
            case m.FetchActivation(name=name):
                return m.ActivationReply(), [engine.activation(session, name).numpy()]
            case m.Park(durable=durable):
                engine.park(session, durable)
            case m.Cancel():
                engine.end(session, State.CANCELLED)
            case m.Close():
                engine.end(session, State.DONE)
            case m.Describe():
                return m.Described(state=str(session.machine.state), history=tuple(session.machine.stamps())), []
        return m.Done(), []

    def _work(
        self,
        session: Session,
        body: m.Prefill | m.Generate | m.Resume,
        arrays: list[np.ndarray],
        accepted_ns: int,
        later,
    ) -> Work:
        work = Work(
            session,
            ids=(),
            accepted_ns=accepted_ns,
            reply=later,
            max_new_tokens=body.max_new_tokens,
            break_at=body.break_at,
            break_token=body.break_token,
            logits=body.logits,
            stop_tokens=frozenset(body.stop_tokens),
        )
        if isinstance(body, m.Resume):
            work.resume_from = session.pause if body.checkpoint is None else session.checkpoints.get(body.checkpoint)
            if body.pause is not None and (session.pause is None or session.pause.name != body.pause):
                raise IllegalMove("that pause is over: the session has gone on since")
            if work.resume_from is None:
                what = (
                    "is not paused: nothing to resume"
                    if body.checkpoint is None
                    else f"has no checkpoint {body.checkpoint!r}"
                )
                raise IllegalMove(f"the session {what}")
            work.rewind, work.edits = body.checkpoint is not None, body.edits
            if arrays:
                work.activation = torch.from_numpy(arrays[0].copy())
            return work
        if len(arrays) != 1 or arrays[0].dtype != np.int64 or arrays[0].ndim != 1:
            raise BadRequest("token ids travel as one int64 tensor of shape (n,)")
        if isinstance(body, m.Prefill):
            if session.length or session.pause:
                raise IllegalMove("the session holds tokens already: generate() goes on with it, open() begins another")
            work.checkpoint_at = body.checkpoint_at
        work.ids = tuple(arrays[0].tolist())
        return work


def welcome(model: dict, device: str, plan: dict[str, int], max_tokens: int) -> m.Welcome:
    """What a client is told of this server."""
    return m.Welcome(
        protocol=m.PROTOCOL,
        server_version=djinn.__version__,
        model=model,
        device=device,
        depth=model["layers"],
        vocabulary=model["vocab_size"],
        hidden_size=model["hidden_size"],
        max_tokens=max_tokens,
        plan=plan,
    )
