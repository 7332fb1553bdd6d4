from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from dicomnode import errors
from dicomnode.dicom.series import read_headers, read_series
from tests.makers import make_series, make_uid, outside_circle, phantom

Change = Callable[[Dataset, int], None]


def put(**values: object) -> Change:
    """A change that sets elements in every image."""

    def change(data: Dataset, index: int) -> None:
        for keyword, value in values.items():
            setattr(data, keyword, value)

    return change


def put_in(at: int, **values: object) -> Change:
    """A change that sets elements in one image."""

    def change(data: Dataset, index: int) -> None:
        if index == at:
            put(**values)(data, index)

    return change


def without(*keywords: str) -> Change:
    def change(data: Dataset, index: int) -> None:
        for keyword in keywords:
            delattr(data, keyword)

    return change


# --- what is read ----------------------------------------------------------------------


def test_hounsfield_positions_and_facts(tmp_path: Path) -> None:
    volume = phantom(5)
    paths = make_series(
        tmp_path / "s", volume, slice_spacing_mm=2.5, slice_thickness_mm=5, kernel=["I30f", "3"]
    )
    series = read_series(paths[::-1])
    assert series.hounsfield.dtype == np.float32
    assert np.abs(series.hounsfield - volume).max() <= 0.501
    assert series.source_paths == tuple(paths)
    assert series.slice_spacing_mm == pytest.approx(2.5)
    assert series.slice_thickness_mm == 5
    assert series.pixel_spacing_mm == (0.75, 0.75)
    assert series.convolution_kernel == "I30f\\3"
    assert (series.manufacturer, series.model) == ("SIEMENS", "SOMATOM Definition AS+")
    assert series.padding is None
    assert all("PixelData" not in header for header in series.headers)


@pytest.mark.parametrize("orientation", [(1, 0, 0, 0, 1, 0), (-1, 0, 0, 0, 1, 0), (-1, 0, 0, 0, -1, 0)])
def test_slices_run_from_feet_to_head_whatever_the_patient_position(tmp_path: Path, orientation) -> None:
    paths = make_series(tmp_path / "s", slices=4, orientation=orientation)
    heights = [header.ImagePositionPatient[2] for header in read_series(paths).headers]
    assert heights == sorted(heights)


@pytest.mark.parametrize(
    "syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian, RLELossless, JPEG2000Lossless]
)
@pytest.mark.parametrize("signed", [False, True])
def test_transfer_syntaxes_give_the_same_series(tmp_path: Path, syntax, signed) -> None:
    form = {"signed": signed, "bits_stored": 16, "intercept": 0 if signed else -1024, "padding": 31}
    plain = read_series(make_series(tmp_path / "a" / "s", slices=2, **form))
    other = read_series(make_series(tmp_path / "b" / "s", slices=2, transfer_syntax=syntax, **form))
    assert np.array_equal(plain.stored, other.stored)
    assert np.array_equal(plain.hounsfield, other.hounsfield)
    assert plain.content_digest == other.content_digest
    assert plain.source_digests != other.source_digests


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ExplicitVRBigEndian])
def test_negative_values_need_no_sign_in_the_unused_bits(tmp_path: Path, syntax) -> None:
    """Twelve bits, signed: 0F00 means -256 whether the other four repeat the sign or not (PS3.5 8.1.1)."""

    def without_sign(data: Dataset, index: int) -> None:
        data.PixelData = (np.frombuffer(data.PixelData, np.uint16) & 0x0FFF).tobytes()

    form = {"signed": True, "bits_stored": 12, "intercept": 0}
    plain = read_series(make_series(tmp_path / "a" / "s", slices=2, **form))
    paths = make_series(tmp_path / "b" / "s", slices=2, change=without_sign, transfer_syntax=syntax, **form)
    other = read_series(paths)
    assert plain.hounsfield.min() < -500
    assert np.array_equal(plain.hounsfield, other.hounsfield)
    assert plain.content_digest == other.content_digest
    assert np.array_equal(other.stored[0], dcmread(other.source_paths[0]).pixel_array)


def test_values_beyond_the_stored_bits_are_refused(tmp_path: Path) -> None:
    """Some with their sign and some too large: both cannot be what twelve bits say."""

    def too_large(data: Dataset, index: int) -> None:
        values = np.frombuffer(data.PixelData, np.int16).copy()
        values[:3] = (-256, 2500, 100)
        data.PixelData = values.tobytes()

    paths = make_series(tmp_path / "s", slices=2, signed=True, intercept=0, change=too_large)
    with pytest.raises(errors.BrokenInstance, match="need more bits than BitsStored"):
        read_series(paths)


