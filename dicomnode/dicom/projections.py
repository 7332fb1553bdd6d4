"""Read DICOM-CT-PD files, one a view, into `MeasuredProjections`, or refuse the series by a named rule."""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from dicomnode.dicom.acquisition import DISTANCE_MM, Acquisition, Detector, read_acquisition
from dicomnode.dicom.admission import label
from dicomnode.dicom.multiframe import is_multi_frame
from dicomnode.dicom.pixels import StoredPixels, rescale
from dicomnode.dicom.projection_tags import PROJECTION_TAGS, projection_number, projection_numbers
from dicomnode.dicom.series import read_headers, read_stored
from dicomnode.dicom.turns import SpotPositions, Turn, find_turns
from dicomnode.dicom.values import number, text
from dicomnode.errors import (
    BrokenInstance,
    DuplicatePosition,
    InconsistentProjections,
    ProjectionSeries,
    ProjectionsTooLarge,
)

MOST_SAMPLES: Final = 2**29
"""Samples of one series that are held in memory: 2 GiB."""
LINE_INTEGRALS: Final = (-2.0, 30.0)
"""Nothing measured lies outside: noise on air above, and less than one quantum of any scan below."""
LARGEST_TRANSMISSION: Final = 2.0
RADIAL_TOLERANCE_MM: Final = 0.05


@dataclass(frozen=True, eq=False)
class MeasuredProjections:
    """The views of one axial fan-beam scan, as the detector measured them.

    * `line_integrals`: float32 [view, row, column], -ln of the transmission, no unit; in the order of
      `source_paths`. Rows and columns are counted as in the format (see `acquisition.py` for the frame).
    * `incident_quanta`: float32 [view, column], noise-equivalent quanta that meet one detector element
      without a patient, behind the bow-tie filter and for the current of that view; None where the files do
      not tell.
    * `tube_current_ma` [view], or None where a view does not tell.
    * `focal_centre`: where the detector is focused, `spot_shift`: how far the focal spot is from there; both
      [view]. The spot is at their sum, in cylindrical coordinates.
    * `turns`: complete turns, each with its views by focal spot position.
    * `starved`: share of the samples that held less than one quantum and were set to it; 0 for files that
      hold line integrals. `starved_at`: their places in the flattened `line_integrals`, and
      `starved_transmission`: what they held, below zero where the electronics said so. Without them the mean
      of few counts is too high: by a twentieth where 5 are expected.
    """

    acquisition: Acquisition
    line_integrals: NDArray[np.float32]
    incident_quanta: NDArray[np.float32] | None
    tube_current_ma: NDArray[np.float64] | None
    focal_centre: SpotPositions
    spot_shift: SpotPositions
    turns: tuple[Turn, ...]
    starved: float
    source_paths: tuple[Path, ...]
    starved_at: NDArray[np.intp] = field(default_factory=lambda: np.empty(0, np.intp))
    starved_transmission: NDArray[np.float32] = field(default_factory=lambda: np.empty(0, np.float32))

    def transmission(self) -> NDArray[np.float32]:
        """What was counted over what came in, float32 [view, row, column]; a new array."""
        counted = np.exp(-self.line_integrals)
        counted.reshape(-1)[self.starved_at] = self.starved_transmission
        return counted

    @property
    def views(self) -> int:
        """Number of views of all turns."""
        return len(self.line_integrals)


