"""What can be done to a file: each function takes its bytes and a random source, and returns other bytes.

They never fail: where a file has nothing to strike, something simpler is done to it.
"""

import struct
from collections.abc import Callable
from functools import cache
from random import Random

from tests.fuzz import anatomy
from tests.fuzz.anatomy import ITEM_END, PIXEL_DATA, SEQUENCE_END, UNDEFINED, Element, Encoding

Mutation = Callable[[bytes, Random], bytes]

CANARY = "Canary^Jane"
"""Stands for a patient's name; no message may ever repeat it."""

ROWS, COLUMNS, FRAMES, SAMPLES = 0x00280010, 0x00280011, 0x00280008, 0x00280002
ALLOCATED, STORED, HIGH, SIGNED = 0x00280100, 0x00280101, 0x00280102, 0x00280103
SIZES = (ROWS, COLUMNS, SAMPLES, ALLOCATED, STORED, HIGH, SIGNED)
LYING_SHORTS = (0, 1, 2, 3, 7, 8, 12, 15, 16, 17, 31, 32, 64, 255, 4095, 4096, 4097, 30000, 32768, 65535)
LYING_LENGTHS = (0, 1, 2, 7, 0x7FFFFFFF, 0x80000000, 0xFFFFFFF0, 0xFFFFFFFE, UNDEFINED, 0x00FFFFFF, 65534)
VRS = b"AE AS AT CS DA DS DT FL FD IS LO LT OB OD OF OL OV OW PN SH SL SQ SS ST SV TM UC UI UL UN UR US UT"
VRS += b" UV ?? \0\0 ox ZZ"
SYNTAXES = (
    *("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.2"),
    *("1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.70", "1.2.840.10008.1.2.4.80"),
    *("1.2.840.10008.1.2.4.81", "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91"),
    *("1.2.840.10008.1.2.4.201", "1.2.840.10008.1.2.4.202", "1.2.840.10008.1.2.5", "1.2.3", "", "\0" * 70),
    *("1.2.840.113619.5.2", CANARY),
)
NUMBERS = (
    *("1e400", "-1e400", "nan", "-nan", "inf", "-0", "0", "0.0", "-1", "1e-320", "1e308", "-1e308", "1e-9"),
    *(
        "9" * 40,
        "1" + "0" * 5000,
        "٣",
        "1_0",
        "0x10",
        "1,5",
        " ",
        "",
        "\\\\",
        "1\\2\\3",
        "1e5",
        "1e15",
        "--1",
    ),
    *("1e1\\1e1", "4294967296", "2147483648", "1.7976931348623157e308", "5e-324", CANARY),
)
NUMERIC = (
    *(0x00180050, 0x00180060, 0x00180088, 0x00180090, 0x00181100, 0x00181150, 0x00181151, 0x00181152),
    *(0x00181153, 0x00200011, 0x00200012, 0x00200013, 0x00200032, 0x00200037, 0x00201041, 0x00280030),
    *(0x00281050, 0x00281051, 0x00281052, 0x00281053, 0x00280008),
)
BINARY_NUMBERS = (0x00189305, 0x00189306, 0x00189307, 0x00189309, 0x00189311, 0x00189345)
UIDS = (0x00020002, 0x00020003, 0x00080016, 0x00080018, 0x0020000D, 0x0020000E, 0x00200052)
TEXTS = (
    *(0x00080005, 0x00080008, 0x00080060, 0x00080070, 0x0008103E, 0x00081090, 0x00100010, 0x00100020),
    *(0x00180015, 0x00180022, 0x00181030, 0x00181210, 0x00200010, 0x00280004, 0x00280301, 0x00281054),
    *(0x00080201, 0x00080080),
)
CHARSETS = (
    *("ISO_IR 192", "ISO 2022 IR 87", "\\ISO 2022 IR 149", "GB18030", "ISO_IR 6", "utf7", "rot13", "../x"),
    *("ISO 2022 IR 6\\ISO 2022 IR 100\\ISO 2022 IR 87", "\\" * 500, "zip", "idna", "undefined", CANARY),
)


