"""The few header elements that filing needs, read from raw bytes, and the proof that the data set is whole.

Walks the top-level elements of an encoded data set (PS3.5 section 7) from the first byte to the last
without decoding a pixel: every length must fit, sequences and fragments must be closed, native pixel data
must be as long as Rows and Columns ask for. What does not add up was cut off on its way and is refused.
"""

import hashlib
import mmap
import struct
from dataclasses import dataclass
from typing import Final

from dicomnode.checked import is_uid
from dicomnode.errors import InstanceRefused
from dicomnode.network import protocol
from dicomnode.network.part10 import LONG_VRS

_UNDEFINED: Final = 0xFFFFFFFF
_ITEM: Final = 0xFFFEE000
_ITEM_END: Final = 0xFFFEE00D
_SEQUENCE_END: Final = 0xFFFEE0DD
_PIXEL_DATA: Final = 0x7FE00010
_TRAILING_PADDING: Final = 0xFFFCFFFC
_DEEPEST: Final = 32
_LONGEST_TEXT: Final = 256
_MOST_ELEMENTS: Final = 60_000
_MOST_ELEMENTS_OF_A_LARGE_DATA_SET: Final = 1_000_000
_BYTES_AN_ELEMENT: Final = 128
"""A multi-frame object has one to three hundred nested elements a frame, and the pixels of the frame."""
_BLOCK_BYTES: Final = 1 << 16
_FARTHEST_MM: Final = 1e6
_LARGEST_INTEGER: Final = 2**31 - 1

_SOP_CLASS_UID: Final = 0x00080016
_SOP_INSTANCE_UID: Final = 0x00080018
_STUDY_INSTANCE_UID: Final = 0x0020000D
_SERIES_INSTANCE_UID: Final = 0x0020000E
_INSTANCE_NUMBER: Final = 0x00200013
_IMAGE_POSITION: Final = 0x00200032
_IN_CONCATENATION_NUMBER: Final = 0x00209162
_IN_CONCATENATION_TOTAL_NUMBER: Final = 0x00209163
_SAMPLES_PER_PIXEL: Final = 0x00280002
_NUMBER_OF_FRAMES: Final = 0x00280008
_ROWS: Final = 0x00280010
_COLUMNS: Final = 0x00280011
_BITS_ALLOCATED: Final = 0x00280100
_UIDS: Final = (_SOP_CLASS_UID, _SOP_INSTANCE_UID, _STUDY_INSTANCE_UID, _SERIES_INSTANCE_UID)
_SIZES: Final = (_SAMPLES_PER_PIXEL, _ROWS, _COLUMNS, _BITS_ALLOCATED)
_PARTS: Final = (_IN_CONCATENATION_NUMBER, _IN_CONCATENATION_TOTAL_NUMBER)
_TEXTS: Final = (_INSTANCE_NUMBER, _IMAGE_POSITION, _NUMBER_OF_FRAMES)
_WANTED: Final = frozenset((*_UIDS, *_SIZES, *_PARTS, *_TEXTS))
Buffer = bytes | mmap.mmap


@dataclass(frozen=True)
class RawHeader:
    """What a data set says about itself; `position_mm` is Image Position (Patient), single-frame only.

    `part`: which of how many parts of a concatenation a multi-frame object is; None where it does not say.
    """

    sop_class_uid: str
    sop_instance_uid: str
    study_instance_uid: str
    series_instance_uid: str
    instance_number: int | None
    position_mm: tuple[float, float, float] | None
    pixels: slice | None
    """Where the value of Pixel Data lies, counted like the bytes given to `read_header`."""
    frames: int = 1
    part: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class _Element:
    tag: int
    vr: bytes
    start: int
    length: int


def read_header(data: Buffer, transfer_syntax_uid: str, start: int = 0) -> RawHeader:
    """Read the elements that filing needs, and check that nothing of the data set is missing.

    The data set begins at `start` and goes to the end of `data`.
    Raises InstanceRefused: C000 when the data set is cut off or cannot be parsed, C005 when a UID is
    missing or malformed.
    """
    values: dict[int, bytes] = {}
    pixels: _Element | None = None
    pixels_in = None
    walk = _Walk(data, transfer_syntax_uid)
    explicit = walk.explicit
    position, end = start, _end_without_zeros(data, start)
    while position < end:
        element = walk.element_at(position, explicit)
        if element.tag == _PIXEL_DATA:
            pixels = element
        position = walk.end_of(element, explicit, 0)
        if element is pixels:
            pixels_in = slice(element.start, position)
        if element.tag in _WANTED:
            values[element.tag] = data[element.start : position][:_LONGEST_TEXT]
    sizes = {tag: _unsigned(values, tag, walk.order) for tag in (*_SIZES, *_PARTS)}
    header = _header(values, sizes, pixels_in)
    if header.sop_class_uid in protocol.IMAGE_CLASSES:
        _require_pixels(sizes, header.frames, pixels, transfer_syntax_uid not in protocol.NATIVE)
    return header


# --- the walk ---------------------------------------------------------------------------------


