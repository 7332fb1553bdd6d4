"""Make DICOM-CT-PD files: scan a volume with the projector, and write projections as the format does.

For tests and demonstrations: no public sample of the format is small enough to be one.
"""

import struct
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.filewriter import dcmwrite
from pydicom.uid import (
    UID,
    CTImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    generate_uid,
)

from dicomnode.dicom.acquisition import CORRECTIONS, Acquisition, Detector, FocalSpotMode
from dicomnode.dicom.projection_tags import CREATORS, PROJECTION_TAGS
from dicomnode.dicom.projections import MeasuredProjections
from dicomnode.dicom.turns import SpotPositions, find_turns
from dicomnode.physics.fan import FanDetector, Spot, trace
from dicomnode.physics.geometry import attenuation_from_hounsfield
from dicomnode.physics.projection import project_rays

Representation = Literal["dictionary", "unknown"]

SPOT_STATES: Final[dict[FocalSpotMode, tuple[tuple[float, float], ...]]] = {
    "FFSNONE": ((0.0, 0.0),),
    "FFSZ": ((0.0, -0.5), (0.0, 0.5)),
    "FFSXY": ((-0.5, 0.0), (0.5, 0.0)),
    "FFSXYZ": ((-0.5, -0.5), (0.5, -0.5), (-0.5, 0.5), (0.5, 0.5)),
}
"""Shifts of the focal spot from view to view: (in the plane, along the axis), in units of the scanner's."""


TWO_ROWS: Final = Detector(
    shape="cylindrical",
    rows=2,
    columns=736,
    column_spacing_mm=1.2858,
    row_spacing_mm=1.0947,
    central_column=369.625,
    central_row=1.5,
    distance_mm=1085.6,
)
"""Two of the rows of a clinical scanner whose geometry the public library tells."""


@dataclass(frozen=True)
class FanScanner:
    """A third-generation scanner. `quanta` meet an element at the centre at `tube_current_ma`.

    Towards the edge of the fan the bow-tie leaves `bow_tie` of them; the current swings by `modulation` twice
    a turn. `spot_shift_mm`: in the plane, along the axis and radially, in the mode's rhythm (the last with
    the axial one, as on a slanted anode).
    """

    detector: Detector = TWO_ROWS
    radial_mm: float = 595.0
    views_per_turn: int = 1152
    focal_spot_mode: FocalSpotMode = "FFSNONE"
    spot_shift_mm: tuple[float, float, float] = (0.9, 0.6, 2.0)
    start_rad: float = 0.3
    kvp: float = 120.0
    tube_current_ma: float = 200.0
    modulation: float = 0.0
    rotation_seconds: float = 0.5
    quanta: float = 1.5e5
    bow_tie: float = 1.0
    electronic_variance: float = 0.0
    water_attenuation_per_mm: float = 0.0192
    patient_position: str = "HFS"


def scan(
    hounsfield: NDArray[np.float32],
    pixel_mm: float,
    scanner: FanScanner,
    table_mm: Iterable[float] = (0.0,),
    spacing_mm: float = 1.0,
    seed: int | None = None,
) -> MeasuredProjections:
    """Project a volume [slice, row, column] in turns at the table positions `table_mm`.

    Slice 0 lies at height 0; between slices it is interpolated, beyond them repeated. Each detector row sees
    the plane through its own slice, without tilt. Poisson and electronic noise where a `seed` is given.
    """
    tables = tuple(table_mm)
    count = scanner.views_per_turn * len(tables)
    detector = scanner.detector
    centre, shift = _orbit(scanner, tables)
    spots = find_turns(centre, shift, scanner.views_per_turn, scanner.focal_spot_mode)
    integrals = np.empty((count, detector.rows, detector.columns), np.float32)
    for turn in spots:
        for views in turn.spots:
            _project(hounsfield, pixel_mm, spacing_mm, scanner, centre, shift, views, integrals)
    current = scanner.tube_current_ma * (1.0 + scanner.modulation * np.cos(2.0 * centre.angle_rad))
    quanta = _quanta(scanner, current)
    starved_at, starved = np.empty(0, np.intp), np.empty(0, np.float32)
    if seed is not None:
        integrals, starved_at, starved = _noisy(integrals, quanta, scanner, np.random.default_rng(seed))
    return MeasuredProjections(
        acquisition=_acquisition(scanner),
        line_integrals=integrals,
        incident_quanta=quanta,
        tube_current_ma=np.rint(current),
        focal_centre=centre,
        spot_shift=shift,
        turns=spots,
        starved=starved_at.size / integrals.size,
        source_paths=(),
        starved_at=starved_at,
        starved_transmission=starved,
    )