def read_projections(paths: Sequence[Path]) -> MeasuredProjections:
    """Read and check the files of one series; nothing is kept of a series that breaks a rule.

    :raises SeriesRefused: ProjectionSeries (also a multi-frame object), HelicalProjections, MissingViews,
        UnknownDetector, SpectralProjections, ProjectionsTooLarge, InconsistentProjections, DuplicatePosition;
        BrokenInstance or Undecodable for a single file.
    """
    if not paths:
        raise BrokenInstance("no files: a scan has at least one turn of views")
    for path in paths:
        if is_multi_frame(path):
            raise ProjectionSeries(
                f"{path.name} is a multi-frame object; measured projections (DICOM-CT-PD) are read from CT "
                "images of one view each: send views as those, and images in a series of their own"
            )
    acquisition = read_acquisition(read_headers(paths[:1])[0])
    detector = acquisition.detector
    samples = len(paths) * detector.rows * detector.columns
    if samples > MOST_SAMPLES:
        raise ProjectionsTooLarge(
            f"{len(paths)} views of {detector.rows} x {detector.columns} elements are {samples} samples; "
            f"at most {MOST_SAMPLES} are read at once"
        )
    views = _Views(acquisition, len(paths))
    for index, path in enumerate(paths):
        views.add(index, *read_stored(path))
    return views.closed(tuple(paths))


class _Views:
    """Room for all views of a series, filled file by file."""

    def __init__(self, acquisition: Acquisition, count: int) -> None:
        detector = acquisition.detector
        self._acquisition = acquisition
        self._integrals = np.empty((count, detector.rows, detector.columns), np.float32)
        self._quanta = np.full((count, detector.columns), np.nan, np.float32)
        self._positions = np.empty((count, 6))
        self._current_ma = np.full(count, np.nan)
        self._uids: set[str] = set()
        self._starved_at: list[NDArray[np.intp]] = []
        self._starved: list[NDArray[np.float32]] = []

    def add(self, index: int, view: Dataset, stored: StoredPixels) -> None:
        self._check_belongs(view)
        quanta = _quanta(view, self._acquisition.detector.columns)
        if quanta is not None:
            self._quanta[index] = quanta
        self._positions[index] = _positions(view)
        current = number(view, "XRayTubeCurrent")
        self._current_ma[index] = current if current is not None and current > 0 else np.nan
        values = _samples(view, stored, self._acquisition.detector)
        if self._acquisition.logarithmic:
            _check_range(values, LINE_INTEGRALS, view, "line integrals")
            self._integrals[index] = values
        else:
            transmission, least = _transmission(values, quanta, self._acquisition, view)
            starved = transmission < least
            self._integrals[index] = -np.log(np.where(starved, least, transmission))
            self._starved_at.append(np.flatnonzero(starved) + index * values.size)
            self._starved.append(transmission[starved].astype(np.float32))

    def closed(self, paths: tuple[Path, ...]) -> MeasuredProjections:
        starved_at = np.concatenate([np.empty(0, np.intp), *self._starved_at])
        centre, shift = SpotPositions(*self._positions[:, :3].T), SpotPositions(*self._positions[:, 3:].T)
        if np.ptp(centre.radial_mm) > RADIAL_TOLERANCE_MM:
            raise InconsistentProjections(
                f"{PROJECTION_TAGS['DetectorFocalCenterRadialDistance'].told} changes within the scan by "
                f"{np.ptp(centre.radial_mm):.2f} mm"
            )
        if np.isnan(self._quanta).any() and not np.isnan(self._quanta).all():
            raise InconsistentProjections(
                f"{PROJECTION_TAGS['PhotonStatistics'].told} is missing in some views"
            )
        return MeasuredProjections(
            acquisition=self._acquisition,
            line_integrals=self._integrals,
            incident_quanta=None if np.isnan(self._quanta).any() else self._quanta,
            tube_current_ma=None if np.isnan(self._current_ma).any() else self._current_ma,
            focal_centre=centre,
            spot_shift=shift,
            turns=find_turns(
                centre, shift, self._acquisition.views_per_turn, self._acquisition.focal_spot_mode
            ),
            starved=starved_at.size / self._integrals.size,
            source_paths=paths,
            starved_at=starved_at,
            starved_transmission=np.concatenate([np.empty(0, np.float32), *self._starved]),
        )

    def _check_belongs(self, view: Dataset) -> None:
        found = read_acquisition(view)
        if found != self._acquisition:
            changed = (
                field.name
                for field in fields(Acquisition)
                if getattr(found, field.name) != getattr(self._acquisition, field.name)
            )
            raise InconsistentProjections(
                f"{label(view)} was scanned differently from the first view ({', '.join(changed)}); a series "
                "is one scan"
            )
        uid = text(view, "SOPInstanceUID")
        if uid in self._uids:
            raise DuplicatePosition("a SOP Instance UID is used by more than one file; give each view once")
        self._uids.add(uid)