def test_content_digest_follows_pixels_and_rescale(tmp_path: Path) -> None:
    volume = phantom(2)
    digest = read_series(make_series(tmp_path / "a" / "s", volume)).content_digest
    volume[1, 3, 3] += 1
    assert read_series(make_series(tmp_path / "b" / "s", volume)).content_digest != digest
    shifted = make_series(tmp_path / "c" / "s", phantom(2), change=put(RescaleIntercept="-1023"))
    assert read_series(shifted).content_digest != digest


def test_slope_and_intercept_of_each_slice(tmp_path: Path) -> None:
    def change(data: Dataset, index: int) -> None:
        if index:
            data.RescaleSlope, data.RescaleIntercept = "0.5", "-512"

    series = read_series(make_series(tmp_path / "s", phantom(2, noise_hu=0), change=change))
    stored = series.stored.astype(float)
    assert np.array_equal(series.hounsfield[0], stored[0] - 1024)
    assert np.array_equal(series.hounsfield[1], stored[1] / 2 - 512)


@pytest.mark.parametrize(("signed", "written"), [(True, 63536), (True, -2000), (False, 63536)])
def test_padding_is_masked_even_with_the_wrong_sign(tmp_path: Path, signed: bool, written: int) -> None:
    padding = -2000 if signed else 63536

    def change(data: Dataset, index: int) -> None:
        data.add_new("PixelPaddingValue", "US" if written > 0 else "SS", written)

    series = read_series(
        make_series(
            tmp_path / "s",
            slices=2,
            signed=signed,
            bits_stored=16,
            intercept=0 if signed else -1024,
            padding=padding,
            change=change,
        )
    )
    corners = outside_circle(64, 64)
    assert series.padding is not None
    assert series.padding[:, corners].all()
    assert (series.hounsfield[:, corners] == -1000).all()
    assert not series.padding[:, 20:44, 20:44].any()


def test_floor_outside_the_reconstruction_circle_is_padding(tmp_path: Path) -> None:
    volume = phantom(1, noise_hu=5)
    volume[:, outside_circle(64, 64)] = -1024
    volume[0, 32, 32] = -1024
    series = read_series(make_series(tmp_path / "s", volume))
    assert series.padding is not None
    assert series.padding[0, 0, 0]
    assert not series.padding[0, 32, 32]


def test_embedded_overlay_bits_are_masked(tmp_path: Path) -> None:
    def change(data: Dataset, index: int) -> None:
        pixels = np.frombuffer(data.PixelData, "<u2").copy()
        pixels[::3] |= 0x1000
        data.PixelData = pixels.tobytes()
        data.add_new(0x60000010, "US", 64)
        data.add_new(0x60000100, "US", 16)
        data.add_new(0x60000102, "US", 12)

    plain = read_series(make_series(tmp_path / "a" / "s", slices=1))
    overlaid = read_series(make_series(tmp_path / "b" / "s", slices=1, change=change))
    assert np.array_equal(plain.stored, overlaid.stored)


def test_single_image_takes_its_thickness_as_spacing(tmp_path: Path) -> None:
    paths = make_series(tmp_path / "s", slices=1, slice_thickness_mm=1.25)
    assert read_series(paths).slice_spacing_mm == 1.25
    with pytest.raises(errors.UnsupportedGeometry, match="single image"):
        read_series(paths, allow_single=False)


def test_step_and_shoot_acquisitions_are_one_series(tmp_path: Path) -> None:
    def change(data: Dataset, index: int) -> None:
        data.AcquisitionNumber = 1 + index // 2

    assert read_series(make_series(tmp_path / "s", change=change)).slices == 6


def test_positions_rounded_to_a_tenth_are_even(tmp_path: Path) -> None:
    def change(data: Dataset, index: int) -> None:
        data.ImagePositionPatient = [0, 0, round(0.625 * index, 1)]

    series = read_series(make_series(tmp_path / "s", slice_thickness_mm=0.625, change=change))
    assert series.slice_spacing_mm == pytest.approx(0.62, abs=0.01)


