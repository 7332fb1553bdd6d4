"""Where the slices of a series lie: planes, their order, gaps and tilt.

Positions come from ImagePositionPatient and ImageOrientationPatient alone (PS3.3 C.7.6.2.1.1), never from
SliceLocation or InstanceNumber.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from dicomnode.dicom.admission import label
from dicomnode.dicom.values import number, numbers
from dicomnode.errors import (
    DuplicatePosition,
    GantryTilt,
    GapInSeries,
    NotAxial,
    PixelsNotSquare,
    UnevenSpacing,
    UnsupportedGeometry,
)

UNIT_TOLERANCE: Final = 1e-3
SQUARE_TOLERANCE: Final = 1e-3
TILT_TOLERANCE_DEG: Final = 0.5
"""Largest angle between the slice normal and the stacking direction."""
OBLIQUE_TOLERANCE_DEG: Final = 2.0
"""Largest angle between the slice normal and the patient's long axis: acquired planes are not oblique."""
AXIAL_LIMIT_DEG: Final = 45.0
SPACING_TOLERANCE_MM: Final = 0.1
"""Positions are often written with one decimal."""
SPACING_TOLERANCE: Final = 0.1
ROUNDING_MM: Final = 1e-6
"""0.8 - 0.7 is more than 0.1 in binary."""
SAME_POSITION: Final = 0.1
"""Closer than this share of the median step counts as the same place."""
PIXEL_MM: Final = (0.02, 20.0)
"""Industrial micro-CT ends where this begins; the widest clinical fields have pixels below 2 mm."""
THICKEST_MM: Final = 200.0
THINNEST_MM: Final = 0.01
FARTHEST_MM: Final = 1e5
"""No scanner's table goes ten metres, but some coordinate systems begin far away."""
NAMED_POSITIONS: Final = 8


@dataclass(frozen=True, eq=False)
class Plane:
    """One slice in patient space (LPS, mm). `normal` points to the head."""

    position_mm: NDArray[np.float64]
    normal: NDArray[np.float64]
    pixel_spacing_mm: tuple[float, float]
    thickness_mm: float | None

    @property
    def height_mm(self) -> float:
        """Position along the normal."""
        return float(self.position_mm @ self.normal)


def read_plane(header: Dataset) -> Plane:
    """The plane of one image.

    :raises UnsupportedGeometry: an attribute is missing or unusable. :raises PixelsNotSquare.
    """
    position = _vector(header, "ImagePositionPatient", 3)
    orientation = _vector(header, "ImageOrientationPatient", 6)
    if np.any(np.abs(position) > FARTHEST_MM):
        raise UnsupportedGeometry(
            f"{label(header)}: ImagePositionPatient (0020,0032) is more than {FARTHEST_MM / 1000:g} m away"
        )
    row, column = orientation[:3], orientation[3:]
    lengths = np.array([np.linalg.norm(row), np.linalg.norm(column)])
    if np.any(np.abs(lengths - 1) > UNIT_TOLERANCE) or abs(float(row @ column)) > UNIT_TOLERANCE:
        raise UnsupportedGeometry(
            f"{label(header)}: ImageOrientationPatient (0020,0037) does not hold two unit "
            "vectors at right angles"
        )
    normal = np.cross(row, column)
    normal /= np.linalg.norm(normal)
    spacing = _vector(header, "PixelSpacing", 2)
    if np.any(spacing < PIXEL_MM[0]) or np.any(spacing > PIXEL_MM[1]):
        raise UnsupportedGeometry(
            f"{label(header)}: PixelSpacing (0028,0030) must be above 0, {PIXEL_MM[0]} to {PIXEL_MM[1]:g} mm"
        )
    if abs(spacing[0] - spacing[1]) > SQUARE_TOLERANCE * spacing[0]:
        raise PixelsNotSquare(f"{label(header)}: pixels are not square ({spacing[0]:g} x {spacing[1]:g} mm)")
    thickness = number(header, "SliceThickness")
    return Plane(
        position,
        normal if normal[2] >= 0 else -normal,
        (float(spacing[0]), float(spacing[1])),
        thickness if thickness is not None and THINNEST_MM <= thickness <= THICKEST_MM else None,
    )


