"""Limits of the parser, each from both sides."""

import contextlib
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from dicomnode.dicom.parsing import (
    BYTES_A_READ,
    DEEPEST_SEQUENCE,
    MOST_READS,
    check_transfer_syntax,
    parse,
    parse_file,
    read_meta,
)
from dicomnode.dicom.series import MOST_ELEMENTS, read_series
from dicomnode.dicom.values import text
from dicomnode.errors import BrokenInstance, NotCt, SeriesRefused, Undecodable
from tests.fuzz import anatomy
from tests.makers import make_series
from tests.processor import within

SYNTAXES = [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian]


def one(folder: Path, syntax: str = ExplicitVRLittleEndian, change: Callable | None = None) -> bytes:
    return make_series(folder / "s", slices=1, transfer_syntax=syntax, change=change)[0].read_bytes()


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_it_reads_what_pydicom_reads(tmp_path: Path, syntax: str) -> None:
    encoded = one(tmp_path, syntax)
    parsed, expected = parse(encoded, "x"), dcmread(tmp_path / "s" / "0001.dcm")
    pixels = expected["PixelData"].value
    assert parsed.pixels is not None
    assert encoded[parsed.pixels.at : parsed.pixels.at + (parsed.pixels.length or 0)] == pixels
    del expected.PixelData
    assert parsed.header == expected
    assert parsed.header.file_meta == expected.file_meta
    assert parse(encoded[: parsed.header_end], "x").header == expected


def nested(depth: int) -> Callable[[Dataset, int], None]:
    def change(data: Dataset, index: int) -> None:
        inner = Dataset()
        for _ in range(depth):
            outer = Dataset()
            outer.ReferencedSeriesSequence = Sequence([inner])
            inner = outer
        data.ReferencedSeriesSequence = inner.ReferencedSeriesSequence

    return change


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_depth(tmp_path: Path, syntax: str) -> None:
    """Also of implicit VR, where a sequence is only known by its tag."""
    parse(one(tmp_path / "a", syntax, nested(DEEPEST_SEQUENCE)), "x")
    with pytest.raises(BrokenInstance, match="RecursionError"):
        parse(one(tmp_path / "b", syntax, nested(DEEPEST_SEQUENCE + 1)), "x")


def refused(encoded: bytes) -> None:
    with pytest.raises(BrokenInstance):
        parse(encoded, "x")


@pytest.mark.slow
@pytest.mark.parametrize("undefined", [False, True])
@pytest.mark.parametrize("syntax", SYNTAXES)
def test_items_without_number_cost_no_seconds(tmp_path: Path, syntax: str, undefined: bool) -> None:
    encoded = one(tmp_path, syntax)
    known = anatomy.elements(encoded)
    encoding = known[-1].encoding
    items = struct.pack(encoding.order + "HHI", 0xFFFE, 0xE000, 0) * 1_000_000
    length = anatomy.UNDEFINED if undefined else None
    sequence = anatomy.encode(0x00081140, b"SQ", items, encoding, length)
    at = next(element.at for element in known if element.tag > 0x00081140)
    within(2.0, lambda: refused(encoded[:at] + sequence + encoded[at:]))


def test_an_image_of_too_many_elements_is_refused_and_one_of_fewer_is_not(tmp_path: Path) -> None:
    def add(many: int) -> Callable[[Dataset, int], None]:
        def change(data: Dataset, index: int) -> None:
            data.ReferencedImageSequence = Sequence([Dataset() for _ in range(many)])

        return change

    few = parse(one(tmp_path), "x").elements + 1
    read_series(make_series(tmp_path / "few", slices=1, change=add(MOST_ELEMENTS - few)))
    with pytest.raises(BrokenInstance, match="elements"):
        read_series(make_series(tmp_path / "many", slices=1, change=add(MOST_ELEMENTS - few + 1)))


def test_a_report_of_hundreds_of_exposures_is_within_the_count(tmp_path: Path, shared_data: Path) -> None:
    """The real reports use a small part of it."""
    for path in (shared_data / "dose-reports").glob("*.dcm"):
        assert parse(path.read_bytes(), path.name).elements * 2 < MOST_READS


@pytest.mark.parametrize("term", ["rot13", "zip", "idna", "utf-7", "utf-16", "ISO_IR 999", "A" * 40])
def test_a_character_set_of_python_is_none_of_dicom(tmp_path: Path, term: str) -> None:
    encoded = anatomy.put(one(tmp_path), 0x00080005, b"CS", term.encode())
    with pytest.raises(BrokenInstance, match="character set"):
        parse(encoded, "x")


@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize("vr", [b"CS", b"UT"])
def test_a_character_set_of_millions_of_values_costs_nothing(tmp_path: Path, syntax: str, vr: bytes) -> None:
    many = b"1\\" * (30_000 if vr == b"CS" else 3_000_000)
    encoded = anatomy.put(one(tmp_path, syntax), 0x00080005, vr, many)
    within(0.5, lambda: refused(encoded))


