"""One connection to a server: requests out, replies matched by number, a broken line mended, a dead server noticed.

ZeroMQ connects again by itself. What was asked and not answered by then is asked again under the same numbers, and the
server carries nothing out twice (djinn/server/replies.py).
"""

from __future__ import annotations

import itertools
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zmq
from zmq.utils.monitor import recv_monitor_message

from djinn.client import line
from djinn.client.turn import Turn
from djinn.errors import BY_CODE, BadRequest, ClientMisused, DjinnError, NotAllowed, ProtocolError, ServerGone
from djinn.wire import messages as m
from djinn.wire.envelope import Sender
from djinn.wire.frames import MAX_HEADER_BYTES, MAX_TENSOR_BYTES, check_request, pack, size_of, unpack

RECONNECT_HERE_S = 3.0  # a server on this machine that cannot be reached again for so long is gone
RECONNECT_S = 30.0  # elsewhere the network may be at fault
LOOPBACK = ("tcp://127.", "tcp://localhost:", "tcp://[::1]:")
HUNG_UP = 3  # handshakes broken off without a word; after so many it is meant


@dataclass(frozen=True)
class Reply:
    """The last reply to a request."""

    body: m.AnyReply
    arrays: list[np.ndarray]
    received_ns: int

    def raise_failure(self) -> None:
        if isinstance(self.body, m.Failure):
            raise _typed(self.body)


def _typed(failure: m.Failure) -> DjinnError:
    return BY_CODE.get(failure.code, DjinnError)(failure.message)