def _positions(view: Dataset) -> tuple[float, ...]:
    """(angle, axial, radial) of the focal centre, and the shifts of the focal spot in the same order."""
    centre = [
        projection_number(view, f"DetectorFocalCenter{part}")
        for part in ("AngularPosition", "AxialPosition", "RadialDistance")
    ]
    if not DISTANCE_MM[0] <= centre[2] < projection_number(view, "ConstantRadialDistance"):
        raise InconsistentProjections(
            f"{label(view)}: the focal centre is {centre[2]:g} mm from the isocentre, which must lie between "
            "it and the detector"
        )
    shift = [
        (projection_numbers(view, f"Source{part}Shift") or (0.0,))[0]
        for part in ("AngularPosition", "AxialPosition", "RadialDistance")
    ]
    return (*centre, *shift)


def _quanta(view: Dataset, columns: int) -> NDArray[np.float32] | None:
    values = projection_numbers(view, "PhotonStatistics")
    if not values:
        return None
    if len(values) != columns or min(values) <= 0:
        raise InconsistentProjections(
            f"{label(view)}: {PROJECTION_TAGS['PhotonStatistics'].told} must hold one number above 0 for "
            f"each of {columns} columns"
        )
    return np.array(values, np.float32)


def _samples(view: Dataset, stored: StoredPixels, detector: Detector) -> NDArray[np.float64]:
    """The values [row, column] of one view; the files may hold the detector's columns as rows."""
    slope, intercept = rescale(view)
    values = stored.astype(np.float64) * slope + intercept
    if values.shape == (detector.rows, detector.columns) and not _ambiguous(detector):
        return values
    if values.shape == (detector.columns, detector.rows) and not _ambiguous(detector):
        return values.T
    raise InconsistentProjections(
        f"{label(view)}: {values.shape[0]} x {values.shape[1]} pixels are not the {detector.rows} rows and "
        f"{detector.columns} columns of the detector, or do not tell which is which"
    )


def _ambiguous(detector: Detector) -> bool:
    return detector.rows == detector.columns and detector.rows > 1


def _transmission(
    values: NDArray[np.float64],
    quanta: NDArray[np.float32] | None,
    acquisition: Acquisition,
    view: Dataset,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The transmission, and the least that has a logarithm: that of one quantum.

    With a flat-field correction the files hold the transmission; without it they hold quanta, of which
    PhotonStatistics tells how many there were without a patient.
    """
    flat = "FlatFieldCorrectionFlag" in acquisition.corrections
    if quanta is None and (not flat or values.min() <= 0):
        raise InconsistentProjections(
            f"{label(view)}: LogFlag is NO and {PROJECTION_TAGS['PhotonStatistics'].told} missing: what the "
            "intensities mean is not known"
        )
    transmission = values if flat or quanta is None else values / quanta
    _check_range(transmission, (-LARGEST_TRANSMISSION, LARGEST_TRANSMISSION), view, "transmissions")
    least = transmission if quanta is None else np.broadcast_to(1.0 / quanta.astype(np.float64), values.shape)
    return transmission, least


def _check_range(values: NDArray[np.float64], bounds: tuple[float, float], view: Dataset, what: str) -> None:
    if values.min() < bounds[0] or values.max() > bounds[1]:
        raise InconsistentProjections(
            f"{label(view)}: {what} reach from {values.min():.3g} to {values.max():.3g}, outside "
            f"{bounds[0]:g} to {bounds[1]:g}; LogFlag or rescale must be wrong"
        )
