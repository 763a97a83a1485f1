"""What a durable file says of its session beside the numbers. Data alone, schema-checked when it is read. Pure."""

from __future__ import annotations

import msgspec

from djinn.sampling import Sampling

FORMAT = 1  # counted up when a file of before cannot be read any more
LOGITS = "logits"  # the part that is no part of the session's pages: the last logits, behind all others


class Frozen(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class Identity(Frozen):
    """Which model the numbers belong to: with any other they mean nothing."""

    name: str
    dtype: str
    config_sha256: str  # of the model's configuration
    weights_sha256: str  # of hashes of every row of every weight


class Chooser(Frozen):
    """How the next token is chosen, and where the random stream stands."""

    sampling: Sampling
    stream: bytes | None  # state of a torch CPU generator; None: greedy


class Kept(Frozen):
    """A pass stopped, or tapped, behind `layer` layers: all of it but its hidden state, which is the part of that name."""

    name: str
    layer: int
    ids: tuple[int, ...]
    past: int
    chooser: Chooser | None  # None: a pause, which goes on with the session's own


class Part(Frozen):
    """One run of numbers in the file, in the order of the parts."""

    name: str  # kv.LAYER, kept.NAME, or LOGITS
    dtype: str  # as torch names it
    shape: tuple[int, ...]
    nbytes: int
    crc32: str = "0" * 8  # hexadecimal; filled in when the part has been written


class Record(Frozen):
    format: int
    key: str  # the session's id, and the file's name
    owner: str  # whose it is: opaque here
    model: Identity
    ids: tuple[int, ...]  # every token that the model was given, up to `length`
    length: int  # tokens whose keys and values every layer holds
    lengths: tuple[int, ...]  # the same for each layer: they differ while it is paused
    unfed: tuple[int, ...]
    pause: Kept | None
    checkpoints: tuple[Kept, ...]
    chooser: Chooser
    serial: int  # of the last name that it gave to a kept state
    parts: tuple[Part, ...]

    def pages(self) -> tuple[Part, ...]:
        """The parts that lie in the tiers while the session lives: all but the last logits."""
        return tuple(part for part in self.parts if part.name != LOGITS)
