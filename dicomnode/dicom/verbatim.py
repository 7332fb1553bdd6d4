"""Carry elements of a source data set into a new one without rewriting what they say."""

from collections.abc import Callable
from typing import Final, cast

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
LUT_DATA: Final = 0x00283006


def decode_header(encoded: bytes) -> Dataset:
    """A fresh data set from the bytes of a Part 10 file up to its pixel data, once parsed already."""
    return parse(encoded, "the header").header


def copy_elements(source: Dataset, keep: Callable[[BaseTag], bool]) -> Dataset:
    """The elements of `source` that `keep` accepts, ready to be written as Explicit VR Little Endian.

    Text elements keep their encoded bytes, blanks and formats of numbers included. Elements that cannot be
    read as what their tag demands are dropped. None keeps an undefined length: written as text it would take
    its delimiter, and whatever follows, for its value. Nested sequences lose their private elements.
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
    raw = source.get_item(tag)
    if isinstance(raw, RawDataElement):
        vr = raw.VR or _known_vr(tag)
        if vr in TEXT_VRS and raw.value is not None:
            copied = raw._replace(VR=vr, length=len(raw.value), is_implicit_VR=False, is_little_endian=True)
            return cast(DataElement, copied)
    if is_too_long(raw) and _is_numbers(cast(RawDataElement, raw)):
        return None
    try:
        element = source[tag]
        if element.VR != "SQ":
            element.is_undefined_length = False
            return element
        items = [copy_elements(item, lambda nested: not nested.is_private) for item in element.value or ()]
    except UNREADABLE:
        return None
    return DataElement(tag, "SQ", DicomSequence(items))


def _is_numbers(raw: RawDataElement) -> bool:
    """Does reading it take time for each number? Byte strings are only carried; tables may be long."""
    vr = raw.VR or _known_vr(raw.tag) or ""
    return raw.tag != LUT_DATA and vr[:2] in NUMBER_VRS


def _known_vr(tag: BaseTag) -> str | None:
    try:
        return dictionary_VR(tag)
    except KeyError:
        return None
