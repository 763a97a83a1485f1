"""One client's own end of the line: what it refuses to send, what it cannot read, and what it keeps."""

from __future__ import annotations

import pytest

import djinn
from djinn.errors import BadRequest, ProtocolError
from djinn.wire.frames import MAX_HEADER_BYTES


def test_more_edits_than_fit_a_request_are_refused_with_what_to_do(client, prompt):
    session = client.open()
    h = session.prefill(prompt, break_at=3).activation()
    edits = [djinn.Set(h[0, i % 100], positions=(i % 100,)) for i in range(MAX_HEADER_BYTES // (9 * 256) + 1)]
    with pytest.raises(BadRequest, match="activation="):
        session.resume(edit=edits)
    assert session.state == "paused"
    session.resume(activation=h)
    session.close()


def test_a_refusal_that_names_no_request_ends_the_connection_with_its_reason(client):
    """A server that cannot read so far as to a request's number says so under number 0."""
    client.connection._socket.send_multipart([b"\xff"])
    for _ in range(2):
        with pytest.raises(ProtocolError, match="not a request of this protocol"):
            client.stats()


@pytest.mark.parametrize("token", [b"a" * 32, ["a"] * 40, 123])
def test_a_token_is_text(server, token):
    with pytest.raises(BadRequest, match=r"client\.token"):
        djinn.connect(server.endpoint, token=token)