MANY = (100, 1000, 2000, 2500, 3000, 5000, 10_000, 30_000, 300_000)
PRIVATE = (
    *((0x0019, "GEMS_ACQU_01", 0x27), (0x0043, "GEMS_PARM_01", 0x27), (0x0045, "GEMS_HELIOS_01", 1)),
    *((0x01F1, "ELSCINT1", 0x27), (0x7005, "TOSHIBA_MEC_CT3", 0x63), (0x0009, "", 1), (0x7029, "X", 2)),
)


def flip_header(data: bytes, rng: Random) -> bytes:
    """One to sixteen bits before the pixel data."""
    pixels = anatomy.find(data, PIXEL_DATA)
    return _flipped(data, 0, pixels.value_at if pixels else len(data), rng)


def flip_pixels(data: bytes, rng: Random) -> bytes:
    """One to sixteen bits of native pixel data, or of the codestreams."""
    pixels = anatomy.find(data, PIXEL_DATA)
    return _flipped(data, pixels.value_at if pixels else 0, len(data), rng)


def flip_fragments(data: bytes, rng: Random) -> bytes:
    """Bits at the front of a codestream, where its marker segments are."""
    parts = anatomy.fragments(data)
    if len(parts) < 2:
        return flip_pixels(data, rng)
    start, end = parts[1]
    return _flipped(data, start, min(start + 200, end), rng)


def _flipped(data: bytes, start: int, end: int, rng: Random) -> bytes:
    mutated = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        if end > start:
            mutated[rng.randrange(start, end)] ^= 1 << rng.randrange(8)
    return bytes(mutated)


def truncate(data: bytes, rng: Random) -> bytes:
    """Cut off anywhere, early and late ends preferred, or all of it."""
    ends = (
        rng.randrange(len(data) + 1),
        rng.randrange(min(len(data), 400) + 1),
        max(len(data) - 2, 0),
        0,
        132,
    )
    return data[: rng.choice(ends)]


def swap_vr(data: bytes, rng: Random) -> bytes:
    """Another VR on an explicit element, or one that does not exist."""
    chosen = [one for one in anatomy.elements(data) if one.encoding.explicit]
    if not chosen:
        return flip_header(data, rng)
    at = rng.choice(chosen).at + 4
    return data[:at] + rng.choice(VRS.split(b" "))[:2].ljust(2, b"\0") + data[at + 2 :]


def lie_about_length(data: bytes, rng: Random) -> bytes:
    """A length that is huge, looks negative, is undefined where it may not be, or is a bit off."""
    known = anatomy.elements(data)
    if not known:
        return flip_header(data, rng)
    one = rng.choice(known)
    width = 4 if not one.encoding.explicit or one.vr in anatomy.LONG_VRS else 2
    length = rng.choice((*LYING_LENGTHS, one.length + 2, max(one.length - 2, 0), one.length + 1))
    order = "big" if one.encoding.order == ">" else "little"
    lie: bytes = (length & (2 ** (8 * width) - 1)).to_bytes(width, order)
    return data[: one.value_at - width] + lie + data[one.value_at :]


def undefined_length(data: bytes, rng: Random) -> bytes:
    """Undefined length on an element of any VR, closed or never closed."""
    known = [one for one in anatomy.elements(data) if one.tag >> 16 > 2]
    if not known:
        return flip_header(data, rng)
    one = rng.choice(known)
    vr = rng.choice((b"UN", b"SQ", b"OB", b"OW", b"UT"))
    content = rng.choice((anatomy.value(data, one), b"", _items(3, one.encoding)))
    content += rng.choice((SEQUENCE_END, b""))
    return data[: one.at] + anatomy.encode(one.tag, vr, content, one.encoding, UNDEFINED) + data[one.end :]


def _items(count: int, encoding: Encoding) -> bytes:
    return struct.pack(encoding.order + "HHI", 0xFFFE, 0xE000, 0) * count


def nest(data: bytes, rng: Random) -> bytes:
    """Sequences in sequences, 5 to 20000 deep, of defined or undefined length, standard or private."""
    depth = rng.choice((5, 31, 33, 100, 400, 1500, 5000, 20000))
    tag = rng.choice((0x00081115, 0x00081140, 0x00091001, 0x00101002))
    encoding = _encoding(data)
    defined = rng.random() < 0.5
    content = b""
    for _ in range(depth):
        if defined:
            if len(content) > 2**20:
                break
            item = struct.pack(encoding.order + "HHI", 0xFFFE, 0xE000, len(content)) + content
            content = anatomy.encode(tag, b"SQ", item, encoding)
        else:
            head = anatomy.encode(tag, b"SQ", b"", encoding, UNDEFINED)
            content = head + struct.pack(encoding.order + "HHI", 0xFFFE, 0xE000, UNDEFINED) + content
    if not defined:
        content += (ITEM_END + SEQUENCE_END) * rng.choice((depth, 0))
    return _inserted(data, content, tag)


