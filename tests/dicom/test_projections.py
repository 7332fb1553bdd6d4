"""DICOM-CT-PD files: what was written is read, in every encoding, or the series is refused by its rule."""

import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import (
    EnhancedCTImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from dicomnode.demo.projections import scan, write_projections
from dicomnode.dicom.projection_tags import CREATORS, PROJECTION_TAGS
from dicomnode.dicom.projections import MeasuredProjections, read_projections
from dicomnode.dicom.series import read_series
from dicomnode.errors import ProjectionSeries, SeriesRefused
from tests.fan_makers import disc, small
from tests.makers import make_series
from tests.multiframe_makers import make_enhanced

pytestmark = pytest.mark.slow

EXPLICIT, IMPLICIT, BIG = ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian
OPTIONAL = {
    "SourceAngularPositionShift",
    "SourceAxialPositionShift",
    "SourceRadialDistanceShift",
    "FlyingFocalSpotMode",
    "NumberofSpectra",
    "SpectrumIndex",
    "PhotonStatistics",
    "BeamHardeningCorrectionFlag",
    "GainCorrectionFlag",
    "DarkFieldCorrectionFlag",
    "FlatFieldCorrectionFlag",
    "BadPixelCorrectionFlag",
    "ScatterCorrectionFlag",
}
"""Without them logged projections of a resting focal spot are still complete."""


@pytest.fixture(scope="module")
def measured() -> MeasuredProjections:
    """Two turns, a focal spot that flies in both directions, a bow-tie and a modulated current."""
    scanner = small(focal_spot_mode="FFSXYZ", modulation=0.3, bow_tie=0.4)
    return scan(disc(), 3.0, scanner, table_mm=(0.0, 2.5))


@pytest.fixture
def plain(tmp_path: Path) -> list[Path]:
    """One small turn on disk."""
    return write_projections(scan(disc(), 3.0, small(views_per_turn=24)), tmp_path / "plain")


def change(paths: list[Path], edit: Callable[[Dataset], object], only: slice = slice(None)) -> list[Path]:
    for path in paths[only]:
        data = dcmread(path)
        edit(data)
        data.save_as(path)
    return paths


def put(name: str, value: object) -> Callable[[Dataset], object]:
    tag = PROJECTION_TAGS[name]
    return lambda data: data.add_new((tag.group, 0x1000 | tag.element), tag.kind, value)


def rule_of(paths: list[Path]) -> str:
    with pytest.raises(SeriesRefused) as refused:
        read_projections(paths)
    assert "Phantom" not in str(refused.value)
    assert "PHANTOM-PD" not in str(refused.value)
    return refused.value.rule


@pytest.mark.parametrize("at", [0, 12, 24])
@pytest.mark.parametrize("holds", [False, True])
def test_a_multi_frame_object_among_the_views_is_named_wherever_it_stands(
    plain: list[Path], tmp_path: Path, at: int, holds: bool
) -> None:
    def project(data: Dataset) -> None:
        if holds:
            put("DetectorFocalCenterAngularPosition", 0.0)(data)

    frames = make_enhanced(tmp_path / "frames.dcm", make_series(tmp_path / "images"), change=project)
    with pytest.raises(ProjectionSeries, match=r"frames\.dcm is a multi-frame object") as refused:
        read_projections([*plain[:at], frames, *plain[at:]])
    assert refused.value.rule == ProjectionSeries.rule


def test_views_are_views_whatever_class_their_data_set_names(plain: list[Path]) -> None:
    def claim(data: Dataset) -> None:
        data.SOPClassUID = EnhancedCTImageStorage

    assert read_projections(change(plain, claim)).views == 24


# --- round trips --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "encoding",
    [
        {"transfer_syntax": EXPLICIT},
        {"transfer_syntax": IMPLICIT},
        {"transfer_syntax": BIG},
        {"transfer_syntax": EXPLICIT, "representation": "unknown"},
        {"transfer_syntax": EXPLICIT, "columns_as_rows": False},
        {"transfer_syntax": IMPLICIT, "block": 0x11},
        {"transfer_syntax": EXPLICIT, "creators": dict.fromkeys(CREATORS, "SOMEBODY ELSE"), "block": 0x2A},
        {"transfer_syntax": IMPLICIT, "creators": dict.fromkeys(CREATORS, "")},
    ],
    ids=["explicit", "implicit", "big", "UN", "row-major", "block-11", "renamed", "nameless"],
)
def test_what_was_written_is_read(
    tmp_path: Path, measured: MeasuredProjections, encoding: dict[str, Any]
) -> None:
    found = read_projections(write_projections(measured, tmp_path, **encoding))
    half_step = 0.5 * (np.ptp(measured.line_integrals) + 1e-5) / 65535
    assert np.abs(found.line_integrals - measured.line_integrals).max() < 1.02 * half_step
    assert found.acquisition == measured.acquisition
    for name in ("focal_centre", "spot_shift"):
        for part in ("angle_rad", "axial_mm", "radial_mm"):
            assert np.array_equal(getattr(getattr(found, name), part), getattr(getattr(measured, name), part))
    for told in ("incident_quanta", "tube_current_ma"):
        assert np.array_equal(getattr(found, told), getattr(measured, told))
    assert len(found.turns) == 2
    for one, other in zip(found.turns, measured.turns, strict=True):
        assert one.axial_mm == other.axial_mm
        assert all(np.array_equal(*pair) for pair in zip(one.spots, other.spots, strict=True))


