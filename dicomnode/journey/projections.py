"""Measured projections on their way: from DICOM-CT-PD files to slices of the virtual scanner, and to HU.

    read_projections -> rebin -> MeasuredSlices -> reconstruct

`raw_mode.py` has the way with an engine that cleans the rays first. Where the engine works on images alone,
`refuse` says so of a series that was otherwise read.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, NoReturn

import numpy as np
from numpy.typing import NDArray

from dicomnode.dicom.acquisition import Detector
from dicomnode.dicom.projections import MeasuredProjections, read_projections
from dicomnode.dicom.turns import Turn
from dicomnode.errors import ConeTooWide, InconsistentProjections, NoRawMode
from dicomnode.physics.fan import FanDetector, Rays, Spot, pitch_at_axis_mm, plan_rebinning, reach_mm, trace
from dicomnode.physics.geometry import ParallelBeam
from dicomnode.physics.measured import MeasuredSlices, reconstruct, seen
from dicomnode.physics.photons import photons_from_quanta
from dicomnode.physics.simulation import Window

LEAST_VIEWS: Final = 720
"""Parallel views over half a turn: more do not help a slice of 512 pixels (measured)."""
OVERSAMPLING: Final = 2
"""Parallel bins a measured ray at the axis: the interpolations after it then cost no sharpness."""
CENTRAL_MM: Final = 50.0
"""The photon level of a slice is that of the rays this close to the axis, where the bow-tie is thinnest."""

ORIENTATIONS: Final[dict[str, tuple[int, int, int]]] = {
    "HFS": (1, 1, 1),
    "FFS": (-1, 1, -1),
    "HFP": (-1, -1, 1),
    "FFP": (1, -1, -1),
}
"""PatientPosition -> signs of the image's row direction along the patient's left, its column direction along
posterior, and the gantry's axis along superior. Seen from the table, as the format looks, a supine
patient who lies head first has the left hand on the right."""


OuterRows = Literal["refuse", "leave"]


@dataclass(frozen=True, eq=False)
class ReconstructedSeries:
    """HU float32 [slice, row, column] from feet to head, and where its slices lie.

    `position_mm` [slice, 3]: ImagePositionPatient (LPS, centre of the first pixel), about the isocentre;
    `seen` [row, column]: inside the measured circle;
    `orientation`: ImageOrientationPatient. `photons` [slice] per reference ray, or None; `mas` [slice]: tube
    current times rotation time, or None.
    """

    hounsfield: NDArray[np.float32]
    position_mm: NDArray[np.float64]
    orientation: tuple[int, int, int, int, int, int]
    pixel_mm: float
    thickness_mm: float
    photons: tuple[float, ...] | None
    mas: tuple[float, ...] | None
    seen: NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class _Row:
    """One slice to be: which row of the detector saw it in which views."""

    stack: int
    """Rows of one turn and one axial position of the focal spot: they share their rays in the plane."""
    spots: tuple[NDArray[np.intp], ...]
    row: int
    height_mm: float
    tilt_mm: float
    """How far the element lies from the focal spot along the axis."""


def read_measured_slices(
    paths: Sequence[Path],
    side_px: int = 512,
    field_mm: float | None = None,
    outer_rows: OuterRows = "refuse",
) -> MeasuredSlices:
    """Read a CT-PD series and `rebin` it for an engine; raises SeriesRefused."""
    return rebin(read_projections(paths), side_px, field_mm, outer_rows)


def reconstruct_projections(
    paths: Sequence[Path],
    side_px: int = 512,
    field_mm: float | None = None,
    outer_rows: OuterRows = "refuse",
) -> ReconstructedSeries:
    """Read a CT-PD series, `rebin` and reconstruct it with a bare ramp; raises SeriesRefused.

    :raises InconsistentProjections: PatientPosition does not tell left from right.
    """
    return reconstruct_views(read_projections(paths), None, side_px, field_mm, outer_rows)


def reconstruct_views(
    projections: MeasuredProjections,
    kernel: Window | None = None,
    side_px: int = 512,
    field_mm: float | None = None,
    outer_rows: OuterRows = "refuse",
) -> ReconstructedSeries:
    """`rebin` and reconstruct with a kernel, or with the bare ramp; raises as `reconstruct_projections`."""
    signs = _signs(projections)
    measured = rebin(projections, side_px, field_mm, outer_rows)
    window = None if kernel is None else kernel.window(measured.beam)
    return _placed(reconstruct(measured, window), measured, signs)


def _signs(projections: MeasuredProjections) -> tuple[int, int, int]:
    signs = ORIENTATIONS.get(projections.acquisition.patient_position)
    if signs is None:
        raise InconsistentProjections(
            "PatientPosition (0018,5100) is none of HFS, FFS, HFP, FFP: left and right cannot be told"
        )
    return signs


def views_of_slices(projections: MeasuredProjections) -> list[tuple[NDArray[np.intp], int]]:
    """For every slice from feet to head the views that made it and the detector's row that saw it.

    The views of one position of the focal spot after those of another. With the default field and rows.
    """
    reach = _reach(projections)
    field = min(projections.acquisition.scan_field_mm or math.inf, 2 * reach)
    rows = _within_cone(_rows(projections), projections, field, "refuse")
    return [(np.concatenate(row.spots), row.row) for row in rows][:: _signs(projections)[2]]


def refuse(paths: Sequence[Path]) -> NoReturn:
    """Refuse a projection series: by what is wrong with it, or because no engine here takes it."""
    projections = read_projections(paths)
    detector = projections.acquisition.detector
    raise NoRawMode(
        f"measured projections (DICOM-CT-PD): {projections.views} views of {detector.rows} x "
        f"{detector.columns} elements, axial fan-beam, readable; but the present model has no raw mode: it "
        "enhances reconstructed images only. Send the reconstructed series"
    )


def rebin(
    projections: MeasuredProjections,
    side_px: int = 512,
    field_mm: float | None = None,
    outer_rows: OuterRows = "refuse",
) -> MeasuredSlices:
    """Parallel rays of every slice, sorted along the axis. Each detector row is a thin slice of its own.

    `field_mm` is the side of the square to be reconstructed: by default the scan field told by the header, or
    what the detector sees. `outer_rows` "leave" makes slices of those rows only that are not too tilted.

    :raises ConeTooWide: the outer rows are tilted so much that their rays leave the slice.
    """
    detector = projections.acquisition.detector
    fan = _fan(detector)
    first = _spot(projections, projections.turns[0].spots[0])
    reach = _reach(projections)
    field = min(field_mm or projections.acquisition.scan_field_mm or math.inf, 2 * reach)
    rows = _within_cone(_rows(projections), projections, field, outer_rows)
    pixel_mm = field / side_px
    beam = _beam(projections, pitch_at_axis_mm(fan, first), reach, side_px, pixel_mm)
    rays, quanta = _parallel(projections, rows, beam, pixel_mm)
    return MeasuredSlices(
        line_integrals=rays,
        incident_quanta=quanta,
        photons=_photons(projections, rows),
        mas=_mas(projections, rows),
        beam=beam,
        pixel_mm=pixel_mm,
        height_mm=tuple(row.height_mm for row in rows),
        thickness_mm=detector.row_spacing_mm * _shrink(projections, rows[0].spots[0]),
        reach_mm=reach,
        water_per_mm=projections.acquisition.water_attenuation_per_mm,
    )


def _reach(projections: MeasuredProjections) -> float:
    fan = _fan(projections.acquisition.detector)
    return min(reach_mm(fan, _spot(projections, views)) for turn in projections.turns for views in turn.spots)


def _fan(detector: Detector) -> FanDetector:
    return FanDetector(
        shape=detector.shape,
        columns=detector.columns,
        column_spacing_mm=detector.column_spacing_mm,
        central_column=detector.central_column,
        distance_mm=detector.distance_mm,
    )


def _spot(projections: MeasuredProjections, views: NDArray[np.intp]) -> Spot:
    centre, shift = projections.focal_centre, projections.spot_shift
    return Spot(
        views=views,
        angle_rad=np.mod(centre.angle_rad[views], 2 * math.pi),
        radial_mm=float(centre.radial_mm[views].mean()),
        shift_rad=float(shift.angle_rad[views].mean()),
        shift_mm=float(shift.radial_mm[views].mean()),
    )


def _rows(projections: MeasuredProjections) -> list[_Row]:
    """Every row of every turn, for each axial position of the focal spot a row of its own, sorted by height.

    Row 1 is farthest from the table, along the axis. A ray passes the axis where its share of the way from
    the focal spot to the element puts it.
    """
    detector = projections.acquisition.detector
    stacks = [(turn, spots) for turn in projections.turns for spots in _by_height(projections, turn)]
    found = []
    for stack, (turn, spots) in enumerate(stacks):
        shift = float(projections.spot_shift.axial_mm[np.concatenate(spots)].mean())
        for row in range(detector.rows):
            tilt = (detector.central_row - (row + 1)) * detector.row_spacing_mm - shift
            height = turn.axial_mm + shift + tilt * _shrink(projections, spots[0])
            found.append(_Row(stack, spots, row, height, tilt))
    return sorted(found, key=lambda row: row.height_mm)


def _by_height(projections: MeasuredProjections, turn: Turn) -> list[tuple[NDArray[np.intp], ...]]:
    heights = np.array([projections.spot_shift.axial_mm[views].mean() for views in turn.spots])
    order = np.argsort(heights, kind="stable")
    cuts = np.flatnonzero(np.diff(heights[order]) > 0.02) + 1
    return [tuple(turn.spots[index] for index in part) for part in np.split(order, cuts)]


def _shrink(projections: MeasuredProjections, views: NDArray[np.intp]) -> float:
    """Size at the axis of what has size 1 at the detector."""
    spot = _spot(projections, views)
    return spot.source_mm / (projections.acquisition.detector.distance_mm + spot.shift_mm)


def _within_cone(
    rows: Sequence[_Row], projections: MeasuredProjections, field_mm: float, outer_rows: OuterRows
) -> list[_Row]:
    """Up to the edge of the field the rays of a row must stay within one slice of its middle.

    The rule of four rows, under which multi-row scanners were reconstructed as stacks of fans: 4 rows of a
    clinical scanner pass with a field of 500 mm.
    """
    source_mm = _spot(projections, rows[0].spots[0]).source_mm
    row_mm = projections.acquisition.detector.row_spacing_mm
    strayed = [0.5 * field_mm * abs(row.tilt_mm) / (source_mm * row_mm) for row in rows]
    kept = [row for row, slices in zip(rows, strayed, strict=True) if slices <= 1.0]
    if not kept or (outer_rows == "refuse" and len(kept) < len(rows)):
        raise ConeTooWide(
            f"the outer of {projections.acquisition.detector.rows} rows stray by {max(strayed):.1f} slices "
            f"at the edge of a field of {field_mm:.0f} mm; at most 1 can be reconstructed as fan-beam "
            "(cone-beam is not done here)"
        )
    return kept


def _beam(
    projections: MeasuredProjections, pitch_mm: float, reach: float, side_px: int, pixel_mm: float
) -> ParallelBeam:
    pitch_px = pitch_mm / (OVERSAMPLING * pixel_mm)
    return ParallelBeam(
        side_px=side_px,
        views=max(LEAST_VIEWS, projections.acquisition.views_per_turn // 2),
        detectors=2 * math.ceil(reach / (pitch_px * pixel_mm)) + 1,
        pitch_px=pitch_px,
    )


def _parallel(
    projections: MeasuredProjections, rows: Sequence[_Row], beam: ParallelBeam, pixel_mm: float
) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
    """Line integrals and incident quanta [slice, view, bin]; the rows of one turn share their rebinning."""
    fan = _fan(projections.acquisition.detector)
    rays = np.empty((len(rows), beam.views, beam.detectors), np.float32)
    quanta = None if projections.incident_quanta is None else np.empty_like(rays)
    for stack in range(max(row.stack for row in rows) + 1):
        places = [index for index, row in enumerate(rows) if row.stack == stack]
        spots = [_spot(projections, views) for views in rows[places[0]].spots]
        plan = plan_rebinning(fan, spots, beam, pixel_mm)
        picked = [rows[index].row for index in places]
        level = np.stack([_level(projections, rows[index], trace(fan, spots[0])) for index in places])
        rays[places] = plan.apply(projections.line_integrals[:, picked, :] * level)
        if quanta is not None and projections.incident_quanta is not None:
            quanta[places] = plan.quanta(projections.incident_quanta)
    return rays, quanta


def _level(projections: MeasuredProjections, row: _Row, rays: Rays) -> NDArray[np.float32]:
    """Length of a tilted ray's shadow in the plane, of its own, [column]."""
    shadow: NDArray[np.float32] = (rays.length_mm / np.hypot(rays.length_mm, row.tilt_mm)).astype(np.float32)
    return shadow


