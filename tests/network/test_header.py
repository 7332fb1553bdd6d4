"""The raw header: read like pydicom reads it, and refused wherever it is cut."""

import io

import pytest
from pydicom import Dataset, dcmread
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless

from dicomnode.errors import InstanceRefused
from dicomnode.network import protocol
from dicomnode.network.filing import read_file_header
from dicomnode.network.header import read_header
from tests.makers import make_series
from tests.multiframe_makers import make_enhanced

NATIVE = [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian]


def encoded(data: Dataset, syntax: str, undefined_lengths: bool = False) -> bytes:
    """Encode the way a sender does: no preamble, no file meta information."""
    for element in data:
        if element.VR == "SQ":
            element.is_undefined_length = undefined_lengths
            for item in element.value:
                item.is_undefined_length_sequence_item = undefined_lengths
    buffer = io.BytesIO()
    data.save_as(
        buffer,
        implicit_vr=syntax == ImplicitVRLittleEndian,
        little_endian=syntax != ExplicitVRBigEndian,
        enforce_file_format=False,
    )
    return buffer.getvalue()


def with_sequences(data: Dataset) -> Dataset:
    inner, outer = Dataset(), Dataset()
    inner.CodeValue, inner.CodeMeaning = "113691", "IEC Body Dosimetry Phantom"
    outer.ReferencedSOPInstanceUID = "1.2.3"
    outer.PurposeOfReferenceCodeSequence = [inner, inner]
    data.SourceImageSequence = [outer, outer]
    return data


@pytest.fixture
def image(tmp_path):
    path = make_series(tmp_path / "one", slices=1)[0]
    data = dcmread(path)
    plain = Dataset()
    plain.update(data)
    return with_sequences(plain)


@pytest.mark.parametrize("syntax", NATIVE)
@pytest.mark.parametrize("undefined_lengths", [False, True])
def test_the_header_says_what_pydicom_reads(image, syntax, undefined_lengths):
    header = read_header(encoded(image, syntax, undefined_lengths), syntax)
    assert header.sop_class_uid == image.SOPClassUID
    assert header.sop_instance_uid == image.SOPInstanceUID
    assert header.study_instance_uid == image.StudyInstanceUID
    assert header.series_instance_uid == image.SeriesInstanceUID
    assert header.instance_number == image.InstanceNumber
    assert header.position_mm == pytest.approx(tuple(image.ImagePositionPatient))


@pytest.mark.parametrize("syntax", NATIVE)
@pytest.mark.parametrize("undefined_lengths", [False, True])
def test_a_data_set_cut_anywhere_is_refused(image, syntax, undefined_lengths):
    whole = encoded(image, syntax, undefined_lengths)
    pixels_at = read_header(whole, syntax).pixels.start - 12
    for length in [*range(pixels_at + 20), len(whole) // 2, len(whole) - 2, len(whole) - 1]:
        with pytest.raises(InstanceRefused) as caught:
            read_header(whole[:length], syntax)
        assert caught.value.status in (protocol.NOT_WHOLE, protocol.UID_MISSING), length


def test_fragments_cut_anywhere_are_refused(image):
    image.PixelData = encapsulate([b"\x01\x00" * 40])
    image["PixelData"].is_undefined_length = True
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = RLELossless
    whole = encoded(image, RLELossless)
    pixels_at = read_header(whole, RLELossless).pixels.start - 12
    for length in range(pixels_at, len(whole)):
        with pytest.raises(InstanceRefused):
            read_header(whole[:length], RLELossless)
    with pytest.raises(InstanceRefused):
        read_header(whole, ExplicitVRLittleEndian)


def test_zeros_after_the_end_are_not_a_fault(image):
    whole = encoded(image, ExplicitVRLittleEndian)
    assert read_header(whole + bytes(6), ExplicitVRLittleEndian) == read_header(whole, ExplicitVRLittleEndian)
    with pytest.raises(InstanceRefused):
        read_header(whole + b"junk", ExplicitVRLittleEndian)


def test_pixels_shorter_than_rows_and_columns_are_refused(image):
    image.PixelData = image.PixelData[:-128]
    with pytest.raises(InstanceRefused) as caught:
        read_header(encoded(image, ExplicitVRLittleEndian), ExplicitVRLittleEndian)
    assert caught.value.status == protocol.NOT_WHOLE


@pytest.mark.parametrize(
    "keyword", ["SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "SOPClassUID"]
)
def test_a_missing_uid_is_refused(image, keyword):
    delattr(image, keyword)
    with pytest.raises(InstanceRefused) as caught:
        read_header(encoded(image, ExplicitVRLittleEndian), ExplicitVRLittleEndian)
    assert caught.value.status == protocol.UID_MISSING


@pytest.mark.filterwarnings("ignore::UserWarning:pydicom.valuerep")
@pytest.mark.parametrize("uid", ["../../etc/x", "1..2", "1.02", "1.2.a", "1" * 65])
def test_a_malformed_series_uid_is_refused(image, uid):
    image.SeriesInstanceUID = uid
    with pytest.raises(InstanceRefused) as caught:
        read_header(encoded(image, ExplicitVRLittleEndian), ExplicitVRLittleEndian)
    assert caught.value.status == protocol.UID_MISSING


def test_sequences_nested_without_end_are_refused():
    opening = b"\x08\x00\x12\x21SQ\x00\x00\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff"
    with pytest.raises(InstanceRefused, match="nested"):
        read_header(opening * 5000, ExplicitVRLittleEndian)


def test_numbers_that_are_none_are_unknown(image):
    del image.ImagePositionPatient
    del image.InstanceNumber
    header = read_header(encoded(image, ExplicitVRLittleEndian), ExplicitVRLittleEndian)
    assert (header.instance_number, header.position_mm) == (None, None)


def test_any_bytes_are_read_or_refused_and_nothing_else():
    import random

    rng = random.Random(1)
    for _ in range(3000):
        noise = rng.randbytes(rng.randrange(80))
        with pytest.raises(InstanceRefused):
            read_header(noise, rng.choice([ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless]))


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_frames_and_parts_of_multi_frame_objects(tmp_path, syntax):
    paths = make_series(tmp_path / "s", slices=3)
    whole = make_enhanced(tmp_path / "m.dcm", paths, transfer_syntax=syntax)
    half = make_enhanced(tmp_path / "p.dcm", paths[:2], transfer_syntax=syntax, part=(1, 2, 0))
    headers = [read_file_header(path) for path in (whole, half, paths[0])]
    assert [(header.frames, header.part) for header in headers] == [(3, None), (2, (1, 2)), (1, None)]
    assert headers[0].position_mm is None