class _Walk:
    """Steps from element to element of one data set, and counts them."""

    def __init__(self, data: Buffer, transfer_syntax_uid: str) -> None:
        self._data = data
        self._size = len(data)
        self.explicit = transfer_syntax_uid != protocol.IMPLICIT_VR_LITTLE_ENDIAN
        self.order = ">" if transfer_syntax_uid == protocol.EXPLICIT_VR_BIG_ENDIAN else "<"
        self._tag, self._short, self._long = (struct.Struct(self.order + form) for form in ("HH", "H", "I"))
        many = min(self._size // _BYTES_AN_ELEMENT, _MOST_ELEMENTS_OF_A_LARGE_DATA_SET)
        self._most = self._left = max(_MOST_ELEMENTS, many)

    def element_at(self, position: int, explicit: bool) -> _Element:
        """Read one element's tag, VR and length, PS3.5 section 7.1."""
        self._left -= 1
        if self._left < 0:
            raise InstanceRefused(f"more than {self._most} elements", protocol.NOT_WHOLE)
        data = self._data
        try:
            group, number = self._tag.unpack_from(data, position)
            tag = group << 16 | number
            vr = data[position + 4 : position + 6]
            if explicit and group != 0xFFFE and vr.isalpha() and vr.isupper():
                if vr not in LONG_VRS:
                    (length,) = self._short.unpack_from(data, position + 6)
                    return _Element(tag, vr, position + 8, length)
                (length,) = self._long.unpack_from(data, position + 8)
                return _Element(tag, vr, position + 12, length)
            (length,) = self._long.unpack_from(data, position + 4)
        except struct.error as error:
            raise _cut_off() from error
        return _Element(tag, b"", position + 8, length)

    def end_of(self, element: _Element, explicit: bool, depth: int) -> int:
        """One past an element and everything in it."""
        if element.length != _UNDEFINED:
            return self._within(element.start + element.length)
        if element.tag == _PIXEL_DATA or element.vr in (b"OB", b"OW"):
            return self._end_of_fragments(element.start)
        # A sequence of VR UN is encoded with implicit VR, whatever the transfer syntax (PS3.5 section 6.2.2).
        return self._end_of_sequence(element.start, explicit and element.vr != b"UN", depth + 1)

    def _end_of_fragments(self, position: int) -> int:
        """Encapsulated pixel data, PS3.5 annex A.4: items of defined length until a delimiter."""
        while True:
            item = self.element_at(position, explicit=False)
            if item.tag == _SEQUENCE_END:
                return item.start
            if item.tag != _ITEM or item.length == _UNDEFINED:
                raise _cut_off()
            position = self._within(item.start + item.length)

    def _end_of_sequence(self, position: int, explicit: bool, depth: int) -> int:
        """Sequence of undefined length, PS3.5 section 7.5."""
        if depth > _DEEPEST:
            raise InstanceRefused(f"sequences nested deeper than {_DEEPEST}", protocol.NOT_WHOLE)
        while True:
            item = self.element_at(position, explicit)
            if item.tag == _SEQUENCE_END:
                return item.start
            if item.tag != _ITEM:
                raise _cut_off()
            if item.length == _UNDEFINED:
                position = self._end_of_item(item.start, explicit, depth)
            else:
                position = self._within(item.start + item.length)

    def _end_of_item(self, position: int, explicit: bool, depth: int) -> int:
        while True:
            element = self.element_at(position, explicit)
            if element.tag == _ITEM_END:
                return element.start
            position = self.end_of(element, explicit, depth)

    def _within(self, position: int) -> int:
        if position > self._size:
            raise _cut_off()
        return position


class _Teller(_Walk):
    """Collects (depth, tag, value) of every element outside Pixel Data, in order; a sequence item by item."""

    def __init__(self, data: Buffer, transfer_syntax_uid: str, start: int) -> None:
        super().__init__(data, transfer_syntax_uid)
        self.told: list[tuple[int, int, bytes]] = []
        self._tell_all(start, _end_without_zeros(data, start), self.explicit, 0)

    def _tell_all(self, position: int, end: int, explicit: bool, depth: int) -> int:
        if depth > _DEEPEST:
            raise InstanceRefused(f"sequences nested deeper than {_DEEPEST}", protocol.NOT_WHOLE)
        while position < end:
            element = self.element_at(position, explicit)
            if element.tag == _ITEM_END:
                return element.start
            position = self._tell(element, explicit, depth)
        return position

    def _tell(self, element: _Element, explicit: bool, depth: int) -> int:
        if element.tag == _PIXEL_DATA or element.tag == _TRAILING_PADDING or element.tag & 0xFFFF == 0:
            return self.end_of(element, explicit, depth)
        undefined = element.length == _UNDEFINED
        end = self._size if undefined else self._within(element.start + element.length)
        if self._holds_items(element):
            self.told.append((depth, element.tag, b""))
            return self._tell_items(element.start, end, explicit and element.vr != b"UN", depth + 1)
        end = self.end_of(element, explicit, depth) if undefined else end
        value = self._data[element.start : end]
        long = len(value) > _BLOCK_BYTES  # what is large is not kept twice
        value = hashlib.sha256(value).digest() if long else value.rstrip(b"\x00 ")
        self.told.append((depth, element.tag, value))
        return end

    def _tell_items(self, position: int, end: int, explicit: bool, depth: int) -> int:
        while position < end:
            item = self.element_at(position, explicit)
            if item.tag == _SEQUENCE_END:
                return item.start
            if item.tag != _ITEM:
                raise _cut_off()
            self.told.append((depth, item.tag, b""))
            stop = end if item.length == _UNDEFINED else self._within(item.start + item.length)
            position = self._tell_all(item.start, stop, explicit, depth)
        return position

    def _holds_items(self, element: _Element) -> bool:
        """SQ; without a VR, what has no length or begins like an item."""
        if element.vr in (b"", b"UN"):
            if element.length == _UNDEFINED:
                return True
            group, number = (
                self._tag.unpack_from(self._data, element.start) if element.length >= 8 else (0, 0)
            )
            return bool(group << 16 | number == _ITEM)
        return element.vr == b"SQ"


def same_values(one: tuple[Buffer, str, int], other: tuple[Buffer, str, int]) -> bool:
    """Whether two data sets, (data, transfer syntax, start) as for `read_header`, hold the same elements.

    Pixel Data apart; lengths, VRs, group lengths and paddings do not count. What cannot be told counts as
    different.
    """
    try:
        first, second = (_Teller(*data_set).told for data_set in (one, other))
    except InstanceRefused:
        return False
    return first == second


def _end_without_zeros(data: Buffer, start: int) -> int:
    """Where the zeros begin that some senders fill up with; looked for once, from behind."""
    end = len(data)
    while end > start:
        block = max(start, end - _BLOCK_BYTES)
        content = data[block:end].rstrip(b"\x00")
        if content:
            return block + len(content)
        end = block
    return start


def _cut_off() -> InstanceRefused:
    return InstanceRefused("data set is cut off or cannot be parsed", protocol.NOT_WHOLE)


# --- the values -----------------------------------------------------------------------------------


def _header(values: dict[int, bytes], sizes: dict[int, int], pixels: slice | None) -> RawHeader:
    return RawHeader(
        sop_class_uid=_uid(values, _SOP_CLASS_UID, "SOP Class UID"),
        sop_instance_uid=_uid(values, _SOP_INSTANCE_UID, "SOP Instance UID"),
        study_instance_uid=_uid(values, _STUDY_INSTANCE_UID, "Study Instance UID"),
        series_instance_uid=_uid(values, _SERIES_INSTANCE_UID, "Series Instance UID"),
        instance_number=_integer(values.get(_INSTANCE_NUMBER, b"")),
        position_mm=_position(values.get(_IMAGE_POSITION, b"")),
        pixels=pixels,
        frames=_frames(values),
        part=_part(sizes),
    )


def _text(value: bytes) -> str:
    return value.decode("latin-1").strip("\x00 ")


def _uid(values: dict[int, bytes], tag: int, name: str) -> str:
    text = _text(values.get(tag, b""))
    if not is_uid(text):
        raise InstanceRefused(f"{name} is missing or malformed", protocol.UID_MISSING)
    return text


def _integer(value: bytes) -> int | None:
    """IS, which ends at 2^31 - 1; some scanners write a decimal."""
    try:
        number = int(float(_text(value)))
    except (ValueError, OverflowError):
        return None
    return number if abs(number) <= _LARGEST_INTEGER else None


def _position(value: bytes) -> tuple[float, float, float] | None:
    try:
        x, y, z = (float(part) for part in _text(value).split("\\"))
    except ValueError:
        return None
    return (x, y, z) if all(abs(one) <= _FARTHEST_MM for one in (x, y, z)) else None


def _frames(values: dict[int, bytes]) -> int:
    """Number of Frames (0028,0008); 1 when absent."""
    return max(_integer(values.get(_NUMBER_OF_FRAMES, b"")) or 1, 1)


def _part(sizes: dict[int, int]) -> tuple[int, int] | None:
    number, total = (sizes[tag] for tag in _PARTS)
    return (number, total) if 1 <= number <= total else None


def _require_pixels(sizes: dict[int, int], frames: int, pixels: _Element | None, compressed: bool) -> None:
    if pixels is None:
        raise InstanceRefused("data set ends before its Pixel Data", protocol.NOT_WHOLE)
    if compressed:
        return
    if pixels.length == _UNDEFINED:
        raise InstanceRefused("compressed pixels under an uncompressed syntax", protocol.NOT_WHOLE)
    bits = sizes[_ROWS] * sizes[_COLUMNS] * sizes[_BITS_ALLOCATED] * (sizes[_SAMPLES_PER_PIXEL] or 1)
    if pixels.length * 8 < bits * frames:
        raise InstanceRefused("Pixel Data is shorter than Rows x Columns", protocol.NOT_WHOLE)


def _unsigned(values: dict[int, bytes], tag: int, order: str) -> int:
    """US; 0 when absent."""
    return int.from_bytes(values.get(tag, b"")[:2], "big" if order == ">" else "little")
