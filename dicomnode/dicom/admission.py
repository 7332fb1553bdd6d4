"""Which images may be enhanced: one rule a function, each with its named error.

A rule looks at one header and raises its `SeriesRefused`, or returns. The order is the order of the
questions a radiographer would ask: is it CT, is it a plain axial image, is it Hounsfield, is it ours.
"""

import re
from collections.abc import Callable
from typing import Final

from pydicom.dataset import Dataset
from pydicom.uid import UID, CTImageStorage, EnhancedCTImageStorage, LegacyConvertedEnhancedCTImageStorage

from dicomnode.dicom.marks import carries_own_marks
from dicomnode.dicom.values import items, named, number, tags_of, text, texts
from dicomnode.errors import (
    AlreadyEnhanced,
    BurnedInText,
    Localizer,
    NotAxial,
    NotCt,
    NotHounsfield,
    ProjectionSeries,
)

PROJECTION_GROUPS: Final = (0x7029, 0x7031, 0x7033)
"""Private groups of DICOM-CT-PD projection data (Moen et al., Med Phys 2021, table IV)."""

LOCALIZER_WORDS: Final = frozenset(
    {"LOCALIZER", "LOCALISER", "SCOUT", "SURVIEW", "TOPOGRAM", "TOPO", "SCANOSCOPE", "SCANOGRAM", "SCANO"}
)
"""What makers call an overview, in Image Type and, alone or among others, in Scan Options."""

REFORMAT_WORDS: Final = frozenset(
    {"MPR", "REFORMATTED", "MIP", "MINIP", "MAX_IP", "MIN_IP", "AVERAGE", "PROJECTION", "VRT", "3D"}
    | {"SCREENSAVE", "DOSE_INFO", "PERFUSION"}
    | {"ADDITION", "DIVISION", "MASKED", "MAXIMUM", "MEAN", "MEDIAN", "MINIMUM", "MULTIPLICATION"}
    | {"QUANTITY", "RESAMPLED", "STD_DEVIATION", "SUBTRACTION"}
)
"""Words in ImageType values 4 and later of images that were made from other images; the last two rows are
the terms of PS3.3 C.8.16.1.4."""

SPECTRAL_WORDS: Final = frozenset(
    {"VMI", "MAT_SPECIFIC", "MAT_REMOVED", "MAT_FRACTIONAL", "MAT_MODIFIED", "MAT_VALUE_BASED"}
    | {"EFF_ATOMIC_NUM", "ELECTRON_DENSITY"}
)
"""ImageType value 4 of multi-energy images (PS3.3 C.8.2.1.1.1)."""

SPECTRAL_PARTS: Final = re.compile(
    r"VMI|MONO(?!CHROME)|\d ?KEV(?![A-Z])|IODINE|URIC|(?<![A-Z])VN(CA?|I)(?![A-Z])|VIRTUAL"
    r"|Z[ _-]?EFF|EFFECTIVE|ELECTRON|MATERIAL"
)
"""Inside later values of such images where makers use words of their own: `DE VNC`, `MONOE_70`, `ZEFF`."""

MULTI_FRAME_CLASSES: Final = frozenset(
    {str(EnhancedCTImageStorage), str(LegacyConvertedEnhancedCTImageStorage)}
)

HOUNSFIELD_NAMES: Final = ("HU", "HOUNSFIELD", "HOUNSFIELD UNIT", "HOUNSFIELD UNITS")


IMAGE_TYPE_WORDS: Final = (
    LOCALIZER_WORDS
    | REFORMAT_WORDS
    | SPECTRAL_WORDS
    | {
        "ORIGINAL",
        "DERIVED",
        "PRIMARY",
        "SECONDARY",
        "AXIAL",
        "OTHER",
        "STANDARD",
        "VOLUME",
        "MIXED",
        "NONE",
    }
)
MODALITIES: Final = frozenset(
    {"CR", "DX", "ES", "IO", "IVUS", "KO", "MG", "MR", "NM", "OT", "PR", "PT", "REG", "RF", "RTDOSE"}
    | {"RTPLAN", "SC", "SEG", "SR", "US", "XA"}
)
UNITS: Final = frozenset({"OD", "US", "MGML", "Z_EFF", "ED", "EDW", "HU_MOD", "PCT"})
"""What messages repeat of a header: terms of the standard, never free text."""
SLOPE_HU: Final = (1e-3, 100.0)
LARGEST_INTERCEPT_HU: Final = 1e5
LONGEST_NUMBER: Final = 12


def label(header: Dataset) -> str:
    """How a message names an image: by its InstanceNumber, which says nothing about the patient.

    In the header of one frame of a multi-frame object that is the number of the frame.
    """
    value = text(header, "InstanceNumber")
    usable = value.isascii() and value.isdigit() and len(value) <= LONGEST_NUMBER
    kind = "frame" if text(header, "SOPClassUID") in MULTI_FRAME_CLASSES else "instance number"
    return f"{kind} {value}" if usable else "an instance without a number"


def admit(header: Dataset) -> None:
    """Raise the first rule that this image breaks.

    :raises SeriesRefused: ProjectionSeries, NotCt, Localizer, NotAxial, NotHounsfield, AlreadyEnhanced or
        BurnedInText.
    """
    for rule in RULES:
        rule(header)


