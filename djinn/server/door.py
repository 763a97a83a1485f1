"""The socket that clients come to: where it may listen, who is let in, and how much one of them may send at once."""

from __future__ import annotations

import ipaddress
import resource
import socket
from pathlib import Path

import zmq

from djinn.errors import BadRequest
from djinn.server.gate import DOMAIN, Gate
from djinn.wire.keys import Keyring

HEARTBEAT_MS, TIMEOUT_MS = 1000, 30_000  # one frame must come through in that time: nothing overtakes it
HANDSHAKE_MS = 5000  # who has said nothing by then is hung up on
SEND_HIGH_WATER = 64  # messages for one client; they are counted, not weighed (djinn/server/outbox.py weighs)
CONNECTIONS = 65536
ENCRYPTION_BYTES = 256  # an encrypted frame is so much longer at most
# No bound on messages that lie here unread: where there is one, ZeroMQ (4.3.5) stops reading a line that has reached it, and
# when that line then breaks, the next heartbeat, ours or one that waits behind it, aborts the process (libzmq issue 4767).
RECEIVE_HIGH_WATER = 0


def keyring_for(host: str, keys: str | None) -> Keyring | None:
    """Who may come, None for anybody. Raises BadRequest unless `host` is of this machine alone, or there are good keys."""
    if keys is not None:
        return Keyring(Path(keys))
    if not _is_loopback(host):
        raise BadRequest(
            f"--host {host} can be reached from elsewhere, so it needs keys: make them with `djinn keys DIR`, then "
            "serve with --keys DIR"
        )
    return None


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name or an interface: where it leads is not for us to guess
        return False


def check_address(host: str, port: int, option: str = "--port") -> None:
    """Raise BadRequest where a server could not listen there: before it loads for minutes, to find it then.

    Nothing listens here meanwhile: a client that comes back to a server of before must not meet somebody without keys.
    """
    if host == "*" or host in (name for _, name in socket.if_nameindex()):  # ZeroMQ's own words for an address
        return
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        address = socket.getaddrinfo(host, port, family, socket.SOCK_STREAM)[0][4]
        with socket.socket(family) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind(address)
    except OSError as error:
        raise BadRequest(f"cannot listen on {host}, {option} {port}: {error.strerror}") from error


class Door:
    """`socket`: a ROUTER that listens at `endpoint`; `gate`: to be answered by the same thread, None without keys."""

    def __init__(self, host: str, port: int, keys: str | None, max_message_bytes: int) -> None:
        """port 0 takes a free one. Raises BadRequest where it may not or cannot listen."""
        keyring = keyring_for(host, keys)
        _allow_many_connections()
        self._context = zmq.Context()
        self.socket = self._context.socket(zmq.ROUTER)
        self.gate = Gate(self._context, keyring) if keyring else None
        try:
            self._listen(host, port, keyring, max_message_bytes)
        except zmq.ZMQError as error:
            self.close()
            raise BadRequest(f"cannot listen on {host}, port {port}: {error}") from error
        self.endpoint = self.socket.last_endpoint.decode()

    def _listen(self, host: str, port: int, keyring: Keyring | None, max_message_bytes: int) -> None:
        socket = self.socket
        socket.router_mandatory = True  # a reply to a client that is gone is an error here, not silence
        socket.linger = 0
        socket.sndhwm, socket.rcvhwm = SEND_HIGH_WATER, RECEIVE_HIGH_WATER
        socket.heartbeat_ivl, socket.heartbeat_timeout = HEARTBEAT_MS, TIMEOUT_MS
        socket.handshake_ivl = HANDSHAKE_MS
        socket.maxmsgsize = max_message_bytes + ENCRYPTION_BYTES
        if keyring:
            socket.zap_domain = DOMAIN
            socket.zap_enforce_domain = 1  # without it everybody is let in where the gate does not answer
            socket.curve_server = True
            socket.curve_publickey, socket.curve_secretkey = keyring.own.public, keyring.own.secret
        socket.ipv6 = ":" in host
        socket.bind(f"tcp://{f'[{host}]' if ':' in host else host}:{port or '*'}")

    def key_of(self, frame: zmq.Frame) -> tuple[bytes | None, bool]:
        """The public key that a message came with (None without keys), and whether it is shut out since."""
        if self.gate is None:
            return None, False
        public = frame.get("User-Id").encode()
        return public, self.gate.keyring.name_of(public) is None

    def close(self) -> None:
        self.socket.close()
        if self.gate:
            self.gate.close()
        self._context.term()


def _allow_many_connections() -> None:
    """All come to one socket of ZeroMQ's, and each takes a file descriptor: ask for more than the usual 1024."""
    now, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = CONNECTIONS if most == resource.RLIM_INFINITY else min(CONNECTIONS, most)
    if now != resource.RLIM_INFINITY and now < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))
