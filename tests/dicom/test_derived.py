import subprocess
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless

from dicomnode import errors
from dicomnode.dicom.derived import Identity, Provenance, write_derived
from dicomnode.dicom.marks import carries_own_marks
from dicomnode.dicom.policy import MUST_STAND, TABLE
from dicomnode.dicom.provenance import IMPLEMENTATION_CLASS_UID
from dicomnode.dicom.series import CtSeries, read_series
from tests.fuzz import anatomy
from tests.makers import make_series, outside_circle, phantom

Errors = Callable[[Path], Counter[str]]

GEOMETRY = [
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "SliceThickness",
    "SliceLocation",
]
ACQUISITION = ["KVP", "Exposure", "XRayTubeCurrent", "ConvolutionKernel", "RescaleSlope", "RescaleIntercept"]
PATIENT = ["PatientName", "PatientID", "PatientBirthDate", "AccessionNumber", "StudyInstanceUID", "StudyDate"]


def halved_noise(series: CtSeries) -> np.ndarray:
    return (series.hounsfield * 0.5 + np.roll(series.hounsfield, 1, axis=2) * 0.5).astype(np.float32)


def raw(path: Path, keyword: str) -> bytes:
    element = dcmread(path).get_item(tag_for_keyword(keyword))
    return element.value or b""


def write(
    paths: list[Path], identity: Identity, provenance: Provenance, folder: Path
) -> tuple[CtSeries, list[Dataset]]:
    series = read_series(paths)
    written = write_derived(series, halved_noise(series), identity, provenance, folder)
    return series, [dcmread(path) for path in written]


def odd_numbers(data: Dataset, index: int) -> None:
    """Number texts that a rewriting library would change."""
    data.PixelSpacing = ["0.7500000", "0.7500000"]
    data.SliceThickness = "3.0000"
    data.ImagePositionPatient = ["-24.000", "-150.000", f"{-300 + 3 * index:.4f}"]
    data.ImageOrientationPatient = ["1.0", "0.0", "0.0", "0.0", "1.0", "0.0"]
    data.PatientName = "Müller^Jörg"
    data.SeriesDescription = "Thorax Übersicht"


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
    scanner, node = image.ContributingEquipmentSequence
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
    assert not [
        element for element in image.iterall() if element.tag.is_private or element.tag.group == 0x6000
    ]
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


def test_every_row_of_the_policy_names_an_attribute_once() -> None:
    keywords = [row.keyword for row in TABLE]
    assert [keyword for keyword in keywords if tag_for_keyword(keyword) is None] == []
    assert [keyword for keyword, count in Counter(keywords).items() if count > 1] == []
    assert all(row.why for row in TABLE)


ANY_VALUE = {
    **dict.fromkeys(["AE", "CS", "LO", "LT", "SH", "ST", "UC", "UR", "UT"], "X"),
    **dict.fromkeys(["US", "UL", "SS", "SL", "IS", "UV"], 1),
    **dict.fromkeys(["DS", "FD", "FL"], 1.5),
    **dict.fromkeys(["OB", "OW", "OV"], b"\0" * 8),
    "UI": "1.2.3",
    "DA": "19990101",
    "TM": "1111",
    "DT": "19990101111111",
    "PN": "X^Y",
}


def test_every_remove_row_is_gone(tmp_path: Path, identity: Identity, provenance: Provenance) -> None:
    """But for what the scanner's item of ContributingEquipmentSequence takes over."""
    removed = [row.keyword for row in TABLE if row.action.startswith("remove")]

    def everything(data: Dataset, index: int) -> None:
        for keyword in removed:
            vr = dictionary_VR(keyword)
            value = [Dataset()] if vr == "SQ" else ANY_VALUE[vr.split(" ")[0]]
            data.add_new(keyword, vr.split(" ")[0], value)

    paths = make_series(tmp_path / "s", slices=1, change=everything)
    assert [keyword for keyword in removed if keyword not in dcmread(paths[0])] == []
    _, (image,) = write(paths, identity, provenance, tmp_path / "d")
    ours = {"Manufacturer", "ManufacturerModelName", "SoftwareVersions", "DeviceUID"}
    assert {keyword for keyword in removed if keyword in image} == ours
    assert not [keyword for keyword in ours if image[keyword].value == ANY_VALUE[dictionary_VR(keyword)]]
    assert image.ContributingEquipmentSequence[0].StationName == "X"


def test_every_set_row_is_written(tmp_path: Path, identity: Identity, provenance: Provenance) -> None:
    _, images = write(make_series(tmp_path / "s", slices=1), identity, provenance, tmp_path / "d")
    assert [row.keyword for row in TABLE if row.action == "set" and row.keyword not in images[0]] == []


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


# --- own marks -------------------------------------------------------------------------


