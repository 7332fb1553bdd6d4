"""Which phantom a CTDIvol belongs to, and CTDIvol per mAs: the two tell each other.

The 16 cm phantom reads about twice as much as the 32 cm one, so CTDIvol / mAs says which it was where nobody
states it, and the other way round.
"""

import re
from collections.abc import Sequence
from typing import Final, Literal

from pydicom.dataset import Dataset

from dicomnode.dicom.dose_report import KV_EXPONENT, MGY_PER_MAS, PHANTOM_CODES
from dicomnode.dicom.private_elements import PrivateElement, private_text
from dicomnode.dicom.region import WORDS
from dicomnode.dicom.values import code_of, text

Phantom = Literal[16, 32]

HEAD_FROM: Final = 0.105
BODY_UP_TO: Final = 0.095
"""mGy/mAs at 120 kV, between the two phantoms of Siemens and Philips (real headers)."""
HEAD_TO_BODY_PHANTOM: Final = 0.5
"""CTDIvol on the 32 cm phantom over that on the 16 cm phantom, same output: 1/2.04 to 1/2.14."""

MGY_PER_MAS_AT_120_KV: Final[dict[str, tuple[float, float]]] = {
    "SIEMENS": (0.163, 0.064),
    "PHILIPS": (0.140, 0.071),
    "GE": (0.180, 0.085),
    "TOSHIBA": (0.200, 0.100),
    "CANON": (0.200, 0.100),
    "": (0.165, 0.075),
}
"""(16 cm, 32 cm) by maker. Siemens and Philips from real headers that hold both CTDIvol and mAs; the others
from published scanner evaluations, good to about 25 %, so a computed dose is always flagged."""
PUBLISHED: Final = ("GE", "TOSHIBA", "CANON")
PUBLISHED_WITHIN: Final = 0.25

HEAD_WORDS: Final = WORDS["head"]
BODY_WORDS: Final = WORDS["chest"] | WORDS["abdomen-pelvis"] | {"BODY", "SPINE"}


def stated_phantom(header: Dataset) -> Phantom | None:
    """What the code sequence says, a missing scheme forgiven; or Philips' `16 CM`, `32 CM`."""
    value, scheme = code_of(header, "CTDIPhantomTypeCodeSequence")
    if scheme in ("DCM", "") and value in PHANTOM_CODES:
        return PHANTOM_CODES[value]
    told = re.fullmatch(r"(16|32) *CM", private_text(header, PrivateElement.PHILIPS_PHANTOM).upper())
    return None if told is None else 16 if told[1] == "16" else 32


def stated_phantoms(headers: Sequence[Dataset]) -> tuple[Phantom, ...]:
    """One a slice, silent slices as the one before them, or after; empty where none says anything."""
    told = [stated_phantom(header) for header in headers]
    last = next((one for one in told if one is not None), None)
    if last is None:
        return ()
    filled: list[Phantom] = []
    for one in told:
        last = last if one is None else one
        filled.append(last)
    return tuple(filled)


def inferred_phantom(header: Dataset, mgy_per_mas: float | None) -> Phantom | None:
    """By CTDIvol / mAs at 120 kV, scaled to it; by Philips' scan type where that leaves it open.

    None between the two phantoms; for makers known from publications only the gap is wider.
    """
    body_up_to, head_from = BODY_UP_TO, HEAD_FROM
    if maker_of(header) in PUBLISHED:
        head, body = MGY_PER_MAS_AT_120_KV[maker_of(header)]
        body_up_to, head_from = body * (1 + PUBLISHED_WITHIN), head * (1 - PUBLISHED_WITHIN)
    if mgy_per_mas is not None and MGY_PER_MAS[0] <= mgy_per_mas <= body_up_to:
        return 32
    if mgy_per_mas is not None and head_from <= mgy_per_mas <= MGY_PER_MAS[1]:
        return 16
    scanned = _words(private_text(header, PrivateElement.PHILIPS_SCAN_TYPE))
    return 16 if scanned & HEAD_WORDS else 32 if scanned & BODY_WORDS else None


def phantom_by_region(header: Dataset) -> Phantom:
    """The phantom to compute a CTDIvol for: the one that a scanner would report this part of the body on."""
    # A protocol such as "Head to thigh" speaks only where BodyPartExamined is silent.
    return 16 if _words(text(header, "BodyPartExamined") or text(header, "ProtocolName")) & HEAD_WORDS else 32


def mgy_per_mas(header: Dataset, phantom_cm: Phantom, kvp: float) -> float:
    """CTDIvol / effective mAs of the maker, on this phantom, at this voltage."""
    head, body = MGY_PER_MAS_AT_120_KV[maker_of(header)]
    return float((head if phantom_cm == 16 else body) * (kvp / 120) ** KV_EXPONENT)


def maker_of(header: Dataset) -> str:
    """The key of `MGY_PER_MAS_AT_120_KV` for the Manufacturer; "" for any other."""
    maker = text(header, "Manufacturer").upper()
    return next((name for name in MGY_PER_MAS_AT_120_KV if name and maker.startswith(name)), "")


def to_body(phantom_cm: int | None) -> float:
    """What a CTDIvol must be multiplied by to be one on the 32 cm phantom; an unknown one counts as that."""
    return HEAD_TO_BODY_PHANTOM if phantom_cm == 16 else 1.0


def _words(told: str) -> set[str]:
    return set(re.split(r"[^A-Z]+", told.upper()))
