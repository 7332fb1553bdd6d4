"""Multi-frame CT objects that are refused, each by its named rule and before anything is decoded."""

from collections.abc import Callable
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import (
    CTImageStorage,
    EnhancedCTImageStorage,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    RLELossless,
)

from dicomnode import errors
from dicomnode.dicom import multiframe
from dicomnode.dicom.series import read_headers, read_series
from tests.makers import make_series
from tests.multiframe_makers import make_enhanced


@pytest.fixture
def classic(tmp_path: Path) -> list[Path]:
    """The images of which the frames are made."""
    return make_series(tmp_path / "classic")


def in_frame(at: int, change: Callable[[Dataset], None]) -> Callable[[Dataset], None]:
    return lambda data: change(data.PerFrameFunctionalGroupsSequence[at])


def frame_type(*values: str) -> Callable[[Dataset], None]:
    def change(group: Dataset) -> None:
        kind = Dataset()
        kind.FrameType, kind.VolumetricProperties = list(values), "VOLUME"
        group.CTImageFrameTypeSequence = DicomSequence([kind])

    return change


def in_all(change: Callable[[Dataset], None]) -> Callable[[Dataset], None]:
    def everywhere(data: Dataset) -> None:
        for group in data.PerFrameFunctionalGroupsSequence:
            change(group)

    return everywhere


def shared(keyword: str, **values: object) -> Callable[[Dataset], None]:
    def change(data: Dataset) -> None:
        item = data.SharedFunctionalGroupsSequence[0][keyword].value[0]
        for name, value in values.items():
            setattr(item, name, value)

    return change


def without_shared(keyword: str) -> Callable[[Dataset], None]:
    return lambda data: delattr(data.SharedFunctionalGroupsSequence[0], keyword)


def put(**values: object) -> Callable[[Dataset], None]:
    def change(data: Dataset) -> None:
        for name, value in values.items():
            setattr(data, name, value)

    return change


def content(**values: object) -> Callable[[Dataset], None]:
    def change(group: Dataset) -> None:
        put(**values)(group.FrameContentSequence[0])

    return change


def place(height_mm: float) -> Callable[[Dataset], None]:
    def change(group: Dataset) -> None:
        group.PlanePositionSequence[0].ImagePositionPatient = [-24, -150, height_mm]

    return change


CORONAL = [1, 0, 0, 0, 0, -1]

REFUSED = [
    ("broken-instance", "no readable PerFrame", lambda d: delattr(d, "PerFrameFunctionalGroupsSequence")),
    ("broken-instance", "has 5 items", lambda d: d.PerFrameFunctionalGroupsSequence.pop()),
    ("broken-instance", "NumberOfFrames", lambda d: delattr(d, "NumberOfFrames")),
    ("broken-instance", "NumberOfFrames", put(NumberOfFrames=0)),
    ("broken-instance", "declare", put(NumberOfFrames=7)),
    ("broken-instance", "20000", put(NumberOfFrames=2_000_000_000)),
    ("broken-instance", "bytes are more than", put(NumberOfFrames=20_000, Rows=2048, Columns=2048)),
    ("broken-instance", "more than 2048 x 2048", put(Rows=2048, Columns=2049)),
    ("broken-instance", "declare", put(Rows=65)),
    ("broken-instance", "outside", put(Rows=30000, Columns=30000)),
    ("broken-instance", "BitsAllocated", put(BitsStored=40)),
    ("not-ct", "Modality", put(Modality="MR")),
    ("mixed-series", "FrameType", in_frame(2, frame_type("ORIGINAL", "PRIMARY", "LOCALIZER", "NONE"))),
    ("mixed-series", "FrameType", in_frame(2, frame_type("DERIVED", "PRIMARY", "VOLUME", "NONE"))),
    ("localizer", "localizer", in_all(frame_type("ORIGINAL", "PRIMARY", "LOCALIZER", "NONE"))),
    ("not-axial", "PERFUSION", in_all(frame_type("DERIVED", "PRIMARY", "PERFUSION", "RCBF"))),
    ("not-axial", "AXIAL", in_all(frame_type("DERIVED", "PRIMARY", "VOLUME", "MAXIMUM"))),
    ("not-axial", "SECONDARY", in_all(frame_type("DERIVED", "SECONDARY", "VOLUME", "NONE"))),
    ("not-axial", "AXIAL", without_shared("CTImageFrameTypeSequence")),
    ("not-axial", "AXIAL", shared("CTImageFrameTypeSequence", VolumetricProperties="DISTORTED")),
    ("not-axial", "cross-section", shared("PlaneOrientationSequence", ImageOrientationPatient=CORONAL)),
    ("mixed-series", "StackID", in_frame(1, content(StackID="2"))),
    ("mixed-series", "TemporalPositionIndex", in_frame(1, content(TemporalPositionIndex=2))),
    ("not-hounsfield", "Rescale", without_shared("PixelValueTransformationSequence")),
    ("not-hounsfield", "RescaleType", shared("PixelValueTransformationSequence", RescaleType="US")),
    ("unsupported-geometry", "frame 3", in_frame(2, lambda group: delattr(group, "PlanePositionSequence"))),
    ("unsupported-geometry", "PixelSpacing", without_shared("PixelMeasuresSequence")),
    ("gap-in-series", "missing", in_frame(2, place(-270))),
    ("burned-in-text", "Burned", put(BurnedInAnnotation="YES")),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "words", "change"), REFUSED)
