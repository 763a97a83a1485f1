"""The line to a server, as ZeroMQ has it: how it is made, and what its events mean."""

from __future__ import annotations

from pathlib import Path
from weakref import WeakSet

import zmq

from djinn.errors import BadRequest, LimitReached
from djinn.wire.frames import MAX_TENSOR_BYTES
from djinn.wire.keys import client_keys

HEARTBEAT_MS, HEARTBEAT_TIMEOUT_MS = 1000, 30_000  # one frame must come through in that time: nothing overtakes it
REPLY_BYTES = MAX_TENSOR_BYTES + (1 << 20)  # of one frame; a server that sends a larger one is hung up on
LONGEST_S = 1e6  # of one sleep: who waits for ever sleeps again
REFUSED = zmq.EVENT_HANDSHAKE_FAILED_AUTH | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL

_dealers: WeakSet[zmq.Socket] = WeakSet()  # that are open


class Context(zmq.Context):
    """This process's, for all its clients: ZeroMQ's own has room for 341 of them. A forked child makes itself another."""

    _instance = None  # not the one that whoever else uses ZeroMQ here has made

    def __init__(self, io_threads: int = 1) -> None:
        super().__init__(io_threads)
        self.set(zmq.MAX_SOCKETS, self.get(zmq.SOCKET_LIMIT))  # counts only before the first socket
        _dealers.clear()  # in a forked child they are its parent's


def dealer() -> tuple[zmq.Socket, zmq.Socket]:
    """A socket that is to be connected, and the one that tells what happens to it. Raises LimitReached where this process can
    open no more."""
    try:
        socket = Context.instance().socket(zmq.DEALER)
        try:
            monitor = socket.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED | REFUSED)
        except BaseException:  # no room for it, or Ctrl-C: nobody holds the socket who could close it
            socket.close(0)
            raise
    except zmq.ZMQError as error:
        raise LimitReached(
            f"no more clients fit this process, {len(_dealers)} are open ({error}): close() some"
        ) from error
    _dealers.add(socket)
    socket.linger = 0
    socket.heartbeat_ivl, socket.heartbeat_timeout = HEARTBEAT_MS, HEARTBEAT_TIMEOUT_MS
    socket.maxmsgsize, socket.sndhwm = REPLY_BYTES, 0  # what is unanswered is kept anyway (djinn/client/connection.py)
    # At a bound ZeroMQ could abort this process when the line breaks (djinn/server/door.py).
    socket.rcvhwm = 0
    return socket, monitor


def close(socket: zmq.Socket, monitor: zmq.Socket) -> None:
    """Both of them; once more does nothing."""
    if not socket.closed:
        _dealers.discard(socket)
        socket.disable_monitor()
        monitor.close(0)
        socket.close(0)


def connect(socket: zmq.Socket, endpoint: str, keys: Path | None) -> None:
    """Raises BadRequest for an address that is none, and for keys that cannot be read."""
    try:
        if keys is not None:
            own, socket.curve_serverkey = client_keys(keys)
            socket.curve_publickey, socket.curve_secretkey = own.public, own.secret
        socket.ipv6 = "[" in endpoint
        socket.connect(endpoint)
    except zmq.ZMQError as error:
        raise BadRequest(f"{endpoint!r} is not a server's address ({error}): write tcp://host:port") from error


def why_refused(endpoint: str, keyed: bool, event: int, value: int) -> str:
    """Of a handshake that failed. keyed: whether this client came with keys."""
    if event & zmq.EVENT_HANDSHAKE_FAILED_AUTH:
        return f"{endpoint} does not let this key in: its holder's NAME.key must stand in the server's clients/"
    if event & zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL:
        why = "does it ask for keys? connect(..., keys=DIR)"
        if keyed:
            why = "is it the one whose server.key lies in keys? One that has no keys is reached without"
        return f"{endpoint} hung up on our greeting: {why}"
    if value != zmq.PROTOCOL_ERROR_ZMTP_MECHANISM_MISMATCH:
        return f"{endpoint} does not speak as a Djinn server does: is that the address of one?"
    what = "has no keys: connect without them" if keyed else "asks for keys: connect(..., keys=DIR)"
    return f"{endpoint} {what}"


def milliseconds(seconds: float) -> int:
    """For a poll: no less than that, or it would return too early again and again."""
    return int(min(seconds, LONGEST_S) * 1000) + 1
