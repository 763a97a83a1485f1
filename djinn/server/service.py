"""The wire thread: reads requests, hands them to the engine, sends what comes back.

`accepted` is stamped when a request's frames are read, before anything is looked up. Results come from the compute and
mover threads through the outbox, which wakes this thread's poll. Nothing here waits for compute or for a client.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from typing import Any

import numpy as np
import torch
import zmq

import djinn
from djinn.engine.drain import drain
from djinn.engine.engine import Engine
from djinn.engine.session import Result
from djinn.errors import DjinnError, ProtocolError, ServerFault
from djinn.server.outbox import HIGH_WATER, Outbox
from djinn.server.requests import Computes, check_reply_size, reply_of, work_of
from djinn.states import State
from djinn.wire import messages as m
from djinn.wire.frames import unpack

log = logging.getLogger(__name__)
HEARTBEAT_MS, TIMEOUT_MS = 1000, 10000
LAST_WORDS_MS = 1000  # that the last replies may take to leave, when the server ends


class Service:
    def __init__(self, engine: Engine, welcome: m.Welcome, endpoint: str, drain_s: float) -> None:
        """drain_s: how long running requests may take to their end, once the server was told to go."""
        self.engine, self.welcome, self.drain_s = engine, welcome, drain_s
        self._socket = zmq.Context.instance().socket(zmq.ROUTER)
        self._socket.router_mandatory = True  # a reply to a client that is gone is an error here, not silence
        self._socket.linger = 0
        self._socket.sndhwm = self._socket.rcvhwm = HIGH_WATER
        self._socket.heartbeat_ivl, self._socket.heartbeat_timeout = HEARTBEAT_MS, TIMEOUT_MS
        self._socket.bind(endpoint)
        self.endpoint = self._socket.last_endpoint.decode()
        self._outbox = Outbox(self._socket)
        self._told_to_go = self._drained = False
        # A signal that comes just before the poll begins would sleep with it: its byte (signal.set_wakeup_fd) wakes the poll.
        self._heard, self.hears = socket.socketpair()
        for end in (self._heard, self.hears):
            end.setblocking(False)

    def stop(self) -> None:
        """End `serve` when what runs has ended and what stands is safe. May be called from a signal handler."""
        self._told_to_go = True
        self._outbox.ring()

    def _drain(self) -> None:
        """On a thread of its own: clients are answered meanwhile."""
        try:
            drain(self.engine, self.drain_s)
        finally:
            self._drained = True
            self._outbox.ring()

    def serve(self) -> None:
        poller = zmq.Poller()
        poller.register(self._socket, zmq.POLLIN)
        poller.register(self._outbox.wake, zmq.POLLIN)
        poller.register(self._heard, zmq.POLLIN)
        leaving: threading.Thread | None = None
        while not self._drained:
            if self._told_to_go and leaving is None:
                self.engine.take_no_more()
                leaving = threading.Thread(target=self._drain, name="drain")
                leaving.start()
            ready = dict(poller.poll(self._outbox.retry_ms()))
            if self._outbox.wake in ready:
                os.eventfd_read(self._outbox.wake)
            if self._heard.fileno() in ready:
                self._heard.recv(64)
            if self._socket in ready:
                frames = self._socket.recv_multipart(copy=False)
                self._handle(frames[0].bytes, [f.buffer for f in frames[1:]], time.monotonic_ns())
            self._outbox.flush()
        self._socket.close(LAST_WORDS_MS)

    def _handle(self, peer: bytes, frames: list[Any], accepted_ns: int) -> None:
        number = 0
        try:
            if not frames:
                raise ProtocolError("an empty message")
            number, body, arrays = unpack(frames, "request")
            if isinstance(body, Computes):
                self._submit(peer, number, body, arrays, accepted_ns)
            elif isinstance(body, m.FetchActivation):
                self._fetch(peer, number, body)
            elif isinstance(body, m.Park) and body.durable:
                self._park_durably(peer, number, body)
            else:
                self._outbox.post(peer, number, *self._answer(body))
        except DjinnError as error:
            number = getattr(error, "number", number)
            self._outbox.post(peer, number, m.Failure(code=error.code, message=str(error)))
        except Exception as error:  # a defect in answering one request must not end the server; it is reported
            log.exception("request failed")
            message = f"{type(error).__name__}: {error}"
            self._outbox.post(peer, number, m.Failure(code=ServerFault.code, message=message))

    def _submit(self, peer: bytes, number: int, body: Computes, arrays: list[np.ndarray], accepted_ns: int) -> None:
        """The replies come later, from the compute or mover thread."""

        def reply(result: Result) -> None:
            self._outbox.post(peer, number, *reply_of(result))

        def on_token(index: int, token: int) -> None:
            self._outbox.post(peer, number, m.TokenReply(index=index, token=token))

        with self.engine.lock:  # where the session stands now is where the work begins
            work = work_of(self.engine.find(body.session), body, arrays, accepted_ns, reply)
            check_reply_size(work, self.engine.limits.vocabulary)
            work.on_token = on_token if body.stream else None
            self.engine.submit(work)

    def _fetch(self, peer: bytes, number: int, body: m.FetchActivation) -> None:
        """The reply comes now, or when the session has been read from the disk."""

        def give(hidden: torch.Tensor | DjinnError) -> None:
            if isinstance(hidden, DjinnError):
                self._outbox.post(peer, number, m.Failure(code=hidden.code, message=str(hidden)))
            else:
                self._outbox.post(peer, number, m.ActivationReply(), [hidden.numpy()])

        self.engine.activation(self.engine.find(body.session), body.name, give)

    def _park_durably(self, peer: bytes, number: int, body: m.Park) -> None:
        """The reply comes when the session is in its file."""

        def then(error: DjinnError | None) -> None:
            reply = m.Failure(code=error.code, message=str(error)) if error else m.Done()
            self._outbox.post(peer, number, reply)

        self.engine.park_durably(self.engine.find(body.session), then)

    def _answer(self, body: m.AnyRequest) -> tuple[m.AnyReply, list[np.ndarray]]:
        engine = self.engine
        match body:
            case m.Hello(protocol=protocol):
                if protocol != m.PROTOCOL:
                    raise ProtocolError(
                        f"client speaks protocol {protocol}, this server {m.PROTOCOL}: use the same version of djinn"
                    )
                return self.welcome, []
            case m.Stats():
                stats = engine.stats()
                sessions, waits = stats.pop("sessions"), stats.pop("waits")
                return m.StatsReply(bytes=stats, sessions=sessions, waits=waits, clock_ns=time.monotonic_ns()), []
            case m.Spans():
                return m.SpansReply(spans=tuple(engine.spans())), []
            case m.Open():
                return m.Opened(session=engine.open().key), []
            case m.Describe(session=key):
                machine = engine.machine(key)
                return m.Described(state=str(machine.state), history=tuple(machine.stamps())), []
            case m.Discard(session=key, name=name):
                engine.discard(engine.find(key), name)
            case m.Park(session=key):
                engine.park(engine.find(key))
            case m.Cancel(session=key):
                engine.end(engine.find(key), State.CANCELLED)
            case m.Close(session=key):
                engine.close(key)
        return m.Done(), []


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
