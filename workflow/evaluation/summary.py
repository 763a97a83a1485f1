"""Medians, percentiles and spreads of samples. Pure: numbers in, numbers out, the same every time.

p95 interpolates linearly between order statistics (numpy's default). The spread of a ratio of two medians
is a bootstrap 95 % interval: both sides resampled on their own, 1,000 times, seeded by the name of the
samples.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

RESAMPLES = 1000
DEFINITIONS = {
    "p95": "linear interpolation between order statistics",
    "ratio": "median of the baseline / median of Djinn: above 1 Djinn is faster",
    "ratio_spread": f"bootstrap 95 % interval of the ratio, {RESAMPLES} resamples of each side, seeded",
    "paired": "median of the ratios (differences) inside a round; bounds: order statistics of a sign test, 95 % (from 6 rounds on)",
    "crossover": "recompute's median exceeds Djinn's; the difference is interpolated linearly between layers",
}


def summarise(samples: Sequence[float]) -> dict[str, float | int]:
    """n, median, p95, quartiles, min and max, in the unit of the samples."""
    values = np.asarray(samples, dtype=float)
    q25, median, q75, p95 = np.percentile(values, [25, 50, 75, 95])
    numbers = {"median": median, "p95": p95, "q25": q25, "q75": q75, "min": values.min(), "max": values.max()}
    return {"n": int(values.size), **{name: float(number) for name, number in numbers.items()}}


def resampled_medians(samples: Sequence[float], name: str) -> np.ndarray:
    """RESAMPLES bootstrap medians; `name` seeds the draw, so that two systems are never resampled in step."""
    values = np.asarray(samples, dtype=float)
    draws = np.random.default_rng(zlib.crc32(name.encode())).integers(0, values.size, (RESAMPLES, values.size))
    return np.median(values[draws], axis=1)


def ratio(
    over: Sequence[float], under: Sequence[float], over_medians: np.ndarray, under_medians: np.ndarray
) -> dict[str, float] | None:
    """Median over median with its bootstrap 95 % interval; null when a median below the line is zero."""
    below = float(np.median(under))
    if below == 0 or not under_medians.all():
        return None
    low, high = np.percentile(over_medians / under_medians, [2.5, 97.5])
    return {"ratio": float(np.median(over)) / below, "low": float(low), "high": float(high)}


def paired(over: Sequence[float], under: Sequence[float]) -> dict[str, float | int]:
    """Ratios of samples taken in turn, round by round: n, ratio (their median), and its 95 % bounds.

    The bounds are the order statistics of a sign test, which assume nothing about the noise; of fewer than 6 rounds they
    are the smallest and the largest.
    """
    middle, low, high = _median_and_bounds([a / b for a, b in zip(over, under, strict=True)])
    return {"n": len(over), "ratio": middle, "low": low, "high": high}


def paired_difference(more: Sequence[float], less: Sequence[float]) -> dict[str, float | int]:
    """As `paired`, of the differences, in the samples' unit."""
    middle, low, high = _median_and_bounds([a - b for a, b in zip(more, less, strict=True)])
    return {"n": len(more), "difference": middle, "low": low, "high": high}


def _median_and_bounds(samples: list[float]) -> tuple[float, float, float]:
    ordered, n = sorted(samples), len(samples)
    margin = math.ceil(0.98 * math.sqrt(n))  # half the width, in ranks, of a 95 % interval of a median
    return float(np.median(ordered)), ordered[max(0, n // 2 - margin)], ordered[min(n - 1, n // 2 + margin)]


def crossover(ours: Mapping[int, float], theirs: Mapping[int, float]) -> dict[str, Any]:
    """Where `theirs` (ms by layer) first exceeds `ours`: the smallest measured layer, and interpolated."""
    layers = sorted(ours.keys() & theirs.keys())
    gaps = [theirs[layer] - ours[layer] for layer in layers]
    above = [index for index, gap in enumerate(gaps) if gap > 0]
    if not above:
        return {
            "measured_layer": None,
            "interpolated_layer": None,
            "reason": f"recompute's median does not exceed Djinn's at any of the measured layers {layers}",
        }
    first = above[0]
    if first == 0:
        place, reason = (
            None,
            f"recompute's median exceeds Djinn's at the smallest measured layer already ({layers[0]})",
        )
    else:
        left, right = layers[first - 1], layers[first]
        place = left + (right - left) * -gaps[first - 1] / (gaps[first] - gaps[first - 1])
        reason = None
    back = [layers[index] for index in range(first, len(layers)) if gaps[index] <= 0]
    if back:
        reason = "; ".join(filter(None, [reason, f"it falls back below at layers {back}"]))
    return {"measured_layer": layers[first], "interpolated_layer": place, "reason": reason}
