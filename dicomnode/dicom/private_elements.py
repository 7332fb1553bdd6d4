"""Elements of private blocks: found by their creator, because a copy may have moved the block.

A VR that got lost on the way (UN, or Implicit VR without a dictionary) leaves bytes: text or a
binary number.
"""

import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence as DicomSequence
from pydicom.tag import BaseTag, Tag

from dicomnode.dicom.values import UNREADABLE, finite, is_too_long, tags_of

BINARY: Final = {2: "h", 4: "f", 8: "d"}
"""What bytes that are no text are by their number: SS, FL or FD."""


class PrivateElement(Enum):
    """Every private element that is read: group, creator, low byte of the element number; what it tells."""

    GE_TABLE_FEED = (0x0019, "GEMS_ACQU_01", 0x23, "table feed in a rotation, mm")
    GE_ROTATION = (0x0019, "GEMS_ACQU_01", 0x27, "time of a rotation, s")
    GE_PITCH = (0x0043, "GEMS_PARM_01", 0x27, "pitch factor")
    GE_ROWS = (0x0045, "GEMS_HELIOS_01", 0x01, "rows of the detector")
    GE_ROW_WIDTH = (0x0045, "GEMS_HELIOS_01", 0x02, "width of a row at the isocentre, mm")
    GE_IMAGE_FILTER = (0x0045, "GEMS_HELIOS_01", 0x3B, "filter of the image")
    GE_ANNOTATION = (0x0053, "GEHC_CT_ADVAPP_001", 0x40, "iterative reconstruction, annotation")
    GE_CONFIGURATION = (0x0053, "GEHC_CT_ADVAPP_001", 0x42, "iterative reconstruction, configuration")
    GE_LEVEL = (0x0053, "GEHC_CT_ADVAPP_001", 0x43, "iterative reconstruction, level")
    PHILIPS_PHANTOM = (0x01E1, "ELSCINT1", 0x26, "phantom of CTDIvol")
    PHILIPS_PITCH = (0x01F1, "ELSCINT1", 0x26, "pitch factor")
    PHILIPS_ROTATION = (0x01F1, "ELSCINT1", 0x27, "time of a rotation, s")
    PHILIPS_PLANNED_MAS = (0x01F1, "ELSCINT1", 0x49, "planned mAs")
    PHILIPS_COLLIMATION = (0x01F1, "ELSCINT1", 0x4B, "rows and their width, mm")
    PHILIPS_SCAN_TYPE = (0x01F1, "ELSCINT1", 0x4E, "part of the body")
    PHILIPS_IDOSE = (0x01F7, "ELSCINT1", 0x9B, "iterative reconstruction, level")
    CANON_ROW_WIDTH = (0x7005, "TOSHIBA_MEC_CT3", 0x08, "width of a row, mm")
    CANON_ROWS = (0x7005, "TOSHIBA_MEC_CT3", 0x09, "rows used, a digit for each")
    CANON_FILTER = (0x7005, "TOSHIBA_MEC_CT3", 0x0B, "filter of the image")
    CANON_PITCH = (0x7005, "TOSHIBA_MEC_CT3", 0x23, "pitch factor")
    CANON_COLLIMATION = (0x7005, "TOSHIBA_MEC_CT3", 0x41, "rows and their width, mm")
    CANON_CTDIVOL = (0x7005, "TOSHIBA_MEC_CT3", 0x63, "CTDIvol, mGy")


_READ: Final = frozenset(element.value[:3] for element in PrivateElement)
_GROUPS: Final = frozenset(group for group, _, _ in _READ)
_BLOCKS: Final = {pair: 0x10 + at for at, pair in enumerate(sorted({one[:2] for one in _READ}))}


