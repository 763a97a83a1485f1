"""What a user may hand in as token ids and activations, as the arrays that travel. Raises BadRequest before anything is sent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from djinn.errors import BadRequest

TokenIds = Sequence[int] | np.ndarray
FLOATS = (np.float16, np.float32, np.float64)


def token_ids(given: TokenIds, *, empty: bool = False) -> np.ndarray:
    """int64 `(n,)` from integers of shape `(n,)` or `(1, n)`."""
    ids = _array(given, "token ids")
    if ids.ndim == 2 and ids.shape[0] == 1:
        ids = ids[0]
    if ids.ndim != 1 or (ids.size and not np.issubdtype(ids.dtype, np.integer)):
        raise BadRequest(f"token ids must be integers of shape (n,) or (1, n), not {ids.dtype} {ids.shape}")
    if not (ids.size or empty):
        raise BadRequest("an empty prompt: give at least one token")
    return ids.astype(np.int64)


def activation(given: Any) -> np.ndarray:
    """float32 from float16, float32 or float64; what float32 cannot hold becomes infinite, which the server refuses."""
    array = _array(given, "an activation")
    if array.dtype not in FLOATS:
        raise BadRequest(f"an activation must be float16, float32 or float64, not {array.dtype}")
    with np.errstate(over="ignore"):
        return array.astype(np.float32)


def _array(given: Any, what: str) -> np.ndarray:
    try:
        return np.asarray(given)
    except (TypeError, ValueError) as error:  # ragged, or a tensor of a type or on a device that numpy does not know
        raise BadRequest(f"{what} cannot be read as a numpy array: {error}") from error
