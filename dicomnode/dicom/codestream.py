"""What a compressed image says about its own size, read before anything is decoded.

A header may promise 64 x 64 while the codestream unpacks to gigabytes, or the reverse. Only the marker
segments at the front are read here.
"""

import struct
from dataclasses import dataclass
from typing import Final

from pydicom.uid import (
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from dicomnode.errors import BrokenInstance

JPEG2000_NOT_REVERSIBLE: Final = "1.2.840.10008.1.2.4.91"
JPEGLS_NEAR_LOSSLESS: Final = "1.2.840.10008.1.2.4.81"
LOSSY: Final = frozenset({JPEG2000_NOT_REVERSIBLE, JPEGLS_NEAR_LOSSLESS})
"""Transfer syntaxes that may have lost something and are still read; the derived series says so."""

JPEG2000_FAMILY: Final = frozenset(
    {str(JPEG2000Lossless), JPEG2000_NOT_REVERSIBLE, str(HTJ2KLossless), str(HTJ2KLosslessRPCL)}
)
JPEG_FAMILY: Final = frozenset(
    {str(JPEGLossless), str(JPEGLosslessSV1), str(JPEGLSLossless), JPEGLS_NEAR_LOSSLESS}
)
NATIVE: Final = frozenset(
    {str(ImplicitVRLittleEndian), str(ExplicitVRLittleEndian), str(ExplicitVRBigEndian)}
)
DECODABLE: Final = NATIVE | {str(RLELossless)} | JPEG_FAMILY | JPEG2000_FAMILY

END_MARKER: Final = b"\xff\xd9"
"""End of image (ISO/IEC 10918-1 B.1.1.3) and end of codestream (15444-1 A.4.4)."""
PADDING: Final = b"\0\xff"
"""What an odd length is filled up with: PS3.5 wants 0, JPEG's own fill byte is FF."""

MOST_FRAGMENTS: Final = 10_000
_ITEM: Final = 0xE000FFFE
_SEQUENCE_END: Final = 0xE0DDFFFE

_START_OF_FRAME: Final = frozenset(set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC} | {0xF7})
_STANDALONE: Final = frozenset({0x01, *range(0xD0, 0xDA)})


@dataclass(frozen=True)
class FrameSize:
    """Rows, columns, components and bits a component of one frame."""

    rows: int
    columns: int
    components: int
    bits: int


def join_fragments(encoded: bytes, at: int) -> bytes:
    """The codestream of a single frame: its fragments from `at` on, joined (PS3.5 annex A.4).

    :raises BrokenInstance: fragments are damaged, cut off, missing, or more than 10000.
    """
    parts: list[bytes] = []
    while len(parts) <= MOST_FRAGMENTS:
        if at + 8 > len(encoded):
            break
        tag, length = struct.unpack_from("<II", encoded, at)
        at += 8
        if tag == _SEQUENCE_END and len(parts) > 1:
            return b"".join(parts[1:])  # the first is the offset table
        if tag != _ITEM or at + length > len(encoded):
            break
        parts.append(encoded[at : at + length])
        at += length
    raise BrokenInstance("the compressed fragments are damaged, cut off or too many")


def frame_size(codestream: bytes, transfer_syntax: str) -> FrameSize | None:
    """The size a codestream declares; None for syntaxes that declare none (native, RLE).

    :raises BrokenInstance: the front of the codestream cannot be read, or its end is missing.
    """
    if transfer_syntax in JPEG_FAMILY | JPEG2000_FAMILY:
        _check_end(codestream)
    try:
        if transfer_syntax in JPEG2000_FAMILY:
            return _jpeg2000_size(codestream)
        if transfer_syntax in JPEG_FAMILY:
            return _jpeg_size(codestream)
    except IndexError as error:
        raise BrokenInstance("the compressed pixel data end inside their header") from error
    return None


def _check_end(codestream: bytes) -> None:
    """The JPEG decoders fill up what was cut off with invented pixels and say nothing. Padding may follow."""
    if not codestream.rstrip(PADDING).endswith(END_MARKER):
        raise BrokenInstance("the compressed pixel data are cut off: they have no end marker")


def _jpeg2000_size(codestream: bytes) -> FrameSize:
    """Segment SIZ (ISO/IEC 15444-1 A.5.1), also behind the boxes of a JP2 file."""
    at = codestream.find(b"\xff\x4f\xff\x51", 0, 4096)
    if at < 0:
        raise BrokenInstance("the pixel data are not a JPEG 2000 codestream")
    right, bottom, left, top = (_number(codestream, at + 8 + 4 * field, 4) for field in range(4))
    components, precision = _number(codestream, at + 40, 2), codestream[at + 42]
    return FrameSize(bottom - top, right - left, components, (precision & 0x7F) + 1)


def _jpeg_size(codestream: bytes) -> FrameSize:
    """Segment SOFn (ISO/IEC 10918-1 B.2.2), or SOF55 of JPEG-LS."""
    if codestream[:2] != b"\xff\xd8":
        raise BrokenInstance("the pixel data are not a JPEG codestream")
    at = 2
    while True:
        if codestream[at] != 0xFF:
            raise BrokenInstance("the JPEG markers of the pixel data are damaged")
        marker = codestream[at + 1]
        if marker == 0xFF or marker in _STANDALONE:
            at += 1 if marker == 0xFF else 2
        elif marker in _START_OF_FRAME:
            rows, columns = _number(codestream, at + 5, 2), _number(codestream, at + 7, 2)
            return FrameSize(rows, columns, codestream[at + 9], codestream[at + 4])
        else:
            at += 2 + _number(codestream, at + 2, 2)


def _number(data: bytes, at: int, length: int) -> int:
    if at + length > len(data):
        raise IndexError
    return int.from_bytes(data[at : at + length], "big")