def test_turns_hold_every_view_once_sorted_by_angle(measured: MeasuredProjections) -> None:
    assert [len(turn.spots) for turn in measured.turns] == [4, 4]
    views = np.concatenate([spot for turn in measured.turns for spot in turn.spots])
    assert sorted(views) == list(range(measured.views))
    for turn in measured.turns:
        for spot in turn.spots:
            assert np.all(np.diff(measured.focal_centre.angle_rad[spot]) > 0)
            for shifts in vars(measured.spot_shift).values():
                assert np.ptp(shifts[spot]) == 0.0


def test_files_in_any_order_are_the_same_scan(tmp_path: Path, measured: MeasuredProjections) -> None:
    paths = write_projections(measured, tmp_path)
    shuffled = np.random.default_rng(0).permutation(len(paths))
    there, here = read_projections([paths[index] for index in shuffled]), read_projections(paths)
    for one, other in zip(there.turns, here.turns, strict=True):
        for spot, same in zip(one.spots, other.spots, strict=True):
            assert np.array_equal(there.line_integrals[spot], here.line_integrals[same])


def as_intensities(scanned: MeasuredProjections, flat: bool) -> MeasuredProjections:
    """The same scan for files of transmissions, or of quanta where they are not `flat`."""
    left_out = () if flat else ("FlatFieldCorrectionFlag",)
    corrections = tuple(name for name in scanned.acquisition.corrections if name not in left_out)
    return replace(
        scanned, acquisition=replace(scanned.acquisition, logarithmic=False, corrections=corrections)
    )


@pytest.mark.parametrize("flat", [True, False], ids=["transmission", "quanta"])
def test_intensities_are_logged_once(tmp_path: Path, flat: bool) -> None:
    measured = scan(disc(), 3.0, small(views_per_turn=24, bow_tie=0.5))
    paths = write_projections(as_intensities(measured, flat), tmp_path)
    found = read_projections(paths)
    step = float(dcmread(paths[0]).RescaleSlope)
    assert measured.incident_quanta is not None
    level = 1.0 if flat else measured.incident_quanta[:, None, :]
    error = np.abs(np.exp(-found.line_integrals) - np.exp(-measured.line_integrals))
    assert np.all(error <= 0.6 * step / level + 1e-6)
    assert found.starved == 0.0


