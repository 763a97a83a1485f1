"""What a server takes from its clients. Every limit is an option of `djinn serve`, and is named when it is reached."""

from __future__ import annotations

import argparse
from dataclasses import dataclass

from djinn.errors import BadRequest
from djinn.sizes import parse_bytes, parse_seconds
from djinn.wire.frames import MAX_HEADER_BYTES

FLOAT32_BYTES = 4  # activations travel so
LEAST_MESSAGE = 4096  # bytes: with less no client could even say hello


@dataclass(frozen=True)
class ServerLimits:
    max_message_bytes: int
    max_sessions: int
    max_sessions_per_owner: int
    max_requests: int  # of one owner under way
    lease_s: float  # sessions are kept so long after their owner's last sign of life


def message_bytes(text: str) -> int:
    """Of --max-message. Raises BadRequest."""
    nbytes = parse_bytes(text)
    if nbytes < LEAST_MESSAGE:
        raise BadRequest(f"--max-message {text} holds no request: give {LEAST_MESSAGE} bytes or more, or leave it out")
    return nbytes


def limits_of(args: argparse.Namespace, max_tokens: int, hidden_size: int) -> ServerLimits:
    """Where no message size is given: a header, and the activation of the longest session."""
    largest = MAX_HEADER_BYTES + max_tokens * hidden_size * FLOAT32_BYTES
    return ServerLimits(
        max_message_bytes=message_bytes(args.max_message) if args.max_message else largest,
        max_sessions=args.max_sessions,
        max_sessions_per_owner=args.max_sessions_per_owner,
        max_requests=args.max_requests,
        lease_s=parse_seconds(args.lease),
    )