def test_headers_alone(ct_series: list[Path]) -> None:
    headers = read_headers(ct_series)
    assert [header.InstanceNumber for header in headers] == [1, 2, 3, 4, 5, 6]
    assert all("PixelData" not in header for header in headers)


# --- what is refused -------------------------------------------------------------------

REFUSED_IN_EVERY_IMAGE = [
    ("not-ct", put(Modality="MR")),
    ("not-ct", without("Modality")),
    ("not-ct", put(SOPClassUID="1.2.840.10008.5.1.4.1.1.7")),
    ("broken-instance", put(SOPClassUID="1.2.840.10008.5.1.4.1.1.2.1")),
    ("localizer", put(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])),
    ("localizer", put(ScanOptions="SCOUT MODE")),
    ("not-axial", put(ImageType=["DERIVED", "SECONDARY", "AXIAL"])),
    ("not-axial", put(ImageType=["DERIVED", "SECONDARY", "REFORMATTED", "AVERAGE"])),
    ("not-axial", put(ImageType=["DERIVED ", "PRIMARY", "AXIAL", "CT_SOM5 MPR"])),
    ("not-axial", put(ImageType=["DERIVED", "SECONDARY", "DOSE_INFO"])),
    ("not-axial", put(ImageType=["ORIGINAL", "PRIMARY"])),
    ("not-axial", without("ImageType")),
    ("measured-projections", lambda data, index: data.add_new(0x70311001, "FL", 0.5)),
    ("not-axial", put(ImageOrientationPatient=[1, 0, 0, 0, 0, -1])),
    ("not-axial", put(ImageOrientationPatient=[0, 1, 0, 0, 0, -1])),
    ("already-enhanced", put(ImageType=["DERIVED", "PRIMARY", "AXIAL", "AI_DENOISED"])),
    ("already-enhanced", put(Manufacturer="dicomnode")),
    ("not-hounsfield", put(RescaleType="US")),
    ("not-hounsfield", put(RescaleSlope="0")),
    ("not-hounsfield", put(RescaleSlope="-1")),
    ("not-hounsfield", without("RescaleIntercept")),
    ("not-hounsfield", put(ImageType=["DERIVED", "PRIMARY", "AXIAL", "VMI"])),
    ("not-hounsfield", put(ModalityLUTSequence=[Dataset()])),
    ("burned-in-text", put(BurnedInAnnotation="YES")),
    ("unsupported-geometry", without("ImagePositionPatient")),
    ("unsupported-geometry", without("ImageOrientationPatient")),
    ("unsupported-geometry", without("PixelSpacing")),
    ("unsupported-geometry", put(ImageOrientationPatient=[1, 0, 0, 0, 0, 0])),
    ("gantry-tilt", put(ImageOrientationPatient=[1, 0, 0, 0, 0.9483, -0.3173])),
    ("pixels-not-square", put(PixelSpacing=["0.75", "0.8"])),
    ("localizer", put(ScanOptions="SCANOSCOPE")),
    ("localizer", put(ScanOptions=["HELICAL", "DUAL SCOUT_MODE"])),
    ("localizer", put(ImageType=["ORIGINAL", "PRIMARY", "AXIAL", "CT_SOM5 TOPO"])),
    ("not-axial", put(ImageType=["DERIVED", "PRIMARY", "AXIAL", "SUBTRACTION"])),
    ("not-axial", put(ImageType=["DERIVED", "PRIMARY", "AXIAL", "MAXIMUM"])),
    ("not-axial", put(ImageType=["DERIVED", "PRIMARY", "AXIAL", "STD_DEVIATION"])),
    ("not-axial", put(ImageType=["DERIVED", "PRIMARY", "AXIAL", "MPR_CURVED"])),
    ("not-hounsfield", put(ImageType=["DERIVED", "PRIMARY", "AXIAL", "DE MONOENERGETIC"])),
    *(
        ("not-hounsfield", put(ImageType=["ORIGINAL", "PRIMARY", "AXIAL", *words]))
        for words in (["CT_SOM5 SPI", "DE VNC"], ["MONOE70"], ["SPI 55KEV"], ["IODINENOWATER"], ["ZEFF"])
    ),
    ("unsupported-geometry", put(PixelSpacing=["0", "0"])),
    ("broken-instance", without("PixelData")),
    ("broken-instance", put(PixelData=b"\0" * 100)),
    ("broken-instance", put(Rows=30000, Columns=30000)),
    ("broken-instance", put(Rows=0)),
    ("broken-instance", put(BitsStored=40)),
    ("broken-instance", put(HighBit=15)),
    ("broken-instance", put(BitsStored=8, HighBit=7)),
    ("broken-instance", put(SamplesPerPixel=3)),
    ("broken-instance", put(PhotometricInterpretation="MONOCHROME1")),
    ("broken-instance", put(PixelRepresentation=2)),
    ("broken-instance", put(NumberOfFrames=4)),
    ("broken-instance", without("SeriesInstanceUID")),
    ("broken-instance", put(StudyInstanceUID=["1.2.3", "1.2.4"])),
    ("broken-instance", put(SeriesInstanceUID="../../etc/passwd")),
]