def test_marks_survive_de_identification(tmp_path: Path, identity: Identity, provenance: Provenance) -> None:
    _, images = write(make_series(tmp_path / "s", slices=1), identity, provenance, tmp_path / "d")
    image = images[0]
    # PS3.15 table E.1-1, Basic Profile: removed or replaced.
    for keyword in (
        "DerivationDescription",
        "SeriesDescription",
        "ImageComments",
        "SourceImageSequence",
        "DeviceUID",
        "InstanceCreatorUID",
        "ReferencedSeriesSequence",
    ):
        delattr(image, keyword)
    image.SOPInstanceUID, image.SeriesInstanceUID, image.StudyInstanceUID = "1.2.3", "1.2.4", "1.2.5"
    for item in image.ContributingEquipmentSequence:
        for keyword in ("ContributionDescription", "ContributionDateTime", "StationName"):
            if keyword in item:
                delattr(item, keyword)
    assert carries_own_marks(image)
    # Each kept mark is enough alone.
    for kept in ("ImageType", "DerivationCodeSequence", "ContributingEquipmentSequence"):
        alone = Dataset()
        alone[kept] = image[kept]
        assert carries_own_marks(alone), kept


def test_others_are_not_own(ct_series: list[Path]) -> None:
    header = dcmread(ct_series[0])
    assert not carries_own_marks(header)
    assert not carries_own_marks(Dataset())
    header.SOPInstanceUID = "2.25.12345"
    assert not carries_own_marks(header), "2.25 is everybody's root"


# --- object checkers -------------------------------------------------------------------


@pytest.mark.parametrize("vendor", ["siemens", "philips", "ge", "canon", "none"])
def test_no_errors_on_made_series(
    tmp_path: Path, identity: Identity, provenance: Provenance, object_errors: Errors, vendor
) -> None:
    series = read_series(make_series(tmp_path / "s", slices=1, vendor=vendor, padding=9))
    written = write_derived(series, series.hounsfield, identity, provenance, tmp_path / "d")
    assert object_errors(written[0]) == Counter()


def test_the_derived_series_is_one_entity_with_its_source(
    tmp_path: Path, identity: Identity, provenance: Provenance, program: Callable[[str], str]
) -> None:
    paths = make_series(tmp_path / "s")
    series = read_series(paths)
    written = write_derived(series, series.hounsfield, identity, provenance, tmp_path / "d")
    run = subprocess.run(
        [program("dcentvfy"), *map(str, paths), *map(str, written)], capture_output=True, text=True
    )
    assert run.stdout + run.stderr == ""


REAL = [
    "zoo/**/*.dcm",
    "ct/rider-011/1-00[1-2].dcm",
    "ct/tcga-de-a4ma/1-08[0-1].dcm",
    "ct/lung-dx-a0002/1-0[1-2].dcm",
]
REAL += [
    "ct/dcm-qa-ct/In__Philips__S21570__S2010__I10.dcm",
    "ct/covid19-ny-sbu/*axial*",
    "pairs/mayo/*z-58.6_*",
]
REAL += ["ct/adit-fruit/*H42s*00009.dcm", "ct/cmb-crc-01068-lung-kernel/1-04[0-1].dcm"]


@pytest.mark.parametrize("pattern", REAL)
def test_no_new_errors_on_real_images_and_pixels_come_back(
    shared_data: Path,
    tmp_path: Path,
    identity: Identity,
    provenance: Provenance,
    object_errors: Errors,
    pattern: str,
) -> None:
    checked = 0
    for number, path in enumerate(sorted(shared_data.glob(pattern))):
        try:
            series = read_series([path])
        except errors.SeriesRefused:
            continue
        written = write_derived(series, series.hounsfield, identity, provenance, tmp_path / str(number))[0]
        assert np.array_equal(dcmread(written).pixel_array, series.stored[0]), path.name
        assert object_errors(written) - object_errors(path) == Counter(), path.name
        checked += 1
    assert checked


