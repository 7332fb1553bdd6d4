"""Lies inside compressed pixel data: what a JPEG, JPEG-LS or JPEG 2000 header can promise."""

import struct
from random import Random

from tests.fuzz import anatomy
from tests.fuzz.mutations import LYING_SHORTS, flip_fragments, lie_about_size, sized

SIDES = (0, 1, 2, 15, 63, 64, 65, 128, 512, 2048, 4096, 4097, 30000, 65535)
LARGE = (0, 1, 63, 64, 4096, 65535, 2**20, 2**31 - 1, 2**31, 2**32 - 1)


def codestream_size(data: bytes, rng: Random) -> bytes:
    """Dimensions, components, precision or tiles of the codestream; the header may be made to agree."""
    parts = anatomy.fragments(data)
    if len(parts) < 2:
        return lie_about_size(data, rng)
    start, end = parts[1]
    stream = bytearray(data[start:end])
    agree = _jpeg2000(stream, rng) if b"\xff\x4f\xff\x51" in stream[:100] else _jpeg(stream, rng)
    data = data[:start] + bytes(stream) + data[end:]
    if agree is not None and rng.random() < 0.7:
        data = sized(data, *agree)
    return data


def _jpeg(stream: bytearray, rng: Random) -> tuple[int, int] | None:
    at = next((n for n in range(len(stream) - 12) if _starts_frame(stream, n)), None)
    if at is None:
        return None
    what = rng.choice(("size", "size", "precision", "components", "length", "sampling"))
    if what == "size":
        rows, columns = rng.choice(SIDES), rng.choice(SIDES)
        struct.pack_into(">HH", stream, at + 5, rows, columns)
        return rows, columns
    if what == "precision":
        stream[at + 4] = rng.choice((0, 1, 2, 8, 12, 15, 16, 17, 32, 255))
    elif what == "components":
        stream[at + 9] = rng.choice((0, 2, 3, 4, 255))
    elif what == "length":
        struct.pack_into(">H", stream, at + 2, rng.choice(LYING_SHORTS))
    else:
        stream[at + 11] = rng.choice((0, 0x10, 0x44, 0xFF))
    return None


def _starts_frame(stream: bytearray, at: int) -> bool:
    return stream[at] == 0xFF and stream[at + 1] in (0xC0, 0xC1, 0xC3, 0xF7)


def _jpeg2000(stream: bytearray, rng: Random) -> tuple[int, int] | None:
    at = stream.find(b"\xff\x51")
    if rng.random() < 0.3:
        _coding_style(stream, rng)
        return None
    what = rng.choice(("size", "size", "offset", "tile", "tile", "components", "precision", "sampling"))
    if what == "size":
        columns, rows = rng.choice((*SIDES, 2**31, 2**32 - 1)), rng.choice(SIDES)
        struct.pack_into(">II", stream, at + 6, columns, rows)
        if rng.random() < 0.7:  # one tile of the new size
            struct.pack_into(">II", stream, at + 22, columns, rows)
        return rows & 0xFFFF, columns & 0xFFFF
    if what == "offset":
        struct.pack_into(">II", stream, at + 14, rng.choice(LARGE), rng.choice(LARGE))
    elif what == "tile":
        struct.pack_into(">II", stream, at + 22, rng.choice(LARGE), rng.choice(LARGE))
    elif what == "components":
        struct.pack_into(">H", stream, at + 38, rng.choice((0, 2, 3, 255, 16384, 65535)))
    else:
        stream[at + (40 if what == "precision" else 41)] = rng.choice((0, 7, 15, 16, 31, 37, 0x80, 0x8F, 255))
    return None


def _coding_style(stream: bytearray, rng: Random) -> None:
    """Segment COD: layers, decomposition levels, code block sizes."""
    at = stream.find(b"\xff\x52")
    if at < 0 or at + 13 > len(stream):
        return
    what = rng.randrange(3)
    if what == 0:
        struct.pack_into(">H", stream, at + 6, rng.choice((0, 1, 65535)))
    elif what == 1:
        stream[at + 9] = rng.choice((0, 5, 32, 33, 255))
    else:
        stream[at + 10], stream[at + 11] = rng.choice((0, 4, 8, 255)), rng.choice((0, 4, 8, 255))


def damage_entropy(data: bytes, rng: Random) -> bytes:
    """A stretch of the codestream set to one value: markers, zeros, or noise."""
    parts = anatomy.fragments(data)
    if len(parts) < 2:
        return flip_fragments(data, rng)
    start, end = rng.choice(parts[1:])
    if end <= start:
        return flip_fragments(data, rng)
    at = rng.randrange(start, end)
    length = min(rng.choice((1, 4, 64, 1000)), end - at)
    filling = rng.choice((b"\0" * length, b"\xff" * length, rng.randbytes(length), b"\xff\xd9" * length))[
        :length
    ]
    return data[:at] + filling + data[at + length :]
