"""What is written of multi-frame CT objects: classic headers, derived images and their report."""

import json
import subprocess
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import highdicom
import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import CTImageStorage

from dicomnode import errors
from dicomnode.dicom import multiframe
from dicomnode.dicom.derived import Identity, Provenance, write_derived
from dicomnode.dicom.dose import read_dose
from dicomnode.dicom.report import write_report
from dicomnode.dicom.series import read_series
from dicomnode.dicom.verbatim import decode_header
from tests.dicom.frames import CTDIVOL_MGY, MAS, same_images
from tests.dicom.rewritten import Errors, write
from tests.makers import make_series, make_uid
from tests.multiframe_makers import make_enhanced, make_legacy
from tests.processor import within


@pytest.mark.parametrize("make", [make_enhanced, make_legacy])
def test_encoded_headers_are_classic(tmp_path: Path, classic: list[Path], make) -> None:
    """Against the tables of the standard that come with highdicom."""
    tables = Path(highdicom.__file__).parent / "_standard"
    modules = json.loads((tables / "iod_module_map.json").read_text())["ct-image"]
    attributes = json.loads((tables / "module_attribute_map.json").read_text())
    known = {one["keyword"] for module in modules for one in attributes[module["key"]] if not one["path"]} | {
        "AcquisitionType"
    }
    series = read_series([make(tmp_path / "m.dcm", classic)])
    for at, encoded in enumerate(series.encoded_headers):
        header = decode_header(encoded)
        assert header.SOPClassUID == CTImageStorage
        assert {element.keyword for element in header} <= known
        assert header["Exposure"].VR == "IS"
        assert header.Exposure == MAS[at]
        assert header.CTDIvol == CTDIVOL_MGY[at]
        assert list(header.ImageType) == ["ORIGINAL", "PRIMARY", "AXIAL"]
    assert read_dose([decode_header(one) for one in series.encoded_headers]).mas == pytest.approx(MAS)


@pytest.mark.parametrize("make", [make_enhanced, make_legacy])
def test_derived_images_and_report_of_frames_are_clean(
    tmp_path: Path, classic: list[Path], identity: Identity, provenance: Provenance, object_errors: Errors,
    program: Callable[[str], str], make,
) -> None:  # fmt: skip
    path = make(tmp_path / "m.dcm", classic)
    series = read_series([path])
    written = write_derived(series, series.hounsfield, identity, provenance, tmp_path / "d")
    again = write_derived(series, series.hounsfield, identity, provenance, tmp_path / "again")
    assert [one.read_bytes() for one in written] == [one.read_bytes() for one in again]
    images = [dcmread(one) for one in written]
    assert len({image.SOPInstanceUID for image in images}) == 6
    source = dcmread(path)
    for image, frame, before, stored in zip(images, series.frames, classic, series.stored, strict=True):
        assert image.SOPClassUID == CTImageStorage
        (reference,) = image.SourceImageSequence
        assert reference.ReferencedSOPClassUID == source.SOPClassUID
        assert reference.ReferencedSOPInstanceUID == source.SOPInstanceUID
        assert reference.ReferencedFrameNumber == frame == image.InstanceNumber
        named = image.ReferencedSeriesSequence[0]
        assert named.SeriesInstanceUID == source.SeriesInstanceUID
        assert [one.ReferencedSOPInstanceUID for one in named.ReferencedInstanceSequence] == [
            source.SOPInstanceUID
        ]
        assert image.ImagePositionPatient == dcmread(before).ImagePositionPatient
        assert np.array_equal(image.pixel_array, stored)
    for one in written:
        assert object_errors(one) == Counter()
    check = subprocess.run(
        [program("dcentvfy"), *map(str, written)], capture_output=True, text=True, check=False
    )
    assert check.stdout + check.stderr == ""
    report = write_report(series, written, identity, provenance, tmp_path / "report.dcm")
    assert object_errors(report) == Counter()
    subprocess.run([program("dsrdump"), str(report)], capture_output=True, check=True)
    named_frames = [
        element.value for element in dcmread(report).iterall() if element.keyword == "ReferencedFrameNumber"
    ]
    assert named_frames
    assert all(sorted(numbers) == [1, 6] for numbers in named_frames), "the first and the last slice"
    evidence = dcmread(report).CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence
    counts = {one.SeriesInstanceUID: len(one.ReferencedSOPSequence) for one in evidence}
    assert counts == {source.SeriesInstanceUID: 1, images[0].SeriesInstanceUID: 6}


