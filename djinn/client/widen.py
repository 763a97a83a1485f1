"""Hidden states as they travel, in the model's dtype, to what numpy can compute with."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from djinn.errors import BadRequest

THREADS = min(4, os.cpu_count() or 1)
LARGE = 1 << 20  # values from which on they are worth starting


def widened(array: np.ndarray, dtype: str, out: np.ndarray | None = None) -> np.ndarray:
    """float32 of the same shape, written to `out` where it is given. dtype: of the model; bfloat16 comes as uint16 and is the
    upper half of a float32. Raises BadRequest where `out` cannot hold it."""
    wide = np.empty(array.shape, np.float32) if out is None else _fitting(out, array.shape)
    if dtype != "bfloat16":
        np.copyto(wide, array)
        return wide
    bits = wide.view(np.uint32)
    if array.size < LARGE:
        _shift((array, bits))
    else:  # into a fresh array most of the time goes into the kernel's pages for it
        with ThreadPoolExecutor(THREADS) as threads:
            parts = (np.array_split(whole.reshape(-1), THREADS) for whole in (array, bits))
            list(threads.map(_shift, zip(*parts, strict=True)))
    return wide


def _fitting(out: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    if not isinstance(out, np.ndarray):
        raise BadRequest(f"out must be a numpy array, not {type(out).__name__}")
    writable = out.flags.c_contiguous and out.flags.writeable
    if out.shape != shape or out.dtype != np.float32 or not writable:
        what = "" if writable else ", not contiguous or not writable"
        raise BadRequest(
            f"out must be a writable C-contiguous float32 array of shape {shape}, not {out.dtype} {out.shape}{what}"
        )
    return out


def _shift(pair: tuple[np.ndarray, np.ndarray]) -> None:
    half, wide = pair
    np.left_shift(half, 16, out=wide, dtype=np.uint32)  # one pass over the memory