def test_no_intensity_is_one_quantum_and_counted(tmp_path: Path) -> None:
    measured = scan(disc(), 3.0, small(views_per_turn=24, quanta=1000.0))
    unlogged = replace(measured.acquisition, logarithmic=False)
    paths = write_projections(replace(measured, acquisition=unlogged), tmp_path)

    def darken(data: Dataset) -> None:
        pixels = data.pixel_array.copy()
        pixels[10, 0] = 0
        data.PixelData = pixels.tobytes()
        data.RescaleIntercept = "0"

    found = read_projections(change(paths, darken, slice(5, 6)))
    assert found.line_integrals[5, 0, 10] == pytest.approx(np.log(1000.0))
    assert found.starved == pytest.approx(1 / found.line_integrals.size)


@pytest.mark.parametrize("flat", [True, False], ids=["transmission", "quanta"])
def test_what_was_read_below_one_quantum_is_written_as_it_was(tmp_path: Path, flat: bool) -> None:
    """Of electronics below zero, too; once as the detector's rows and once as its columns."""
    clean = as_intensities(scan(disc(), 3.0, small(views_per_turn=24, quanta=1000.0)), flat)
    places = np.arange(3, clean.line_integrals.size, 41)
    held = np.linspace(-0.002, 0.0005, places.size, dtype=np.float32)
    made = replace(clean, starved_at=places, starved_transmission=held)
    for upright in (True, False):
        paths = write_projections(made, tmp_path / str(upright), columns_as_rows=upright)
        found = read_projections(paths)
        assert made.incident_quanta is not None
        level = 1.0 if flat else made.incident_quanta[:, None, :]
        steps = 0.6 * float(dcmread(paths[0]).RescaleSlope) / level + 1e-6
        assert np.all(np.abs(found.transmission() - made.transmission()) <= steps)
        assert np.array_equal(found.starved_at, places)


def test_a_scan_of_few_quanta_keeps_its_mean_through_the_files(tmp_path: Path) -> None:
    """Readings of no quantum, and below it by the electronics, are what the mean of few ones is made of."""
    few = small(views_per_turn=48, quanta=60.0, electronic_variance=16.0)
    clean, noisy = scan(disc(), 3.0, few), scan(disc(), 3.0, few, seed=5)
    assert noisy.starved > 0.05
    found = read_projections(write_projections(as_intensities(noisy, flat=True), tmp_path))
    assert found.starved == pytest.approx(noisy.starved)
    variance = clean.transmission() / 60.0 + 16.0 / 60.0**2
    error = float((found.transmission() - clean.transmission()).mean())
    assert abs(error) < 4.0 * float(variance.mean() / variance.size) ** 0.5


def test_the_water_coefficient_of_old_files_is_found(plain: list[Path]) -> None:
    def age(data: Dataset) -> None:
        del data[0x7041, 0x1001]
        data.add_new(0x00180061, "DS", "0.0195")

    assert read_projections(change(plain, age)).acquisition.water_attenuation_per_mm == 0.0195


def test_a_float_where_the_dictionary_has_a_decimal_string(plain: list[Path]) -> None:
    edit = change(plain, lambda data: data.add_new((0x7041, 0x1001), "UN", struct.pack("<f", 0.0195)))
    assert read_projections(edit).acquisition.water_attenuation_per_mm == pytest.approx(0.0195)


def test_the_format_s_own_block_goes_before_a_stranger_s(tmp_path: Path) -> None:
    """Another vendor's private elements in block 10 of the same groups, ours in block 11."""

    def intrude(data: Dataset) -> None:
        data.add_new((0x7031, 0x0010), "LO", "SOMEBODY ELSE")
        data.add_new((0x7031, 0x1001), "FL", 9.0)
        data.add_new((0x7031, 0x1003), "LO", "not a distance")

    paths = write_projections(scan(disc(), 3.0, small(views_per_turn=24)), tmp_path, block=0x11)
    before = read_projections(paths).focal_centre.angle_rad
    assert np.array_equal(read_projections(change(paths, intrude)).focal_centre.angle_rad, before)


