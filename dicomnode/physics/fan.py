"""Fan-beam views to the parallel geometry of the virtual scanner.

Every measured ray is a line in the plane of its slice: it has an angle and a distance from the axis, and so
a place among parallel rays (Kak and Slaney, section 3.4.3). Both are computed from where the focal spot and
the element really were, so focal-spot shifts, detector offsets and either detector shape need no case of
their own.

The frame is that of the format DICOM-CT-PD: seen from the patient's table x points right and y up; angle 0 of
the source is at twelve o'clock and grows counter-clockwise; element columns count from 1, leftmost with the
source at twelve o'clock. A slice of the virtual scanner, row 0 on top, has the same x and y.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from dicomnode.physics.geometry import ParallelBeam

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class FanDetector:
    """Where the elements are: `central_column` lies `distance_mm` from the focal centre, towards the axis."""

    shape: Literal["cylindrical", "flat"]
    columns: int
    column_spacing_mm: float
    central_column: float
    distance_mm: float


@dataclass(frozen=True, eq=False)
class Spot:
    """The views of one full turn from one position of the focal spot.

    `views`: their places among all views of the scan, sorted by `angle_rad`, the angle of the focal centre
    [view], which spreads over one turn. The focal centre is `radial_mm` from the axis; the focal spot is
    shifted from it by `shift_rad` and `shift_mm` (radially).
    """

    views: NDArray[np.intp]
    angle_rad: Floats
    radial_mm: float
    shift_rad: float = 0.0
    shift_mm: float = 0.0

    @property
    def source_mm(self) -> float:
        """Distance of the focal spot from the axis."""
        return self.radial_mm + self.shift_mm


@dataclass(frozen=True, eq=False)
class Rays:
    """The rays of a view whose focal centre is at angle 0, one for each detector column, [column].

    `turn_rad`: angle of the ray's normal, to be added to the angle of the view; `offset_mm`: signed distance
    from the axis along that normal; `length_mm`: focal spot to element, in the plane.
    """

    turn_rad: Floats
    offset_mm: Floats
    length_mm: Floats


def trace(detector: FanDetector, spot: Spot) -> Rays:
    """Where the rays of a view run."""
    across = (np.arange(1, detector.columns + 1) - detector.central_column) * detector.column_spacing_mm
    if detector.shape == "cylindrical":
        fan = across / detector.distance_mm
        x, y = detector.distance_mm * np.sin(fan), spot.radial_mm - detector.distance_mm * np.cos(fan)
    else:
        x, y = across, np.full(detector.columns, spot.radial_mm - detector.distance_mm)
    source_x = -spot.source_mm * math.sin(spot.shift_rad)
    source_y = spot.source_mm * math.cos(spot.shift_rad)
    along_x, along_y = x - source_x, y - source_y
    length = np.hypot(along_x, along_y)
    return Rays(
        turn_rad=np.arctan2(along_x, -along_y),
        offset_mm=(source_y * along_x - source_x * along_y) / length,
        length_mm=length,
    )


def pitch_at_axis_mm(detector: FanDetector, spot: Spot) -> float:
    """Distance between neighbouring rays where they pass the axis."""
    offset_mm = trace(detector, spot).offset_mm
    middle = min(max(round(detector.central_column) - 1, 0), detector.columns - 2)
    return float(offset_mm[middle + 1] - offset_mm[middle])


def reach_mm(detector: FanDetector, spot: Spot) -> float:
    """Radius of the circle that is seen from every side at least once."""
    offset_mm = trace(detector, spot).offset_mm
    return float(max(-offset_mm[0], offset_mm[-1]))


@dataclass(frozen=True, eq=False)
class _Stencil:
    """For each parallel ray [view, bin] four measured views and four columns, their weights, and whether
    seen.
    """

    views: NDArray[np.intp]
    columns: NDArray[np.intp]
    view_weights: NDArray[np.float32]
    column_weights: NDArray[np.float32]
    seen: NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Rebinning:
    """How the views of a turn make parallel views; the same for all its rows.

    Each parallel ray is measured twice in a turn, and once more for each position of a flying focal spot.
    Each time it is interpolated from 4 x 4 neighbours (Keys, IEEE TASSP 29, 1981), and the results are
    averaged alike, so no dose is wasted.
    """

    beam: ParallelBeam
    pixel_mm: float
    stencils: tuple[_Stencil, ...]

    def apply(self, line_integrals: NDArray[np.float32]) -> NDArray[np.float32]:
        """float32 [view, row, column] of the scan -> [row, view, bin] of the beam; unseen rays are 0."""
        return self._gather(line_integrals.transpose(1, 0, 2), 1)

    def variance(self, variances: NDArray[np.float32]) -> NDArray[np.float32]:
        """Variances [view, row, column] of independent samples -> those of the parallel rays, as `apply`."""
        return self._gather(variances.transpose(1, 0, 2), 2)

    def quanta(self, incident: NDArray[np.float32]) -> NDArray[np.float32]:
        """Incident quanta [view, column] -> [view, bin]: as many as leave the noise of the parallel ray.

        A ray nobody measured has none.
        """
        spread = self.variance(1.0 / incident[:, None, :])[0]
        found: NDArray[np.float32] = np.divide(1.0, spread, out=np.zeros_like(spread), where=spread > 0)
        return found

    def _gather(self, samples: NDArray[np.float32], power: int) -> NDArray[np.float32]:
        shape = (self.beam.views, self.beam.detectors)
        total = np.zeros((len(samples), *shape), np.float32)
        count = np.zeros(shape, np.float32)
        for stencil in self.stencils:
            count += stencil.seen
            for row, out in zip(samples, total, strict=True):
                for v in range(4):
                    for c in range(4):
                        weight = (stencil.view_weights[v] * stencil.column_weights[c]) ** power
                        out += weight * row[stencil.views[v], stencil.columns[c]]
        total /= np.maximum(count, 1.0) ** power
        return total


def plan_rebinning(
    detector: FanDetector, spots: Sequence[Spot], beam: ParallelBeam, pixel_mm: float
) -> Rebinning:
    """Find for each ray of `beam`, whose unit is `pixel_mm`, where the turn has measured it."""
    stencils = tuple(
        _stencil(detector, spot, beam, pixel_mm, opposite) for spot in spots for opposite in (False, True)
    )
    return Rebinning(beam, pixel_mm, stencils)


def _stencil(
    detector: FanDetector, spot: Spot, beam: ParallelBeam, pixel_mm: float, opposite: bool
) -> _Stencil:
    """`opposite`: the same line from the other side, half a turn later and with its distance negative."""
    rays = trace(detector, spot)
    bins_mm = (np.arange(beam.detectors) - 0.5 * (beam.detectors - 1)) * beam.pitch_px * pixel_mm
    offset_mm = -bins_mm if opposite else bins_mm
    column = np.interp(offset_mm, rays.offset_mm, np.arange(detector.columns))
    seen = (offset_mm >= rays.offset_mm[0]) & (offset_mm <= rays.offset_mm[-1])
    turn_rad = np.interp(column, np.arange(detector.columns), rays.turn_rad)
    wanted_rad = beam.angles_rad[:, None] + (math.pi if opposite else 0.0) - turn_rad
    view = _view_at(spot.angle_rad, wanted_rad)
    view_index, view_weights = _cubic(view)
    column_index, column_weights = _cubic(np.broadcast_to(column, view.shape))
    visible = np.broadcast_to(seen, view.shape)
    return _Stencil(
        views=spot.views[view_index % len(spot.views)],
        columns=np.clip(column_index, 0, detector.columns - 1),
        view_weights=view_weights,
        column_weights=column_weights * visible,
        seen=visible,
    )


def _view_at(angle_rad: Floats, wanted_rad: Floats) -> Floats:
    """Fractional index of the view that has an angle, counted on past the turn's end."""
    first = angle_rad[0]
    closed = np.append(angle_rad, first + 2 * math.pi)
    found: Floats = np.interp(
        first + np.mod(wanted_rad - first, 2 * math.pi), closed, np.arange(len(closed), dtype=np.float64)
    )
    return found


def _cubic(position: Floats) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """The four neighbours of fractional indices and their weights (cubic convolution), [4, ...]."""
    low = np.floor(position)
    t = position - low
    weights = (
        ((-0.5 * t + 1.0) * t - 0.5) * t,
        (1.5 * t - 2.5) * t * t + 1.0,
        ((-1.5 * t + 2.0) * t + 0.5) * t,
        (0.5 * t - 0.5) * t * t,
    )
    index = low.astype(np.intp)
    return np.stack([index + step for step in (-1, 0, 1, 2)]), np.stack(weights).astype(np.float32)
