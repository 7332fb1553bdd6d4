"""Which part of the body the header names: often wrong or empty, so the second source after the image."""

import re
from typing import Final

from pydicom.dataset import Dataset

from dicomnode.dicom.values import code_of, number, text
from dicomnode.dose_reference import Region

_SAID: Final[dict[Region, str]] = {
    "head": """HEAD BRAIN SKULL NEURO SINUS SINUSES IAC ORBIT ORBITS FACE FACIAL MANDIBLE MAXILLA EAR TEMPORAL
        KOPF SCHAEDEL CRANIAL CRANIUM PITUITARY""",
    "neck": "NECK CSPINE LARYNX THYROID CAROTID HALS CERVICAL PHARYNX",
    "chest": "CHEST THORAX LUNG LUNGS HEART CARDIAC BREAST TSPINE PE HRCT CORONARY",
    "abdomen-pelvis": """ABDOMEN ABD ABDO ABDOMENPELVIS PELVIS PEL LIVER KIDNEY PANCREAS COLON BLADDER
        PROSTATE UTERUS LSPINE LUMBAR UROGRAM KUB BECKEN HIP""",
    "extremity": """EXTREMITY LEG KNEE ANKLE FOOT TOE CALF THIGH FEMUR TIBIA ARM ELBOW WRIST HAND FINGER
        FOREARM HUMERUS LOWERLEG UPPERARM""",
}
WORDS: Final = {region: frozenset(said.split()) for region, said in _SAID.items()}
"""Defined terms of BodyPartExamined (PS3.16 annex L) and words of protocol names, English and German."""

CODES: Final[dict[str, Region]] = {
    **dict.fromkeys(("69536005", "T-D1100", "12738006", "T-A0100", "89546000", "T-11100"), "head"),
    **dict.fromkeys(("45048000", "T-D1600", "122494005", "T-11501"), "neck"),
    **dict.fromkeys(("51185008", "816094009", "T-D3000", "39607008", "T-28000", "80891009"), "chest"),
    **dict.fromkeys(
        ("113345001", "818983003", "T-D4000", "12921003", "816092008", "T-D6000"), "abdomen-pelvis"
    ),
    **dict.fromkeys(("818981001", "416949008", "T-D4600", "10200004", "T-62000"), "abdomen-pelvis"),
    **dict.fromkeys(("66019005", "T-D0300", "72696002", "T-D9200", "61685007", "53120007"), "extremity"),
}
"""Anatomic regions of CID 4 and CID 4031, SNOMED CT and the older SRT codes."""

WATER_EQUIVALENT_DIAMETER_MM: Final = (50.0, 600.0)


def stated_region(header: Dataset) -> Region | None:
    """The one region that the first telling attribute names; None where none does, or it names several.

    Asked in turn: AnatomicRegionSequence, BodyPartExamined, ProtocolName, SeriesDescription,
    StudyDescription. "Chest/Abd/Pelvis" names two and says nothing about one slice.
    """
    code, _ = code_of(header, "AnatomicRegionSequence")
    if code in CODES:
        return CODES[code]
    for keyword in ("BodyPartExamined", "ProtocolName", "SeriesDescription", "StudyDescription"):
        said = set(re.split(r"[^A-Z]+", text(header, keyword).upper()))
        named = [region for region, words in WORDS.items() if said & words]
        if named:
            return named[0] if len(named) == 1 else None
    return None


def stated_diameter_mm(header: Dataset) -> float | None:
    """WaterEquivalentDiameter (0018,1271), or None where absent or no size of a patient."""
    value = number(header, "WaterEquivalentDiameter")
    low, high = WATER_EQUIVALENT_DIAMETER_MM
    return value if value is not None and low <= value <= high else None
