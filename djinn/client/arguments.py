"""What a user may hand in, as what travels. Raises BadRequest, which says what to give instead, before anything is sent."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import Any, Protocol, TypeVar

import msgspec
import numpy as np

from djinn.edits import UNREADABLE, plain
from djinn.errors import BadRequest

TokenIds = Sequence[int] | np.ndarray
FLOATS = (np.float16, np.float32, np.float64)
LISTS = ("checkpoint_at", "stop_tokens", "edits")  # None is as left out
Body = TypeVar("Body", bound=msgspec.Struct)


class Listening(Protocol):
    """A LocalServer, for one."""

    endpoint: str


def token_ids(given: TokenIds, most: int | None = None, *, empty: bool = False) -> np.ndarray:
    """int64 `(n,)` from integers of shape `(n,)` or `(1, n)`. most: tokens that the server lets a session hold."""
    if isinstance(given, str | bytes | bytearray | Mapping):
        raise BadRequest(
            f"token ids must be integers, not {type(given).__name__}: Djinn has no tokenizer, give tokenizer(text)['input_ids']"
        )
    ids = _array(given, "token ids")
    if ids.ndim == 2 and ids.shape[0] == 1:
        ids = ids[0]
    if ids.size and ids.dtype.kind != "i":
        _check_width(given)
    if ids.ndim != 1 or (ids.size and not np.issubdtype(ids.dtype, np.integer)):
        raise BadRequest(f"token ids must be integers of shape (n,) or (1, n), not {ids.dtype} {ids.shape}")
    if not (ids.size or empty):
        raise BadRequest("an empty prompt: give at least one token")
    if most is not None and ids.size > most:
        raise BadRequest(f"{ids.size} tokens are more than this server's {most} (max_tokens): shorten the prompt")
    return ids.astype(np.int64)


def _check_width(given: TokenIds) -> None:
    """Name the number that made numpy take another type for all of them."""
    for number in np.asarray(given, dtype=object).reshape(-1):
        if isinstance(number, int) and not -(2**63) <= number < 2**63:
            raise BadRequest(f"token id {number} is in no vocabulary: token ids are integers of 64 bits")


def activation(given: Any) -> np.ndarray:
    """float32 from float16, float32 or float64; what float32 cannot hold becomes infinite, which the server refuses."""
    array = _array(given, "an activation")
    if array.dtype not in FLOATS:
        raise BadRequest(f"an activation must be float16, float32 or float64, not {array.dtype}")
    if array.ndim != 3:
        raise BadRequest(f"the activation has shape {array.shape}, expected (1, rows, hidden)")
    with np.errstate(over="ignore"):
        return array.astype(np.float32)


def _array(given: Any, what: str) -> np.ndarray:
    try:
        return np.asarray(given)
    except UNREADABLE as error:  # ragged, or a tensor of a type or on a device that numpy does not know
        raise BadRequest(f"{what} cannot be read as a numpy array: {error}") from error


def settled(body: Body) -> Body:
    """`body` with numbers and lists of Python's own."""
    given = {name: plain(getattr(body, name)) for name in body.__struct_fields__}
    given |= {name: () for name in LISTS if name in given and given[name] is None}
    if isinstance(given.get("edits"), Set):
        raise BadRequest("edits are applied in turn, and a set has no order: give a list")
    tokens = given["stop_tokens"]
    for token in tokens if isinstance(tokens, Sequence | Set) else ():  # anything else is refused as of a wrong type
        if isinstance(token, int | np.integer) and token < 0:
            raise BadRequest(f"stop_tokens: {token} is no token id, they begin at 0")
    return type(body)(**given)


def address(given: str | Listening) -> str:
    endpoint = getattr(given, "endpoint", given)
    if not isinstance(endpoint, str):
        raise BadRequest(f"connect() takes a server or its address, tcp://host:port, not {type(given).__name__}")
    if not _travels(endpoint):
        raise BadRequest(f"{endpoint!r} is not a server's address: write tcp://host:port")
    return endpoint


def _travels(text: str) -> bool:
    """Half of a surrogate pair does not: it stands for a byte that was no text."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def seconds(given: Any) -> float:
    if not (_is_number(given) and given >= 0):  # NaN is not
        raise BadRequest(f"timeout={given!r} is not a number of seconds: give 0 or more")
    return _seconds(given)


def seconds_or_none(given: Any) -> float | None:
    """Seconds to wait for a reply; below 0 is as 0, None the client's own."""
    if given is None:
        return None
    if not (_is_number(given) and given == given):
        raise BadRequest(f"timeout={given!r} is not a number of seconds: give one, or None for the client's own")
    return _seconds(given)


def _is_number(given: Any) -> bool:
    return isinstance(given, int | float | np.integer | np.floating) and not isinstance(given, bool)


def _seconds(number: float) -> float:
    try:
        return float(number)
    except OverflowError:
        raise BadRequest("no timeout is so long a number of seconds: float('inf') waits for ever") from None


def folder(given: Any) -> Path | None:
    """Of keys."""
    if not isinstance(given, str | os.PathLike | None):
        raise BadRequest(f"keys is the folder that `djinn keys` made for this client, not {type(given).__name__}")
    return None if given is None else Path(given)


def token(given: Any) -> str | None:
    """Of a client, or None for a new one."""
    if given is not None and not (isinstance(given, str) and 32 <= len(given) <= 128 and _travels(given)):
        raise BadRequest(
            "a token is 32 to 128 characters that nobody can guess: take the one of a client, client.token"
        )
    return given
