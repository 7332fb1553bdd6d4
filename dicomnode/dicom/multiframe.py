"""Read one multi-frame CT object: a header a frame, and the stored values frame by frame.

Enhanced CT Image Storage and Legacy Converted Enhanced CT Image Storage. The pixel data stay on disk: one
frame at a time is read and decoded. Every length is checked against the file before that.
"""

import hashlib
import struct
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import BinaryIO, Final

from pydicom.dataset import Dataset
from pydicom.tag import Tag
from pydicom.uid import ExplicitVRBigEndian, ImplicitVRLittleEndian

from dicomnode.dicom.admission import MULTI_FRAME_CLASSES
from dicomnode.dicom.codestream import NATIVE
from dicomnode.dicom.fragments import UNDEFINED_LENGTH, Extent, Frame, frame_extents
from dicomnode.dicom.functional_groups import flat_headers, frame_count
from dicomnode.dicom.parsing import parse_file, read_meta
from dicomnode.dicom.pixels import StoredPixels, check_pixel_format, decode_frame
from dicomnode.dicom.values import UNREADABLE, number, text, value_of
from dicomnode.errors import BrokenInstance, GapInSeries

LARGEST_FILE_BYTES: Final = 2**30
LARGEST_DECODED_BYTES: Final = 2**30
"""2048 frames of 512 x 512 pixels."""
PIXEL_BYTES: Final = 2

PIXEL_ATTRIBUTES: Final = tuple(
    Tag(keyword)
    for keyword in (
        *("SOPClassUID", "InstanceNumber", "SamplesPerPixel", "PhotometricInterpretation", "Rows", "Columns"),
        *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation"),
    )
)
"""What a frame needs to be decoded and named."""


@dataclass(frozen=True, eq=False)
class MultiFrame:
    """One multi-frame file. `digest` is the SHA-256 of the file; `extents` says where each frame lies."""

    path: Path
    header: Dataset
    digest: str
    extents: tuple[Frame, ...]
    version: tuple[int, int]
    """Size and time of change when it was read."""

    @cached_property
    def headers(self) -> tuple[Dataset, ...]:
        """A classic header a frame.

        :raises BrokenInstance: NumberOfFrames and the functional groups do not fit each other.
        """
        try:
            return flat_headers(self.header, self.path.name)
        except UNREADABLE as error:
            raise BrokenInstance(f"{self.path.name} cannot be parsed ({type(error).__name__})") from error

    def frame_bytes(self, frame: int) -> int:
        """How many bytes a frame (counted from 1) has in the file."""
        return sum(extent.length for extent in self.extents[frame - 1])

    def decode(self, frame: int) -> StoredPixels:
        """The stored values [row, column] of one frame, counted from 1.

        :raises BrokenInstance: the file has changed, or the bytes contradict the header.
        :raises Undecodable: the decoder failed.
        """
        syntax = text(self.header.file_meta, "TransferSyntaxUID")
        return decode_frame(_pixel_attributes(self.headers[frame - 1]), self._read(frame), syntax)

    def _read(self, frame: int) -> bytes:
        try:
            with self.path.open("rb") as file:
                if _version(self.path) != self.version:
                    raise BrokenInstance(f"{self.path.name} changed while it was read")
                return b"".join(_read_extent(file, extent) for extent in self.extents[frame - 1])
        except OSError as error:
            raise BrokenInstance(f"{self.path.name} cannot be read: {error.strerror}") from error


def is_multi_frame(path: Path) -> bool:
    """Do the file meta information name a multi-frame CT class? False where they cannot be read."""
    try:
        return text(read_meta(path), "MediaStorageSOPClassUID") in MULTI_FRAME_CLASSES
    except (OSError, BrokenInstance):
        return False


def read_multi_frame(path: Path) -> MultiFrame:
    """Read the header of a multi-frame file and find its frames.

    :raises BrokenInstance: missing, cut off, too large, or the lengths contradict each other.
    :raises Undecodable: a deflated or unknown transfer syntax.
    """
    try:
        version = _version(path)
        if version[0] > LARGEST_FILE_BYTES:
            raise BrokenInstance(
                f"{path.name} has {version[0]} bytes, more than the {LARGEST_FILE_BYTES} of one object"
            )
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            file.seek(0)
            header, pixels_at = _read_header(file, path)
            extents = _locate(file, pixels_at, version[0], header, path.name)
    except OSError as error:
        raise BrokenInstance(f"{path.name} cannot be read: {error.strerror}") from error
    return MultiFrame(path, header, digest, extents, version)


