"""What is copied from a source as it is, of bytes that other software wrote."""

import io
import struct
from pathlib import Path

import pytest
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from dicomnode.dicom.verbatim import copy_elements, decode_header
from tests.makers import make_series


@pytest.mark.parametrize("value", [b"", b"101500"])
def test_an_element_of_no_known_representation_is_dropped_and_the_others_stay(
    value: bytes, tmp_path: Path
) -> None:
    """Also one without value, which the reader takes for a deferred one."""
    (path,) = make_series(tmp_path, slices=1)
    content = path.read_bytes()
    at = content.index(struct.pack("<HH", 0x0008, 0x0030) + b"TM")
    length = struct.unpack_from("<H", content, at + 6)[0]
    broken = content[:at] + struct.pack("<HH2sH", 0x0008, 0x0030, b"TI", len(value)) + value
    source = decode_header(broken + content[at + 8 + length :])
    copied = copy_elements(source, lambda tag: True)
    assert "StudyTime" not in copied
    assert copied.StudyDate == decode_header(content).StudyDate
    assert "StudyTime" in copy_elements(decode_header(content), lambda tag: True)
    copied.save_as(io.BytesIO(), implicit_vr=False, little_endian=True)


def with_element(content: bytes, tag: tuple[int, int], vr: bytes, value: bytes) -> bytes:
    """Another value and VR for a text element of a file in Explicit VR Little Endian."""
    at = content.index(struct.pack("<HH", *tag))
    end = at + 8 + struct.unpack_from("<H", content, at + 6)[0]
    length = struct.pack("<HI", 0, len(value)) if vr == b"UN" else struct.pack("<H", len(value))
    return content[:at] + struct.pack("<HH2s", *tag, vr) + length + value + content[end:]


def everything(source: Dataset) -> Dataset:
    """A full copy, written and read again."""
    stream = io.BytesIO()
    copy_elements(source, lambda tag: True).save_as(stream, implicit_vr=False, little_endian=True)
    stream.seek(0)
    return read_dataset(stream, is_implicit_VR=False, is_little_endian=True)


@pytest.mark.parametrize(
    ("tag", "vr", "value"),
    [
        ((0x0010, 0x0010), "PN", b"M\xfcller^Jo "),  # no UTF-8, which the file claims to be
        ((0x0018, 0x0050), "DS", b" 3.0000 "),
        ((0x0020, 0x0032), "DS", b"-24.0\\ -150.00\\-300 "),
        ((0x0020, 0x0052), "UI", b"1.2.3.4\x00"),
    ],
)
def test_text_of_an_element_that_an_archive_made_un_keeps_its_bytes(
    tag: tuple[int, int], vr: str, value: bytes, tmp_path: Path
) -> None:
    (path,) = make_series(
        tmp_path, slices=1, change=lambda data, _: setattr(data, "SpecificCharacterSet", "ISO_IR 192")
    )
    raw = everything(decode_header(with_element(path.read_bytes(), tag, b"UN", value))).get_item(tag)
    assert (raw.VR, raw.value) == (vr, value)


@pytest.mark.parametrize(
    ("tag", "vr", "value", "padded"),
    [
        ((0x0010, 0x0020), b"LO", b"ABC", b"ABC "),
        ((0x0018, 0x0050), b"DS", b"3.0", b"3.0 "),
        ((0x0020, 0x0052), b"UI", b"1.2.3", b"1.2.3\x00"),
    ],
)
def test_text_of_odd_length_is_padded(
    tag: tuple[int, int], vr: bytes, value: bytes, padded: bytes, tmp_path: Path
) -> None:
    (path,) = make_series(tmp_path, slices=1)
    copied = everything(decode_header(with_element(path.read_bytes(), tag, vr, value)))
    assert copied.get_item(tag).value == padded


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian])
def test_a_table_of_words_says_the_same_in_every_byte_order(syntax: str, tmp_path: Path) -> None:
    order = ">" if syntax == ExplicitVRBigEndian else "<"

    def change(data: Dataset, index: int) -> None:
        table = Dataset()
        table.LUTDescriptor = [4, 0, 16]
        table.add_new("LUTData", "OW", struct.pack(f"{order}4H", 1, 2, 3, 0xFF00))
        data.VOILUTSequence = [table]
        data.add_new("PointCoordinatesData", "OF", struct.pack(f"{order}2f", 1.0, -2.5))

    (path,) = make_series(tmp_path, slices=1, transfer_syntax=syntax, change=change)
    copied = everything(decode_header(path.read_bytes()))
    assert copied.VOILUTSequence[0].LUTData == struct.pack("<4H", 1, 2, 3, 0xFF00)
    assert copied.PointCoordinatesData == struct.pack("<2f", 1.0, -2.5)


def test_items_lose_overlays_curves_and_private_elements(tmp_path: Path) -> None:
    def change(data: Dataset, index: int) -> None:
        item = Dataset()
        item.CodeMeaning = "stays"
        item.add_new(0x60020010, "US", 1)
        item.add_new(0x50000005, "US", 1)
        item.private_block(0x0029, "A MAKER", create=True).add_new(0x01, "LO", "a name")
        data.ProcedureCodeSequence = [item]

    (path,) = make_series(tmp_path, slices=1, change=change)
    (item,) = everything(decode_header(path.read_bytes())).ProcedureCodeSequence
    assert [element.keyword for element in item] == ["CodeMeaning"]
