"""A connection to one server, and what can be asked of the server as a whole."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from djinn.client import arguments
from djinn.client.connection import Connection
from djinn.client.session import Session
from djinn.timeline import chrome_trace
from djinn.wire import messages as m

HELLO_S = 10.0  # a server that listens answers a greeting at once


class Client:
    """A connection to one server; close it, or use it in a `with`. One client for each thread.

    server: what it said of itself: model, device, depth (layers), vocabulary, hidden_size, max_tokens, plan (bytes),
    max_message_bytes, lease_s.
    """

    def __init__(
        self,
        endpoint: str | arguments.Listening,
        timeout: float = 600.0,
        keys: str | Path | None = None,
        token: str | None = None,
    ) -> None:
        endpoint, timeout = arguments.address(endpoint), arguments.seconds(timeout)
        self.connection = Connection(endpoint, timeout, arguments.folder(keys), arguments.token(token))
        try:
            self.server: m.Welcome = self.connection.ask(m.Hello(), min(timeout, HELLO_S)).body
            self.connection.max_message_bytes = self.server.max_message_bytes
        except BaseException:  # no server there, or Ctrl-C: nobody holds this client who could close it
            self.connection.close()
            raise

    def open(self) -> Session:
        """A new session, idle and empty: it takes memory with its first prefill.

        Raises LimitReached where there are as many as the server allows, and Draining when it is shutting down.
        """
        return Session(self.connection, self.connection.ask(m.Open()).body.session, self.server.max_tokens)

    @property
    def token(self) -> str:
        """The secret to which this client's sessions belong where the server has no keys: keep it to come back to them."""
        return self.connection.token

    def sessions(self) -> list[m.Listed]:
        """One's own sessions on the server: id, state, tokens, lease_left_s (kept for so long after the last sign of life)."""
        return list(self.connection.ask(m.Sessions()).body.sessions)

    def attach(self, session_id: str) -> Session:
        """A session of one's own, from wherever it was opened: it has its `pause`, `checkpoints` and `token_ids`.

        Raises NoSuchSession, saying how it ended where it did.
        """
        session = Session(self.connection, session_id, self.server.max_tokens)
        session.look()
        return session

    def stats(self) -> Mapping[str, Any]:
        """bytes: live by tier, what the tiers hold, moved since the start; sessions: how many in each state; waits: how
        often the compute waited for what, and how long (`…_ns`); clock_ns: the server's."""
        body = self.connection.ask(m.Stats()).body
        return {"bytes": body.bytes, "sessions": body.sessions, "waits": body.waits, "clock_ns": body.clock_ns}

    def timeline(self) -> dict[str, Any]:
        """What compute, both copy streams, the disk and every session did lately, in Chrome's trace format.

        `json.dump` it into a file and open that in chrome://tracing or Perfetto; times are the server's, in µs.
        """
        return chrome_trace(self.connection.ask(m.Spans()).body.spans)

    def close(self) -> None:
        """Close the connection. Its sessions stay on the server until their lease ends: close() those that are done with."""
        self.connection.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def connect(
    endpoint: str | arguments.Listening,
    timeout: float = 600.0,
    *,
    keys: str | Path | None = None,
    token: str | None = None,
) -> Client:
    """Connect to `tcp://host:port`, or to a LocalServer itself. timeout: seconds to wait for any one reply.

    keys: the folder that `djinn keys` made for this client; a server that has keys is reached with them alone, and
    sessions belong to the key. token: without keys, that of the client whose sessions are meant (a new one by default).
    Raises ServerGone, NotAllowed, BadRequest.
    """
    return Client(endpoint, timeout, keys, token)