FIELD = ["", "ISO_IR 192", "ISO-IR 100", "ISO 2022 IR 6\\ISO 2022 IR 87", "GB18030"]
MISSPELT = ["UTF-8", "UTF8", "ISO_IR_100", "iso_ir 100", "latin1"]


@pytest.mark.parametrize("term", FIELD + MISSPELT)
def test_character_sets_of_the_field(tmp_path: Path, term: str) -> None:
    header = parse(anatomy.put(one(tmp_path), 0x00080005, b"CS", term.encode()), "x").header
    assert str(header.PatientName) == "Phantom^Textured"


SECRET = "Vanity^Jane"


@pytest.mark.parametrize(
    ("tag", "vr", "refusal"),
    [
        (0x00080008, b"CS", SeriesRefused),
        (0x00080016, b"UI", NotCt),
        (0x00080060, b"CS", NotCt),
        (0x00020010, b"UI", Undecodable),
        (0x00280004, b"CS", BrokenInstance),
        (0x00281054, b"LO", SeriesRefused),
        (0x00080005, b"CS", BrokenInstance),
        (0x00281053, b"DS", SeriesRefused),
        (0x00200037, b"DS", SeriesRefused),
    ],
)
def test_no_refusal_repeats_what_stands_in_the_file(tmp_path: Path, tag: int, vr: bytes, refusal) -> None:
    path = tmp_path / "x.dcm"
    path.write_bytes(anatomy.put(one(tmp_path), tag, vr, SECRET.encode()))
    with pytest.raises(refusal) as refused:
        read_series([path])
    assert "vanity" not in str(refused.value).lower()
    assert len(str(refused.value)) < 300


# --- files, of which only the header is read ------------------------------------------------------


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_a_file_reads_as_its_bytes_do(tmp_path: Path, syntax: str) -> None:
    encoded, path = one(tmp_path, syntax), tmp_path / "s" / "0001.dcm"
    with path.open("rb") as file:
        parsed = parse_file(file, path.name)
    expected = parse(encoded, path.name)
    assert (parsed.header, parsed.header_end) == (expected.header, expected.header_end)
    assert read_meta(path) == expected.header.file_meta


@pytest.mark.parametrize("group", [2, 0x0010])
def test_what_a_length_claims_is_not_made_room_for(tmp_path: Path, group: int) -> None:
    """Four gigabytes claimed by a value in the file meta information, or in the data set."""
    encoded = one(tmp_path)
    claims = struct.pack("<HH2sHI", group, 0x0102, b"OB", 0, 0xFFFFFFF0)
    meta_ends = encoded.index(struct.pack("<HH", 8, 5))
    path = tmp_path / "claims.dcm"
    path.write_bytes(encoded[:meta_ends] + claims + encoded[meta_ends:])
    tracemalloc.start()
    try:
        with path.open("rb") as file, contextlib.suppress(BrokenInstance):
            parse_file(file, path.name)
        with contextlib.suppress(BrokenInstance):
            read_meta(path)
        assert tracemalloc.get_traced_memory()[1] < 2**23
    finally:
        tracemalloc.stop()


@pytest.mark.slow
def test_a_large_file_may_tell_more(tmp_path: Path) -> None:
    """A multi-frame object tells of each frame; a small file with as much to tell is no image."""
    data = Dataset()
    data.ReferencedSeriesSequence = Sequence(Dataset() for _ in range(MOST_READS + 1))
    one(tmp_path)
    path = tmp_path / "many.dcm"
    whole = dcmread(tmp_path / "s" / "0001.dcm")
    whole.ReferencedSeriesSequence = data.ReferencedSeriesSequence
    whole.save_as(path)
    with path.open("rb") as file, pytest.raises(BrokenInstance, match=r"TooMuch|OSError"):
        parse_file(file, path.name)
    with path.open("ab") as file:
        file.truncate(BYTES_A_READ * MOST_READS * 8)
    with path.open("rb") as file:
        assert len(parse_file(file, path.name).header.ReferencedSeriesSequence) == MOST_READS + 1


@pytest.mark.parametrize("syntax", ["Doe^Jane\n", "1.2.840.10008.1.2.1\\Doe^Jane", "1.2.3.4"])
def test_an_unknown_transfer_syntax_is_not_quoted(tmp_path: Path, syntax: str) -> None:
    one(tmp_path)
    data = dcmread(tmp_path / "s" / "0001.dcm")
    data.file_meta["TransferSyntaxUID"]._value = syntax
    with pytest.raises(Undecodable, match="an unknown one"):
        check_transfer_syntax(text(data.file_meta, "TransferSyntaxUID"))
