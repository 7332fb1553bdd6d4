"""Carry elements of a source data set into a new one without rewriting what they say."""

from collections.abc import Callable
from typing import Final, cast

import numpy as np
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.filewriter import correct_ambiguous_vr
from pydicom.sequence import Sequence as DicomSequence
from pydicom.tag import BaseTag

from dicomnode.dicom.parsing import parse
from dicomnode.dicom.values import UNREADABLE, is_too_long, tags_of

TEXT_VRS: Final = frozenset(
    {"AE", "AS", "CS", "DA", "DS", "DT", "IS", "LO", "LT", "PN", "SH", "ST", "TM", "UC", "UI", "UR", "UT"}
)
"""Value representations that are the same bytes in every uncompressed transfer syntax."""
NUMBER_VRS: Final = frozenset({"AT", "FD", "FL", "SL", "SS", "SV", "UL", "US", "UV"})
WORD_BYTES: Final = {"OW": 2, "OF": 4, "OL": 4, "OD": 8, "OV": 8}
"""Strings of words, which pydicom hands on in the byte order that they came in."""
LUT_DATA: Final = 0x00283006


def decode_header(encoded: bytes) -> Dataset:
    """A fresh data set from the bytes of a Part 10 file up to its pixel data, once parsed already."""
    return parse(encoded, "the header").header


def copy_elements(source: Dataset, keep: Callable[[BaseTag], bool]) -> Dataset:
    """The elements of `source` that `keep` accepts, ready to be written as Explicit VR Little Endian.

    Text elements keep their encoded bytes, blanks and formats of numbers included, also where an archive that
    did not know their tag has made them UN; an odd length is padded. Elements that cannot be read as what
    their tag demands are dropped. None keeps an undefined length: written as text it would take its
    delimiter, and whatever follows, for its value. Nested sequences lose private elements, overlays, curves.
    """
    copied = Dataset()
    for tag in tags_of(source):
        if keep(tag):
            element = _portable(source, tag)
            if element is not None:
                copied[tag] = element
    copied = correct_ambiguous_vr(copied, True)
    # Encoded text is only written as it is where the data set claims to have been read in this encoding.
    copied.set_original_encoding(False, True, copied._character_set)
    return copied


def _portable(source: Dataset, tag: BaseTag) -> DataElement | None:
    try:
        raw = source.get_item(tag)  # an element without value is turned into one by this alone
        if isinstance(raw, RawDataElement) and raw.value is not None:
            vr = _vr(raw)
            if vr in TEXT_VRS:
                return _as_little_endian(raw, vr, _padded(raw.value, vr))
            if vr in WORD_BYTES and not raw.is_little_endian:
                source[tag] = _as_little_endian(raw, vr, _swapped(raw.value, WORD_BYTES[vr]))
        if is_too_long(raw) and _is_numbers(cast(RawDataElement, raw)):
            return None
        element = source[tag]
        if element.VR != "SQ":
            element.is_undefined_length = False
            return element
        items = [copy_elements(item, is_kept_in_items) for item in element.value or ()]
    except UNREADABLE:
        return None
    return DataElement(tag, "SQ", DicomSequence(items))


def _as_little_endian(raw: RawDataElement, vr: str, value: bytes) -> DataElement:
    """An element that is written as these bytes; a data set takes it for any other."""
    copied = raw._replace(VR=vr, value=value, length=len(value), is_implicit_VR=False, is_little_endian=True)
    return cast(DataElement, copied)


def _padded(value: bytes, vr: str) -> bytes:
    return value if len(value) % 2 == 0 else value + (b"\0" if vr == "UI" else b" ")


def _swapped(value: bytes, word_bytes: int) -> bytes:
    """The other byte order. Raises ValueError for half a word."""
    return np.frombuffer(value, f">u{word_bytes}").astype(f"<u{word_bytes}").tobytes()


def is_kept_in_items(tag: BaseTag) -> bool:
    """No private element, overlay or curve."""
    return not tag.is_private and tag.group & 0xFF01 not in (0x5000, 0x6000)


def _is_numbers(raw: RawDataElement) -> bool:
    """Does reading it take time for each number? Byte strings are only carried; tables may be long."""
    return raw.tag != LUT_DATA and _vr(raw)[:2] in NUMBER_VRS


def _vr(raw: RawDataElement) -> str:
    """The VR it came with or, where that says nothing, the one of its tag; empty where nobody knows it."""
    said = raw.VR if raw.VR != "UN" else None
    return said or _known_vr(raw.tag) or raw.VR or ""


def _known_vr(tag: BaseTag) -> str | None:
    try:
        return dictionary_VR(tag)
    except KeyError:
        return None
