"""Derived images: what they keep to the byte, what they say of themselves, and which pixels they hold."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import (
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGLSNearLossless,
    RLELossless,
)

from dicomnode import errors
from dicomnode.dicom.derived import Identity, Provenance, write_derived
from dicomnode.dicom.marks import carries_own_marks
from dicomnode.dicom.provenance import IMPLEMENTATION_CLASS_UID
from dicomnode.dicom.series import read_series
from tests.dicom.rewritten import halved_noise, odd_numbers, raw, write
from tests.makers import make_series, outside_circle, phantom

GEOMETRY = [
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "SliceThickness",
    "SliceLocation",
]
ACQUISITION = ["KVP", "Exposure", "XRayTubeCurrent", "ConvolutionKernel", "RescaleSlope", "RescaleIntercept"]
PATIENT = ["PatientName", "PatientID", "PatientBirthDate", "AccessionNumber", "StudyInstanceUID", "StudyDate"]


@pytest.mark.parametrize(
    "syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian, RLELossless]
)
def test_geometry_acquisition_and_patient_are_byte_identical(
    tmp_path: Path, identity: Identity, provenance: Provenance, syntax
) -> None:
    paths = make_series(tmp_path / "s", slices=3, transfer_syntax=syntax, change=odd_numbers)
    series = read_series(paths)
    for header in series.headers:
        # Reading values converts elements in place; that must not reach the output.
        assert header.PixelSpacing[0] == 0.75
    written = write_derived(series, series.hounsfield, identity, provenance, tmp_path / "d")
    for source, derived in zip(paths, written, strict=True):
        for keyword in (*GEOMETRY, *ACQUISITION, *PATIENT):
            assert raw(source, keyword) == raw(derived, keyword), keyword
    assert dcmread(written[0]).SeriesDescription == "AI-DN | Thorax Übersicht"


@pytest.mark.parametrize("signed", [False, True])
def test_pixels_exact_to_half_a_step_padding_exact(
    tmp_path: Path, identity: Identity, provenance: Provenance, signed: bool
) -> None:
    padding = -2000 if signed else 9
    form = {"signed": signed, "bits_stored": 16, "padding": padding, "intercept": 0 if signed else -1024}
    series = read_series(make_series(tmp_path / "s", slices=2, **form))
    result = halved_noise(series)
    written = write_derived(series, result, identity, provenance, tmp_path / "d")
    corners = outside_circle(64, 64)
    for index, path in enumerate(written):
        stored = dcmread(path).pixel_array
        assert (stored[corners] == padding).all()
        assert not (stored[~corners] == padding).any()
        measured = ~series.padding[index]
        difference = np.abs(stored[measured].astype(float) + form["intercept"] - result[index][measured])
        assert difference.max() <= 1.01  # half a step, or one where a value stepped off the padding value
        assert np.mean(difference <= 0.501) > 0.99
    back = read_headers_again(written)
    assert back == {"already-enhanced"}


def read_headers_again(paths: tuple[Path, ...]) -> set[str]:
    try:
        read_series(paths)
    except errors.SeriesRefused as refused:
        return {refused.rule}
    return set()


def test_values_beyond_the_stored_range_are_clipped(
    tmp_path: Path, identity: Identity, provenance: Provenance
) -> None:
    series = read_series(make_series(tmp_path / "s", slices=1))
    result = series.hounsfield.copy()
    result[0, 0, 0], result[0, 0, 1] = -9000, 9000
    stored = dcmread(write_derived(series, result, identity, provenance, tmp_path / "d")[0]).pixel_array
    assert (stored[0, 0], stored[0, 1]) == (0, 4095)


def test_what_the_header_says(tmp_path: Path, identity: Identity, provenance: Provenance) -> None:
    def private(data: Dataset, index: int) -> None:
        data.private_block(0x0029, "SIEMENS CSA", create=True).add_new(0x10, "OB", b"\1\2")
        code = Dataset()
        code.private_block(0x0009, "HIDDEN", create=True).add_new(0x01, "LO", "deep")
        code.CodeValue = "T-D3000"
        data.AnatomicRegionSequence = [code]
        data.SmallestImagePixelValue = 3
        data.IconImageSequence = [Dataset()]
        data.add_new(0x60003000, "OW", b"\0\0")
        data.EstimatedDoseSaving = 30.0
        data.TimezoneOffsetFromUTC = "-0530"
        data.StationName = "CT01"
        data.OriginalAttributesSequence = [Dataset()]
        data.PerformedProcedureStepID = "PPS1"
        other, archive = Dataset(), Dataset()
        other.SeriesInstanceUID, archive.Manufacturer = "1.2.3", "an archive"
        data.ReferencedSeriesSequence, data.ContributingEquipmentSequence = [other], [archive]
        for item in (other, archive):
            item.add_new(0x60020010, "US", 1)
            item.add_new(0x50000005, "US", 1)

    series, images = write(make_series(tmp_path / "s", change=private), identity, provenance, tmp_path / "d")
    image = images[0]
    assert image.ImageType == ["DERIVED", "PRIMARY", "AXIAL", "AI_DENOISED"]
    assert image.RescaleType == "HU"
    assert image.SeriesNumber == 3 + identity.series_number_offset
    assert image.ContentQualification == "RESEARCH"
    assert [code.CodeValue for code in image.DerivationCodeSequence] == ["113087", "LDCT100"]
    assert image.SourceImageSequence[0].ReferencedSOPInstanceUID == series.headers[0].SOPInstanceUID
    assert image.SourceImageSequence[0].SpatialLocationsPreserved == "YES"
    assert image.ReferencedSeriesSequence[0].SeriesInstanceUID == series.series_instance_uid
    archive, scanner, node = image.ContributingEquipmentSequence
    assert archive.Manufacturer == "an archive"
    assert (scanner.Manufacturer, scanner.StationName) == ("SIEMENS", "CT01")
    assert node.PurposeOfReferenceCodeSequence[0].CodeValue == "109102"
    assert any("weights abab" in version for version in node.SoftwareVersions)
    assert image.Manufacturer == "dicomnode"
    assert "StationName" not in image
    assert (image.SeriesDate, image.SeriesTime) == ("20260304", "070015")
    assert "start step 12 of 50" in image.DerivationDescription
    assert "0.25" in image.DerivationDescription
    assert "noise won in 3 of 3 slices" in image.DerivationDescription
    gone = [
        "SmallestImagePixelValue",
        "IconImageSequence",
        "EstimatedDoseSaving",
        "OriginalAttributesSequence",
    ]
    assert not [keyword for keyword in (*gone, "PerformedProcedureStepID") if keyword in image]
    groups = {element.tag.group for element in image.iterall()}
    assert not [group for group in groups if group % 2 or group & 0xFF00 in (0x5000, 0x6000)]
    assert image.AnatomicRegionSequence[0].CodeValue == "T-D3000"


def test_file_meta_and_preamble_are_ours(tmp_path: Path, identity: Identity, provenance: Provenance) -> None:
    paths = make_series(tmp_path / "s", slices=1)
    paths[0].write_bytes(b"MZ" + b"\x90" * 126 + paths[0].read_bytes()[128:])
    series = read_series(paths)
    path = write_derived(series, series.hounsfield, identity, provenance, tmp_path / "d")[0]
    image = dcmread(path)
    assert path.read_bytes()[:128] == b"\0" * 128
    assert image.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
    assert image.file_meta.MediaStorageSOPInstanceUID == image.SOPInstanceUID
    assert image.file_meta.ImplementationClassUID == IMPLEMENTATION_CLASS_UID
    assert image.file_meta.SourceApplicationEntityTitle == "DICOMNODE"


def test_the_scanner_may_stay_the_manufacturer(
    tmp_path: Path, identity: Identity, provenance: Provenance
) -> None:
    keeping = replace(identity, keep_manufacturer=True, image_type2="SECONDARY")
    _, images = write(make_series(tmp_path / "s"), keeping, provenance, tmp_path / "d")
    assert images[0].Manufacturer == "SIEMENS"
    assert images[0].ImageType[1] == "SECONDARY"
    assert carries_own_marks(images[0])


def test_the_same_input_gives_the_same_bytes(
    tmp_path: Path, identity: Identity, provenance: Provenance
) -> None:
    series = read_series(make_series(tmp_path / "s", slices=2))
    once = write_derived(series, series.hounsfield, identity, provenance, tmp_path / "a")
    again = write_derived(series, series.hounsfield, identity, provenance, tmp_path / "b")
    assert [path.read_bytes() for path in once] == [path.read_bytes() for path in again]


def test_missing_and_repeated_instance_numbers_become_positions(
    tmp_path: Path, identity: Identity, provenance: Provenance
) -> None:
    def change(data: Dataset, index: int) -> None:
        data.InstanceNumber = 7

    _, images = write(make_series(tmp_path / "s", change=change), identity, provenance, tmp_path / "d")
    assert [image.InstanceNumber for image in images] == [1, 2, 3, 4, 5, 6]


def test_lossy_arrivals_say_so(shared_data: Path, tmp_path: Path, identity, provenance) -> None:
    path = next((shared_data / "zoo" / "cornerstone").glob("*JPEG2000TransferSyntax*"))
    source = dcmread(path)
    for keyword in ("LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod"):
        if keyword in source:
            delattr(source, keyword)
    source.save_as(tmp_path / "silent.dcm")
    _, images = write([tmp_path / "silent.dcm"], identity, provenance, tmp_path / "d")
    assert images[0].LossyImageCompression == "01"
    assert images[0].LossyImageCompressionMethod == "ISO_15444_1"
    assert images[0].LossyImageCompressionRatio > 1


def test_lossy_arrivals_say_so_though_they_said_it_in_another_representation(
    tmp_path: Path, identity: Identity, provenance: Provenance
) -> None:
    def change(data: Dataset, index: int) -> None:
        data.add_new("LossyImageCompression", "US", 1)

    paths = make_series(tmp_path / "s", slices=1, transfer_syntax=JPEGLSNearLossless, change=change)
    _, (image,) = write(paths, identity, provenance, tmp_path / "d")
    assert (image["LossyImageCompression"].VR, image.LossyImageCompression) == ("CS", "01")


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_impossible_results_are_not_written(tmp_path: Path, identity, provenance, bad: float) -> None:
    series = read_series(make_series(tmp_path / "s", slices=2))
    result = series.hounsfield.copy()
    result[1, 2, 3] = bad
    with pytest.raises(ValueError, match="not finite"):
        write_derived(series, result, identity, provenance, tmp_path / "d")
    with pytest.raises(ValueError, match="shape"):
        write_derived(series, series.hounsfield[:1], identity, provenance, tmp_path / "d")
    assert not (tmp_path / "d").exists()


@pytest.mark.parametrize(
    ("part", "thickness_mm", "said", "expected"),
    [("HEAD", 1, "", "YES"), ("NECK", 3, "NO", "NO"), ("HEAD", 5, "", ""), ("CHEST", 1, "", "")],
)
def test_thin_slices_of_a_head_may_show_a_face(
    tmp_path: Path, identity: Identity, provenance: Provenance, part, thickness_mm, said, expected
) -> None:
    def change(data: Dataset, index: int) -> None:
        data.BodyPartExamined = part
        if said:
            data.RecognizableVisualFeatures = said

    paths = make_series(tmp_path / "s", slices=2, slice_thickness_mm=thickness_mm, change=change)
    _, images = write(paths, identity, provenance, tmp_path / "d")
    assert {image.get("RecognizableVisualFeatures", "") for image in images} == {expected}


def test_the_source_stays_untouched(tmp_path: Path, identity: Identity, provenance: Provenance) -> None:
    paths = make_series(tmp_path / "s")
    before = [path.read_bytes() for path in paths]
    series = read_series(paths)
    hounsfield = series.hounsfield.copy()
    write_derived(series, hounsfield + phantom(6), identity, provenance, tmp_path / "d")
    assert [path.read_bytes() for path in paths] == before
    assert np.array_equal(series.hounsfield, hounsfield)
