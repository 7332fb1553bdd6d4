"""How much patient the beam went through."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

BODY_THRESHOLD_HU = -260.0
METAL_HU = 3071.0
TOUCHING_MM = 20.0
"""Least length of body outline on the edge of the field of view that counts as cut off: a nose is less."""

EDGE_PX = 2.0
NEAR_MM = 30.0
"""How far neighbours may lend their size to a slice that was cut off."""

CUT_SHARE = 0.25
"""Share of the body's outline on the edge of the field of view up to which a lower bound is good: of real
slices cut to smaller fields 174 of 179 kept 90 % of their diameter; beyond it they kept as little as 38 %."""

CUT_LUNG_HU = (-915.0, -300.0)
"""Medians of lung that the field of view cut open. Mattresses have -930, the room has air whatever stands
in it."""
LEAST_CUT_LUNG = 0.08


@dataclass(frozen=True)
class SliceSize:
    """Water-equivalent diameter of one slice; 0 without a body.

    `source`: `measured`; `lower-bound` where the body reaches beyond the field of view; `neighbours` where
    such a slice took the larger diameter of whole slices close by; `unknown` where so much lies beyond that
    the lower bound says little.
    """

    diameter_mm: float
    source: Literal["measured", "lower-bound", "neighbours", "unknown"] = "measured"


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
    edge = _edge(hounsfield.shape[1:], padding)
    whole = body_mask(hounsfield)
    inside = np.stack([_with_cut_lungs(*one, edge, pixel_mm) for one in zip(hounsfield, whole, strict=True)])
    sizes = [
        SliceSize(float(diameter), _source(mask, edge, pixel_mm))
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
        # metal counts as the top of the 12-bit scale, also where the scale goes on to 20,000 HU
        water = np.clip(image[loose], -1000.0, METAL_HU) / 1000.0 + 1.0
        area_mm2[k] = water.sum() * pixel_mm**2
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


def _source(
    mask: NDArray[np.bool_], edge: _Edge, pixel_mm: float
) -> Literal["measured", "lower-bound", "unknown"]:
    """Whether enough of the body's outline lies on the border or ends at the circle, and how much of it."""
    ring = _ring_reached(mask, edge, pixel_mm)
    if ring is None:
        return "measured"
    outline = mask & ~ndimage.binary_erosion(mask)
    on_edge = outline & ndimage.binary_dilation(ring)
    return "unknown" if on_edge.sum() > CUT_SHARE * outline.sum() else "lower-bound"


def _ring_reached(mask: NDArray[np.bool_], edge: _Edge, pixel_mm: float) -> NDArray[np.bool_] | None:
    """The part of the edge at which the body ends, None where it ends before."""
    least_px = TOUCHING_MM / pixel_mm
    ends_there = (mask & edge.beyond).sum() < least_px
    # both bands are two pixels wide
    if ends_there and (mask & edge.circle).sum() >= EDGE_PX * least_px:
        return edge.circle | edge.border
    return edge.border if (mask & edge.border).sum() >= 2 * least_px else None


def _with_cut_lungs(
    image: NDArray[np.float32], mask: NDArray[np.bool_], edge: _Edge, pixel_mm: float
) -> NDArray[np.bool_]:
    """`mask` with lungs that lie open because the chest wall around them is beyond the field of view."""
    rim = edge.beyond | edge.circle | edge.border  # along which air would join lung to room
    labels, count = ndimage.label(~mask & ~rim)
    if not count or not mask.any():
        return mask
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    large = np.flatnonzero(sizes >= max(LEAST_CUT_LUNG * mask.sum(), (TOUCHING_MM / pixel_mm) ** 2))
    lungs = [k for k in large if CUT_LUNG_HU[0] < float(np.median(image[labels == k])) < CUT_LUNG_HU[1]]
    if not lungs:
        return mask
    opened: NDArray[np.bool_] = ndimage.binary_dilation(np.isin(labels, lungs), iterations=3)
    return mask | (opened & ~edge.beyond)


def _with_neighbours(sizes: Sequence[SliceSize], reach: int) -> tuple[SliceSize, ...]:
    """A cut slice close to whole ones has at least the size that they lead to expect."""
    whole = np.array([k for k, one in enumerate(sizes) if one.source == "measured" and one.diameter_mm > 0])
    if not len(whole):
        return tuple(sizes)
    told = [sizes[k].diameter_mm for k in whole]
    return tuple(
        replace(one, diameter_mm=expected, source="neighbours")
        if one.source in ("lower-bound", "unknown")
        and np.abs(whole - k).min() <= reach
        and (expected := float(np.interp(k, whole, told))) > one.diameter_mm
        else one
        for k, one in enumerate(sizes)
    )


def around_body(image: NDArray[np.float32], margin_px: int) -> tuple[slice, slice]:
    """Rows and columns of the patient in a slice, HU [row, column], with a margin; all without one."""
    inside = body_mask(image[None])[0]
    if not inside.any():
        return slice(None), slice(None)
    spans = []
    for axis in (1, 0):
        found = np.flatnonzero(inside.any(axis=axis))
        spans.append(slice(max(0, int(found[0]) - margin_px), int(found[-1]) + 1 + margin_px))
    return spans[0], spans[1]
