"""Hidden states as they travel, in the model's dtype, to what numpy can compute with."""

from __future__ import annotations

import numpy as np


def widened(array: np.ndarray, dtype: str) -> np.ndarray:
    """float32 of the same shape. dtype: of the model; bfloat16 comes as uint16 and is the upper half of a float32."""
    if dtype == "bfloat16":
        wide = np.empty(array.shape, np.uint32)
        np.left_shift(array, 16, out=wide, dtype=np.uint32)  # one pass over the memory
        return wide.view(np.float32)
    return array.astype(np.float32)