def check_axial(plane: Plane, header: Dataset) -> None:
    """The plane is across the patient's long axis.

    :raises NotAxial: sagittal or coronal. :raises GantryTilt: tilted gantry or oblique reformat.
    """
    angle = _degrees_between(plane.normal, np.array([0.0, 0.0, 1.0]))
    if angle > AXIAL_LIMIT_DEG:
        raise NotAxial(
            f"{label(header)} is not a cross-section: its normal is {angle:.0f} degrees off the long axis"
        )
    if angle > OBLIQUE_TOLERANCE_DEG:
        raise GantryTilt(
            f"{label(header)} is tilted by {angle:.1f} degrees (gantry tilt or oblique reformat); "
            "only planes across the long axis are enhanced"
        )


def stack(planes: Sequence[Plane], whole: bool = True) -> tuple[list[int], float | None]:
    """The order of the slices from feet to head, and their spacing in mm (None for a single slice).

    Only where `whole` are gaps and uneven steps refused.

    :raises DuplicatePosition, GapInSeries, UnevenSpacing, GantryTilt: they do not close to one even stack.
    """
    # one normal for all: what orientations differ by in the last digit moves a slice by their distance
    along = np.array([plane.position_mm @ planes[0].normal for plane in planes])
    order = [int(index) for index in np.argsort(along, kind="stable")]
    if len(order) == 1:
        return order, None
    heights = along[order]
    steps = np.diff(heights)
    spacing = float(np.median(steps))
    _check_duplicates(heights, steps, spacing)
    if whole:
        _check_gaps(heights, steps, spacing)
    _check_straight([planes[index] for index in order], steps)
    return order, float((heights[-1] - heights[0]) / len(steps))


def _check_duplicates(heights: NDArray[np.float64], steps: NDArray[np.float64], spacing: float) -> None:
    same = np.flatnonzero(steps <= max(SAME_POSITION * spacing, 1e-3))
    if same.size == len(steps):
        raise DuplicatePosition(
            f"all {len(heights)} images lie at one position, as of bolus tracking: no series of slices"
        )
    if same.size:
        places = sorted({round(float(height), 2) for height in heights[same]})
        raise DuplicatePosition(
            f"{len(places)} positions hold more than one image: {_listed(places)} mm; split phases or "
            "remove the copies"
        )


def _check_gaps(heights: NDArray[np.float64], steps: NDArray[np.float64], spacing: float) -> None:
    uneven = np.flatnonzero(np.abs(steps - spacing) > step_tolerance_mm(spacing))
    missing = [
        float(heights[at] + part * spacing)
        for at in uneven
        for part in range(1, int(min(round(steps[at] / spacing), 10_000)))
    ]
    if missing:
        raise GapInSeries(
            f"{len(missing)} positions are missing at {_listed(missing)} mm (spacing {spacing:.3g} mm); "
            "send the series again when it is complete"
        )
    if uneven.size:
        raise UnevenSpacing(
            f"the spacing is not even: {_listed(steps[uneven])} mm where the median is {spacing:.4g} mm"
        )


def step_tolerance_mm(spacing_mm: float) -> float:
    """How far a step may be from the usual one: a digit of the first decimal, or a tenth, if that is more."""
    tolerance = max(SPACING_TOLERANCE_MM, SPACING_TOLERANCE * spacing_mm)
    return min(tolerance, 0.45 * spacing_mm) + ROUNDING_MM


def _check_straight(planes: Sequence[Plane], steps: NDArray[np.float64]) -> None:
    for before, after, step in zip(planes[:-1], planes[1:], steps, strict=True):
        shift = after.position_mm - before.position_mm
        angle = _degrees_between(shift, before.normal)
        sideways = float(np.linalg.norm(shift - step * before.normal))
        if angle > TILT_TOLERANCE_DEG and sideways > 0.05:
            raise GantryTilt(
                f"the slices are sheared by {angle:.1f} degrees at {before.height_mm:.1f} mm (gantry tilt "
                "or a shift between images): the stacking direction must be the slice normal"
            )


def _vector(header: Dataset, keyword: str, length: int) -> NDArray[np.float64]:
    values = numbers(header, keyword)
    if len(values) != length:
        raise UnsupportedGeometry(f"{label(header)}: {keyword} is missing or does not hold {length} numbers")
    return np.array(values, dtype=np.float64)


def _degrees_between(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    cosine = float(one @ other) / (float(np.linalg.norm(one)) * float(np.linalg.norm(other)))
    return math.degrees(math.acos(max(-1.0, min(1.0, cosine))))


def _listed(values: Sequence[float] | NDArray[np.float64]) -> str:
    named = ", ".join(f"{value:.2f}" for value in list(values)[:NAMED_POSITIONS])
    return named if len(values) <= NAMED_POSITIONS else f"{named} and {len(values) - NAMED_POSITIONS} more"