def check_concatenations(headers: Sequence[Dataset]) -> None:
    """:raises GapInSeries: a part of a concatenation (PS3.3 C.7.6.16.2.2.4) is missing."""
    parts: dict[str, set[int]] = defaultdict(set)
    totals: dict[str, int] = {}
    for header in headers:
        uid = text(header, "ConcatenationUID")
        if uid:
            parts[uid].add(int(number(header, "InConcatenationNumber") or 0))
            totals[uid] = int(number(header, "InConcatenationTotalNumber") or 0)
    for uid, held in parts.items():
        total = totals[uid] or max(held)
        missing = total - len(held & set(range(1, total + 1)))
        if missing:
            raise GapInSeries(
                f"{missing} of the {total} parts of a concatenation are missing; send the series again when "
                "it is complete"
            )


def _version(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_size, found.st_mtime_ns


def _read_header(file: BinaryIO, path: Path) -> tuple[Dataset, int]:
    """The data set without pixel data, and where these begin."""
    parsed = parse_file(file, path.name)
    header = parsed.header
    if text(header, "SOPClassUID") not in MULTI_FRAME_CLASSES:
        raise BrokenInstance(f"{path.name}: SOP Class UID is not the one that the file meta information name")
    return header, parsed.header_end


def _locate(file: BinaryIO, at: int, size: int, header: Dataset, name: str) -> tuple[Frame, ...]:
    frames = frame_count(header, name)
    check_pixel_format(_pixel_attributes(header))
    frame_bytes = PIXEL_BYTES * int(number(header, "Rows") or 0) * int(number(header, "Columns") or 0)
    if frames * frame_bytes > LARGEST_DECODED_BYTES:
        raise BrokenInstance(
            f"{name}: {frames} frames of {frame_bytes} bytes are more than the {LARGEST_DECODED_BYTES} bytes "
            "of one object"
        )
    syntax = text(header.file_meta, "TransferSyntaxUID")
    value_at, length = _pixel_element(file, at, syntax, name)
    if syntax in NATIVE:
        return _native(value_at, length, size, frames, frame_bytes, name)
    if length != UNDEFINED_LENGTH:
        raise BrokenInstance(f"{name}: compressed Pixel Data (7FE0,0010) must have an undefined length")
    return frame_extents(file, value_at, size, frames, syntax, _extended_table(header))


def _pixel_element(file: BinaryIO, at: int, syntax: str, name: str) -> tuple[int, int]:
    """Where the value of Pixel Data (7FE0,0010) begins, and its declared length (PS3.5 section 7.1)."""
    order = ">" if syntax == ExplicitVRBigEndian else "<"
    file.seek(at)
    start = file.read(12)
    if len(start) < 12 or struct.unpack(f"{order}HH", start[:4]) != (0x7FE0, 0x0010):
        raise BrokenInstance(f"{name} has no Pixel Data (7FE0,0010)")
    if syntax == ImplicitVRLittleEndian:
        return at + 8, struct.unpack("<I", start[4:8])[0]
    return at + 12, struct.unpack(f"{order}I", start[8:])[0]


def _native(at: int, length: int, size: int, frames: int, frame_bytes: int, name: str) -> tuple[Frame, ...]:
    expected = frames * frame_bytes
    if not expected <= length < expected + frame_bytes:
        raise BrokenInstance(
            f"{name}: Pixel Data (7FE0,0010) declare {length} bytes, {frames} frames need {expected}"
        )
    if at + length > size:
        raise BrokenInstance(f"{name}: Pixel Data (7FE0,0010) are cut off after {max(0, size - at)} bytes")
    return tuple((Extent(at + frame * frame_bytes, frame_bytes),) for frame in range(frames))


def _extended_table(header: Dataset) -> tuple[Sequence[int], Sequence[int]] | None:
    """Offsets and lengths of (7FE0,0001-0002), 64 bit each."""
    tables = []
    for keyword in ("ExtendedOffsetTable", "ExtendedOffsetTableLengths"):
        value = value_of(header, keyword)
        if not isinstance(value, bytes) or not value:
            return None
        if len(value) % 8:
            raise BrokenInstance("the extended offset table is damaged")
        tables.append(struct.unpack(f"<{len(value) // 8}Q", value))
    return tables[0], tables[1]


def _read_extent(file: BinaryIO, extent: Extent) -> bytes:
    file.seek(extent.at)
    found = file.read(extent.length)
    if len(found) != extent.length:
        raise BrokenInstance("a frame is cut off")
    return found


def _pixel_attributes(header: Dataset) -> Dataset:
    """What says how a frame is to be decoded."""
    image = Dataset()
    for tag in PIXEL_ATTRIBUTES:
        element = header.get_item(tag)
        if element is not None:
            image[tag] = element
    image.file_meta = header.file_meta
    return image
