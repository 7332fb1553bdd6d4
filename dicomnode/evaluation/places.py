"""Where to measure: squares of even tissue in a patient."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, uniform_filter

SOFT_HU = (0.0, 160.0)
"""Mean of a square: soft tissue, with contrast or without."""

SMOOTHED_PX = 3.0
MOST_STRUCTURE = 0.25
STRUCTURE_FLOOR_HU = 2.0
"""What a square may vary after smoothing: the floor, and so much of its noise. Noise itself leaves less."""

Volume = NDArray[np.float32]
Number = TypeVar("Number", bound=np.generic)


@dataclass(frozen=True, order=True)
class Place:
    """The middle of a square in a stack, in pixels."""

    slice: int
    row: int
    column: int


def find_even(
    hounsfield: Volume, side_px: int, *, span_hu: tuple[float, float] = SOFT_HU, most: int = 200
) -> list[Place]:
    """Squares of even tissue that do not overlap, at most `most`, the most even first in each slice.

    `hounsfield` [slice, row, column]. Even is a square whose mean lies in `span_hu` and in which the image,
    smoothed by 3 pixels, varies by less than 2 HU and a quarter of the noise together. Empty where there is
    none: a smaller `side_px` finds more.
    """
    found: list[list[Place]] = [
        _in_slice(image, number, side_px, span_hu) for number, image in enumerate(hounsfield)
    ]
    # the best of every slice before the second best of any
    ranked = [(rank, place) for places in found for rank, place in enumerate(places)]
    return sorted(place for _, place in sorted(ranked)[:most])


def cut(hounsfield: NDArray[Number], places: Sequence[Place], side_px: int) -> NDArray[Number]:
    """The squares themselves, [place, row, column]; the place is pixel `side_px // 2` of each.

    `hounsfield` [slice, row, column]. Raises ValueError for a square that leaves the image.
    """
    squares = []
    for place in places:
        row, column = place.row - side_px // 2, place.column - side_px // 2
        square = hounsfield[place.slice, max(row, 0) : row + side_px, max(column, 0) : column + side_px]
        if square.shape != (side_px, side_px):
            raise ValueError(f"a square of {side_px} pixels around {place} leaves the image")
        squares.append(square)
    return np.stack(squares) if squares else np.empty((0, side_px, side_px), hounsfield.dtype)


def _in_slice(image: Volume, number: int, side_px: int, span_hu: tuple[float, float]) -> list[Place]:
    structure = _structure(image.astype(np.float64), side_px, span_hu)
    places = []
    while structure.size and np.isfinite(structure.min()):
        row, column = np.unravel_index(int(structure.argmin()), structure.shape)
        places.append(Place(number, int(row), int(column)))
        structure[
            max(row - side_px + 1, 0) : row + side_px, max(column - side_px + 1, 0) : column + side_px
        ] = np.inf
    return places


def _structure(image: NDArray[np.float64], side_px: int, span_hu: tuple[float, float]) -> NDArray[np.float64]:
    """How uneven the square around each pixel is, HU; infinite where it is no place at all."""
    smooth = gaussian_filter(image, SMOOTHED_PX)
    mean = uniform_filter(smooth, side_px)
    structure = _spread(smooth, side_px)
    even = structure < STRUCTURE_FLOOR_HU + MOST_STRUCTURE * _spread(image - smooth, side_px)
    inside = np.zeros(image.shape, bool)
    low, high = side_px // 2, side_px - side_px // 2 - 1
    inside[low : image.shape[0] - high, low : image.shape[1] - high] = True
    fits = inside & even & (mean > span_hu[0]) & (mean < span_hu[1])
    return np.where(fits, structure, np.inf)


def _spread(field: NDArray[np.float64], side_px: int) -> NDArray[np.float64]:
    variance = uniform_filter(field * field, side_px) - uniform_filter(field, side_px) ** 2
    spread: NDArray[np.float64] = np.sqrt(np.maximum(variance, 0.0))
    return spread
