"""The marks that tell our derived images from all others, and survive de-identification.

The Basic Profile of PS3.15 removes free text, private elements and original UIDs, but keeps ImageType,
DerivationCodeSequence and the frame of ContributingEquipmentSequence: our marks live there.
"""

from typing import Final

from pydicom.dataset import Dataset

from dicomnode.dicom.values import code_of, items, text, texts

IMAGE_TYPE_TERM: Final = "AI_DENOISED"
"""Value 4 of ImageType (0008,0008), our own defined term."""

PRIVATE_SCHEME: Final = "99LDCT"
"""Coding scheme designator of the codes that the standard lacks."""

DENOISING_CODE: Final = ("LDCT100", PRIVATE_SCHEME, "AI noise reduction")
SMOOTHING_CODE: Final = ("113087", "DCM", "Smoothing")
PROCESSING_EQUIPMENT: Final = ("109102", "DCM", "Processing Equipment")
ACQUISITION_EQUIPMENT: Final = ("109101", "DCM", "Acquisition Equipment")

MANUFACTURER: Final = "dicomnode"


def carries_own_marks(header: Dataset) -> bool:
    """Was this image made by a dicomnode, whichever its name and UID root? Any one mark is enough."""
    if IMAGE_TYPE_TERM in (value.upper() for value in texts(header, "ImageType")):
        return True
    derivations = items(header, "DerivationCodeSequence")
    if any(text(code, "CodingSchemeDesignator") == PRIVATE_SCHEME for code in derivations):
        return True
    return _is_ours(header) or any(
        code_of(item, "PurposeOfReferenceCodeSequence")[0] == PROCESSING_EQUIPMENT[0] and _is_ours(item)
        for item in items(header, "ContributingEquipmentSequence")
    )


def _is_ours(equipment: Dataset) -> bool:
    return text(equipment, "Manufacturer").lower() == MANUFACTURER
