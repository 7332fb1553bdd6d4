"""The marks that tell our derived images from all others, and survive de-identification.

The Basic Profile of PS3.15 removes free text, private elements and original UIDs, but keeps ImageType,
DerivationCodeSequence and the frame of ContributingEquipmentSequence: our marks live there.
"""

from typing import Final

from pydicom.dataset import Dataset

from dicomnode.dicom.values import code_of, items, text, texts, value_of

IMAGE_TYPE_TERM: Final = "AI_DENOISED"
"""Value 4 of ImageType (0008,0008), our own defined term."""

PRIVATE_SCHEME: Final = "99LDCT"
"""Coding scheme designator of the codes that the standard lacks."""

DENOISING_CODE: Final = ("LDCT100", PRIVATE_SCHEME, "AI noise reduction")
SMOOTHING_CODE: Final = ("113087", "DCM", "Smoothing")
PROCESSING_EQUIPMENT: Final = ("109102", "DCM", "Processing Equipment")
ACQUISITION_EQUIPMENT: Final = ("109101", "DCM", "Acquisition Equipment")

MANUFACTURER: Final = "dicomnode"


def processed_by(header: Dataset, manufacturer: str, model_name: str | None = None) -> bool:
    """Does an item of ContributingEquipmentSequence (or the equipment itself) name this processor?"""
    if _names(header, manufacturer, model_name):
        return True
    return any(
        code_of(item, "PurposeOfReferenceCodeSequence")[0] == PROCESSING_EQUIPMENT[0]
        and _names(item, manufacturer, model_name)
        for item in items(header, "ContributingEquipmentSequence")
    )


def carries_own_marks(header: Dataset) -> bool:
    """Was this image made by a dicomnode, whichever its name and UID root?"""
    if IMAGE_TYPE_TERM in (value.upper() for value in texts(header, "ImageType")):
        return True
    derivations = items(header, "DerivationCodeSequence")
    if any(text(code, "CodingSchemeDesignator") == PRIVATE_SCHEME for code in derivations):
        return True
    return processed_by(header, MANUFACTURER)


def has_uid_root(header: Dataset, uid_root: str) -> bool:
    """Were the instance's or series' UID made below `uid_root`? The shared root 2.25 proves nothing."""
    root = uid_root.rstrip(".")
    if root in ("", "2.25"):
        return False
    uids = (str(value_of(header, key) or "") for key in ("SOPInstanceUID", "SeriesInstanceUID"))
    return any(uid.startswith(f"{root}.") for uid in uids)


def _names(equipment: Dataset, manufacturer: str, model_name: str | None) -> bool:
    if text(equipment, "Manufacturer").lower() != manufacturer.lower():
        return False
    return model_name is None or text(equipment, "ManufacturerModelName").lower() == model_name.lower()
