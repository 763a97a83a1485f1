"""One exchange: what is handed in, and which answers are lawful; and who hands it in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from djinn.wire import messages as m
from djinn.wire.envelope import Envelope, Sender
from djinn.wire.frames import MAX_HEADER_BYTES, pack

OK = "ok"
May = frozenset[str] | None  # codes of errors, or OK; None: success or any error of a request
REFUSED: May = frozenset({"bad_request", "illegal_move", "no_such_session", "out_of_memory"})
Frames = list[bytes]
_envelope = msgspec.msgpack.Decoder(Envelope)


@dataclass
class Exchange:
    """messages: handed in at once, each by a peer of its own; in_turn: each after the answer to the one before."""

    messages: list[Frames]
    may: Sequence[May]  # one for each message
    in_turn: bool = False
    same: bool = False  # every answer holds the same bytes
    joined: bool = False  # one number: the last who asks is answered, the others may be


def one(frames: Frames, may: May = None) -> Exchange:
    return Exchange([frames], [may])


class Actor:
    """A client that numbers its requests, and has had every reply before the next."""

    def __init__(self, owner: str, client: str) -> None:
        self.owner, self.client, self.number = owner, client, 0

    def pack(
        self,
        body: m.AnyRequest,
        tensors: Sequence[np.ndarray] = (),
        number: int | None = None,
        answered: int | None = None,
    ) -> Frames:
        if number is None:
            self.number += 1
            number = self.number
        sender = Sender(self.client, f"{self.owner:*<32}", max(0, number - 1) if answered is None else answered)
        return [bytes(frame) for frame in pack(number, body, tensors, sender)]


def number_of(frames: Sequence[Any]) -> int:
    """The number under which the answer must come: 0 where not even that can be read."""
    if not frames or len(frames[0]) > MAX_HEADER_BYTES:
        return 0
    try:
        return _envelope.decode(frames[0]).id
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return 0
