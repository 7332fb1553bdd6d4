"""Elements of private blocks: found by their creator, because a copy may have moved the block.

A VR that got lost on the way (UN, or Implicit VR without a dictionary) leaves bytes: text or a
binary number.
"""

import struct
from collections.abc import Iterable
from typing import Final

from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence as DicomSequence
from pydicom.tag import BaseTag, Tag

from dicomnode.dicom.values import UNREADABLE, finite, is_too_long

GE_TIMING: Final = "GEMS_ACQU_01"
GE_PARAMETERS: Final = "GEMS_PARM_01"
GE_HELIOS: Final = "GEMS_HELIOS_01"
PHILIPS_PRIVATE: Final = "ELSCINT1"
CANON_PRIVATE: Final = "TOSHIBA_MEC_CT3"
GE_RECONSTRUCTION: Final = "GEHC_CT_ADVAPP_001"
"""Private creators."""

BINARY: Final = {2: "h", 4: "f", 8: "d"}
"""What bytes that are no text are by their number: SS, FL or FD."""


def private_text(header: Dataset, group: int, creator: str, offset: int) -> str:
    """A private element as text, values joined by a backslash; empty where absent, too long or no text."""
    value = _value(header, group, creator, offset)
    if isinstance(value, bytes):
        return value.decode("ascii", "replace").strip(" \0") if _is_text(value.rstrip(b"\0")) else ""
    if value is None or isinstance(value, DicomSequence):
        return ""
    many: Iterable[object] = value if isinstance(value, MultiValue | list | tuple) else (value,)
    return "\\".join(str(one).strip(" \0") for one in many)


def private_number(header: Dataset, group: int, creator: str, offset: int) -> float | None:
    """A private element as a finite number; of a ratio (`0.984:1`, `/1.0:1`) its left side."""
    found = finite(private_text(header, group, creator, offset).strip("/").partition(":")[0])
    return _binary(header, group, creator, offset) if found is None else found


def owned(tags: Iterable[BaseTag], source: Dataset, target: Dataset) -> list[BaseTag]:
    """Those of `tags` of `source` that can go to `target`: of the private ones those with one creator.

    It may stand in either: of converted images the creator is shared, and what it reserves stands with the
    frame where it differs. Without a creator nobody can say what an element means, and two contradict.
    """
    tags = list(tags)
    blocks = {_reservation(tag) for tag in tags if tag.is_private}
    clear = {block for block in blocks if len({_owner(source, block), _owner(target, block)} - {""}) == 1}
    return [tag for tag in tags if not tag.is_private or _reservation(tag) in clear]


def _reservation(tag: BaseTag) -> BaseTag:
    """The element that reserves a private element's block for its creator (PS3.5 7.8.1)."""
    return tag if tag.is_private_creator else Tag(tag.group, tag.element >> 8)


def _owner(header: Dataset, block: BaseTag) -> str:
    try:
        element = None if is_too_long(header.get_item(block)) else header.get(block)
    except UNREADABLE:
        return ""
    return str(element.value).strip(" \0") if isinstance(element, DataElement) else ""


def _binary(header: Dataset, group: int, creator: str, offset: int) -> float | None:
    value = _value(header, group, creator, offset)
    if not isinstance(value, bytes) or len(value) not in BINARY or _is_text(value):
        return None
    order = ">" if header.original_encoding[1] is False else "<"
    return finite(struct.unpack(order + BINARY[len(value)], value)[0])


def _is_text(value: bytes) -> bool:
    return all(0x20 <= one < 0x7F for one in value)


def _value(header: Dataset, group: int, creator: str, offset: int) -> object:
    try:
        block = header.private_block(group, creator)
        if is_too_long(header.get_item(block.get_tag(offset))):
            return None
        value: object = block[offset].value
    except UNREADABLE:
        return None
    return value
