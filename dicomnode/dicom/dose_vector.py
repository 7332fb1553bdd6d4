"""A dose along the patient: gaps filled, single outliers replaced, smoothed. One value a slice, sorted."""

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

MISSING_SHARE: Final = 0.2
OUTLIER_MAD: Final = 3.0
OUTLIER_SHARE: Final = 0.25
SMOOTHED_OVER_MM: Final = 5.0
"""Exposure control does not change faster; what does is rounding (mAs is an integer)."""


def repaired(values: Sequence[float | None], name: str, flags: set[str]) -> NDArray[np.float64] | None:
    """The vector with few gaps filled and single outliers replaced; None if too little is known.

    `name` begins the flags that are added to `flags`.
    """
    vector = np.array([math.nan if value is None else value for value in values], dtype=np.float64)
    known = np.isfinite(vector)
    if not known.any():
        return None
    if not known.all():
        if (~known).mean() > MISSING_SHARE:
            flags.add(f"{name}_INCOMPLETE")
            return None
        flags.add(f"{name}_INTERPOLATED")
        vector = np.interp(np.arange(len(vector)), np.flatnonzero(known), vector[known])
    outliers = _isolated_outliers(vector)
    if outliers.any():
        flags.add(f"{name}_OUTLIER_REPLACED")
        vector = np.interp(np.arange(len(vector)), np.flatnonzero(~outliers), vector[~outliers])
    return vector


def smoothed(values: Sequence[float | None], spacing_mm: float) -> tuple[float | None, ...]:
    """The mean over `SMOOTHED_OVER_MM` around each slice; thick slices, and gaps, stay as they are."""
    width = int(SMOOTHED_OVER_MM / spacing_mm) if spacing_mm > 0 else 1
    half = min((width - 1) // 2, len(values))
    if half < 1 or any(value is None for value in values):
        return tuple(values)
    padded = np.pad(np.array(values, dtype=np.float64), half, mode="edge")
    means = np.convolve(padded, np.full(2 * half + 1, 1 / (2 * half + 1)), mode="valid")
    return tuple(float(value) for value in means)


def _isolated_outliers(vector: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Single slices far from both neighbours: modulation is smooth, typing errors are not.

    The peak that its flanks lead up to is modulation: it is no farther from them than they from theirs.
    """
    found = np.zeros(len(vector), dtype=np.bool_)
    if len(vector) < 5:
        return found
    middle = _middle_of_others(vector)
    distance = np.abs(vector - middle)
    spread = 1.4826 * float(np.median(distance))
    steps = np.abs(np.diff(vector))
    beyond, leaps = np.pad(steps, 2), np.pad(steps, 1, constant_values=np.inf)
    leap, flank = np.minimum(leaps[:-1], leaps[1:]), np.maximum(beyond[:-3], beyond[3:])
    found = (distance > OUTLIER_MAD * spread) & (distance > OUTLIER_SHARE * np.abs(middle)) & (leap > flank)
    # Two in a row are a step, not an outlier.
    beside = np.roll(found, 1) | np.roll(found, -1)
    return np.asarray(found & ~beside, dtype=np.bool_)


def _middle_of_others(vector: NDArray[np.float64]) -> NDArray[np.float64]:
    """The median of the other four of the five slices around each; at the ends, of the five last."""
    first = np.clip(np.arange(len(vector)) - 2, 0, len(vector) - 5)
    around = first[:, None] + np.arange(5)
    others = around[around != np.arange(len(vector))[:, None]].reshape(-1, 4)
    return np.asarray(np.median(vector[others], axis=1), dtype=np.float64)