def private_text(header: Dataset, element: PrivateElement) -> str:
    """A private element as text, values joined by a backslash; empty where absent, too long or no text."""
    value = _value(header, element)
    if isinstance(value, bytes):
        return value.decode("ascii", "replace").strip(" \0") if _is_text(value.rstrip(b"\0")) else ""
    if value is None or isinstance(value, DicomSequence):
        return ""
    many: Iterable[object] = value if isinstance(value, MultiValue | list | tuple) else (value,)
    return "\\".join(str(one).strip(" \0") for one in many)


def private_number(header: Dataset, element: PrivateElement) -> float | None:
    """A private element as a finite number; of a ratio (`0.984:1`, `/1.0:1`) its left side."""
    found = finite(private_text(header, element).strip("/").partition(":")[0])
    return _binary(header, element) if found is None else found


def _binary(header: Dataset, element: PrivateElement) -> float | None:
    value = _value(header, element)
    if not isinstance(value, bytes) or len(value) not in BINARY or _is_text(value):
        return None
    order = ">" if header.original_encoding[1] is False else "<"
    return finite(struct.unpack(order + BINARY[len(value)], value)[0])


def _is_text(value: bytes) -> bool:
    return all(0x20 <= one < 0x7F for one in value)


def _value(header: Dataset, element: PrivateElement) -> object:
    group, creator, offset, _ = element.value
    try:
        block = header.private_block(group, creator)
        if is_too_long(header.get_item(block.get_tag(offset))):
            return None
        value: object = block[offset].value
    except UNREADABLE:
        return None
    return value


@dataclass(frozen=True)
class Gathered:
    """What is read of the private elements of several places of one object, the last place that has it.

    `creators` are those of all places, by the element that names them; empty where two places differ.
    """

    elements: Mapping[BaseTag, DataElement] = field(default_factory=dict)
    creators: Mapping[BaseTag, str] = field(default_factory=dict)


def gather(places: Iterable[Dataset], known: Gathered) -> Gathered:
    """The private elements of these places, and what is known from those around them.

    Each place reserves blocks of its own (PS3.5 7.8.1); here each creator gets one. Where a place names no
    creator, that of the places before holds: of converted images it is shared, and what it reserves stands
    with the frame where it differs.
    """
    elements, creators = dict(known.elements), dict(known.creators)
    for place in places:
        tags = [tag for tag in tags_of(place) if tag.group in _GROUPS]
        own = {tag: _creator(place, tag) for tag in tags if tag.is_private_creator}
        creators.update({tag: name if creators.get(tag, name) == name else "" for tag, name in own.items()})
        elements.update(_read(place, tags, {**creators, **own}))
    return Gathered(elements, creators)


def _read(
    place: Dataset, tags: Iterable[BaseTag], creators: Mapping[BaseTag, str]
) -> Iterator[tuple[BaseTag, DataElement]]:
    for tag in tags:
        creator = creators.get(Tag(tag.group, tag.element >> 8), "")
        if (tag.group, creator, tag.element & 0xFF) not in _READ:
            continue
        found = _converted(place, tag, creator)
        if found is not None:
            reserved = Tag(tag.group, _BLOCKS[tag.group, creator])
            yield reserved, DataElement(reserved, "LO", creator)
            moved = Tag(tag.group, (reserved.element << 8) + (tag.element & 0xFF))
            yield moved, DataElement(moved, found.VR, found.value, already_converted=True)


def _creator(place: Dataset, tag: BaseTag) -> str:
    found = _converted(place, tag, "")
    return "" if found is None else str(found.value).strip(" \0")


def _converted(place: Dataset, tag: BaseTag, creator: str) -> DataElement | None:
    """Not in its place, which the frames may share; None of a sequence, and of what cannot be read."""
    encoded = place.get_item(tag)
    if encoded is None or encoded.VR == "SQ" or is_too_long(encoded):
        return None
    alone = Dataset()
    try:
        if creator:
            alone.add_new(Tag(tag.group, tag.element >> 8), "LO", creator)
        alone[tag] = encoded
        element = alone[tag]
    except UNREADABLE:
        return None
    return None if isinstance(element.value, DicomSequence) else element