@pytest.mark.parametrize("seed", range(40))
def test_what_can_be_read_can_be_written(
    tmp_path: Path, identity: Identity, provenance: Provenance, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    syntax = [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian, RLELossless][seed % 4]
    path = make_series(tmp_path / "s", slices=1, transfer_syntax=syntax, change=odd_numbers)[0]
    damaged = bytearray(path.read_bytes())
    for at in rng.integers(340, 1800, 3):
        damaged[at] = rng.choice([0, 0x20, 0x5C, 0xFF, damaged[at] ^ 1])
    path.write_bytes(damaged)
    try:
        series = read_series([path])
    except errors.SeriesRefused:
        return
    written = write_derived(series, series.hounsfield, identity, provenance, tmp_path / "d")[0]
    assert np.array_equal(dcmread(written).pixel_array, series.stored[0])


def test_foreign_character_sets_survive(tmp_path: Path, identity: Identity, provenance: Provenance) -> None:
    name = "Люкceмбypг"

    def cyrillic(data: Dataset, index: int) -> None:
        data.SpecificCharacterSet = "ISO_IR 144"
        data.PatientName = name
        data.SeriesDescription = name
        data.InstitutionName = name

    _, images = write(make_series(tmp_path / "s", change=cyrillic), identity, provenance, tmp_path / "d")
    assert images[0].PatientName == name
    assert images[0].SeriesDescription == f"AI-DN | {name}"
    assert images[0].ContributingEquipmentSequence[0].InstitutionName == name


def test_a_long_description_is_cut_at_64_characters(
    tmp_path: Path, identity: Identity, provenance: Provenance
) -> None:
    def change(data: Dataset, index: int) -> None:
        data.SeriesDescription = "x" * 64

    _, images = write(make_series(tmp_path / "s", change=change), identity, provenance, tmp_path / "d")
    assert len(images[0].SeriesDescription) == 64
    assert images[0].SeriesDescription.startswith("AI-DN | xxx")


def test_quality_reasons_are_shown_to_the_reader(
    tmp_path: Path, identity: Identity, provenance: Provenance
) -> None:
    labelled = replace(provenance, verdict="label", verdict_reasons=("bias in fat 3.1 HU",))
    _, images = write(make_series(tmp_path / "s"), identity, labelled, tmp_path / "d")
    assert "bias in fat 3.1 HU" in str(images[0].ImageComments)


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


def test_type_2_attributes_that_the_source_lacks_stand_there_empty(
    tmp_path: Path, identity: Identity, provenance: Provenance
) -> None:
    paths = make_series(tmp_path / "source", slices=2)
    for path in paths:
        data = dcmread(path)
        for keyword in ("AcquisitionNumber", "PatientPosition", "PositionReferenceIndicator"):
            delattr(data, keyword)
        data.save_as(path)
    for image in write(paths, identity, provenance, tmp_path / "out")[1]:
        assert all(keyword in image for keyword in MUST_STAND)
        assert image.AcquisitionNumber is None


def test_a_description_is_cut_at_64_bytes_too(
    tmp_path: Path, identity: Identity, provenance: Provenance, object_errors: Errors
) -> None:
    japanese = ["", "ISO 2022 IR 87"]
    for number, (terms, described) in enumerate([(japanese, "胸部単純" * 6), ("ISO_IR 192", "Грудь " * 9)]):

        def change(data: Dataset, index: int, terms=terms, described=described) -> None:
            data.SpecificCharacterSet, data.SeriesDescription = terms, described

        paths = make_series(tmp_path / f"s{number}", slices=1, change=change)
        (image,) = write(paths, identity, provenance, tmp_path / f"d{number}")[1]
        assert image.SeriesDescription.startswith(f"AI-DN | {described[:10]}")
        assert len(raw(tmp_path / f"d{number}" / "00001.dcm", "SeriesDescription")) <= 64
        assert object_errors(tmp_path / f"d{number}" / "00001.dcm") == Counter()


def test_a_description_in_letters_that_the_source_does_not_name_stays_as_it_is(
    tmp_path: Path, identity: Identity, provenance: Provenance
) -> None:
    described = "Łódź Übersicht".encode()

    def change(data: Dataset, index: int) -> None:
        del data.SpecificCharacterSet
        data.SeriesDescription = described.decode("latin-1")

    write(make_series(tmp_path / "s", slices=1, change=change), identity, provenance, tmp_path / "d")
    assert raw(tmp_path / "d" / "00001.dcm", "SeriesDescription").rstrip() == b"AI-DN | " + described


@pytest.mark.parametrize("keyword", ["StudyDescription", "Rows"])
def test_an_undefined_length_where_none_may_be_does_not_get_into_the_derived_image(
    tmp_path: Path, identity: Identity, provenance: Provenance, keyword: str
) -> None:
    path = make_series(tmp_path / "s", slices=1, transfer_syntax=ImplicitVRLittleEndian)[0]
    content, tag = path.read_bytes(), tag_for_keyword(keyword)
    assert tag is not None
    old = anatomy.find(content, tag)
    place = old or next(one for one in anatomy.elements(content) if one.tag > tag)
    value = anatomy.value(content, old) + anatomy.SEQUENCE_END
    encoded = anatomy.encode(tag, b"", value, place.encoding, anatomy.UNDEFINED)
    path.write_bytes(content[: place.at] + encoded + content[old.end if old else place.at :])
    series = read_series([path])
    (derived,) = write_derived(series, series.hounsfield, identity, provenance, tmp_path / "out")
    written = dcmread(derived)
    assert [
        one.tag for one in anatomy.elements(derived.read_bytes()) if one.length == anatomy.UNDEFINED
    ] == []
    assert written.Rows == 64
    assert written.SpecificCharacterSet == "ISO_IR 100"
    assert written.PatientName == "Phantom^Textured"
