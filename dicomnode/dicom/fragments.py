"""Where the frames of encapsulated pixel data lie in a file (PS3.5 annex A.4), found without reading them.

Three things may say where a frame begins: the extended offset table, the basic one, or nothing but the
order and the end markers of the fragments. Whatever says it is checked against the fragments themselves.
"""

import struct
from collections.abc import Sequence
from itertools import pairwise
from typing import BinaryIO, Final, NamedTuple

from pydicom.uid import RLELossless

from dicomnode.dicom.codestream import END_MARKER, PADDING
from dicomnode.errors import BrokenInstance

ITEM: Final = b"\xfe\xff\x00\xe0"
SEQUENCE_END: Final = b"\xfe\xff\xdd\xe0"
UNDEFINED_LENGTH: Final = 0xFFFFFFFF
ITEM_HEADER_BYTES: Final = 8
MOST_FRAGMENTS: Final = 1_000_000


class Extent(NamedTuple):
    """Some bytes of a file."""

    at: int
    length: int


Frame = tuple[Extent, ...]
"""The fragments of one frame, in order."""


def frame_extents(
    file: BinaryIO,
    at: int,
    size: int,
    frames: int,
    transfer_syntax: str,
    extended: tuple[Sequence[int], Sequence[int]] | None,
) -> tuple[Frame, ...]:
    """The fragments of each of `frames` frames; the encapsulated value begins at `at`, the file has `size`.

    `extended`: the offsets and lengths of the Extended Offset Table (7FE0,0001-0002), if there is one.

    :raises BrokenInstance: fragments are cut off, or an offset table contradicts them.
    """
    table, fragments = _walk(file, at, size, frames)
    if extended is not None and extended[0]:
        return _by_extended_table(fragments, frames, *extended)
    if table:
        return _by_table(fragments, frames, table)
    if len(fragments) == frames:
        return tuple((fragment,) for fragment in fragments)
    if frames == 1 and fragments:
        return (tuple(fragments),)
    if transfer_syntax == RLELossless or len(fragments) < frames:
        raise BrokenInstance(f"{frames} compressed frames are promised, {len(fragments)} fragments are there")
    return _by_end_markers(file, fragments, frames)


def _walk(file: BinaryIO, at: int, size: int, frames: int) -> tuple[tuple[int, ...], list[Extent]]:
    """The basic offset table and the fragments."""
    first = _item(file, at, size)
    if first is None:
        raise BrokenInstance("the compressed pixel data have no fragments")
    if first.length not in (0, 4 * frames):
        raise BrokenInstance(
            f"the basic offset table has {first.length} bytes; {frames} frames have one of {4 * frames}"
        )
    file.seek(first.at)
    table = struct.unpack(f"<{first.length // 4}I", file.read(first.length))
    fragments: list[Extent] = []
    at = first.at + first.length
    while (fragment := _item(file, at, size)) is not None:
        fragments.append(fragment)
        at = fragment.at + fragment.length
        if len(fragments) > MOST_FRAGMENTS:
            raise BrokenInstance(f"the compressed pixel data have more than {MOST_FRAGMENTS} fragments")
    return table, fragments


def _item(file: BinaryIO, at: int, size: int) -> Extent | None:
    """The item at `at`, or None where the sequence is closed."""
    file.seek(at)
    start = file.read(ITEM_HEADER_BYTES)
    if start[:4] == SEQUENCE_END:
        return None
    if len(start) < ITEM_HEADER_BYTES or start[:4] != ITEM:
        raise BrokenInstance("the compressed fragments are damaged or cut off")
    length = int.from_bytes(start[4:], "little")
    if length == UNDEFINED_LENGTH or at + ITEM_HEADER_BYTES + length > size:
        raise BrokenInstance("the compressed fragments are damaged or cut off")
    return Extent(at + ITEM_HEADER_BYTES, length)


def _by_table(fragments: list[Extent], frames: int, offsets: Sequence[int]) -> tuple[Frame, ...]:
    starts = _starts(fragments, frames, offsets, "basic")
    ends = [*starts[1:], len(fragments)]
    return tuple(tuple(fragments[start:end]) for start, end in zip(starts, ends, strict=True))


def _by_extended_table(
    fragments: list[Extent], frames: int, offsets: Sequence[int], lengths: Sequence[int]
) -> tuple[Frame, ...]:
    """Each frame is one fragment (PS3.3 C.7.6.3.1.8); its length leaves the padding out."""
    starts = _starts(fragments, frames, offsets, "extended")
    if len(lengths) != frames or any(
        not 0 < length <= fragments[start].length for start, length in zip(starts, lengths, strict=True)
    ):
        raise BrokenInstance("the lengths of the extended offset table contradict the fragments")
    return tuple(
        (Extent(fragments[start].at, length),) for start, length in zip(starts, lengths, strict=True)
    )


def _starts(fragments: list[Extent], frames: int, offsets: Sequence[int], name: str) -> list[int]:
    """The index of the first fragment of each frame; offsets count from the first fragment's item."""
    if len(offsets) != frames:
        raise BrokenInstance(f"the {name} offset table has {len(offsets)} entries for {frames} frames")
    origin = fragments[0].at if fragments else 0
    known = {fragment.at - origin: index for index, fragment in enumerate(fragments)}
    starts = [known.get(offset, -1) for offset in offsets]
    if starts[0] != 0 or any(after <= before for before, after in pairwise(starts)):
        raise BrokenInstance(f"the {name} offset table does not point at the fragments")
    return starts


def _by_end_markers(file: BinaryIO, fragments: list[Extent], frames: int) -> tuple[Frame, ...]:
    """Without a table a frame ends where its codestream does."""
    found: list[Frame] = []
    parts: list[Extent] = []
    for fragment in fragments:
        parts.append(fragment)
        tail = min(16, fragment.length)
        file.seek(fragment.at + fragment.length - tail)
        if file.read(tail).rstrip(PADDING).endswith(END_MARKER):
            found.append(tuple(parts))
            parts = []
    if parts or len(found) != frames:
        raise BrokenInstance(
            f"{frames} compressed frames are promised, {len(found)} end in {len(fragments)} fragments"
        )
    return tuple(found)
