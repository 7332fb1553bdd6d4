"""From the bytes of a Part 10 file to its header and the place of its pixels, within fixed limits.

pydicom does the reading. It has no limits of its own: a megabyte of empty items costs it seconds, a deflated
kilobyte a gigabyte, and elements are unpacked long after the file was read. Here every read is counted,
sequences are opened at once and under the same count, and nothing is inflated.
"""

import io
import re
from dataclasses import dataclass
from typing import Final

from pydicom.charset import python_encoding
from pydicom.datadict import dictionary_has_tag, dictionary_VR
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filereader import read_dataset, read_sequence
from pydicom.tag import BaseTag
from pydicom.uid import UID, ExplicitVRBigEndian, ImplicitVRLittleEndian

from dicomnode.dicom.codestream import DECODABLE
from dicomnode.dicom.values import UNREADABLE, tags_of, text, texts
from dicomnode.errors import BrokenInstance, Undecodable

PREFIX_AT: Final = 128
DEEPEST_SEQUENCE: Final = 32
MOST_READS: Final = 100_000
"""Of one header: two or three an element, one an item. A CT image takes up to 2000, a dose report 1200 for
each irradiation event; an empty item costs 16 microseconds, so that the worst header costs 1.6 s."""

CURVE_SEQUENCE: Final = 0x50002600
"""(50xx,2600), retired: the only sequence among the repeating groups."""

CHARACTER_SET: Final = frozenset({b"\x08\x00\x05\x00", b"\x00\x08\x00\x05"})
"""The tag (0008,0005) in both byte orders."""
LONGEST_CHARACTER_SET: Final = 1024

PIXEL_TAGS: Final = frozenset({0x7FE00008, 0x7FE00009, 0x7FE00010})
PIXEL_DATA: Final = 0x7FE00010


@dataclass(frozen=True, eq=False)
class Pixels:
    """Where the value of Pixel Data lies in a file: `length` in bytes, None where it is encapsulated."""

    at: int
    length: int | None


@dataclass(frozen=True, eq=False)
class Parsed:
    """A data set up to its pixels.

    `header_end`: where Pixel Data begins, or the end of the file. `elements`: how many, with
    the items of sequences and what is in them.
    """

    header: Dataset
    header_end: int
    pixels: Pixels | None
    elements: int


def parse(encoded: bytes, name: str, most_reads: int = MOST_READS) -> Parsed:
    """Read the header of a Part 10 file; `name` is for the message.

    The header carries its `file_meta`, its sequences are open, its character set is one that DICOM knows.

    :raises BrokenInstance: not a DICOM file, damaged, nested too deep or of too many elements.
    :raises Undecodable: a deflated or unknown transfer syntax.
    """
    if encoded[PREFIX_AT : PREFIX_AT + 4] != b"DICM":
        raise BrokenInstance(f"{name} is not a DICOM Part 10 file")
    stream = _Metered(encoded, _Meter(most_reads))
    stream.seek(PREFIX_AT + 4)
    try:
        meta = FileMetaDataset(read_dataset(stream, False, True, stop_when=_after_meta))
        syntax = text(meta, "TransferSyntaxUID")
        # Before the data set: its encoding rests on this.
        check_transfer_syntax(syntax)
        return _data_set(stream, meta, syntax)
    except UNREADABLE as error:
        raise BrokenInstance(f"{name} cannot be parsed ({type(error).__name__})") from error


def check_transfer_syntax(transfer_syntax: str) -> None:
    """:raises Undecodable: the syntax is deflated, lossy JPEG, or has no decoder here."""
    if transfer_syntax in DECODABLE:
        return
    known = UID(transfer_syntax).name
    named = "an unknown one" if known == transfer_syntax else f"{transfer_syntax}, {known},"
    raise Undecodable(
        f"Transfer Syntax UID (0002,0010) {named if transfer_syntax else 'missing'} is not accepted; "
        "send the series uncompressed or losslessly compressed"
    )


class TooMuch(ValueError):
    """More elements than any image or dose report has."""