class Connection:
    """For one thread at a time, which holds `turn` meanwhile. `token`: owns the sessions where the server has no keys."""

    def __init__(self, endpoint: str, timeout: float, keys: Path | None = None, token: str | None = None) -> None:
        self.endpoint, self.timeout = endpoint, timeout
        self.token = secrets.token_hex(16) if token is None else token
        self.sent_bytes = self.received_bytes = 0
        self.max_message_bytes = MAX_TENSOR_BYTES  # until the server says what it takes
        self.turn = Turn()
        self._client = secrets.token_hex(8)
        self._numbers = itertools.count(1)
        self._unanswered: dict[int, list[Any]] = {}  # number -> frames, to be sent again if the line breaks
        self._replies: dict[int, Reply] = {}
        self._forgotten: set[int] = set()  # of the unanswered those whose reply nobody will ask for
        self._streams: dict[int, list[int]] = {}  # tokens that came without a gap, of requests that stream
        self._met = False  # whether it was ever let in
        self._lost_at: float | None = None
        self._reconnect_s = RECONNECT_HERE_S if endpoint.startswith(LOOPBACK) else RECONNECT_S
        self._over: DjinnError | None = None  # why nothing can be asked here any more
        self._keyed, self._hung_up = keys is not None, 0
        self._socket, self._monitor = line.dealer()
        self._poller = zmq.Poller()
        self.register(self._poller)
        try:
            line.connect(self._socket, endpoint, keys)
        except BaseException:  # a wrong address, bad keys, or Ctrl-C: nobody holds this connection who could close it
            self.close()
            raise

    def register(self, poller: zmq.Poller) -> None:
        """Have `poller` wake for anything that comes here, the end of the server too."""
        if not self._over:  # else nothing comes, and whoever asks is told why
            poller.register(self._socket, zmq.POLLIN)
            poller.register(self._monitor, zmq.POLLIN)

    def send(self, body: m.AnyRequest, tensors: Sequence[np.ndarray] = ()) -> int:
        """Send a request and return its number; the arrays are copied. Raises BadRequest for an argument of a wrong type
        and for one that is larger than the server takes, and what ended this connection if it is over."""
        check_request(body)
        with self.turn:
            self._check_open()
            number = next(self._numbers)
            answered = next(iter(self._unanswered), number) - 1
            frames = pack(number, body, tensors, Sender(self._client, self.token, answered))
            self._check_size(frames)
            frames = [bytes(frame) for frame in frames]
            self._unanswered[number] = frames
            self._send(frames)
            return number

    def _check_size(self, frames: list[Any]) -> None:
        sizes = [memoryview(frame).nbytes for frame in frames]
        if max(sizes) > self.max_message_bytes:
            raise BadRequest(
                f"a request of {max(sizes)} bytes is more than the {self.max_message_bytes} that this server takes: send less, "
                "or raise its --max-message"
            )
        if sizes[0] > MAX_HEADER_BYTES:
            raise BadRequest(
                f"edits and options of {sizes[0]} bytes are more than the {MAX_HEADER_BYTES} that one request takes: edit the "
                "pause's activation() here and give it as activation="
            )

    def ask(self, body: m.AnyRequest, timeout: float | None = None) -> Reply:
        """Send a request that does not compute, and wait for its reply. Raises the server's typed error, or ServerGone."""
        with self.turn:
            number = self.send(body)
            try:
                self.wait(lambda: number in self._replies, timeout)
            except BaseException:  # too late, or Ctrl-C
                self.forget(number)
                raise
            reply = self._replies.pop(number)
        reply.raise_failure()
        return reply

    def stream(self, number: int) -> list[int]:
        """The tokens of a request as they come: this list grows while replies are read."""
        return self._streams.setdefault(number, [])

    def take(self, number: int) -> Reply | None:
        """The last reply to a request if it is here: handed out once. Reads what has come, and does not wait."""
        with self.turn:
            while number not in self._replies and self._receive(0):
                pass
            if number in self._replies:
                self._streams.pop(number, None)
            return self._replies.pop(number, None)

    def forget(self, number: int) -> None:
        """Nobody will ask for this reply: it is not kept. Python may call it on any thread, at any time, so it takes no turn."""
        if number in self._unanswered:
            self._forgotten.add(number)
        self._replies.pop(number, None)
        self._streams.pop(number, None)

    def wait(self, arrived: Callable[[], bool], timeout: float | None) -> None:
        """Read until `arrived()`. Raises ServerGone after `timeout` seconds (the connection's own: None), or when it is
        gone, and NotAllowed where the server and this client do not trust each other."""
        end = time.monotonic() + (self.timeout if timeout is None else timeout)
        with self.turn:
            while not arrived():
                left = end - time.monotonic()
                if left <= 0:
                    raise ServerGone(f"{self.endpoint} did not answer in time: is the server running there?")
                self._receive(min(left, self.patience()))

    def patience(self) -> float:
        """Seconds for which it is still worth waiting for anything: for ever, but for a line that is broken."""
        return float("inf") if self._lost_at is None else max(0.0, self._lost_at + self._reconnect_s - time.monotonic())

    def _send(self, frames: list[bytes]) -> None:
        self.sent_bytes += size_of(frames)
        self._socket.send_multipart(frames, copy=False)

    def _receive(self, seconds: float) -> bool:
        """Read one message or event, waiting so long for it; False if none came."""
        self._check_open()
        ready = dict(self._poller.poll(line.milliseconds(seconds) if seconds else 0))
        if self._socket in ready:
            frames = self._socket.recv_multipart(copy=False)
            self._take_in([frame.buffer for frame in frames], time.monotonic_ns())
            return True
        if self._monitor in ready:
            self._heard(**recv_monitor_message(self._monitor))
            return True
        if self.patience() == 0:
            self._give_up(ServerGone(f"{self.endpoint} closed the connection: the server ended or died"))
        return False

    def _give_up(self, why: DjinnError) -> None:
        """What was asked is not asked again later, when nobody waits for it any more. The line is closed: of one that is only
        disconnected and not read any more ZeroMQ aborts this process when another reply comes (libzmq 4767)."""
        self._over = why
        line.close(self._socket, self._monitor)
        self._check_open()

    def _check_open(self) -> None:
        """Raise why nothing can be asked here any more, each time anew: an exception keeps the frames that it went through, and
        with them their arrays."""
        if self._over:
            raise type(self._over)(*self._over.args)

    def _take_in(self, frames: list[Any], at_ns: int) -> None:
        self.received_bytes += size_of(frames)
        try:
            envelope, body, arrays = unpack(frames, "reply")
            number = envelope.id
        except ProtocolError as error:
            # The one who asked is told: else it would be waited for, and nothing behind it acknowledged.
            number, body, arrays = error.number, m.Failure(code=error.code, message=str(error)), []
        if number == 0 and isinstance(body, m.Failure):
            self._give_up(_typed(body))  # a message could not be read: to which request it belongs, nobody knows
        if number not in self._unanswered:  # said twice, or to nobody
            return
        if not isinstance(body, m.TokenReply):
            self._replies[number] = Reply(body, arrays, at_ns)
            del self._unanswered[number]  # behind it: who forgets it meanwhile finds it in one of them
            if number in self._forgotten:
                self._forgotten.remove(number)
                self.forget(number)
        elif number not in self._forgotten and body.index == len(self._streams.get(number, ())):
            self.stream(number).append(body.token)  # behind a gap: the last reply holds them all

    def _heard(self, event: int, value: int, **_: Any) -> None:
        """What ZeroMQ tells of the line."""
        if event & zmq.EVENT_HANDSHAKE_SUCCEEDED:
            self._met = True
            if self._lost_at is not None:
                self._lost_at = None
                for frames in self._unanswered.values():
                    self._send(frames)
        elif event & zmq.EVENT_DISCONNECTED:
            if self._lost_at is None and self._met:
                self._lost_at = time.monotonic()
        else:
            self._hung_up += 1
            if not event & zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL or (self._hung_up == HUNG_UP and not self._met):
                self._give_up(NotAllowed(line.why_refused(self.endpoint, self._keyed, event, value)))

    def close(self) -> None:
        """Nothing can be asked here any more. Closing twice is harmless, and so is it in a forked child, whose line it is not."""
        if isinstance(self._over, ClientMisused) or not self.turn.ours:
            return
        with self.turn:
            self._over = ClientMisused("this client was closed: connect() another")
            line.close(self._socket, self._monitor)
