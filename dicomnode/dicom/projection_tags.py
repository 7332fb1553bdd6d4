"""The private elements of DICOM-CT-PD: one table, and reading values through it.

Names, tags and meaning follow table IV of Moen et al., Med Phys 48 (2021) 902, and Chen et al., Med Phys 42
(2015) 6964. Other software rewrites these files: blocks move, creators change their names, value
representations become UN. So an element is found by its group and low byte, and decoded from its bytes.
"""

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.tag import Tag

from dicomnode.dicom.values import UNREADABLE, finite, tags_of
from dicomnode.errors import InconsistentProjections

Kind = Literal["FL", "US", "CS", "DS"]


@dataclass(frozen=True)
class PrivateTag:
    """One element: `element` is the low byte inside the private block, `kind` the VR of the dictionary."""

    name: str
    group: int
    element: int
    kind: Kind

    @property
    def told(self) -> str:
        """How a message names it: the tag as the dictionary has it, in block 10."""
        return f"{self.name} ({self.group:04X},10{self.element:02X})"


_TABLE: Final[tuple[tuple[str, int, int, Kind], ...]] = (
    ("DetectorElementTransverseSpacing", 0x7029, 0x02, "FL"),
    ("DetectorElementAxialSpacing", 0x7029, 0x06, "FL"),
    ("DetectorShape", 0x7029, 0x0B, "CS"),
    ("NumberofDetectorRows", 0x7029, 0x10, "US"),
    ("NumberofDetectorColumns", 0x7029, 0x11, "US"),
    ("DetectorFocalCenterAngularPosition", 0x7031, 0x01, "FL"),
    ("DetectorFocalCenterAxialPosition", 0x7031, 0x02, "FL"),
    ("DetectorFocalCenterRadialDistance", 0x7031, 0x03, "FL"),
    ("ConstantRadialDistance", 0x7031, 0x31, "FL"),
    ("DetectorCentralElement", 0x7031, 0x33, "FL"),
    ("SourceAngularPositionShift", 0x7033, 0x0B, "FL"),
    ("SourceAxialPositionShift", 0x7033, 0x0C, "FL"),
    ("SourceRadialDistanceShift", 0x7033, 0x0D, "FL"),
    ("FlyingFocalSpotMode", 0x7033, 0x0E, "CS"),
    ("NumberofSourceAngularSteps", 0x7033, 0x13, "US"),
    ("NumberofSpectra", 0x7033, 0x61, "US"),
    ("SpectrumIndex", 0x7033, 0x63, "US"),
    ("PhotonStatistics", 0x7033, 0x65, "FL"),
    ("TypeofProjectionData", 0x7037, 0x09, "CS"),
    ("TypeofProjectionGeometry", 0x7037, 0x0A, "CS"),
    ("BeamHardeningCorrectionFlag", 0x7039, 0x03, "CS"),
    ("GainCorrectionFlag", 0x7039, 0x04, "CS"),
    ("DarkFieldCorrectionFlag", 0x7039, 0x05, "CS"),
    ("FlatFieldCorrectionFlag", 0x7039, 0x06, "CS"),
    ("BadPixelCorrectionFlag", 0x7039, 0x07, "CS"),
    ("ScatterCorrectionFlag", 0x7039, 0x08, "CS"),
    ("LogFlag", 0x7039, 0x09, "CS"),
    ("WaterAttenuationCoefficient", 0x7041, 0x01, "DS"),
)
PROJECTION_TAGS: Final[dict[str, PrivateTag]] = {row[0]: PrivateTag(*row) for row in _TABLE}

CREATORS: Final[dict[int, str]] = {
    0x7029: "DetectorSystemArrangementModule",
    0x7031: "DetectorDynamicsModule",
    0x7033: "SourceDynamicsModule",
    0x7037: "ProjectionDataDefinitions",
    0x7039: "PreprocessingFlagsModule",
    0x7041: "WaterAttenuationModule",
}
"""The private creators of the format's dictionary."""

OLD_WATER_TAG: Final = 0x00180061
"""Where files of manual version 1.2 keep the water coefficient, under the name HUCalibrationFactor."""