def many_items(data: bytes, rng: Random) -> bytes:
    """One sequence of very many empty items."""
    encoding = _encoding(data)
    count = rng.choice((*MANY, 2_000_000))
    content, undefined = _items(count, encoding), rng.random() < 0.5
    tag = rng.choice((0x00081140, 0x00091001, 0x00082112))
    length = UNDEFINED if undefined else None
    whole = anatomy.encode(tag, rng.choice((b"SQ", b"UN")), content, encoding, length)
    return _inserted(data, whole + (SEQUENCE_END if undefined else b""), tag)


def many_elements(data: bytes, rng: Random) -> bytes:
    """Very many tiny elements: private, unknown, empty, or the same again."""
    encoding, count = _encoding(data), rng.choice(MANY)
    tag = rng.choice((0x00090010, 0x00110000, 0x00080000, 0x00000000, 0x00080005))
    step = rng.choice((0, 1, 1))
    if step == 0:
        return _inserted(data, anatomy.encode(tag, b"LO", b"", encoding) * count, tag)
    form = struct.Struct(encoding.order + ("HH2sH" if encoding.explicit else "HHI"))
    tail: tuple[bytes | int, ...] = (b"LO", 0) if encoding.explicit else (0,)
    group = tag >> 16
    many = b"".join(form.pack(group + 2 * (n >> 16), n & 0xFFFF, *tail) for n in range(count))
    return _inserted(data, many, tag)


def repeat(data: bytes, rng: Random) -> bytes:
    """An element again, somewhere else, or two elements exchanged."""
    known = anatomy.elements(data)
    if len(known) < 2:
        return data + data
    one, other = sorted(rng.sample(range(len(known)), 2))
    a, b = known[one], known[other]
    if rng.random() < 0.5:
        return data[: a.at] + data[b.at : b.end] + data[a.at :]
    return data[: a.at] + data[b.at : b.end] + data[a.end : b.at] + data[a.at : a.end] + data[b.end :]


def group_lengths(data: bytes, rng: Random) -> bytes:
    """A group length that lies, also that of the file meta information."""
    group = rng.choice((0x0002, 0x0008, 0x0028, 0x7FE0))
    return anatomy.put(data, group << 16, b"UL", struct.pack("<I", rng.choice(LYING_LENGTHS)))


