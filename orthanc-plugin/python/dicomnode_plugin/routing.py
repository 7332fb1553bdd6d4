"""Which series are worth sending: the node's own refusals, from the headers of a few images.

The node decides; this only spares the way for what it would certainly refuse. Whatever is in doubt is sent.
A header is what Orthanc answers to `/instances/{id}/tags?short`: `gggg,eeee` to a text or a list of items.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Callable, Mapping, Sequence

Header = Mapping[str, Any]

SOP_CLASS, IMAGE_TYPE, MODALITY = "0008,0016", "0008,0008", "0008,0060"
SCAN_OPTIONS, BURNED_IN, FRAMES = "0018,0022", "0028,0301", "0028,0008"
MANUFACTURER, PURPOSE = "0008,0070", "0040,a170"
CODE_VALUE, CODE_SCHEME = "0008,0100", "0008,0102"
DERIVATION_CODES, CONTRIBUTING_EQUIPMENT = "0008,9215", "0018,a001"
REFERENCED_SERIES, SERIES_UID = "0008,1115", "0020,000e"

CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"
MULTI_FRAME = ("1.2.840.10008.5.1.4.1.1.2.1", "1.2.840.10008.5.1.4.1.1.2.2")
"""Enhanced CT and Legacy Converted Enhanced CT Image Storage."""

PROJECTION_GROUPS = ("7029,", "7031,", "7033,")
"""Private groups of DICOM-CT-PD: measured projections, for which the node has rules of its own."""

LOCALIZER_WORDS = frozenset(
    ("LOCALIZER", "LOCALISER", "SCOUT", "SURVIEW", "TOPOGRAM", "TOPO", "SCANOSCOPE", "SCANOGRAM", "SCANO")
)
REFORMAT_WORDS = frozenset(("MPR", "REFORMATTED", "MIP", "MINIP", "MAX_IP", "MIN_IP", "VRT", "3D"))

OWN_TERM, OWN_SCHEME, OWN_MAKER = "AI_DENOISED", "99LDCT", "dicomnode"
PROCESSING_EQUIPMENT = "109102"
"""How a dicomnode marks what it has made: a value of Image Type, a coding scheme, an equipment."""

SAMPLES = 3


@dataclass(frozen=True)
class Verdict:
    """Whether to send. `rule` and `reason` say why not; `own` that a dicomnode made the series."""

    rule: str | None = None
    reason: str | None = None
    own: bool = False

    @property
    def send(self) -> bool:
        """Is there nothing against sending?"""
        return self.rule is None


def sample(instances: Sequence[str], most: int = SAMPLES) -> tuple[str, ...]:
    """A few of them, spread over the series: the first, the last, and between."""
    if len(instances) <= most:
        return tuple(instances)
    step = (len(instances) - 1) / (most - 1)
    return tuple(instances[round(index * step)] for index in range(most))


def judge(headers: Sequence[Header], instances: int, minimum_slices: int) -> Verdict:
    """Look at the headers of a few of the `instances` of one series.

    Refused only where every one of them breaks a rule; own where one carries a dicomnode's mark.
    """
    if any(carries_own_marks(header) for header in headers):
        return Verdict("already-enhanced", "it is the result of a dicomnode", own=True)
    broken = [_first_broken(header) for header in headers]
    if headers and all(broken):
        return broken[0] or Verdict()
    if slices_of(headers, instances) < minimum_slices:
        return Verdict("too-few-slices", f"fewer than {minimum_slices} slices")
    return Verdict()


def slices_of(headers: Sequence[Header], instances: int) -> int:
    """At least how many slices: frames count where the images are multi-frame."""
    frames = [number(header) for header in headers if text(header, SOP_CLASS) in MULTI_FRAME]
    return max(instances, sum(frames))


def number(header: Header) -> int:
    """NumberOfFrames, 1 where it cannot be read."""
    told = text(header, FRAMES)
    return int(told) if told.isascii() and told.isdigit() and len(told) < 8 else 1


def sources_of(headers: Sequence[Header]) -> tuple[str, ...]:
    """UIDs of the series that a result names as those it was made from, the nearest first."""
    told = [text(item, SERIES_UID) for header in headers for item in items(header, REFERENCED_SERIES)]
    return tuple(dict.fromkeys(uid for uid in told if uid))


def carries_own_marks(header: Header) -> bool:
    """Did a dicomnode make this image? Any one mark is enough."""
    if OWN_TERM in values(header, IMAGE_TYPE) or _is_ours(header):
        return True
    if any(text(code, CODE_SCHEME) == OWN_SCHEME for code in items(header, DERIVATION_CODES)):
        return True
    return any(_is_ours(item) and _processed(item) for item in items(header, CONTRIBUTING_EQUIPMENT))


def _processed(equipment: Header) -> bool:
    return any(text(code, CODE_VALUE) == PROCESSING_EQUIPMENT for code in items(equipment, PURPOSE))


def _is_ours(equipment: Header) -> bool:
    return text(equipment, MANUFACTURER).lower() == OWN_MAKER


def _first_broken(header: Header) -> Verdict | None:
    if any(tag.startswith(PROJECTION_GROUPS) for tag in header):
        return None
    for rule, reason, breaks in _RULES:
        if breaks(header):
            return Verdict(rule, reason)
    return None


def _not_ct(header: Header) -> bool:
    return text(header, SOP_CLASS) not in (CT_IMAGE, *MULTI_FRAME) or text(header, MODALITY) != "CT"


def _localizer(header: Header) -> bool:
    return bool((words(header, IMAGE_TYPE) | words(header, SCAN_OPTIONS)) & LOCALIZER_WORDS)


def _not_axial(header: Header) -> bool:
    told = values(header, IMAGE_TYPE)
    if text(header, SOP_CLASS) in MULTI_FRAME or not told:
        return False  # their frames have a type each, which is not looked at here
    return len(told) < 3 or told[2] != "AXIAL"


def _secondary(header: Header) -> bool:
    return values(header, IMAGE_TYPE)[:2] == ["DERIVED", "SECONDARY"]


def _reformatted(header: Header) -> bool:
    told = set(values(header, IMAGE_TYPE)[3:])
    return bool((told | words(header, IMAGE_TYPE, 3)) & REFORMAT_WORDS)


def _burned_in(header: Header) -> bool:
    return text(header, BURNED_IN).upper() == "YES"


_RULES: tuple[tuple[str, str, Callable[[Header], bool]], ...] = (
    ("not-ct", "it is no CT image", _not_ct),
    ("localizer", "it is a localizer", _localizer),
    ("not-axial", "ImageType value 3 is not AXIAL", _not_axial),
    ("not-axial", "it is DERIVED\\SECONDARY, made from other images", _secondary),
    ("not-axial", "it is a reformatted series", _reformatted),
    ("burned-in-text", "text is burned into the pixels", _burned_in),
)
"""Names and order are those of the node's refusals."""


def text(header: Header, tag: str) -> str:
    """The value as text, empty where it is absent or a sequence."""
    value = header.get(tag)
    return value.strip(" \0") if isinstance(value, str) else ""


def values(header: Header, tag: str) -> list[str]:
    """The values of a multi-valued text, in capitals."""
    told = text(header, tag)
    return [value.strip().upper() for value in told.split("\\")] if told else []


def words(header: Header, tag: str, first: int = 0) -> set[str]:
    """The words inside the values from `first` on: makers join them by blanks and underscores."""
    return {word for value in values(header, tag)[first:] for word in re.split(r"[ _]+", value)}


def items(header: Header, tag: str) -> list[Header]:
    """The items of a sequence, none where it is absent."""
    value = header.get(tag)
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