@pytest.mark.parametrize(("rule", "change"), REFUSED_IN_EVERY_IMAGE)
def test_refused_by_rule(tmp_path: Path, rule: str, change: Change) -> None:
    paths = make_series(tmp_path / "s", slices=3, change=change)
    with pytest.raises(errors.SeriesRefused) as refused:
        read_series(paths)
    assert refused.value.rule == rule
    assert len(str(refused.value)) > 20


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize(
    "syntax", [ExplicitVRLittleEndian, ExplicitVRBigEndian, RLELossless, JPEGLSLossless, JPEG2000Lossless]
)
def test_values_beyond_bits_stored_are_refused_in_every_encoding(
    tmp_path: Path, syntax: str, signed: bool
) -> None:
    """Cut to 12 bits 5000 would be 904, soft tissue for metal; as it is others would read it so."""
    volume = phantom(2, 64, 64)
    volume[:, 30:34, 30:34] = -3000 if signed else 5000
    options = {"signed": signed, "intercept": 0 if signed else -1024, "bits_stored": 16}
    paths = make_series(tmp_path / "s", volume, transfer_syntax=syntax, **options)
    assert read_series(paths).slices == 2
    for path in paths:
        data = dcmread(path)
        data.BitsStored, data.HighBit = 12, 11
        data.save_as(path)
    with pytest.raises(errors.BrokenInstance, match="more bits than BitsStored"):
        read_series(paths)


@pytest.mark.parametrize(
    "words", [["CT_SOM5 SPI DUAL M_0.5"], ["HELIX"], ["CT_SOM8 SPI", "MONOCHROME2"], ["ADVNCED"], ["STD"]]
)
def test_words_of_makers_that_say_nothing_of_spectra_refuse_nothing(tmp_path: Path, words: list[str]) -> None:
    change = put(ImageType=["ORIGINAL", "PRIMARY", "AXIAL", *words])
    assert read_series(make_series(tmp_path / "s", slices=2, change=change)).slices == 2


MIXED = [
    put_in(2, ConvolutionKernel="B70f"),
    put_in(2, SeriesInstanceUID="1.2.3"),
    put_in(2, PatientID="OTHER"),
    put_in(2, SliceThickness="5"),
    put_in(2, KVP="100"),
    put_in(2, PixelSpacing=["0.8", "0.8"]),
    put_in(2, ImageOrientationPatient=[0.999, 0.04470, 0, -0.04470, 0.999, 0]),
    put_in(2, FrameOfReferenceUID="1.2.3"),
    put_in(2, ContrastBolusAgent="APPLIED"),
    lambda data, index: setattr(data, "AcquisitionNumber", index % 2),
]


@pytest.mark.parametrize("change", MIXED)
def test_mixed_series(tmp_path: Path, change: Change) -> None:
    with pytest.raises(errors.MixedSeries):
        read_series(make_series(tmp_path / "s", change=change))


def test_mixed_sizes(tmp_path: Path) -> None:
    large = make_series(tmp_path / "large", phantom(2, 64, 64), series_uid="1.2.3", study_uid="1.2")
    small = make_series(tmp_path / "small", phantom(2, 32, 32), series_uid="1.2.3", study_uid="1.2")
    with pytest.raises(errors.MixedSeries):
        read_series([*large, *small])


def test_gap_names_the_missing_positions(tmp_path: Path) -> None:
    paths = make_series(tmp_path / "s", slices=8)
    with pytest.raises(errors.GapInSeries, match=r"2 positions are missing at -291\.00, -288\.00 mm"):
        read_series([*paths[:3], *paths[5:]])