class _Meter:
    def __init__(self, left: int) -> None:
        self._left = left

    def count(self) -> None:
        self._left -= 1
        if self._left < 0:
            raise TooMuch


class _Metered(io.BytesIO):
    """A stream that counts how often it is read: the one measure that no encoding gets around."""

    def __init__(self, content: bytes, meter: _Meter) -> None:
        super().__init__(content)
        self.meter = meter
        self._at_character_set = False

    def read(self, size: int | None = -1, /) -> bytes:
        self.meter.count()
        content = super().read(size)
        # pydicom looks up every value of a character set while it reads: five million take a minute.
        if size == 8:
            self._at_character_set = content[:4] in CHARACTER_SET
        elif self._at_character_set and len(content) > LONGEST_CHARACTER_SET:
            raise TooMuch
        return content

    def inner(self, content: bytes) -> "_Metered":
        """Another stream on the same count."""
        return _Metered(content, self.meter)


def _after_meta(tag: BaseTag, vr: str | None, length: int) -> bool:
    return tag.group != 2


def _data_set(stream: _Metered, meta: FileMetaDataset, syntax: str) -> Parsed:
    pixels: list[Pixels] = []
    start = stream.tell()

    def at_pixels(tag: BaseTag, vr: str | None, length: int) -> bool:
        if tag == PIXEL_DATA:
            pixels.append(Pixels(stream.tell(), None if length == 0xFFFFFFFF else length))
        return tag in PIXEL_TAGS

    implicit, little = syntax == ImplicitVRLittleEndian, syntax != ExplicitVRBigEndian
    header = read_dataset(stream, implicit, little, stop_when=at_pixels)
    if stream.tell() == start and not pixels:
        raise EOFError
    header.file_meta = meta
    end = stream.tell()
    elements = _open(header, stream, DEEPEST_SEQUENCE)
    return Parsed(header, end, pixels[0] if pixels else None, elements)


def _open(data: Dataset, stream: _Metered, left: int) -> int:
    """Unpack every standard sequence in place, and count elements and items.

    Private ones stay as they are and are never looked into.
    """
    elements = len(data)
    if left == 0:
        raise RecursionError(f"sequences are nested deeper than {DEEPEST_SEQUENCE}")
    _check_character_set(data)
    for tag in tags_of(data):
        element = data.get_item(tag)
        if tag.is_private or element is None:
            continue
        if isinstance(element, RawDataElement) and _vr(element) == "SQ":
            content = element.value or b""
            data[tag] = element = DataElement(
                tag,
                "SQ",
                read_sequence(
                    stream.inner(content),
                    element.is_implicit_VR,
                    element.is_little_endian,
                    len(content),
                    data.original_character_set or "iso8859",
                ),
                already_converted=True,
            )
        if element.VR == "SQ":
            for item in element.value or ():
                elements += 1 + _open(item, stream, left - 1)
    return elements


def _vr(raw: RawDataElement) -> str:
    """The VR as pydicom will take it when the value is asked for."""
    if raw.VR not in (None, "UN"):
        return str(raw.VR)
    if dictionary_has_tag(raw.tag):
        return dictionary_VR(raw.tag)
    return "SQ" if raw.tag & 0xFF00FFFF == CURVE_SEQUENCE else "UN"


def _check_character_set(data: Dataset) -> None:
    """pydicom would take any codec of Python's by its name, also those that are none of text."""
    terms = texts(data, "SpecificCharacterSet")
    if len(terms) > len(python_encoding) or not all(_known_character_set(term) for term in terms):
        raise BrokenInstance(
            "Specific Character Set (0008,0005) names a character set that DICOM does not have"
        )


def _known_character_set(term: str) -> bool:
    """Also in the spellings that pydicom forgives: ISO-IR 100, ISO-2022-IR-87."""
    patched = re.sub(r"^ISO[^_]IR", "ISO_IR", term)
    return {term, patched, re.sub(r"^ISO.2022.IR.", "ISO 2022 IR ", term)} & python_encoding.keys() != set()
