"""Every message that may cross the wire, as msgspec structs: unknown fields and wrong types are refused on decoding."""

from __future__ import annotations

from typing import Literal

import msgspec

from djinn.edits import AnyEdit
from djinn.sampling import Sampling
from djinn.wire.envelope import Name

PROTOCOL = 5


class _Request(msgspec.Struct, frozen=True, kw_only=True, tag_field="op", forbid_unknown_fields=True):
    pass


class Hello(_Request, tag="hello"):
    protocol: int = PROTOCOL


class Stats(_Request, tag="stats"):
    pass


class Spans(_Request, tag="spans"):
    pass


class Open(_Request, tag="open"):
    pass


class Sessions(_Request, tag="sessions"):
    """Those of the owner who asks."""


class _OfSession(_Request):
    session: Name


class _Computes(_OfSession):
    max_new_tokens: int = 0
    break_at: int | None = None
    break_token: int | None = None
    logits: Literal["last", "all", "none"] = "last"
    stop_tokens: tuple[int, ...] = ()
    sampling: Sampling | None = None  # None: the session's own goes on
    stream: bool = False  # a TokenReply for each token, before the reply


class Prefill(_Computes, tag="prefill"):
    """One frame: token ids, int64 `(n,)`."""

    checkpoint_at: tuple[int, ...] = ()


class Generate(_Computes, tag="generate"):
    """One frame: token ids, int64 `(n,)`, n may be 0."""


class Resume(_Computes, tag="resume"):
    """No frame, or one: the activation that replaces the kept one, float32 `(1, rows, hidden)`."""

    pause: Name | None = None  # the pause that the client means; None: wherever the session stands
    checkpoint: Name | None = None  # rewind to it instead
    edits: tuple[AnyEdit, ...] = ()


class FetchActivation(_OfSession, tag="activation"):
    name: Name


class Discard(_OfSession, tag="discard"):
    """Of a checkpoint."""

    name: Name


class Fork(_OfSession, tag="fork"):
    """Another that stands where it does: answered as Open is."""


class Park(_OfSession, tag="park"):
    durable: bool = False


class Cancel(_OfSession, tag="cancel"):
    pass


class Close(_OfSession, tag="close"):
    pass


class Describe(_OfSession, tag="describe"):
    pass


class Attach(_OfSession, tag="attach"):
    """What there is to go on from, for one who was not there."""


AnyRequest = (
    Hello
    | Stats
    | Spans
    | Open
    | Sessions
    | Prefill
    | Generate
    | Resume
    | FetchActivation
    | Discard
    | Fork
    | Park
    | Cancel
    | Close
    | Describe
    | Attach
)
Reads = Hello | Stats | Spans | Sessions | FetchActivation | Describe | Attach  # done twice they do no harm
Frees = Hello | Cancel | Close  # who has too much under way comes in with these, and gets below the limit


class _Reply(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", forbid_unknown_fields=True):
    pass


class Welcome(_Reply, tag="welcome"):
    protocol: int
    server_version: str
    model: dict[str, str | int | None]
    device: str
    depth: int
    vocabulary: int
    hidden_size: int
    max_tokens: int
    plan: dict[str, int]
    max_message_bytes: int
    lease_s: float  # how long sessions are kept after their owner's last sign of life


class StatsReply(_Reply, tag="stats"):
    bytes: dict[str, int]
    sessions: dict[str, int]
    waits: dict[str, int]
    clock_ns: int


class SpansReply(_Reply, tag="spans"):
    """(track, name, start ns, end ns, about)."""

    spans: tuple[tuple[str, str, int, int, dict[str, int | str]], ...]


class Opened(_Reply, tag="opened"):
    session: str


class Listed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    id: str
    state: str
    tokens: int
    lease_left_s: float


class SessionsReply(_Reply, tag="sessions"):
    sessions: tuple[Listed, ...]


class TokenReply(_Reply, tag="token"):
    """One token of a request that streams, under its number. May be missing: the last reply holds them all."""

    index: int  # within the tokens of the request
    token: int


class PausedReply(_Reply, tag="paused"):
    name: str
    layer: int
    rows: int
    tokens: tuple[int, ...]
    stamps: dict[str, int]


class OutcomeReply(_Reply, tag="outcome"):
    """One frame if logits were asked for: float32 `(vocabulary,)` or `(positions, vocabulary)`."""

    tokens: tuple[int, ...]
    checkpoints: dict[int, str]
    stamps: dict[str, int]


class ActivationReply(_Reply, tag="activation"):
    """One frame: `(1, rows, hidden)`, in the model's own dtype; bfloat16 as the uint16 that its bits are."""

    dtype: Literal["float32", "float16", "bfloat16"]


class Described(_Reply, tag="described"):
    state: str
    history: tuple[tuple[str, int], ...]
    lease_left_s: float | None  # None: it ended


class Kept(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A pause or a checkpoint."""

    name: str
    layer: int
    rows: int


class Attached(_Reply, tag="attached"):
    token_ids: tuple[int, ...]
    pause: Kept | None
    checkpoints: tuple[Kept, ...]


class Done(_Reply, tag="done"):
    pass


class Failure(_Reply, tag="failure"):
    code: str
    message: str


AnyReply = (
    Welcome
    | StatsReply
    | SpansReply
    | Opened
    | SessionsReply
    | TokenReply
    | PausedReply
    | OutcomeReply
    | ActivationReply
    | Described
    | Attached
    | Done
    | Failure
)