def test_one_slice_elsewhere_is_a_gap_of_many(tmp_path: Path) -> None:
    change = put_in(7, ImagePositionPatient=[-24, -150, 1000])
    with pytest.raises(errors.GapInSeries, match=r"and \d+ more"):
        read_series(make_series(tmp_path / "s", slices=8, change=change))


def test_uneven_spacing(tmp_path: Path) -> None:
    change = put_in(3, ImagePositionPatient=[-24, -150, -290])
    with pytest.raises(errors.UnevenSpacing, match="not even"):
        read_series(make_series(tmp_path / "s", change=change))


def test_duplicates(tmp_path: Path) -> None:
    paths = make_series(tmp_path / "s")
    with pytest.raises(errors.DuplicatePosition, match="SOP Instance UID"):
        read_series([*paths, paths[2]])
    copy = make_series(
        tmp_path / "t",
        series_uid=make_uid("one"),
        study_uid="1.2",
        change=put_in(3, ImagePositionPatient=[-24, -150, -294]),
    )
    with pytest.raises(errors.DuplicatePosition, match=r"-294\.00 mm"):
        read_series(copy)


def test_sheared_stack_is_gantry_tilt(tmp_path: Path) -> None:
    def change(data: Dataset, index: int) -> None:
        data.ImagePositionPatient = [-24, -150 + index, -300 + 3 * index]

    with pytest.raises(errors.GantryTilt, match=r"sheared by 18\.4 degrees"):
        read_series(make_series(tmp_path / "s", change=change))


def test_not_dicom_missing_and_none(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no DICOM here")
    (tmp_path / "empty").touch()
    for path in (tmp_path / "text", tmp_path / "empty", tmp_path / "absent", tmp_path):
        with pytest.raises(errors.BrokenInstance):
            read_series([path])
    with pytest.raises(errors.BrokenInstance, match="no files"):
        read_series([])


def test_deflated_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    paths = make_series(tmp_path / "s", slices=1, transfer_syntax=DeflatedExplicitVRLittleEndian)
    with pytest.raises(errors.Undecodable, match="Deflated"):
        read_series(paths)


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, RLELossless, JPEG2000Lossless])
def test_a_file_cut_anywhere_is_refused_not_a_crash(tmp_path: Path, syntax) -> None:
    path = make_series(tmp_path / "s", slices=1, transfer_syntax=syntax)[0]
    whole = path.read_bytes()
    for cut in (0, 100, 132, 140, 300, 700, 1300, 1600, 1900, len(whole) // 2, len(whole) - 400):
        path.write_bytes(whole[:cut])
        with pytest.raises(errors.SeriesRefused):
            read_series([path])


@pytest.mark.parametrize("seed", range(40))
def test_damaged_bytes_give_a_series_or_a_refusal(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    syntax = [ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless, JPEG2000Lossless][seed % 4]
    path = make_series(tmp_path / "s", slices=1, transfer_syntax=syntax)[0]
    damaged = bytearray(path.read_bytes())
    limit = min(len(damaged), 3000)
    for at in rng.integers(128, limit, 12):
        damaged[at] = int(rng.integers(0, 256))
    path.write_bytes(damaged)
    try:
        series = read_series([path])
    except errors.SeriesRefused:
        return
    assert np.isfinite(series.hounsfield).all()


def test_codestream_must_have_the_size_of_the_header(tmp_path: Path) -> None:
    path = make_series(tmp_path / "s", slices=1, transfer_syntax=JPEG2000Lossless)[0]
    data = dcmread(path)
    data.Rows = 4000
    data.save_as(path)
    with pytest.raises(errors.BrokenInstance, match="codestream is 64 x 64"):
        read_series([path])


def test_deep_sequences_are_refused(tmp_path: Path) -> None:
    def change(data: Dataset, index: int) -> None:
        for _ in range(60):
            inner = Dataset()
            inner.ReferencedStudySequence = data.get("ReferencedStudySequence", [])
            data.ReferencedStudySequence = [inner]

    with pytest.raises(errors.BrokenInstance):
        read_series(make_series(tmp_path / "s", slices=1, change=change))


def test_messages_name_no_patient(tmp_path: Path) -> None:
    for rule, change in REFUSED_IN_EVERY_IMAGE:
        folder = tmp_path / str(abs(hash((rule, id(change)))))
        with pytest.raises(errors.SeriesRefused) as refused:
            read_series(make_series(folder, slices=1, change=change))
        assert "Phantom" not in str(refused.value)
        assert "PHANTOM-1" not in str(refused.value)