# --- refusals -----------------------------------------------------------------------------------------


def test_projections_are_no_images(plain: list[Path]) -> None:
    with pytest.raises(ProjectionSeries) as refused:
        read_series(plain)
    assert refused.value.rule == "measured-projections"


@pytest.mark.parametrize(
    ("name", "value", "rule"),
    [
        ("TypeofProjectionData", "HELICAL", "helical-projections"),
        ("TypeofProjectionData", "CIRCULAR", "inconsistent-projections"),
        ("TypeofProjectionGeometry", "CONEBEAM", "inconsistent-projections"),
        ("DetectorShape", "SPHERICAL", "unknown-detector"),
        ("DetectorShape", "BANANA", "unknown-detector"),
        ("NumberofSpectra", 2, "spectral-projections"),
        ("FlyingFocalSpotMode", "FFSQ", "inconsistent-projections"),
        ("NumberofDetectorColumns", 60000, "projections-too-large"),
        ("NumberofDetectorRows", 0, "inconsistent-projections"),
        ("NumberofDetectorRows", 3, "inconsistent-projections"),
        ("NumberofSourceAngularSteps", 25, "missing-views"),
        ("NumberofSourceAngularSteps", 23, "inconsistent-projections"),
        ("NumberofSourceAngularSteps", 60000, "projections-too-large"),
        ("DetectorElementTransverseSpacing", 0.0, "inconsistent-projections"),
        ("DetectorElementTransverseSpacing", 19.0, "inconsistent-projections"),
        ("DetectorElementAxialSpacing", float("nan"), "inconsistent-projections"),
        ("DetectorFocalCenterRadialDistance", 1100.0, "inconsistent-projections"),
        ("DetectorFocalCenterAngularPosition", float("inf"), "inconsistent-projections"),
        ("DetectorCentralElement", [200.0, 1.5], "inconsistent-projections"),
        ("DetectorCentralElement", [40.0], "inconsistent-projections"),
        ("ConstantRadialDistance", -5.0, "inconsistent-projections"),
        ("PhotonStatistics", [1e5] * 79, "inconsistent-projections"),
        ("PhotonStatistics", [0.0] * 80, "inconsistent-projections"),
        ("LogFlag", "MAYBE", "inconsistent-projections"),
        ("LogFlag", "NO", "inconsistent-projections"),
        ("WaterAttenuationCoefficient", "0.192", "inconsistent-projections"),
    ],
)
def test_what_is_wrong_in_all_views(plain: list[Path], name: str, value: object, rule: str) -> None:
    assert rule_of(change(plain, put(name, value))) == rule


@pytest.mark.parametrize(
    ("name", "value", "rule"),
    [
        ("DetectorFocalCenterAxialPosition", 7.0, "missing-views"),
        ("DetectorFocalCenterRadialDistance", 551.0, "inconsistent-projections"),
        ("DetectorElementTransverseSpacing", 5.01, "inconsistent-projections"),
        ("SourceAxialPositionShift", 0.5, "inconsistent-projections"),
        ("DetectorFocalCenterAngularPosition", 4.0, "missing-views"),
        ("NumberofSpectra", 3, "spectral-projections"),
        ("SpectrumIndex", 2, "spectral-projections"),
        ("LogFlag", "NO", "inconsistent-projections"),
        ("PhotonStatistics", [1e5] * 3, "inconsistent-projections"),
    ],
)
def test_what_is_wrong_in_one_view(plain: list[Path], name: str, value: object, rule: str) -> None:
    assert rule_of(change(plain, put(name, value), slice(7, 8))) == rule


def test_a_table_that_moves_is_not_axial(plain: list[Path]) -> None:
    for index in range(len(plain)):
        move = put("DetectorFocalCenterAxialPosition", 0.04 * index)
        change(plain, move, slice(index, index + 1))
    assert rule_of(plain) == "inconsistent-projections"