def _photons(projections: MeasuredProjections, rows: Sequence[_Row]) -> tuple[float, ...] | None:
    """Photons per reference ray: mean quanta near the axis over the views that made the slice."""
    if projections.incident_quanta is None:
        return None
    fan, found = _fan(projections.acquisition.detector), []
    for row in rows:
        spot = _spot(projections, row.spots[0])
        central = np.abs(trace(fan, spot).offset_mm) <= CENTRAL_MM
        views = np.concatenate(row.spots)
        quanta = float(projections.incident_quanta[views][:, central].mean(dtype=np.float64))
        found.append(photons_from_quanta(quanta, len(views), pitch_at_axis_mm(fan, spot)))
    return tuple(found)


def _mas(projections: MeasuredProjections, rows: Sequence[_Row]) -> tuple[float, ...] | None:
    """Tube current times rotation time, of which each axial position of a flying focal spot has its share."""
    seconds = projections.acquisition.rotation_seconds
    if projections.tube_current_ma is None or seconds is None:
        return None
    views = [np.concatenate(row.spots) for row in rows]
    return tuple(
        float(projections.tube_current_ma[one].sum()) * seconds / projections.acquisition.views_per_turn
        for one in views
    )


def _placed(
    hounsfield: NDArray[np.float32],
    measured: MeasuredSlices,
    signs: tuple[int, int, int],
) -> ReconstructedSeries:
    left, posterior, superior = signs
    corner = -0.5 * (measured.beam.side_px - 1) * measured.pixel_mm
    upward = slice(None, None, superior)
    position = [(left * corner, posterior * corner, superior * height) for height in measured.height_mm]
    return ReconstructedSeries(
        hounsfield=hounsfield[upward],
        position_mm=np.array(position)[upward],
        orientation=(left, 0, 0, 0, posterior, 0),
        pixel_mm=measured.pixel_mm,
        thickness_mm=measured.thickness_mm,
        photons=None if measured.photons is None else measured.photons[upward],
        mas=None if measured.mas is None else measured.mas[upward],
        seen=seen(measured),
    )
