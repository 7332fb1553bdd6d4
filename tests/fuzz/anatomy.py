"""Where the elements of an encoded DICOM file lie, so that a mutation can strike one of them.

Own code, apart from the package and from pydicom: what mutates must not share the reader's mistakes.
"""

import struct
from dataclasses import dataclass

MOST_ELEMENTS = 20_000
UNDEFINED = 0xFFFFFFFF
PIXEL_DATA = 0x7FE00010
TRANSFER_SYNTAX = 0x00020010
IMPLICIT = "1.2.840.10008.1.2"
EXPLICIT = "1.2.840.10008.1.2.1"
BIG_ENDIAN = "1.2.840.10008.1.2.2"
DEFLATED = "1.2.840.10008.1.2.1.99"
RLE = "1.2.840.10008.1.2.5"
LONG_VRS = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())
SEQUENCE_END = struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
ITEM_END = struct.pack("<HHI", 0xFFFE, 0xE00D, 0)


@dataclass(frozen=True)
class Encoding:
    """How elements are written: explicit VR or not, byte order."""

    explicit: bool = True
    order: str = "<"


@dataclass(frozen=True)
class Element:
    """One top-level element: `at` its tag, `value_at` its value, `end` one past it, in bytes."""

    tag: int
    vr: bytes
    at: int
    value_at: int
    end: int
    length: int
    encoding: Encoding


def elements(data: bytes) -> list[Element]:
    """The top-level elements, file meta included, as far as they can be followed."""
    position = 132 if data[128:132] == b"DICM" else 0
    found: list[Element] = []
    encoding = None
    while position + 8 <= len(data) and len(found) < MOST_ELEMENTS:
        if encoding is None and data[position : position + 2] != b"\x02\x00":
            encoding = encoding_of(data, found)
        element = _element(data, position, encoding or Encoding())
        if element is None or element.end > len(data):
            break
        found.append(element)
        position = element.end
    return found


def encoding_of(data: bytes, found: list[Element]) -> Encoding:
    """The encoding of the data set, from the transfer syntax among the elements found so far."""
    syntax = value(data, next((one for one in found if one.tag == TRANSFER_SYNTAX), None))
    name = syntax.strip(b"\0 ").decode("latin-1")
    return Encoding(explicit=name != IMPLICIT, order=">" if name == BIG_ENDIAN else "<")


def value(data: bytes, element: Element | None) -> bytes:
    """The encoded value; empty where the element is missing."""
    return b"" if element is None else data[element.value_at : element.end]


def find(data: bytes, tag: int) -> Element | None:
    """The first element with a tag."""
    return next((one for one in elements(data) if one.tag == tag), None)


def encode(tag: int, vr: bytes, content: bytes, encoding: Encoding, length: int | None = None) -> bytes:
    """One element; `length` where the header shall lie about it."""
    if length is None:
        content += b"\0" * (len(content) % 2)
        length = len(content)
    head = struct.pack(encoding.order + "HH", tag >> 16, tag & 0xFFFF)
    if not encoding.explicit:
        return head + struct.pack(encoding.order + "I", length) + content
    if vr in LONG_VRS:
        return head + vr + b"\0\0" + struct.pack(encoding.order + "I", length) + content
    return head + vr + struct.pack(encoding.order + "H", length & 0xFFFF) + content


def put(data: bytes, tag: int, vr: bytes, content: bytes) -> bytes:
    """`data` with an element set to an encoded value, in its place by tag."""
    known = elements(data)
    old = next((one for one in known if one.tag == tag), None)
    after = next((one for one in known if one.tag > tag), None)
    if old is not None:
        start, end, encoding = old.at, old.end, old.encoding
    else:
        start = end = after.at if after else len(data)
        encoding = encoding_of(data, known) if tag >> 16 > 2 else Encoding()
    return data[:start] + encode(tag, vr, content, encoding) + data[end:]


def fragments(data: bytes) -> list[tuple[int, int]]:
    """(start, end) of each fragment of encapsulated pixel data; the first is the offset table."""
    pixels = find(data, PIXEL_DATA)
    found: list[tuple[int, int]] = []
    if pixels is None or pixels.length != UNDEFINED:
        return found
    position = pixels.value_at
    while data[position : position + 4] == b"\xfe\xff\x00\xe0":
        (length,) = struct.unpack_from("<I", data, position + 4)
        found.append((position + 8, min(position + 8 + length, len(data))))
        position += 8 + length
    return found


def encapsulated(*codestreams: bytes) -> bytes:
    """The value of encapsulated pixel data: an empty offset table, one item each, the delimiter."""
    items = b"".join(
        struct.pack("<HHI", 0xFFFE, 0xE000, len(one) + len(one) % 2) + one + b"\0" * (len(one) % 2)
        for one in (b"", *codestreams)
    )
    return items + SEQUENCE_END


def with_pixels(data: bytes, syntax: str, content: bytes) -> bytes:
    """The same image with other, encapsulated pixel data under another transfer syntax."""
    pixels = find(data, PIXEL_DATA)
    head = data if pixels is None else data[: pixels.at]
    head = put(head, TRANSFER_SYNTAX, b"UI", syntax.encode())
    return head + encode(PIXEL_DATA, b"OB", content, Encoding(), UNDEFINED)


def _element(data: bytes, at: int, encoding: Encoding) -> Element | None:
    try:
        group, number = struct.unpack_from(encoding.order + "HH", data, at)
        vr = data[at + 4 : at + 6] if encoding.explicit else b""
        start, form = (at + 4, "I") if not encoding.explicit else (at + 6, "H")
        if vr in LONG_VRS:
            start, form = at + 8, "I"
        (length,) = struct.unpack_from(encoding.order + form, data, start)
    except struct.error:
        return None
    start += struct.calcsize(form)
    tag = group << 16 | number
    end = start + length if length != UNDEFINED else _delimited(data, start, tag)
    return Element(tag, vr, at, start, end, length, encoding)


def _delimited(data: bytes, start: int, tag: int) -> int:
    if tag == PIXEL_DATA:
        return len(data)
    found = data.find(SEQUENCE_END, start)
    return len(data) if found < 0 else found + 8