def test_two_views_at_nearly_one_angle(plain: list[Path]) -> None:
    for index, steps in ((7, 7.3), (8, 7.7)):
        place = put("DetectorFocalCenterAngularPosition", 0.3 + 2 * np.pi * steps / 24)
        change(plain, place, slice(index, index + 1))
    assert rule_of(plain) == "inconsistent-projections"


def test_views_that_do_not_come(plain: list[Path]) -> None:
    assert rule_of(plain[:-1]) == "missing-views"
    assert rule_of([*plain, plain[0]]) == "duplicate-position"
    assert rule_of([]) == "broken-instance"


def test_two_turns_at_one_place_are_refused(plain: list[Path], tmp_path: Path) -> None:
    again = scan(disc(), 3.0, small(views_per_turn=24, tube_current_ma=100.0))
    others = write_projections(again, tmp_path / "again")
    series = dcmread(plain[0]).SeriesInstanceUID, dcmread(plain[0]).StudyInstanceUID

    def join(data: Dataset) -> None:
        data.SeriesInstanceUID, data.StudyInstanceUID = series

    assert rule_of([*plain, *change(others, join)]) == "inconsistent-projections"


@pytest.mark.parametrize("name", sorted(PROJECTION_TAGS))
def test_an_element_that_is_missing_is_named_or_not_needed(plain: list[Path], name: str) -> None:
    tag = PROJECTION_TAGS[name]
    place = (tag.group, 0x1000 | tag.element)
    change(plain, lambda data: data.pop(place, None))
    if name in OPTIONAL:
        assert read_projections(plain).views == 24
        return
    with pytest.raises(SeriesRefused, match=name):
        read_projections(plain)


def test_truncated_pixels_are_refused(plain: list[Path]) -> None:
    whole = plain[3].read_bytes()
    plain[3].write_bytes(whole[:-100])
    assert rule_of(plain) == "broken-instance"
    plain[3].write_bytes(whole)
    change(plain, lambda data: setattr(data, "PixelData", data.PixelData[:-20]), slice(3, 4))
    assert rule_of(plain) == "broken-instance"


def test_line_integrals_no_patient_has(plain: list[Path]) -> None:
    change(plain, lambda data: setattr(data, "RescaleSlope", "0.1"), slice(2, 3))
    assert rule_of(plain) == "inconsistent-projections"


def test_a_series_that_would_not_fit_into_memory(plain: list[Path]) -> None:
    change(plain, put("NumberofDetectorRows", 4096))
    change(plain, put("NumberofDetectorColumns", 4000))
    change(plain, put("DetectorCentralElement", [40.75, 1.5]))
    change(plain, put("DetectorElementTransverseSpacing", 0.1))
    assert rule_of(plain * 2) == "projections-too-large"


@pytest.mark.parametrize("encoding", [EXPLICIT, IMPLICIT])
def test_damaged_files_are_read_or_refused(tmp_path: Path, encoding: str) -> None:
    """Bits flipped, ends cut off, in one file of a small scan: never another error."""
    scanner = small(views_per_turn=8, columns=20, rows=1, central_column=10.0, central_row=1.0)
    paths = write_projections(scan(disc(), 3.0, scanner), tmp_path, transfer_syntax=encoding)
    whole, rng = paths[4].read_bytes(), np.random.default_rng(17)
    refused = 0
    for _ in range(150):
        damaged = bytearray(whole[: int(rng.integers(200, len(whole)))] if rng.random() < 0.3 else whole)
        for _ in range(int(rng.integers(1, 6))):
            damaged[int(rng.integers(132, len(damaged)))] ^= 1 << int(rng.integers(8))
        paths[4].write_bytes(damaged)
        try:
            found = read_projections(paths)
        except SeriesRefused:
            refused += 1
        else:
            assert np.isfinite(found.line_integrals).all()
    assert 40 < refused < 150
