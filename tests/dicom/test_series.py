"""CT series that are read: pixels, padding, positions and what is known of them."""

from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import (
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    RLELossless,
)

from dicomnode import errors
from dicomnode.dicom.series import read_headers, read_series
from tests.dicom.changes import put
from tests.makers import make_series, outside_circle, phantom


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


@pytest.mark.parametrize(
    "words", [["CT_SOM5 SPI DUAL M_0.5"], ["HELIX"], ["CT_SOM8 SPI", "MONOCHROME2"], ["ADVNCED"], ["STD"]]
)
def test_words_of_makers_that_say_nothing_of_spectra_refuse_nothing(tmp_path: Path, words: list[str]) -> None:
    change = put(ImageType=["ORIGINAL", "PRIMARY", "AXIAL", *words])
    assert read_series(make_series(tmp_path / "s", slices=2, change=change)).slices == 2