@cache
def deflated_zeros(mebibytes: int) -> bytes:
    """A stream of RFC 1951 that unpacks to zeros, written by hand: packers differ, a recipe must not.

    One final block of fixed codes: a zero, then `258 bytes from one byte back` over and over, 13 bits each.
    """
    match = "11000101" + "00000"
    bits = "1" + "10" + "00110000" + match * 16
    octets = bytes(int(bits[at : at + 8][::-1], 2) for at in range(0, len(bits) - 7, 8))
    return octets[:2] + octets[2:15] * (mebibytes * 2**20 // (258 * 8))


def deflate_bomb(data: bytes, rng: Random) -> bytes:
    """A data set of a few kilobytes that unpacks to hundreds of megabytes."""
    meta = [one for one in anatomy.elements(data) if one.tag >> 16 == 2]
    head = anatomy.put(
        data[: meta[-1].end if meta else 0], anatomy.TRANSFER_SYNTAX, b"UI", b"1.2.840.10008.1.2.1.99"
    )
    return head + deflated_zeros(rng.choice((64, 512)))


def rle_bomb(data: bytes, rng: Random) -> bytes:
    """RLE runs for a huge image, under header sizes that agree, nearly agree or do not."""
    rows, columns = rng.choice(
        ((4096, 4096), (30000, 30000), (65535, 65535), (4097, 1), (512, 512), (64, 64))
    )
    runs = rng.choice((1, 1000, 100_000, 4096 * 4096 // 128, 1_000_000))
    stream = bytes((129, 7)) * runs
    count = rng.choice((1, 2, 2, 2, 3, 15, 16, 255, UNDEFINED))
    offsets = [64, rng.choice((64, 64 + len(stream), 0, 63, UNDEFINED, len(stream) * 9))] + [0] * 13
    content = struct.pack("<16I", count, *offsets) + stream * rng.choice((1, 2))
    return anatomy.with_pixels(sized(data, rows, columns), anatomy.RLE, anatomy.encapsulated(content))


def sized(data: bytes, rows: int, columns: int) -> bytes:
    order = _encoding(data).order
    data = anatomy.put(data, ROWS, b"US", struct.pack(order + "H", rows))
    return anatomy.put(data, COLUMNS, b"US", struct.pack(order + "H", columns))


def lie_about_size(data: bytes, rng: Random) -> bytes:
    """Rows, Columns, bits, samples, frames that do not fit the pixels."""
    order = _encoding(data).order
    for tag in rng.sample(SIZES, rng.choice((1, 1, 2, 3))):
        data = anatomy.put(data, tag, b"US", struct.pack(order + "H", rng.choice(LYING_SHORTS)))
    if rng.random() < 0.2:
        data = anatomy.put(data, FRAMES, b"IS", rng.choice(NUMBERS).encode())
    return data


def extreme_number(data: bytes, rng: Random) -> bytes:
    """Text in numbers, numbers at the ends of the scale, and beyond."""
    for _ in range(rng.choice((1, 1, 2))):
        one = rng.choice(NUMBERS)
        tag, many = rng.choice(NUMERIC), {0x00200032: 3, 0x00200037: 6, 0x00280030: 2}
        if rng.random() < 0.6:
            one = "\\".join([one] * many.get(tag, 1))
        data = anatomy.put(data, tag, b"DS", one.encode()[:65000])
    return data


def extreme_float(data: bytes, rng: Random) -> bytes:
    """Binary floating-point dose values: infinite, not a number, tiny, negative."""
    number = rng.choice((float("inf"), float("nan"), 1e308, 5e-324, -1.0, 0.0, 1e-30, 1e15))
    return anatomy.put(
        data, rng.choice(BINARY_NUMBERS), b"FD", struct.pack(_encoding(data).order + "d", number)
    )


def long_value(data: bytes, rng: Random) -> bytes:
    """Megabytes in one element: text, millions of numbers, short integers that a table would hold."""
    size = rng.choice((100_000, 1_000_000, 10_000_000))
    tag = rng.choice((*NUMERIC, *TEXTS, *UIDS[2:]))
    vr, unit = rng.choice(
        ((b"UT", b"1\\"), (b"UC", b"1.5\\"), (b"UT", b"9"), (b"UC", b"A^B=C\\"), (b"UN", b"1\\"))
    )
    if rng.random() < 0.3:
        tag = rng.choice((0x00283006, 0x00281201, 0x00283010, 0x00090010, 0x00091001, 0x00189310))
        vr, unit = rng.choice(((b"OW", b"\1\2"), (b"UN", b"\1\0"), (b"SQ", b"\1\0"), (b"OF", b"\0\0\0\1")))
    return anatomy.put(data, tag, vr, unit * (size // len(unit)))


def charset(data: bytes, rng: Random) -> bytes:
    """A character set that does not exist or does not fit, and names with escapes in them."""
    data = anatomy.put(data, 0x00080005, b"CS", rng.choice(CHARSETS).encode())
    hostile = rng.choice((b"\x1b$B\x1b(J", b"\xff\xfe\x80", b"\x1b" * 2000, b"=\\^" * 500, b"\xf0\x9f\x98"))
    return anatomy.put(data, rng.choice(TEXTS[1:]), b"LO", hostile)


def hostile_text(data: bytes, rng: Random) -> bytes:
    """Paths, control characters, and a patient's name where it does not belong."""
    content = rng.choice(
        (CANARY, "../../etc/x", "a\nb\r", "\x00\x1b[31m", "%s%n{0}", "\\" * 300, "<b>" * 20, "ﬀ" * 64)
    )
    return anatomy.put(data, rng.choice((*TEXTS, 0x00200013)), rng.choice((b"CS", b"LO")), content.encode())


def hostile_uid(data: bytes, rng: Random) -> bytes:
    """UIDs with NUL, paths, leading zeros, none, too many characters; the same one twice."""
    odd = (
        "../../../tmp/x",
        "1.2\0.3",
        "1..2",
        "01.02",
        "1." * 40 + "1",
        "",
        "1.2.٣",
        "/",
        "1.2.3\n",
        CANARY,
        ".",
        "0",
    )
    return anatomy.put(data, rng.choice(UIDS), b"UI", rng.choice(odd).encode())


def private_block(data: bytes, rng: Random) -> bytes:
    """Private elements without a creator, or a known creator with nonsense behind it."""
    encoding = _encoding(data)
    group, creator, offset = rng.choice(PRIVATE)
    content = b""
    if rng.random() < 0.7:
        content = anatomy.encode(group << 16 | 0x10, b"LO", creator.encode(), encoding)
    odd = rng.choice((b"\xff" * 8, b"1e400", b"nan\\1", b"", b"1" * 100_000, b"\0" * 7, b":::"))
    vr = rng.choice((b"UN", b"DS", b"FD", b"SQ", b"IS", b"OB"))
    odd = odd[:60_000] if vr not in anatomy.LONG_VRS else odd
    content += anatomy.encode(group << 16 | 0x1000 | offset, vr, odd, encoding)
    return _inserted(data, content, group << 16 | 0x10)


def no_meta(data: bytes, rng: Random) -> bytes:
    """Preamble, prefix or file meta information missing, or one of its elements."""
    meta = [one for one in anatomy.elements(data) if one.tag >> 16 == 2]
    if not meta:
        return data[132:]
    if rng.random() < 0.5:
        one = rng.choice(meta)
        return data[: one.at] + data[one.end :]
    return rng.choice((data[128:], data[132:], data[:132] + data[meta[-1].end :], data[meta[-1].end :]))


def wrong_syntax(data: bytes, rng: Random) -> bytes:
    """Another transfer syntax over the same bytes."""
    return anatomy.put(data, anatomy.TRANSFER_SYNTAX, b"UI", rng.choice(SYNTAXES).encode())


def drop(data: bytes, rng: Random) -> bytes:
    """One to five elements left out."""
    for _ in range(rng.choice((1, 1, 2, 5))):
        known = anatomy.elements(data)
        if known:
            one = rng.choice(known)
            data = data[: one.at] + data[one.end :]
    return data


def trailing(data: bytes, rng: Random) -> bytes:
    """Zeros or noise behind the end; zeros with a last word that defeats naive skipping."""
    count = rng.choice((1, 7, 8, 1000, 3_000_000))
    return data + rng.choice((bytes(count), bytes(count) + b"\1", rng.randbytes(min(count, 1000))))


def offset_table(data: bytes, rng: Random) -> bytes:
    """Fragments that lie: offset table, lengths, order, very many of them."""
    parts = anatomy.fragments(data)
    pixels = anatomy.find(data, PIXEL_DATA)
    if len(parts) < 2 or pixels is None:
        return lie_about_length(data, rng)
    streams = [data[start:end] for start, end in parts[1:]]
    whole = b"".join(streams)
    choice = rng.randrange(5)
    if choice == 0:
        table = struct.pack("<4I", *(rng.choice(LYING_LENGTHS) for _ in range(4)))
        content = anatomy.encapsulated(table, *streams)[8:]
    elif choice == 1:
        size = rng.choice((1, 2, 16))
        content = anatomy.encapsulated(
            *(whole[at : at + size] for at in range(0, min(len(whole), 60_000), size))
        )
    elif choice == 2:
        content = anatomy.encapsulated(*([b""] * rng.choice((1, 1000, 500_000))))
    elif choice == 3:
        content = anatomy.encapsulated(*reversed(streams), *streams)
    else:
        at, lie = parts[1][0] - 4, struct.pack("<I", rng.choice(LYING_LENGTHS))
        return data[:at] + lie + data[at + 4 :]
    return data[: pixels.value_at] + content


def _encoding(data: bytes) -> Encoding:
    return anatomy.encoding_of(data, anatomy.elements(data))


def _inserted(data: bytes, content: bytes, tag: int) -> bytes:
    after: Element | None = next(
        (one for one in anatomy.elements(data) if one.tag > max(tag, 0x0002FFFF)), None
    )
    at = after.at if after else len(data)
    return data[:at] + content + data[at:]
