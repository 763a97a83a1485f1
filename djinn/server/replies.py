"""What was asked and what was answered, so that a request asked twice is carried out once.

A client numbers its requests in turn, asks again under the same number when its connection broke, and says with each
request up to which number it has had every reply. Until then a reply is kept, within bounds. A request that is
under way is joined by its repetition: the reply goes to whoever asked last. Reads are not kept but done again.
"""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from djinn.errors import LimitReached, ReplyGone, ServerGone
from djinn.wire import messages as m
from djinn.wire.envelope import Envelope
from djinn.wire.frames import pack, size_of

KEPT_BYTES = 64 * 10**6  # of all replies that wait to be acknowledged; the newest is kept whatever its size
CLIENTS = 4096  # that are remembered; beyond, those gone the longest are forgotten
Send = Callable[[bytes, int, list[Any], bool], None]  # peer, number, frames, whether it may be dropped


@dataclass(eq=False)
class Call:
    """One request, from when it is taken on until its reply has been acknowledged."""

    owner: str
    asker: _Asker
    number: int
    peer: bytes  # who asked last
    once: bool  # must not be carried out twice
    frames: list[Any] | None = None  # the reply, while it is kept
    over: bool = False


@dataclass(eq=False)
class _Asker:
    """One client: one connection object of one process."""

    peer: bytes
    calls: dict[int, Call] = field(default_factory=dict)  # in the order of their coming
    settled: int = 0  # numbers up to here were dealt with: it has the replies, or they were given up


class Replies:
    """For any thread. `send` must not wait."""

    def __init__(self, send: Send, max_requests: int, connected: Callable[[bytes], bool]) -> None:
        """connected: whether a client is still there; asked by the thread that calls `begin`."""
        self._send, self._max_requests, self._connected = send, max_requests, connected
        self._lock = threading.Lock()
        self._askers: OrderedDict[tuple[str, str], _Asker] = OrderedDict()
        self._under_way: Counter[str] = Counter()  # by owner
        self._kept: OrderedDict[Call, int] = OrderedDict()  # bytes, oldest first
        self._kept_bytes = 0

    def begin(self, owner: str, envelope: Envelope, body: m.AnyRequest, peer: bytes) -> Call | None:
        """Take on a request; None when it has been taken on before, and then its reply comes or is sent again.

        Raises ServerGone for a client that has not said hello to this server, ReplyGone for a repetition that comes too
        late, and LimitReached.
        """
        number, once = envelope.id, not isinstance(body, m.Reads)
        with self._lock:
            asker = self._asker(owner, envelope.sender.client, isinstance(body, m.Hello), peer)
            self._acknowledge(asker, envelope.sender.answered)
            call = asker.calls.get(number)
            if call is not None:
                call.peer = peer
                if call.over:
                    self._repeat(call)
                return None
            if once and number <= asker.settled:
                raise ReplyGone(
                    f"request {number} was carried out or refused before, and its reply is not kept any more"
                )
            if self._under_way[owner] >= self._max_requests and not isinstance(body, m.Frees):
                raise LimitReached(
                    f"{self._max_requests} requests of yours are under way, which is this server's limit: wait for one, or "
                    "raise --max-requests"
                )
            call = asker.calls[number] = Call(owner, asker, number, peer, once)
            self._under_way[owner] += 1
            self._forget_unread(asker)
            return call

    def token(self, call: Call, index: int, token: int) -> None:
        """Send one token of a request that streams. It may be dropped on the way."""
        self._send(call.peer, call.number, pack(call.number, m.TokenReply(index=index, token=token)), True)

    def finish(self, call: Call, body: m.AnyReply, arrays: Sequence[np.ndarray] = ()) -> None:
        """Send the last reply of a request, and keep it until it is acknowledged. Packs on the caller's thread."""
        frames = pack(call.number, body, arrays)
        with self._lock:
            if call.over:  # it failed behind its own reply: that is what was said
                return
            call.over = True
            self._under_way[call.owner] -= 1
            if not self._under_way[call.owner]:
                del self._under_way[call.owner]
            if call.once:
                self._keep(call, frames)
            else:
                del call.asker.calls[call.number]
            peer = call.peer
        self._send(peer, call.number, frames, False)

    def peers(self, owner: str) -> list[bytes]:
        """Where the clients of an owner were heard from last."""
        with self._lock:
            return [asker.peer for (name, _), asker in self._askers.items() if name == owner]

    def under_way(self, owner: str) -> int:
        return self._under_way[owner]

    # -- with the lock held ---------------------------------------------------------------------------

    def _asker(self, owner: str, client: str, hello: bool, peer: bytes) -> _Asker:
        asker = self._askers.get((owner, client))
        if asker is None:
            if not hello:
                raise ServerGone(
                    "this server does not know this client: it was started anew since, or the client was silent for very "
                    "long. connect() again; sessions that are still here can be attached to"
                )
            asker = self._askers[owner, client] = _Asker(peer)
            if len(self._askers) > CLIENTS:
                self._forget_somebody()
        asker.peer = peer
        self._askers.move_to_end((owner, client))
        return asker

    def _forget_somebody(self) -> None:
        """Who has been silent the longest, of those who are gone. A notebook that is idle for days is not."""
        for key, each in self._askers.items():
            if all(call.over for call in each.calls.values()) and not self._connected(each.peer):
                self._acknowledge(self._askers.pop(key), 2**63)
                return

    def _acknowledge(self, asker: _Asker, answered: int) -> None:
        if answered > asker.settled:
            asker.settled = answered
            for number in [number for number, call in asker.calls.items() if number <= answered and call.over]:
                self._drop(asker.calls.pop(number))

    def _forget_unread(self, asker: _Asker) -> None:
        """Of a client that never acknowledges, the oldest that are over."""
        if len(asker.calls) <= 2 * self._max_requests:
            return
        if over := [number for number, call in asker.calls.items() if call.over]:
            asker.settled = max(asker.settled, min(over))
            self._drop(asker.calls.pop(min(over)))

    def _repeat(self, call: Call) -> None:
        frames = call.frames
        if frames is None:
            message = f"request {call.number} was carried out, once, and its reply is not kept any more: attach() again"
            frames = pack(call.number, m.Failure(code=ReplyGone.code, message=message))
        self._send(call.peer, call.number, frames, False)

    def _keep(self, call: Call, frames: list[Any]) -> None:
        call.frames, self._kept[call] = frames, size_of(frames)
        self._kept_bytes += self._kept[call]
        while self._kept_bytes > KEPT_BYTES and len(self._kept) > 1:
            self._drop(next(iter(self._kept)))

    def _drop(self, call: Call) -> None:
        self._kept_bytes -= self._kept.pop(call, 0)
        call.frames = None