def test_our_own_images_are_known_again_after_a_conversion(
    tmp_path: Path, classic: list[Path], identity: Identity, provenance: Provenance
) -> None:
    series = read_series(classic)
    written = write_derived(series, series.hounsfield, identity, provenance, tmp_path / "d")
    with pytest.raises(errors.AlreadyEnhanced):
        read_series([make_legacy(tmp_path / "m.dcm", written)])


def test_our_mark_is_found_in_the_last_of_several_derivations(
    tmp_path: Path, classic: list[Path], identity: Identity, provenance: Provenance
) -> None:
    """Each in an item of its own; other marks need not have come through a conversion."""
    (ours, *_) = write([classic[0]], identity, provenance, tmp_path / "d")[1]

    def change(data: Dataset) -> None:
        first, last = Dataset(), Dataset()
        first.DerivationCodeSequence = [Dataset()]
        first.DerivationCodeSequence[0].CodeValue = "113072"
        last.DerivationCodeSequence = ours.DerivationCodeSequence
        data.SharedFunctionalGroupsSequence[0].DerivationImageSequence = [first, last]

    with pytest.raises(errors.AlreadyEnhanced):
        read_series([make_enhanced(tmp_path / "m.dcm", classic, change=change)])


@pytest.mark.parametrize(
    ("folder", "pattern"),
    [
        ("ct/rider-011", "1-00*.dcm"),
        ("ct/lung-dx-a0002", "1-0*.dcm"),
        ("ct/cmb-crc-01068-lung-kernel", "*.dcm"),
        ("ct/adit-fruit", "*1001*H42s*"),
    ],
)
def test_real_series_converted_by_highdicom_are_read_alike(
    tmp_path: Path, shared_data: Path, folder: str, pattern: str, identity: Identity, provenance: Provenance,
    object_errors: Errors,
) -> None:  # fmt: skip
    paths = sorted((shared_data / folder).glob(pattern))[:9]
    assert len(paths) > 3
    plain = read_series(paths)
    series = read_series([make_legacy(tmp_path / "m.dcm", paths)])
    assert same_images(series, plain)
    assert read_dose(series.headers) == read_dose(plain.headers)
    derived = write_derived(series, series.hounsfield, identity, provenance, tmp_path / "frames")
    classic = write_derived(plain, plain.hounsfield, identity, provenance, tmp_path / "classic")
    assert object_errors(derived[0]) <= object_errors(classic[0])


def reference(uid: str) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = CTImageStorage, uid
    return item


def series_of(lists: dict[str, list[str]]) -> list[Dataset]:
    """Items of Referenced Series Sequence: the images by the series they are of."""
    found = [Dataset() for _ in lists]
    for item, (uid, images) in zip(found, lists.items(), strict=True):
        item.SeriesInstanceUID = uid
        item.ReferencedInstanceSequence = [reference(image) for image in images]
    return found


def listed(encoded: bytes) -> list[str]:
    """The images in the Referenced Series Sequence of a header."""
    return [
        image.ReferencedSOPInstanceUID
        for series in decode_header(encoded).get("ReferencedSeriesSequence", [])
        for image in series.ReferencedInstanceSequence
    ]


def test_a_frame_names_the_series_of_what_it_refers_to_and_no_others(
    tmp_path: Path, classic: list[Path], identity: Identity, provenance: Provenance
) -> None:
    """Its localizer; the object's list is of all frames, and may be as long as there are images."""
    localizer, others = make_uid("localizer"), [make_uid("other", index) for index in range(4000)]

    def change(data: Dataset) -> None:
        lists = {make_uid("localizers"): [localizer], make_uid("others"): others}
        data.ReferencedSeriesSequence = series_of(lists)
        data.SharedFunctionalGroupsSequence[0].ReferencedImageSequence = [reference(localizer)]

    path = make_enhanced(tmp_path / "m.dcm", classic, change=change)
    source, derived = write([path], identity, provenance, tmp_path / "d")
    for image in derived:
        assert [one.ReferencedSOPInstanceUID for one in image.ReferencedImageSequence] == [localizer]
        own, other = image.ReferencedSeriesSequence
        assert own.SeriesInstanceUID == source.headers[0].SeriesInstanceUID
        assert other.SeriesInstanceUID == make_uid("localizers")
        assert [one.ReferencedSOPInstanceUID for one in other.ReferencedInstanceSequence] == [localizer]