def is_an_image(header: Dataset) -> None:
    """Measured projections are a kind of their own, whatever their SOP class and Image Type say."""
    if holds_projections(header):
        raise ProjectionSeries(f"{label(header)} holds measured projections (DICOM-CT-PD), not an image")


def holds_projections(header: Dataset) -> bool:
    """Does the header carry an element of the private groups of DICOM-CT-PD?"""
    return any(tag.group in PROJECTION_GROUPS for tag in tags_of(header))


def _class_name(sop_class: str) -> str:
    name = UID(sop_class).name
    if name == sop_class:
        return "of an unknown SOP Class" if sop_class else "without SOP Class UID"
    return name


def _image_type(header: Dataset) -> str:
    return named(header, "ImageType", IMAGE_TYPE_WORDS)


def _words(header: Dataset, keyword: str, first: int = 0) -> set[str]:
    """The words inside the values from `first` on: makers join them by blanks and underscores."""
    told = texts(header, keyword)[first:]
    return {word for value in told for word in re.split(r"[ _]+", value.upper())}


def is_ct_image(header: Dataset) -> None:
    """CT Image Storage, or one frame of an Enhanced or Legacy Converted one, with modality CT."""
    sop_class = text(header, "SOPClassUID")
    if sop_class in MULTI_FRAME_CLASSES and "PerFrameFunctionalGroupsSequence" in header:
        raise NotCt(
            "a multi-frame CT object whose file meta information (0002,0002) name another class; correct "
            "them and send it again"
        )
    if sop_class != CTImageStorage and sop_class not in MULTI_FRAME_CLASSES:
        raise NotCt(f"{label(header)} is {_class_name(sop_class)}, not CT Image Storage")
    if text(header, "Modality") != "CT":
        raise NotCt(
            f"{label(header)} has Modality (0008,0060) {named(header, 'Modality', MODALITIES)}, not CT"
        )


def is_not_localizer(header: Dataset) -> None:
    """Scouts, surviews and topograms carry a dose of their own and are no cross-sections."""
    if (_words(header, "ImageType") | _words(header, "ScanOptions")) & LOCALIZER_WORDS:
        raise Localizer(f"{label(header)} is a localizer (ImageType {_image_type(header)})")


def is_axial(header: Dataset) -> None:
    """A cross-section as reconstructed: no reformats, dose screens or 3-D renderings."""
    values = tuple(value.upper() for value in texts(header, "ImageType"))
    if len(values) < 3 or values[2] != "AXIAL":
        raise NotAxial(
            f"{label(header)} has ImageType (0008,0008) {_image_type(header)}: value 3 must be AXIAL"
        )
    if values[:2] == ("DERIVED", "SECONDARY"):
        raise NotAxial(f"{label(header)} is DERIVED\\SECONDARY: made from other images after the examination")
    if (set(values[3:]) | _words(header, "ImageType", 3)) & REFORMAT_WORDS:
        raise NotAxial(f"{label(header)} is a reformatted image (ImageType {_image_type(header)})")


def is_hounsfield(header: Dataset) -> None:
    """Stored values map to Hounsfield units by a usable slope and intercept.

    RescaleType (0028,1054) may be absent: PS3.3 C.8.2.1 requires it where the unit is not HU.
    """
    words = [value.upper() for value in texts(header, "ImageType")[3:]]
    if SPECTRAL_WORDS & set(words) or any(map(SPECTRAL_PARTS.search, words)):
        raise NotHounsfield(f"{label(header)} is a virtual monoenergetic or material image, not measured HU")
    unit = text(header, "RescaleType").upper()
    if unit and unit not in HOUNSFIELD_NAMES:
        raise NotHounsfield(
            f"{label(header)} has RescaleType (0028,1054) {named(header, 'RescaleType', UNITS)}, not HU"
        )
    if items(header, "ModalityLUTSequence"):
        raise NotHounsfield(
            f"{label(header)} has a Modality LUT Sequence (0028,3000), which a CT image must not have: "
            "HU could be by that table or by RescaleSlope and RescaleIntercept"
        )
    slope, intercept = number(header, "RescaleSlope"), number(header, "RescaleIntercept")
    if slope is None or intercept is None:
        raise NotHounsfield(
            f"{label(header)} lacks a readable RescaleSlope or RescaleIntercept (0028,1052-1053)"
        )
    if not SLOPE_HU[0] <= slope <= SLOPE_HU[1] or abs(intercept) > LARGEST_INTERCEPT_HU:
        raise NotHounsfield(
            f"{label(header)} has RescaleSlope (0028,1053) {slope:g} and RescaleIntercept {intercept:g}: the "
            f"slope must be above 0, {SLOPE_HU[0]:g} to {SLOPE_HU[1]:g}"
        )


def is_not_enhanced(header: Dataset) -> None:
    """Never enhance what a dicomnode has enhanced."""
    if carries_own_marks(header):
        raise AlreadyEnhanced(
            f"{label(header)} is the output of a dicomnode; route the original series instead"
        )


def has_no_burned_in_text(header: Dataset) -> None:
    """Text in the pixels would be smoothed into something else."""
    if text(header, "BurnedInAnnotation").upper() == "YES":
        raise BurnedInText(f"{label(header)} has BurnedInAnnotation (0028,0301) YES")


RULES: Final[tuple[Callable[[Dataset], None], ...]] = (
    is_an_image,
    is_ct_image,
    is_not_enhanced,
    is_not_localizer,
    is_axial,
    is_hounsfield,
    has_no_burned_in_text,
)