def _orbit(scanner: FanScanner, tables: tuple[float, ...]) -> tuple[SpotPositions, SpotPositions]:
    """Where focal centre and spot are in each view, rounded as the files hold them."""
    view = np.arange(scanner.views_per_turn * len(tables))
    states = SPOT_STATES[scanner.focal_spot_mode]
    plane, axial = np.array([states[v % len(states)] for v in view]).T
    across_mm, axial_mm, radial_mm = scanner.spot_shift_mm
    angle = np.mod(scanner.start_rad + 2 * np.pi * view / scanner.views_per_turn, 2 * np.pi)
    centre = SpotPositions(
        _single(angle),
        _single(np.repeat(tables, scanner.views_per_turn)),
        _single(np.full(view.size, scanner.radial_mm)),
    )
    shift = SpotPositions(
        _single(plane * across_mm / scanner.radial_mm), _single(axial * axial_mm), _single(axial * radial_mm)
    )
    return centre, shift


def _single(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(values, np.float32).astype(np.float64)


def _as_held(value: float) -> float:
    return float(np.float32(value))


def _acquisition(scanner: FanScanner) -> Acquisition:
    seen = scanner.detector
    return Acquisition(
        detector=replace(
            seen,
            column_spacing_mm=_as_held(seen.column_spacing_mm),
            row_spacing_mm=_as_held(seen.row_spacing_mm),
            central_column=_as_held(seen.central_column),
            central_row=_as_held(seen.central_row),
            distance_mm=_as_held(seen.distance_mm),
        ),
        focal_spot_mode=scanner.focal_spot_mode,
        views_per_turn=scanner.views_per_turn,
        water_attenuation_per_mm=scanner.water_attenuation_per_mm,
        logarithmic=True,
        corrections=CORRECTIONS,
        kvp=scanner.kvp,
        rotation_seconds=scanner.rotation_seconds,
        scan_field_mm=None,
        patient_position=scanner.patient_position,
        series_instance_uid=str(generate_uid(entropy_srcs=["ct-pd", repr(scanner)])),
        study_instance_uid=str(generate_uid(entropy_srcs=["ct-pd study", repr(scanner)])),
        manufacturer="dicomnode demo",
        model="fan",
    )


def _project(
    hounsfield: NDArray[np.float32],
    pixel_mm: float,
    spacing_mm: float,
    scanner: FanScanner,
    centre: SpotPositions,
    shift: SpotPositions,
    views: NDArray[np.intp],
    integrals: NDArray[np.float32],
) -> None:
    """Fill in the views of one focal spot position."""
    seen = scanner.detector
    fan = FanDetector(seen.shape, seen.columns, seen.column_spacing_mm, seen.central_column, seen.distance_mm)
    first = views[0]
    spot = Spot(
        views,
        centre.angle_rad[views],
        scanner.radial_mm,
        float(shift.angle_rad[first]),
        float(shift.radial_mm[first]),
    )
    rays = trace(fan, spot)
    angles = spot.angle_rad[:, None] + rays.turn_rad
    offsets = np.broadcast_to(rays.offset_mm / pixel_mm, angles.shape).copy()
    nearer = spot.source_mm / (seen.distance_mm + spot.shift_mm)
    for row in range(seen.rows):
        tilt = (seen.central_row - (row + 1)) * seen.row_spacing_mm - shift.axial_mm[first]
        height = centre.axial_mm[first] + shift.axial_mm[first] + tilt * nearer
        image = attenuation_from_hounsfield(_plane(hounsfield, height / spacing_mm))
        longer = np.hypot(rays.length_mm, tilt) / rays.length_mm
        integrals[views, row] = project_rays(image, angles, offsets) * pixel_mm * longer


def _plane(hounsfield: NDArray[np.float32], position: float) -> NDArray[np.float32]:
    at = min(max(position, 0.0), len(hounsfield) - 1.0)
    low = min(int(at), max(len(hounsfield) - 2, 0))
    high = min(low + 1, len(hounsfield) - 1)
    weight = np.float32(at - low)
    mixed: NDArray[np.float32] = (1 - weight) * hounsfield[low] + weight * hounsfield[high]
    return mixed


def _quanta(scanner: FanScanner, current_ma: NDArray[np.float64]) -> NDArray[np.float32]:
    """Quanta [view, column]: the bow-tie takes more the farther from the central column."""
    seen = scanner.detector
    away = np.abs(np.arange(1, seen.columns + 1) - seen.central_column) / (0.5 * seen.columns)
    profile = 1.0 - (1.0 - scanner.bow_tie) * np.minimum(away, 1.0) ** 2
    level = np.rint(current_ma) / scanner.tube_current_ma
    quanta: NDArray[np.float32] = (scanner.quanta * level[:, None] * profile).astype(np.float32)
    return quanta


def _noisy(
    integrals: NDArray[np.float32],
    quanta: NDArray[np.float32],
    scanner: FanScanner,
    rng: np.random.Generator,
) -> tuple[NDArray[np.float32], NDArray[np.intp], NDArray[np.float32]]:
    """Line integrals, the places of readings below one quantum, and the transmissions read there."""
    incident = quanta[:, None, :].astype(np.float64)
    counted = rng.poisson(incident * np.exp(-integrals)).astype(np.float64)
    counted += rng.normal(0.0, scanner.electronic_variance**0.5, counted.shape)
    starved = counted < 1.0
    noisy = (-np.log(np.where(starved, 1.0, counted) / incident)).astype(np.float32)
    return noisy, np.flatnonzero(starved), (counted / incident)[starved].astype(np.float32)


# --- files ------------------------------------------------------------------------------------------


def write_projections(
    projections: MeasuredProjections,
    folder: Path,
    *,
    transfer_syntax: str = ExplicitVRLittleEndian,
    representation: Representation = "dictionary",
    columns_as_rows: bool = True,
    block: int = 0x10,
    creators: dict[int, str] | None = None,
) -> list[Path]:
    """Write one file a view into `folder`, numbered from 1.

    `columns_as_rows` as the public library does it: Rows (0028,0010) counts the detector's columns.
    `representation` "unknown" writes every private element as UN, as archives do that know no dictionary;
    `block` and `creators` move and rename the private blocks. The line integrals are quantised to 16 bit;
    where `acquisition.logarithmic` is False their exponential is written instead, as transmission or, without
    flat-field correction, as quanta.
    """
    folder.mkdir(parents=True, exist_ok=True)
    values = _file_values(projections)
    slope, intercept = _scale(values)
    paths = []
    for view, samples in enumerate(values):
        data = _header(projections, view)
        _add_private(data, _private(projections, view), representation, block, creators or CREATORS)
        image = samples.T if columns_as_rows else samples
        _add_pixels(data, image, slope, intercept, big=UID(transfer_syntax) == ExplicitVRBigEndian)
        paths.append(folder / f"{view + 1:05d}.dcm")
        _save(data, paths[-1], UID(transfer_syntax))
    return paths


def _file_values(projections: MeasuredProjections) -> NDArray[np.float64]:
    if projections.acquisition.logarithmic:
        return projections.line_integrals.astype(np.float64)
    transmission = np.exp(-projections.line_integrals.astype(np.float64))
    transmission.reshape(-1)[projections.starved_at] = projections.starved_transmission
    if "FlatFieldCorrectionFlag" in projections.acquisition.corrections:
        return transmission
    if projections.incident_quanta is None:
        raise ValueError("intensities without flat-field correction need the incident quanta")
    return transmission * projections.incident_quanta[:, None, :]


def _scale(values: NDArray[np.float64]) -> tuple[float, float]:
    """Slope and intercept that spread the values over 16 bit, as decimal strings can hold them."""
    low, high = float(values.min()), float(values.max())
    intercept = float(f"{low - 1e-6 * max(1.0, abs(low)):.8g}")
    return float(f"{max((high - intercept) / 65535.0 * 1.000001, 1e-9):.8g}"), intercept


def _header(projections: MeasuredProjections, view: int) -> Dataset:
    scanned = projections.acquisition
    data = Dataset()
    data.SOPClassUID = CTImageStorage
    data.SOPInstanceUID = generate_uid(entropy_srcs=[scanned.series_instance_uid, str(view)])
    data.StudyInstanceUID = scanned.study_instance_uid
    data.SeriesInstanceUID = scanned.series_instance_uid
    data.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    data.Modality = "CT"
    data.Manufacturer, data.ManufacturerModelName = scanned.manufacturer, scanned.model
    data.PatientName, data.PatientID = "Phantom^Projected", "PHANTOM-PD"
    data.PatientBirthDate, data.PatientSex = "", "O"
    data.StudyDate, data.StudyTime = "20240102", "101500"
    data.StudyID, data.AccessionNumber, data.ReferringPhysicianName = "1", "", ""
    data.SeriesNumber, data.InstanceNumber = 1, view + 1
    data.PatientPosition = scanned.patient_position
    if scanned.kvp is not None:
        data.KVP = f"{scanned.kvp:g}"
    if scanned.rotation_seconds is not None:
        data.ExposureTime = round(1000 * scanned.rotation_seconds)
    if scanned.scan_field_mm is not None:
        data.DataCollectionDiameter = f"{scanned.scan_field_mm:g}"
    if projections.tube_current_ma is not None:
        data.XRayTubeCurrent = round(float(projections.tube_current_ma[view]))
    return data


def _private(projections: MeasuredProjections, view: int) -> dict[str, object]:
    """Value by name in the table; what is None is left out."""
    scanned, detector = projections.acquisition, projections.acquisition.detector
    centre, shift = projections.focal_centre, projections.spot_shift
    quanta = projections.incident_quanta
    return {
        "DetectorElementTransverseSpacing": detector.column_spacing_mm,
        "DetectorElementAxialSpacing": detector.row_spacing_mm,
        "DetectorShape": detector.shape.upper(),
        "NumberofDetectorRows": detector.rows,
        "NumberofDetectorColumns": detector.columns,
        "DetectorFocalCenterAngularPosition": centre.angle_rad[view],
        "DetectorFocalCenterAxialPosition": centre.axial_mm[view],
        "DetectorFocalCenterRadialDistance": centre.radial_mm[view],
        "ConstantRadialDistance": detector.distance_mm,
        "DetectorCentralElement": [detector.central_column, detector.central_row],
        "SourceAngularPositionShift": shift.angle_rad[view],
        "SourceAxialPositionShift": shift.axial_mm[view],
        "SourceRadialDistanceShift": shift.radial_mm[view],
        "FlyingFocalSpotMode": scanned.focal_spot_mode,
        "NumberofSourceAngularSteps": scanned.views_per_turn,
        "NumberofSpectra": 1,
        "SpectrumIndex": 1,
        "PhotonStatistics": None if quanta is None else quanta[view].tolist(),
        "TypeofProjectionData": "AXIAL",
        "TypeofProjectionGeometry": "FANBEAM",
        **{name: "YES" if name in scanned.corrections else "NO" for name in CORRECTIONS},
        "LogFlag": "YES" if scanned.logarithmic else "NO",
        "WaterAttenuationCoefficient": f"{scanned.water_attenuation_per_mm:.8g}",
    }


def _add_private(
    data: Dataset,
    values: dict[str, object],
    representation: Representation,
    block: int,
    creators: dict[int, str],
) -> None:
    for group, creator in creators.items():
        data.add_new((group, block), "LO", creator)
    for name, value in values.items():
        tag = PROJECTION_TAGS[name]
        if value is None:
            continue
        place = (tag.group, block << 8 | tag.element)
        if representation == "unknown":
            data.add_new(place, "UN", _encoded(value, tag.kind))
        else:
            data.add_new(place, tag.kind, float(value) if isinstance(value, np.floating) else value)


def _encoded(value: object, kind: str) -> bytes:
    if kind in ("CS", "DS"):
        told = str(value).encode("ascii")
        return told + b" " * (len(told) % 2)
    many = value if isinstance(value, list) else [value]
    return struct.pack(f"<{len(many)}{'f' if kind == 'FL' else 'H'}", *many)


def _add_pixels(
    data: Dataset, image: NDArray[np.float64], slope: float, intercept: float, *, big: bool
) -> None:
    stored = np.clip(np.rint((image - intercept) / slope), 0, 65535).astype(">u2" if big else "<u2")
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.Rows, data.Columns = stored.shape
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 16, 15, 0
    data.RescaleSlope, data.RescaleIntercept = f"{slope:.8g}", f"{intercept:.8g}"
    data.add_new("PixelData", "OW", stored.tobytes())


def _save(data: Dataset, path: Path, syntax: UID) -> None:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = data.SOPClassUID, data.SOPInstanceUID
    meta.TransferSyntaxUID = syntax
    dcmwrite(
        path,
        FileDataset(str(path), data, preamble=b"\0" * 128, file_meta=meta),
        implicit_vr=syntax == ImplicitVRLittleEndian,
        little_endian=syntax != ExplicitVRBigEndian,
        enforce_file_format=True,
    )