@pytest.mark.parametrize("bare", [False, True])
def test_a_converted_object_does_not_give_all_frames_the_list_of_all(tmp_path: Path, bare: bool) -> None:
    """highdicom puts what classic images have in common into the unassigned attributes, others only there."""
    others = [make_uid("other", number) for number in range(500)]

    def change(data: Dataset, index: int) -> None:
        data.ReferencedSeriesSequence = series_of({make_uid("others"): others})
        data.ReferencedImageSequence = [reference(others[index])]

    def change_object(data: Dataset) -> None:
        assert "ReferencedSeriesSequence" in data
        if bare:
            del data.ReferencedSeriesSequence

    classic = make_series(tmp_path / "s", change=change)
    path = make_legacy(tmp_path / "m.dcm", classic, change=change_object)
    (unassigned,) = (
        dcmread(path).SharedFunctionalGroupsSequence[0].UnassignedSharedConvertedAttributesSequence
    )
    assert "ReferencedSeriesSequence" in unassigned
    for at, encoded in enumerate(read_series([path]).encoded_headers):
        assert listed(encoded) == [others[at]]


@pytest.mark.parametrize("refers", [True, False])
@pytest.mark.parametrize("bare", [True, False])
def test_a_converted_image_keeps_its_own_list(tmp_path: Path, refers: bool, bare: bool) -> None:
    """With a list of the whole object beside it or not, and for whatever it names the images."""

    def own(index: int) -> list[str]:
        return [make_uid("other", index), make_uid("further", index)]

    def change(data: Dataset, index: int) -> None:
        data.ReferencedSeriesSequence = series_of({make_uid("others"): own(index)})
        data.SourceImageSequence = [reference(own(index)[1])]
        if refers:
            data.ReferencedImageSequence = [reference(own(index)[0])]

    def change_object(data: Dataset) -> None:
        data.ReferencedSeriesSequence = [] if bare else series_of({make_uid("others"): own(0) + own(1)})

    path = make_legacy(tmp_path / "m.dcm", make_series(tmp_path / "s", change=change), change=change_object)
    for at, encoded in enumerate(read_series([path]).encoded_headers):
        assert listed(encoded) == own(at)


@pytest.mark.parametrize(
    ("series_uid", "known", "referred", "named"),
    [
        ("1.2.3", ["1.2.1", "1.2.2"], ["1.2.2", "1.2.1", "1.2.2"], ["1.2.2", "1.2.1"]),
        ("1.02.3", ["1.2.01"], ["1.2.01"], ["1.2.01"]),
        ("1.2.3", ["1.2.1"], ["1.2.9"], []),
        ("1.2.3", [""], [""], []),
        ("1.2.3\\1.2.4", ["1.2.1"], ["1.2.1"], []),
        ("Serie", ["1.2.1"], ["1.2.1"], []),
    ],
    ids=["twice", "leading zeros", "another", "without UID", "two series", "no UID"],
)
def test_the_named_references_are_those_that_are_known_each_once(
    tmp_path: Path,
    classic: list[Path],
    series_uid: str,
    known: list[str],
    referred: list[str],
    named: list[str],
) -> None:
    def change(data: Dataset) -> None:
        data.ReferencedSeriesSequence = series_of({series_uid: known})
        data.PerFrameFunctionalGroupsSequence[1].ReferencedImageSequence = [
            reference(one) for one in referred
        ]

    series = read_series([make_enhanced(tmp_path / "m.dcm", classic, change=change)])
    for at, encoded in enumerate(series.encoded_headers):
        assert listed(encoded) == (named if at == 1 else [])


def test_a_frame_with_many_references_takes_time_in_proportion(tmp_path: Path, classic: list[Path]) -> None:
    """Work for each pair of them would be a quarter of a minute."""
    uids = [make_uid("other", number) for number in range(4000)]

    def change(data: Dataset) -> None:
        data.ReferencedSeriesSequence = series_of({"1.2.3": uids})
        data.PerFrameFunctionalGroupsSequence[0].ReferencedImageSequence = [reference(uid) for uid in uids]

    path = make_enhanced(tmp_path / "m.dcm", classic, change=change)
    headers = within(4, lambda: multiframe.read_multi_frame(path).headers)
    assert len(headers[0].ReferencedSeriesSequence[0].ReferencedInstanceSequence) == len(uids)
