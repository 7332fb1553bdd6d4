"""How a CT-PD series was scanned: what is the same in all its views, read from one header and checked.

The frame of the format (manual version 3): seen from the patient's table, x points right, y up and z into
the gantry, which is left-handed. Angle 0 is at twelve o'clock and grows counter-clockwise, so that a point
at (rho, phi) is x = -rho sin(phi), y = rho cos(phi). With the tube at twelve o'clock column 1 is the leftmost
element of the detector and row 1 the farthest; both count from 1.
"""

import math
from dataclasses import dataclass
from typing import Final, Literal

from pydicom.dataset import Dataset

from dicomnode.dicom.admission import holds_projections, label
from dicomnode.dicom.projection_tags import (
    PROJECTION_TAGS,
    old_water_coefficient,
    projection_number,
    projection_numbers,
    projection_text,
)
from dicomnode.dicom.values import number, text
from dicomnode.errors import (
    HelicalProjections,
    InconsistentProjections,
    ProjectionsTooLarge,
    SpectralProjections,
    UnknownDetector,
)

DetectorShape = Literal["cylindrical", "flat"]
FocalSpotMode = Literal["FFSNONE", "FFSZ", "FFSXY", "FFSXYZ"]

SHAPES: Final[dict[str, DetectorShape]] = {"CYLINDRICAL": "cylindrical", "FLAT": "flat"}
SPOT_MODES: Final[dict[str, FocalSpotMode]] = {
    "": "FFSNONE",
    "FFSNONE": "FFSNONE",
    "FFSZ": "FFSZ",
    "FFSXY": "FFSXY",
    "FFSXYZ": "FFSXYZ",
}
CORRECTIONS: Final = (
    "BeamHardeningCorrectionFlag",
    "GainCorrectionFlag",
    "DarkFieldCorrectionFlag",
    "FlatFieldCorrectionFlag",
    "BadPixelCorrectionFlag",
    "ScatterCorrectionFlag",
)

LARGEST_DETECTOR: Final = 4096
MOST_VIEWS_PER_TURN: Final = 20_000
WIDEST_FAN_DEG: Final = 40.0
"""Half the fan angle of clinical scanners is below 30 degrees."""
WATER_PER_MM: Final = (0.012, 0.038)
"""Linear attenuation of water between 30 and 300 keV, per mm (NIST XCOM)."""
ELEMENT_MM: Final = (0.01, 20.0)
DISTANCE_MM: Final = (50.0, 5000.0)


@dataclass(frozen=True)
class Detector:
    """A detector focused on a point, its focal centre, which the focal spot may leave by its shift.

    `column_spacing_mm` and `row_spacing_mm` are widths of an element at the detector; the element at
    (`central_column`, `central_row`), counted from 1 and possibly between two, lies on the line from the
    focal centre through the isocentre, `distance_mm` from the focal centre.
    """

    shape: DetectorShape
    rows: int
    columns: int
    column_spacing_mm: float
    row_spacing_mm: float
    central_column: float
    central_row: float
    distance_mm: float


@dataclass(frozen=True)
class Acquisition:
    """What all views of a series share.

    `corrections` are the names of the correction flags that say YES. `views_per_turn` counts the views from
    all positions of a flying focal spot. `logarithmic`: the files hold line integrals, not intensities.
    """

    detector: Detector
    focal_spot_mode: FocalSpotMode
    views_per_turn: int
    water_attenuation_per_mm: float
    logarithmic: bool
    corrections: tuple[str, ...]
    kvp: float | None
    rotation_seconds: float | None
    scan_field_mm: float | None
    patient_position: str
    series_instance_uid: str
    study_instance_uid: str
    manufacturer: str
    model: str


def read_acquisition(header: Dataset) -> Acquisition:
    """What a header tells about the scan, checked.

    :raises HelicalProjections, SpectralProjections, UnknownDetector, ProjectionsTooLarge: told, and not read
        here. :raises InconsistentProjections: missing, unreadable or impossible.
    """
    if not holds_projections(header):
        raise InconsistentProjections(f"{label(header)} holds no DICOM-CT-PD elements: it is no projection")
    _check_axial(header)
    _check_one_spectrum(header)
    mode = projection_text(header, "FlyingFocalSpotMode")
    if mode not in SPOT_MODES:
        raise InconsistentProjections(
            f"{_told('FlyingFocalSpotMode')} is none of FFSNONE, FFSZ, FFSXY, FFSXYZ"
        )
    corrections = tuple(name for name in CORRECTIONS if projection_text(header, name) == "YES")
    return Acquisition(
        detector=_detector(header),
        focal_spot_mode=SPOT_MODES[mode],
        views_per_turn=_count(header, "NumberofSourceAngularSteps", MOST_VIEWS_PER_TURN),
        water_attenuation_per_mm=_water(header),
        logarithmic=_logarithmic(header, corrections),
        corrections=corrections,
        kvp=_positive(header, "KVP"),
        rotation_seconds=_thousandth(_positive(header, "ExposureTime")),
        scan_field_mm=_positive(header, "DataCollectionDiameter"),
        patient_position=text(header, "PatientPosition").upper(),
        series_instance_uid=text(header, "SeriesInstanceUID"),
        study_instance_uid=text(header, "StudyInstanceUID"),
        manufacturer=text(header, "Manufacturer"),
        model=text(header, "ManufacturerModelName"),
    )


