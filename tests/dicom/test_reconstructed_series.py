"""Slices made of measured projections: what is derived of them is valid, and says what it was made of."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread

from dicomnode.demo.projections import scan, write_projections
from dicomnode.dicom.derived import Identity, Provenance, write_derived
from dicomnode.dicom.maps import write_removed_map
from dicomnode.dicom.reconstructed_series import Reconstruction, reconstructed_series
from dicomnode.dicom.report import write_report
from dicomnode.dicom.series import CtSeries, read_headers
from dicomnode.errors import GapInSeries
from tests.fan_makers import disc, small

VIEWS = 24


def made(heights_mm: tuple[float, ...] = (0.0, 1.0, 2.0)) -> Reconstruction:
    count = len(heights_mm)
    noise = np.random.default_rng(0).normal(40.0, 30.0, (count, 32, 32)).astype(np.float32)
    seen = np.ones((32, 32), bool)
    seen[:, :3] = False
    return Reconstruction(
        hounsfield=noise,
        position_mm=np.array([(-31.0, -31.0, height) for height in heights_mm]),
        orientation=(1, 0, 0, 0, 1, 0),
        pixel_mm=2.0,
        thickness_mm=1.0,
        views=tuple(5 * index + 2 for index in range(count)),
        mas=tuple(50.4 for _ in range(count)),
        seen=seen,
        kernel="COSINE",
    )


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("views")
    return write_projections(scan(disc(), 3.0, small(views_per_turn=VIEWS)), folder)


@pytest.fixture
def series(paths: list[Path]) -> CtSeries:
    return reconstructed_series(made(), paths)


def test_the_series_is_its_slices_in_whole_units_under_the_views_own_names(
    series: CtSeries, paths: list[Path]
) -> None:
    expected = made()
    inside = np.broadcast_to(expected.seen, expected.hounsfield.shape)
    assert np.abs(series.hounsfield - expected.hounsfield)[inside].max() <= 0.5
    assert np.all(series.hounsfield[~inside] == -1000.0)
    known_by = read_headers([paths[2], paths[7], paths[12]])
    for view, header, position in zip(known_by, series.headers, expected.position_mm, strict=True):
        assert header.SOPInstanceUID == view.SOPInstanceUID
        assert (header.PatientID, header.StudyInstanceUID) == (view.PatientID, view.StudyInstanceUID)
        assert [float(value) for value in header.ImagePositionPatient] == pytest.approx(list(position))
        assert "XRayTubeCurrent" not in header, "that of one view"
        assert header.Exposure == 50
        assert not any(element.tag.is_private for element in header)
    assert (series.slice_spacing_mm, series.pixel_spacing_mm) == (1.0, (2.0, 2.0))
    assert series.content_digest == reconstructed_series(made(), paths).content_digest


def test_what_says_how_samples_are_shown_does_not_speak_of_hounsfield_units(
    tmp_path: Path, identity: Identity, provenance: Provenance
) -> None:
    """A window on line integrals would show the slices black, and padding of 0 would take the water away."""
    paths = write_projections(scan(disc(), 3.0, small(views_per_turn=VIEWS)), tmp_path / "views")
    for path in paths:
        data = dcmread(path)
        data.WindowCenter, data.WindowWidth, data.PixelAspectRatio = "3", "6", ["4", "1"]
        data.add_new("PixelPaddingValue", "US", 0)
        data.save_as(path)
    series = reconstructed_series(made(), paths)
    images = write_derived(series, series.hounsfield, identity, provenance, tmp_path / "images")
    stale = ("WindowCenter", "WindowWidth", "PixelAspectRatio", "PixelPaddingValue")
    for header in (*series.headers, *map(dcmread, images)):
        assert [keyword for keyword in stale if keyword in header] == []


def test_slices_with_a_gap_are_refused(paths: list[Path]) -> None:
    with pytest.raises(GapInSeries):
        reconstructed_series(made((0.0, 1.0, 4.0)), paths)


def test_what_is_derived_is_valid_and_says_what_it_is(
    series: CtSeries,
    paths: list[Path],
    tmp_path: Path,
    identity: Identity,
    provenance: Provenance,
    object_errors: Callable[[Path], Counter[str]],
) -> None:
    facts = replace(provenance, measured_views=VIEWS)
    images = write_derived(series, series.hounsfield, identity, facts, tmp_path / "images")
    report = write_report(series, images, identity, facts, tmp_path / "report.dcm")
    (removed,) = write_removed_map(series, images, identity, facts, tmp_path)
    assert dcmread(removed).ContentDescription == "Plain reconstruction minus enhanced image"
    known = set(object_errors(paths[0]))  # of a series without a body part
    assert [set(object_errors(path)) - known for path in (*images, report)] == [set()] * 4
    written = [dcmread(path) for path in images]
    assert np.array_equal(np.stack([one.pixel_array for one in written]), series.stored)
    for image, header in zip(written, series.headers, strict=True):
        assert image.DerivationDescription.startswith(
            "Reconstructed from 24 measured views (DICOM-CT-PD), with"
        )
        assert image.ImageComments.startswith("AI-processed image: reconstructed from measured projections")
        (source,) = image.SourceImageSequence
        assert source.ReferencedSOPInstanceUID == header.SOPInstanceUID
        assert source.SpatialLocationsPreserved == "NO"
    assert f"measured views a slice={VIEWS}".encode() in report.read_bytes()


def test_an_image_of_images_says_nothing_of_views(
    series: CtSeries, tmp_path: Path, identity: Identity, provenance: Provenance
) -> None:
    (image, *_) = write_derived(series, series.hounsfield, identity, provenance, tmp_path)
    assert "measured" not in dcmread(image).DerivationDescription
    assert dcmread(image).SourceImageSequence[0].SpatialLocationsPreserved == "YES"