def test_refused_by_rule(
    tmp_path: Path, classic: list[Path], rule: str, words: str, change: Callable[[Dataset], object]
) -> None:
    path = make_enhanced(tmp_path / "m.dcm", classic, change=lambda data: void(change(data)))
    with pytest.raises(errors.SeriesRefused, match=words) as refused:
        read_series([path])
    assert refused.value.rule == rule


def void(_: object) -> None:
    """Nothing."""


def test_one_object_given_twice_is_refused(tmp_path: Path, classic: list[Path]) -> None:
    path = make_enhanced(tmp_path / "m.dcm", classic)
    with pytest.raises(errors.DuplicatePosition):
        read_series([path, path])


def test_an_enhanced_object_under_the_meta_of_a_classic_one_is_refused(
    tmp_path: Path, classic: list[Path]
) -> None:
    path = make_enhanced(tmp_path / "m.dcm", classic)
    data = dcmread(path)
    data.file_meta.MediaStorageSOPClassUID = CTImageStorage
    data.save_as(path)
    with pytest.raises(errors.NotCt, match="0002,0002"):
        read_series([path])
    single = dcmread(classic[0])
    single.file_meta.MediaStorageSOPClassUID = EnhancedCTImageStorage
    single.save_as(path)
    with pytest.raises(errors.BrokenInstance, match="SOP Class UID"):
        read_series([path])


@pytest.mark.parametrize(
    "syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian, RLELossless, JPEG2000Lossless]
)
def test_a_file_cut_anywhere_is_refused(tmp_path: Path, syntax) -> None:
    paths = make_series(tmp_path / "s", slices=2)
    whole = make_enhanced(tmp_path / "m.dcm", paths, transfer_syntax=syntax).read_bytes()
    cut = tmp_path / "cut.dcm"
    for length in [*range(132, len(whole) - 2, 397), len(whole) - 20]:
        cut.write_bytes(whole[:length])
        with pytest.raises(errors.SeriesRefused):
            read_series([cut])
        with pytest.raises(errors.SeriesRefused):
            read_headers([cut])


@pytest.mark.parametrize(
    ("words", "table"),
    [
        ("offset table", lambda at: at[:-1]),
        ("offset table", lambda at: [at[0], at[2], at[1]]),
        ("offset table", lambda at: [at[0], at[1] + 2, at[2]]),
        ("offset table", lambda at: [8, *at[1:]]),
        ("offset table", lambda at: [at[0], at[1], 2**31]),
    ],
)
def test_an_offset_table_that_lies_is_refused(tmp_path: Path, words: str, table) -> None:
    def lying(data: Dataset) -> None:
        pixels = bytes(data.PixelData)
        count = int.from_bytes(pixels[4:8], "little") // 4
        offsets = [int.from_bytes(pixels[8 + 4 * n : 12 + 4 * n], "little") for n in range(count)]
        new = b"".join(offset.to_bytes(4, "little") for offset in table(offsets))
        data.PixelData = pixels[:4] + len(new).to_bytes(4, "little") + new + pixels[8 + 4 * count :]
        data["PixelData"].is_undefined_length = True

    paths = make_series(tmp_path / "s", slices=3)
    path = make_enhanced(tmp_path / "m.dcm", paths, transfer_syntax=RLELossless, change=lying)
    with pytest.raises(errors.BrokenInstance, match=words):
        read_series([path])


def test_limits_hold_before_anything_is_decoded(
    tmp_path: Path, classic: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_enhanced(tmp_path / "m.dcm", classic)
    monkeypatch.setattr(multiframe, "LARGEST_DECODED_BYTES", 6 * 64 * 64 * 2 - 1)
    with pytest.raises(errors.BrokenInstance, match="more than"):
        read_series([path])
    monkeypatch.setattr(multiframe, "LARGEST_FILE_BYTES", 1000)
    with pytest.raises(errors.BrokenInstance, match="more than the 1000"):
        read_series([path])


def test_a_file_that_changes_meanwhile_is_refused(tmp_path: Path, classic: list[Path]) -> None:
    path = make_enhanced(tmp_path / "m.dcm", classic)
    source = multiframe.read_multi_frame(path)
    assert source.decode(1).shape == (64, 64)
    path.write_bytes(path.read_bytes() + b"\0\0")
    with pytest.raises(errors.BrokenInstance, match="changed"):
        source.decode(2)
