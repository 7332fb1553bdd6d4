"""How much patient the beam went through."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

BODY_THRESHOLD_HU = -260.0
TOUCHING_MM = 20.0
"""Least length of body outline on the edge of the field of view that counts as cut off: a nose is less."""

EDGE_PX = 2.0
NEAR_MM = 30.0
"""How far neighbours may lend their size to a slice that was cut off."""


@dataclass(frozen=True)
class SliceSize:
    """Water-equivalent diameter of one slice; 0 without a body.

    `source`: `measured`; `lower-bound` where the body reaches beyond the field of view; `neighbours` where
    such a slice took the larger diameter of whole slices close by.
    """

    diameter_mm: float
    source: Literal["measured", "lower-bound", "neighbours"] = "measured"


def body_mask(hounsfield: NDArray[np.float32]) -> NDArray[np.bool_]:
    """The patient in each slice, without table and clothing: bool [slice, row, column].

    Threshold, the largest connected piece, holes (lung, bowel gas) filled.
    """
    mask = np.zeros(hounsfield.shape, bool)
    for k, image in enumerate(hounsfield):
        solid = ndimage.binary_opening(image > BODY_THRESHOLD_HU, iterations=2)
        labels, count = ndimage.label(solid)
        if count:
            sizes = np.bincount(labels.ravel())
            sizes[0] = 0
            mask[k] = ndimage.binary_fill_holes(labels == int(np.argmax(sizes)))
    return mask


def water_equivalent_diameter_mm(hounsfield: NDArray[np.float32], pixel_mm: float) -> NDArray[np.float32]:
    """Dw of each slice, [slice], mm: 2 sqrt(Aw / pi), Aw = sum(HU/1000 + 1) x pixel area (AAPM Report 220).

    Padding must have been set to air. A slice without a body gives 0. Where the body touches the field of
    view it is a lower bound (`measure_sizes` says so).
    """
    return _diameters_mm(hounsfield, body_mask(hounsfield), pixel_mm)


def measure_sizes(
    hounsfield: NDArray[np.float32],
    pixel_mm: float,
    spacing_mm: float,
    padding: NDArray[np.bool_] | None = None,
) -> tuple[SliceSize, ...]:
    """Dw of each slice, and whether all of the body was in the image. HU, `padding` [slice, row, column]."""
    inside = body_mask(hounsfield)
    edge = _edge(hounsfield.shape[1:], padding)
    sizes = [
        SliceSize(float(diameter), "lower-bound" if _touches(mask, edge, pixel_mm) else "measured")
        for diameter, mask in zip(_diameters_mm(hounsfield, inside, pixel_mm), inside, strict=True)
    ]
    return _with_neighbours(sizes, max(1, int(NEAR_MM / spacing_mm)))


def _diameters_mm(
    hounsfield: NDArray[np.float32], inside: NDArray[np.bool_], pixel_mm: float
) -> NDArray[np.float32]:
    """Slice by slice: volumes of the size of the series would double what a node needs for it."""
    margin = np.ones((5, 5), bool)
    area_mm2 = np.zeros(len(hounsfield))
    for k, (image, mask) in enumerate(zip(hounsfield, inside, strict=True)):
        # a margin of air costs nothing (it weighs 0) and keeps the skin
        loose = ndimage.binary_dilation(mask, structure=margin)
        area_mm2[k] = np.maximum(image[loose] / 1000.0 + 1.0, 0.0).sum() * pixel_mm**2
    diameters: NDArray[np.float32] = (2.0 * np.sqrt(area_mm2 / np.pi)).astype(np.float32)
    return diameters


# --- the field of view ----------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Edge:
    """What ends the image: its border and, at the same distance from the middle, a circle; [row, column]."""

    border: NDArray[np.bool_]
    circle: NDArray[np.bool_]
    beyond: NDArray[np.bool_]


def _edge(shape: tuple[int, ...], padding: NDArray[np.bool_] | None) -> _Edge:
    rows, columns = shape
    y, x = np.ogrid[:rows, :columns]
    radius = np.hypot(y - (rows - 1) / 2, x - (columns - 1) / 2)
    limit = _circle_px(radius, padding)
    border = np.ones(shape, bool)
    border[2:-2, 2:-2] = False
    return _Edge(border, (radius > limit - EDGE_PX) & (radius <= limit), radius > limit + EDGE_PX)


def _circle_px(radius: NDArray[np.float64], padding: NDArray[np.bool_] | None) -> float:
    """Radius of the reconstruction: where padding begins in all slices, else half the shorter side."""
    half: float = min(radius.shape) / 2
    if padding is None:
        return half
    never = padding.all(axis=0)
    measured = radius[~never]
    # outliers: single padded-looking or spared pixels do not move the circle
    found = float(np.quantile(measured, 0.999)) if measured.size else half
    return found if never.any() and found < half else half


def _touches(mask: NDArray[np.bool_], edge: _Edge, pixel_mm: float) -> bool:
    """Whether enough of the body's outline lies on the border, or ends at the circle."""
    least_px = TOUCHING_MM / pixel_mm
    # both bands are two pixels wide
    if (mask & edge.border).sum() >= 2 * least_px:
        return True
    ends_there = (mask & edge.beyond).sum() < least_px
    return bool(ends_there and (mask & edge.circle).sum() >= EDGE_PX * least_px)


def _with_neighbours(sizes: Sequence[SliceSize], reach: int) -> tuple[SliceSize, ...]:
    """A cut slice close to whole ones has at least the size that they lead to expect."""
    whole = np.array([k for k, one in enumerate(sizes) if one.source == "measured" and one.diameter_mm > 0])
    if not len(whole):
        return tuple(sizes)
    told = [sizes[k].diameter_mm for k in whole]
    return tuple(
        replace(one, diameter_mm=expected, source="neighbours")
        if one.source == "lower-bound"
        and np.abs(whole - k).min() <= reach
        and (expected := float(np.interp(k, whole, told))) > one.diameter_mm
        else one
        for k, one in enumerate(sizes)
    )
