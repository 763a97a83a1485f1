"""What stands around every message: its number, who sent it, and what the raw frames behind it hold."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

Name = Annotated[str, Meta(max_length=64)]
Token = Annotated[str, Meta(min_length=32, max_length=128)]
Number = Annotated[int, Meta(ge=0, le=2**63 - 1)]


class TensorSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    dtype: Literal["int64", "float32", "float16", "uint16"]  # numpy has no bfloat16: it travels as uint16
    shape: tuple[int, ...]


class Sender(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Who asks: `client` numbers its requests, and has had every reply up to number `answered`."""

    client: Name
    token: Token  # owns the sessions where there are no keys
    answered: Number = 0

    def __repr__(self) -> str:  # the token is a secret
        return f"Sender({self.client!r})"


class Envelope(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The first frame. `tensors` describes the raw frames behind it, one each; `sender` comes with every request."""

    id: Number
    body: msgspec.Raw
    tensors: tuple[TensorSpec, ...] = ()
    sender: Sender | None = None
