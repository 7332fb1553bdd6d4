"""Joseph's projector on the CPU: compiled, threaded, and its exact adjoint.

For every ray the slice is walked along the axis the ray crosses most steeply, interpolating linearly
along the other (Joseph, IEEE TMI 1, 1982): the same discretisation as ASTRA's `linear` projector.
"""

import math
from collections.abc import Callable
from functools import cache

import numba
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]


@numba.njit(parallel=True, fastmath=True, cache=True)
def forward(image: Array, angles_rad: Array, detectors: int, pitch_px: float, out: Array) -> None:
    """Line integrals in (image unit x pixel): image [row, column] -> out [view, detector]."""
    side = image.shape[0]
    half = 0.5 * (side - 1)
    half_detector = 0.5 * (detectors - 1)
    for v in numba.prange(angles_rad.shape[0]):
        cos, sin = math.cos(angles_rad[v]), math.sin(angles_rad[v])
        steep = abs(cos) >= abs(sin)
        major = cos if steep else sin
        minor = sin if steep else cos
        step_px = 1.0 / abs(major)
        for d in range(detectors):
            offset = (d - half_detector) * pitch_px / major
            total = 0.0
            for line in range(side):
                # steep: line is a row (y points up), walked in x; flat: line is a column, walked in y
                along = (half - line) if steep else (line - half)
                position = offset - along * minor / major
                index = position + half if steep else half - position
                low = math.floor(index)
                weight = index - low
                k = int(low)
                if steep:
                    if 0 <= k < side:
                        total += (1.0 - weight) * image[line, k]
                    if -1 <= k < side - 1:
                        total += weight * image[line, k + 1]
                else:
                    if 0 <= k < side:
                        total += (1.0 - weight) * image[k, line]
                    if -1 <= k < side - 1:
                        total += weight * image[k + 1, line]
            out[v, d] = total * step_px


def _adjoint_of_width(taps: int) -> Callable[[Array, Array, float, Array], None]:
    """An adjoint whose inner loop is unrolled for `taps` detector bins a pixel: it then runs on vectors."""

    @numba.njit(parallel=True, fastmath=True, cache=True)
    def gather(padded: Array, angles_rad: Array, pitch_px: float, out: Array) -> None:
        side = out.shape[0]
        half = 0.5 * (side - 1)
        half_detector = 0.5 * (padded.shape[1] - 1)
        zero, one = np.float32(0.0), np.float32(1.0)
        for row in numba.prange(side):
            y = half - row
            line = np.zeros(side, np.float32)
            for v in range(angles_rad.shape[0]):
                cos, sin = math.cos(angles_rad[v]), math.sin(angles_rad[v])
                major = max(abs(cos), abs(sin))
                reach = np.float32(major / pitch_px)
                inverse = np.float32(pitch_px / major)
                scale = np.float32(1.0 / major)
                start = np.float32((y * sin - half * cos) / pitch_px + half_detector)
                step = np.float32(cos / pitch_px)
                view = padded[v]
                for column in range(side):
                    position = start + np.float32(column) * step
                    first = np.int32(position - reach) + np.int32(1)
                    total = zero
                    for tap in range(taps):
                        weight = one - abs(np.float32(first + tap) - position) * inverse
                        total += max(weight, zero) * view[first + np.int32(tap)]
                    line[column] += total * scale
            out[row] = line

    return gather


_gather = cache(_adjoint_of_width)


def adjoint(sinogram: Array, angles_rad: Array, pitch_px: float, out: Array) -> None:
    """The transpose of `forward`: sinogram [view, detector] -> out [row, column], by gathering.

    A pixel is touched by the rays closer to it than one pixel along the interpolated axis. A margin of
    zeros around each view spares the inner loop its bounds checks.
    """
    taps = math.ceil(2.0 / pitch_px)
    missing = math.ceil(max(0.0, (out.shape[0] * 1.4143 / pitch_px - sinogram.shape[1]) / 2))
    margin = missing + taps + 2
    padded = np.pad(sinogram, ((0, 0), (margin, margin)))
    _gather(taps)(padded, angles_rad, pitch_px, out)


@numba.njit(parallel=True, fastmath=True, cache=True)
def lines(image: Array, angles_rad: NDArray[np.float64], offsets_px: NDArray[np.float64], out: Array) -> None:
    """Line integrals along any rays: `forward` with an angle and an offset [view, ray] for each of them."""
    side = image.shape[0]
    half = 0.5 * (side - 1)
    for v in numba.prange(angles_rad.shape[0]):
        for d in range(angles_rad.shape[1]):
            cos, sin = math.cos(angles_rad[v, d]), math.sin(angles_rad[v, d])
            steep = abs(cos) >= abs(sin)
            major = cos if steep else sin
            minor = sin if steep else cos
            offset = offsets_px[v, d] / major
            total = 0.0
            for line in range(side):
                along = (half - line) if steep else (line - half)
                position = offset - along * minor / major
                index = position + half if steep else half - position
                low = math.floor(index)
                weight = index - low
                k = int(low)
                if 0 <= k < side:
                    total += (1.0 - weight) * (image[line, k] if steep else image[k, line])
                if -1 <= k < side - 1:
                    total += weight * (image[line, k + 1] if steep else image[k + 1, line])
            out[v, d] = total / abs(major)
