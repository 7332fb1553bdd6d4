"""From the bytes of a Part 10 file to its header and the place of its pixels, within fixed limits.

pydicom does the reading. It has no limits of its own: a megabyte of empty items costs it seconds, a deflated
kilobyte a gigabyte, and elements are unpacked long after the file was read. Here every read is counted,
sequences are opened at once and under the same count, and nothing is inflated.
"""

import codecs
import io
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, cast

from pydicom.charset import python_encoding
from pydicom.datadict import dictionary_has_tag, dictionary_VR
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filereader import read_dataset, read_sequence
from pydicom.tag import BaseTag
from pydicom.uid import UID, ExplicitVRBigEndian, ImplicitVRLittleEndian

from dicomnode.checked import is_uid
from dicomnode.dicom.codestream import DECODABLE
from dicomnode.dicom.values import UNREADABLE, tags_of, text, texts
from dicomnode.errors import BrokenInstance, Undecodable

PREFIX_AT: Final = 128
LONGEST_META_BYTES: Final = 1 << 16
"""Of the file meta information: all its standard values together take less than one kilobyte."""
DEEPEST_SEQUENCE: Final = 32
MOST_ELEMENTS: Final = 3000
"""Of an image or frame, with its sequences. Scanners write fewer than a thousand; each is copied often."""
MOST_READS: Final = 60_000
"""Of one header: two or three an element, one an item. A CT image takes up to 2000, a dose report 1200 for
each irradiation event; an empty item costs 16 microseconds, so that the worst header costs 1 s."""
MOST_READS_OF_A_LARGE_FILE: Final = 2_000_000
BYTES_A_READ: Final = 64

CURVE_SEQUENCE: Final = 0x50002600
"""(50xx,2600), retired: the only sequence among the repeating groups."""

CHARACTER_SET: Final = frozenset({b"\x08\x00\x05\x00", b"\x00\x08\x00\x05"})
"""The tag (0008,0005) in both byte orders."""
LONGEST_CHARACTER_SET: Final = 1024

LONGEST_CODE: Final = 16
CODECS_OF_DICOM: Final = frozenset(codecs.lookup(name).name for name in python_encoding.values())
"""What pydicom reads text with; under other names of theirs, too, but with no other of Python's codecs."""
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
    """Read the header of a Part 10 file in memory; `name` is for the message.

    The header carries its `file_meta`, its sequences are open, its character set is one that DICOM knows.

    :raises BrokenInstance: not a DICOM file, damaged, nested too deep or of too many elements.
    :raises Undecodable: a deflated or unknown transfer syntax.
    """
    return _parse(_metered(encoded, _Meter(most_reads)), name)


def parse_file(file: BinaryIO, name: str) -> Parsed:
    """The same of an open file, of which the pixels are not read. Raises OSError, too.

    A multi-frame object tells several hundred elements for each frame: the larger the file, the more may be
    in its header.
    """
    size = file.seek(0, os.SEEK_END)
    most_reads = max(MOST_READS, min(size // BYTES_A_READ, MOST_READS_OF_A_LARGE_FILE))
    return _parse(_Metered(file, size, _Meter(most_reads)), name)


def read_meta(path: Path) -> FileMetaDataset:
    """The file meta information (group 0002). Raises OSError.

    :raises BrokenInstance: not a DICOM file, or damaged.
    """
    with path.open("rb") as file:
        beginning = file.read(LONGEST_META_BYTES)
    try:
        return _meta(_metered(beginning, _Meter(MOST_READS)), path.name)
    except UNREADABLE as error:
        raise BrokenInstance(f"{path.name} cannot be parsed ({type(error).__name__})") from error


def _meta(stream: "_Metered", name: str) -> FileMetaDataset:
    stream.seek(PREFIX_AT)
    if stream.read(4) != b"DICM":
        raise BrokenInstance(f"{name} is not a DICOM Part 10 file")
    return FileMetaDataset(read_dataset(stream.binary, False, True, stop_when=_after_meta))


def _parse(stream: "_Metered", name: str) -> Parsed:
    try:
        meta = _meta(stream, name)
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
    # Only what the standard knows is quoted: anything may stand there.
    known = UID(transfer_syntax).name if is_uid(transfer_syntax) else transfer_syntax
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


class _Metered:
    """A stream that counts how often it is read: the one measure that no encoding gets around.

    Never more than `size` bytes are asked of what it reads from: Python makes room for as many as are asked
    for, and a header may claim four gigabytes.
    """

    def __init__(self, stream: BinaryIO, size: int, meter: _Meter) -> None:
        self._stream = stream
        self._size = size
        self.meter = meter
        self.seek, self.tell = stream.seek, stream.tell
        self._at_character_set = False

    def read(self, size: int = -1, /) -> bytes:
        self.meter.count()
        content = self._stream.read(size if 0 <= size < self._size else self._size)
        # pydicom looks up every value of a character set while it reads: five million take a minute.
        if size == 8:
            self._at_character_set = content[:4] in CHARACTER_SET
        elif self._at_character_set and len(content) > LONGEST_CHARACTER_SET:
            raise TooMuch
        return content

    @property
    def binary(self) -> BinaryIO:
        """This, for pydicom, which wants no more of a stream than there is here."""
        return cast(BinaryIO, self)

    def inner(self, content: bytes) -> "_Metered":
        """Another stream on the same count."""
        return _metered(content, self.meter)


def _metered(content: bytes, meter: _Meter) -> _Metered:
    return _Metered(io.BytesIO(content), len(content), meter)


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
    header = read_dataset(stream.binary, implicit, little, stop_when=at_pixels)
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
    if left < 0:
        raise RecursionError(f"sequences are nested deeper than {DEEPEST_SEQUENCE}")
    _check_character_set(data)
    for tag in tags_of(data):
        # as it is: an empty value counts as deferred, and would be converted
        element = data.get_item(tag, keep_deferred=True)
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
            "Specific Character Set (0008,0005) names a character set that DICOM does not have; send the "
            "series with the one its names are written in, such as ISO_IR 192"
        )


def _known_character_set(term: str) -> bool:
    """Also in the spellings that are forgiven: ISO-IR 100, iso_ir 100, ISO-2022-IR-87, UTF-8."""
    patched = re.sub(r"^ISO[^_]IR", "ISO_IR", term)
    if {term, patched, re.sub(r"^ISO.2022.IR.", "ISO 2022 IR ", term)} & python_encoding.keys():
        return True
    try:
        return len(term) <= LONGEST_CODE and codecs.lookup(term).name in CODECS_OF_DICOM
    except (LookupError, ValueError):
        return False
