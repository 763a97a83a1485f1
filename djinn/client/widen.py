"""Hidden states as they travel, in the model's dtype, to what numpy can compute with."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np

THREADS = min(4, os.cpu_count() or 1)
LARGE = 1 << 20  # values from which on they are worth starting


def widened(array: np.ndarray, dtype: str) -> np.ndarray:
    """float32 of the same shape. dtype: of the model; bfloat16 comes as uint16 and is the upper half of a float32."""
    if dtype != "bfloat16":
        return array.astype(np.float32)
    wide = np.empty(array.shape, np.uint32)
    if array.size < LARGE:
        _shift((array, wide))
    else:  # most of the time goes into the kernel's pages for `wide`
        with ThreadPoolExecutor(THREADS) as threads:
            parts = (np.array_split(whole.reshape(-1), THREADS) for whole in (array, wide))
            list(threads.map(_shift, zip(*parts, strict=True)))
    return wide.view(np.float32)


def _shift(pair: tuple[np.ndarray, np.ndarray]) -> None:
    half, wide = pair
    np.left_shift(half, 16, out=wide, dtype=np.uint32)  # one pass over the memory
