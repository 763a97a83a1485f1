"""Who may come: ZeroMQ asks (ZAP, RFC 27) at every handshake, and is answered on the thread that serves.

So there is no answering thread that could be gone while the server serves; the listening socket refuses where nobody
answers (`ZAP_ENFORCE_DOMAIN`).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import zmq
from zmq.utils import z85

from djinn.wire.keys import Keyring

log = logging.getLogger(__name__)
DOMAIN = b"djinn"
ADDRESS = "inproc://zeromq.zap.01"


def decide(request: Sequence[bytes], keyring: Keyring) -> list[bytes]:
    """The frames that answer the frames of one question: 200 and the client's public key as its User-Id, or 400."""
    version, number, domain, address, _, mechanism, *credentials = request
    name = public = None
    if (version, domain, mechanism, len(credentials)) == (b"1.0", DOMAIN, b"CURVE", 1) and len(credentials[0]) == 32:
        public = z85.encode(credentials[0])
        name = keyring.name_of(public)
    if name is None:
        log.warning("refused a client at %s: its key is not one of ours", address.decode(errors="replace"))
        return [version, number, b"400", b"no such key", b"", b""]
    log.info("let in %s from %s", name, address.decode(errors="replace"))
    return [version, number, b"200", b"OK", public, b""]


class Gate:
    def __init__(self, context: zmq.Context, keyring: Keyring) -> None:
        self.keyring = keyring
        self.socket = context.socket(zmq.REP)
        self.socket.linger = 0
        self.socket.bind(ADDRESS)

    def answer(self) -> None:
        """Answer the question that waits on `socket`."""
        self.socket.send_multipart(decide(self.socket.recv_multipart(), self.keyring))

    def close(self) -> None:
        self.socket.close()