def _check_axial(header: Dataset) -> None:
    kind = projection_text(header, "TypeofProjectionData")
    if kind in ("HELICAL", "SPIRAL"):
        raise HelicalProjections(
            "the projections are helical: each view is taken at another table position, so a slice needs "
            "rebinning along the table, which is not done here; send an axial scan, or projections that were "
            "rebinned to axial fan-beam"
        )
    if kind != "AXIAL":
        raise InconsistentProjections(f"{_told('TypeofProjectionData')} is neither AXIAL nor HELICAL")
    if projection_text(header, "TypeofProjectionGeometry") != "FANBEAM":
        raise InconsistentProjections(f"{_told('TypeofProjectionGeometry')} is not FANBEAM")


def _check_one_spectrum(header: Dataset) -> None:
    told = (*projection_numbers(header, "NumberofSpectra"), *projection_numbers(header, "SpectrumIndex"))
    if any(value > 1 for value in told):
        raise SpectralProjections(
            f"the scan has {max(told):g} or more spectra (sources, tube voltages, detector layers or energy "
            "bins); only projections of a single one are read"
        )


def _detector(header: Dataset) -> Detector:
    shape = projection_text(header, "DetectorShape")
    if shape not in SHAPES:
        raise UnknownDetector(
            f"{_told('DetectorShape')} is neither CYLINDRICAL nor FLAT; where the elements of another "
            "detector lie is not known here"
        )
    central = projection_numbers(header, "DetectorCentralElement")
    if len(central) != 2:
        raise InconsistentProjections(f"{_told('DetectorCentralElement')} is missing or not two numbers")
    detector = Detector(
        shape=SHAPES[shape],
        rows=_count(header, "NumberofDetectorRows", LARGEST_DETECTOR),
        columns=_count(header, "NumberofDetectorColumns", LARGEST_DETECTOR),
        column_spacing_mm=_within(header, "DetectorElementTransverseSpacing", ELEMENT_MM),
        row_spacing_mm=_within(header, "DetectorElementAxialSpacing", ELEMENT_MM),
        central_column=central[0],
        central_row=central[1],
        distance_mm=_within(header, "ConstantRadialDistance", DISTANCE_MM),
    )
    _check_fan(detector)
    return detector


def _check_fan(detector: Detector) -> None:
    if not (0.5 <= detector.central_column <= detector.columns + 0.5):
        raise InconsistentProjections(f"{_told('DetectorCentralElement')} is a column outside the detector")
    if not (0.5 <= detector.central_row <= detector.rows + 0.5):
        raise InconsistentProjections(f"{_told('DetectorCentralElement')} is a row outside the detector")
    reach = max(detector.central_column, detector.columns + 1 - detector.central_column)
    turned = reach * detector.column_spacing_mm / detector.distance_mm
    fan_deg = math.degrees(turned if detector.shape == "cylindrical" else math.atan(turned))
    if fan_deg > WIDEST_FAN_DEG:
        raise InconsistentProjections(
            f"element width, columns and distance make a fan of {fan_deg:.0f} degrees to one side; at most "
            f"{WIDEST_FAN_DEG:.0f} are possible"
        )


def _logarithmic(header: Dataset, corrections: tuple[str, ...]) -> bool:
    """LogFlag; intensities must be corrected so far that they can be turned into line integrals."""
    flag = projection_text(header, "LogFlag")
    if flag not in ("YES", "NO"):
        raise InconsistentProjections(f"{_told('LogFlag')} is neither YES nor NO")
    if flag == "NO":
        for needed in ("GainCorrectionFlag", "DarkFieldCorrectionFlag"):
            if needed not in corrections:
                raise InconsistentProjections(
                    f"{_told('LogFlag')} is NO and {_told(needed)} not YES: intensities without that "
                    "correction cannot be turned into line integrals; send them corrected"
                )
    return flag == "YES"


def _water(header: Dataset) -> float:
    values = projection_numbers(header, "WaterAttenuationCoefficient")
    water = values[0] if values else old_water_coefficient(header)
    low, high = WATER_PER_MM
    if water is None or not low <= water <= high:
        told = "missing" if water is None else f"{water:g}"
        raise InconsistentProjections(
            f"{_told('WaterAttenuationCoefficient')} is {told}; it must be per mm, {low:g} to {high:g}"
        )
    return water


def _count(header: Dataset, name: str, most: int) -> int:
    value = projection_number(header, name)
    if value > most:
        raise ProjectionsTooLarge(f"{_told(name)} is {value:g}, more than {most}")
    if value < 1 or value != int(value):
        raise InconsistentProjections(f"{_told(name)} is {value:g}, not a count")
    return int(value)


def _within(header: Dataset, name: str, bounds: tuple[float, float]) -> float:
    value = projection_number(header, name)
    if not bounds[0] <= value <= bounds[1]:
        raise InconsistentProjections(
            f"{_told(name)} is {value:g} mm, outside {bounds[0]:g} to {bounds[1]:g} mm"
        )
    return value


def _positive(header: Dataset, keyword: str) -> float | None:
    value = number(header, keyword)
    return value if value is not None and value > 0 else None


def _thousandth(value: float | None) -> float | None:
    return None if value is None else value / 1000.0


def _told(name: str) -> str:
    return PROJECTION_TAGS[name].told