_BINARY: Final[dict[str, str]] = {
    "FL": "f4", "OF": "f4", "FD": "f8", "OD": "f8",
    "US": "u2", "SS": "i2", "UL": "u4", "SL": "i4",
}  # fmt: skip
_OF_KIND: Final[dict[Kind, str]] = {"FL": "f4", "US": "u2"}
_UNKNOWN: Final = frozenset({"UN", "OB", "OW", "", "None"})


def projection_numbers(header: Dataset, name: str) -> tuple[float, ...]:
    """The finite values of an element of the table, or an empty tuple where it is absent or empty.

    :raises InconsistentProjections: it is there and cannot be read as finite numbers.
    """
    tag = PROJECTION_TAGS[name]
    raw = _raw(header, tag)
    if raw is None:
        return ()
    values = _decoded(*raw, tag.kind)
    if values is None or not np.isfinite(values).all():
        raise InconsistentProjections(f"{tag.told} cannot be read as numbers")
    return tuple(float(value) for value in values)


def projection_number(header: Dataset, name: str) -> float:
    """The one value of an element that must be there.

    :raises InconsistentProjections: it is missing, unreadable or not one number.
    """
    values = projection_numbers(header, name)
    if len(values) != 1:
        raise InconsistentProjections(
            f"{PROJECTION_TAGS[name].told} is missing or not one number ({len(values)})"
        )
    return values[0]


def projection_text(header: Dataset, name: str) -> str:
    """An element of the table as upper-case text; empty where it is absent or no text."""
    raw = _raw(header, PROJECTION_TAGS[name])
    return "" if raw is None else _as_text(raw[0]).upper()


def old_water_coefficient(header: Dataset) -> float | None:
    """The calibration factor of files of version 1.2, per mm."""
    raw = _raw_element(header, OLD_WATER_TAG)
    values = None if raw is None else _decoded(*raw, "DS")
    return None if values is None or values.size != 1 else finite(values[0])


def _raw(header: Dataset, tag: PrivateTag) -> tuple[object, str, bool] | None:
    for block in _blocks(header, tag.group):
        found = _raw_element(header, Tag(tag.group, block << 8 | tag.element))
        if found is not None:
            return found
    return None


def _blocks(header: Dataset, group: int) -> Iterable[int]:
    """Private blocks of a group: the one of the format's creator, then block 10, then any other."""
    named: list[int] = []
    other: list[int] = []
    for tag in tags_of(header):
        if tag.group == group and 0x10 <= tag.element <= 0xFF:
            raw = _raw_element(header, tag)
            ours = raw is not None and _as_text(raw[0]) == CREATORS.get(group)
            (named if ours else other).append(tag.element)
    return dict.fromkeys((*named, 0x10, *other))


def _raw_element(header: Dataset, tag: int) -> tuple[object, str, bool] | None:
    """(value, VR, little endian) as they stand in the file; None where absent or empty."""
    try:
        element = header.get_item(tag)
    except UNREADABLE:
        return None
    if element is None or element.value is None or element.value == b"" or element.value == "":
        return None
    return element.value, str(element.VR), bool(getattr(element, "is_little_endian", True))


def _as_text(value: object) -> str:
    told = value.decode("latin-1") if isinstance(value, bytes) else str(value)
    return told.strip(" \0")


def _decoded(value: object, vr: str, little: bool, kind: Kind) -> NDArray[np.float64] | None:
    """Numbers from bytes, by the VR in the file or, where that says nothing, by the dictionary's."""
    if not isinstance(value, bytes):
        return _from_words([value] if isinstance(value, str | int | float) else value)
    order = "<" if little else ">"
    if vr in _BINARY:
        return _from_bytes(value, order + _BINARY[vr])
    if vr in _UNKNOWN and kind in _OF_KIND:
        return _from_bytes(value, order + _OF_KIND[kind])
    words = _from_words(_as_text(value).split("\\"))
    if words is None and vr in _UNKNOWN:
        return _from_bytes(value, order + ("f8" if len(value) == 8 else "f4"))
    return words


def _from_bytes(value: bytes, layout: str) -> NDArray[np.float64] | None:
    try:
        return np.frombuffer(value, layout).astype(np.float64)
    except (ValueError, struct.error):
        return None


def _from_words(words: object) -> NDArray[np.float64] | None:
    if not isinstance(words, Iterable):
        return None
    numbers = [finite(word) for word in words]
    return None if not numbers or None in numbers else np.array(numbers, np.float64)
