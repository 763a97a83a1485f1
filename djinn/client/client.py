"""A connection to one server, and what can be asked of the server as a whole."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from djinn.client.connection import Connection
from djinn.client.session import Session
from djinn.timeline import chrome_trace
from djinn.wire import messages as m

HELLO_S = 10.0  # a server that listens answers a greeting at once


class Client:
    """A connection to one server; close it, or use it in a `with`. One client for each thread.

    server: what it said of itself: model, device, depth (layers), vocabulary, hidden_size, max_tokens, plan (bytes).
    """

    def __init__(self, endpoint: str, timeout: float = 600.0) -> None:
        self.connection = Connection(endpoint, timeout)
        try:
            self.server: m.Welcome = self.connection.ask(m.Hello(), min(timeout, HELLO_S)).body
        except BaseException:  # no server there, or Ctrl-C: nobody holds this client who could close it
            self.connection.close()
            raise

    def open(self) -> Session:
        """A new session, idle and empty: it takes memory with its first prefill."""
        return Session(self.connection, self.connection.ask(m.Open()).body.session)

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
        """Close the connection. Its sessions stay on the server: close() those that are done with."""
        self.connection.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def connect(endpoint: str, timeout: float = 600.0) -> Client:
    """Connect to `tcp://host:port`. timeout: seconds to wait for any one reply. Raises ServerGone."""
    return Client(endpoint, timeout)
