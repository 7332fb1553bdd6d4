"""Elements of private blocks: found by their creator, because a copy may have moved the block.

A VR that got lost on the way (UN, or Implicit VR without a dictionary) leaves bytes: text or a
binary number.
"""

import struct
from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from typing import Final

from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence as DicomSequence
from pydicom.tag import BaseTag, Tag

from dicomnode.dicom.admission import PROJECTION_GROUPS
from dicomnode.dicom.values import UNREADABLE, finite, tags_of

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


Key = tuple[int, str, int]
"""Group, creator, and the low byte of the element number."""

LONGEST: Final = 1024
"""Bytes of a private value that is read; a list of items is one, too, until it is opened: 30 us an item."""

_READ: Final = frozenset[Key](element.value[:3] for element in PrivateElement)
_CREATORS: Final = {pair: 0x10 + at for at, pair in enumerate(sorted({key[:2] for key in _READ}))}
"""The one block of each creator in the header of a frame."""
_GROUPS: Final = frozenset(group for group, _ in _CREATORS)


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
    for tag in sorted(tag for tag in tags_of(header) if tag.group == group and tag.is_private_creator):
        place = Tag(group, (tag.element << 8) + offset)
        if _creator(header, tag) == creator and place in header:
            found = _converted(header, place, creator)
            return None if found is None else found.value
    return None


Place = Sequence[Dataset]
"""Where private elements may stand: one item, or one for each X-ray path."""
Reserved = Mapping[BaseTag, str]
"""By the element that names it the creator of a block; empty where it is none of those that are read."""
Elements = Mapping[Key, DataElement]


def put_private(
    flats: Iterable[Dataset], header: Dataset, shared: Sequence[Place], frames: Iterable[Iterable[Place]]
) -> None:
    """Give the header of each frame the private elements that are read: its own, else what it shares.

    Each place reserves blocks of its own (PS3.5 7.8.1); for an element whose block it does not reserve, the
    object does: of converted images the creator may be shared where what it reserves is not. Of measured
    projections nothing is read here; that they are some is kept.
    """
    outer = _reserved([header])
    known = _gathered(shared, _gathered([(header,)], {}, {}), outer)
    around = _reserved([header, *(item for place in shared for item in place)])
    measured = _projection_groups([(header,), *shared])
    for flat, own in zip(flats, frames, strict=True):
        places = [*own]
        for (group, creator, _), element in _gathered(places, known, around).items():
            _name(flat, Tag(group, _CREATORS[group, creator]), creator)
            flat[element.tag] = element
        for group in measured | _projection_groups(places):
            _name(flat, Tag(group, 0x10), "")


def _name(flat: Dataset, block: BaseTag, creator: str) -> None:
    flat[block] = DataElement(block, "LO", creator)


def _projection_groups(places: Iterable[Place]) -> set[int]:
    found = {tag.group for place in places for item in place for tag in tags_of(item)}
    return found.intersection(PROJECTION_GROUPS)


def _gathered(places: Iterable[Place], known: Elements, around: Reserved) -> Elements:
    """What X-ray paths state each is a share of a whole that nobody states. What is stated and cannot be read
    is not known, whatever stands around."""
    elements = dict(known)
    for place in places:
        for item in place:
            for key, found in _read(item, around).items():
                if found is None or len(place) > 1:
                    elements.pop(key, None)
                else:
                    elements[key] = found
    return elements


def _reserved(places: Iterable[Dataset]) -> Reserved:
    """The blocks of all these places, nobody's where they differ."""
    found: dict[BaseTag, str] = {}
    for place in places:
        for tag, creator in _own(place).items():
            found[tag] = creator if found.get(tag, creator) == creator else ""
    return found


def _read(place: Dataset, around: Reserved) -> dict[Key, DataElement | None]:
    """Of several blocks of one creator the first, as in a classic image; None of what cannot be read."""
    elements: dict[Key, DataElement | None] = {}
    own = _own(place)
    for tag in sorted(tag for tag in tags_of(place) if tag.group in _GROUPS):
        block = Tag(tag.group, tag.element >> 8)
        creator = own[block] if block in own else around.get(block, "")
        key = tag.group, creator, tag.element & 0xFF
        if key in _READ and key not in elements:
            found = _converted(place, tag, creator)
            elements[key] = None if found is None else _moved(found, tag.group, creator)
    return elements


def _moved(element: DataElement, group: int, creator: str) -> DataElement:
    tag = Tag(group, (_CREATORS[group, creator] << 8) + (element.tag.element & 0xFF))
    return DataElement(tag, element.VR, element.value, already_converted=True)


def _own(place: Dataset) -> dict[BaseTag, str]:
    tags = [tag for tag in tags_of(place) if tag.group in _GROUPS and tag.is_private_creator]
    names = {tag: _creator(place, tag) for tag in tags}
    return {tag: name if (tag.group, name) in _CREATORS else "" for tag, name in names.items()}


def _creator(place: Dataset, tag: BaseTag) -> str:
    found = place.get_item(tag, keep_deferred=True)
    value = b"" if found is None else found.value
    if isinstance(value, bytes) and len(value) <= LONGEST:
        return value.decode("ascii", "replace").strip(" \0")
    return value.strip(" \0") if isinstance(value, str) else ""


def _converted(place: Dataset, tag: BaseTag, creator: str) -> DataElement | None:
    """Not in its place, which frames may share; None of a list of items, and of what cannot be read."""
    encoded = place.get_item(tag, keep_deferred=True)
    if encoded is None or (isinstance(encoded, RawDataElement) and len(encoded.value or b"") > LONGEST):
        return None
    alone = Dataset()
    try:
        alone.add_new(Tag(tag.group, tag.element >> 8), "LO", creator)
        alone[tag] = encoded
        element = alone[tag]
    except UNREADABLE:
        return None
    return None if isinstance(element.value, DicomSequence) else element
