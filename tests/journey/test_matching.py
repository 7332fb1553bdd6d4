"""Dose against the reference table: the fraction is SSDE over SSDE_ref, whichever phantom tells it."""

import copy
import math
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from scipy import ndimage

from dicomnode.dicom.dose import DoseReading, read_dose, ssde_mgy
from dicomnode.dicom.series import CtSeries, read_series
from dicomnode.dose_reference import DoseReference, Region, RegionReference
from dicomnode.engines.start_step import PhotonSchedule, match
from dicomnode.journey.matching import (
    _coarse,
    bodies,
    mean_diameter_mm,
    mean_ssde_mgy,
    normal_mgy,
    on_body_phantom,
    regions_told,
    slice_facts,
    slice_ssde_mgy,
)
from tests.makers import make_series, phantom

TABLE = DoseReference()


@pytest.mark.parametrize(
    ("diameter_cm", "f32", "f16"),
    [
        (15, 2.14, 1.05), (20, 1.78, 0.86), (25, 1.48, 0.71), (27.5, 1.35, 0.65), (30, 1.23, 0.59),
        (35, 1.02, 0.48), (40, 0.85, 0.40),
    ],
)  # fmt: skip
def test_size_factors_are_those_of_report_204(diameter_cm: float, f32: float, f16: float) -> None:
    assert ssde_mgy(1.0, 32, 10 * diameter_cm) == pytest.approx(f32, abs=0.006)
    assert ssde_mgy(1.0, 16, 10 * diameter_cm) == pytest.approx(f16, abs=0.006)


@pytest.mark.parametrize("diameter_mm", [100.0, 160.0, 270.0, 400.0])
def test_both_phantoms_tell_one_ssde(diameter_mm: float) -> None:
    on_body = on_body_phantom(40.0, 16, diameter_mm)
    assert ssde_mgy(on_body, 32, diameter_mm) == pytest.approx(ssde_mgy(40.0, 16, diameter_mm))
    assert 2.0 < 40.0 / on_body < 2.2  # the measured ratio of the two phantoms, 2.04 to 2.14
    assert on_body_phantom(40.0, 32, diameter_mm) == 40.0


@pytest.mark.parametrize("row", TABLE.regions, ids=lambda row: row.region)
@pytest.mark.parametrize("diameter_mm", [120.0, 200.0, 300.0])
def test_normal_dose_is_the_reference_ssde(row: RegionReference, diameter_mm: float) -> None:
    """A patient whose SSDE is the one of the table, grown to his size, has a fraction of 1."""
    reference = slice_ssde_mgy(row.ctdivol_mgy, row.phantom_cm, row.diameter_mm, row.region)
    assert reference is not None
    for phantom_cm in (16, 32):
        ctdivol_mgy = 7.0
        told = slice_ssde_mgy(ctdivol_mgy, phantom_cm, diameter_mm, row.region)
        if told is None or (row.region == "head" and phantom_cm == 32):
            continue  # Report 293 is about the 16 cm phantom
        grown = math.exp(row.growth_per_cm * (diameter_mm - row.diameter_mm) / 10)
        fraction = on_body_phantom(ctdivol_mgy, phantom_cm, diameter_mm) / normal_mgy(row, diameter_mm)
        assert fraction == pytest.approx(told / (reference * grown))


@pytest.mark.parametrize(("diameter_cm", "factor"), [(12, 1.108), (16, 0.912), (17.5, 0.848), (20, 0.751)])
def test_heads_have_their_own_factor(diameter_cm: float, factor: float) -> None:
    """AAPM 293: skull takes dose from the brain, a tenth less than the trunk's table says."""
    assert slice_ssde_mgy(1.0, 16, 10 * diameter_cm, "head") == pytest.approx(factor, abs=1e-3)
    assert slice_ssde_mgy(1.0, 16, 10 * diameter_cm, "neck") == ssde_mgy(1.0, 16, 10 * diameter_cm)
    assert slice_ssde_mgy(1.0, 32, 10 * diameter_cm, "head") == ssde_mgy(1.0, 32, 10 * diameter_cm)
    assert slice_ssde_mgy(1.0, 16, 500.0, "head") is None
    assert slice_ssde_mgy(None, 16, 170.0, "head") is slice_ssde_mgy(1.0, None, 170.0, "head") is None


def test_the_ssde_of_a_series_is_the_mean_over_its_slices(series: CtSeries) -> None:
    reading = replace(dose(series, 1.0, 32), ctdivol_mgy=(1.0, 4.0, None, 9.0))
    facts = slice_facts(series, reading, TABLE)
    facts = tuple(
        replace(one, diameter_mm=mm) for one, mm in zip(facts, (150.0, 300.0, 250.0, 400.0), strict=True)
    )
    expected = (ssde(1.0, 32, 150.0) + ssde(4.0, 32, 300.0) + ssde(9.0, 32, 400.0)) / 3
    assert mean_ssde_mgy(reading, facts) == pytest.approx(expected)
    assert mean_ssde_mgy(replace(reading, phantom_cm=None), facts) is None


def test_exposure_control_raises_the_output_with_the_body() -> None:
    row = TABLE.row("abdomen-pelvis")
    assert normal_mgy(row, row.diameter_mm) == pytest.approx(row.ctdivol_mgy)
    assert 1.07 < normal_mgy(row, 300.0) / normal_mgy(row, 290.0) < 1.10


@pytest.mark.parametrize("region", ["neck", "chest", "abdomen-pelvis"])
def test_the_phantom_of_a_row_is_only_a_way_to_say_it(region: Region) -> None:
    """Of a head it is not: Report 293 has another curve for the small phantom."""
    row = TABLE.row(region)
    other = row.model_copy(
        update={
            "phantom_cm": 48 - row.phantom_cm,
            "ctdivol_mgy": ssde(row.ctdivol_mgy, row.phantom_cm, row.diameter_mm)
            / ssde(1.0, 48 - row.phantom_cm, row.diameter_mm),
        }
    )
    assert normal_mgy(other, 220.0) == pytest.approx(normal_mgy(row, 220.0))


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> CtSeries:
    """A chest of 260 mm."""
    volume, folder = phantom(4, 128, 128), tmp_path_factory.mktemp("matching") / "series"
    return read_series(make_series(folder, volume, pixel_spacing_mm=(2.4, 2.4)))


def dose(
    series: CtSeries, ctdivol_mgy: float, phantom_cm: Literal[16, 32] | None, flags: tuple[str, ...] = ()
) -> DoseReading:
    values = (ctdivol_mgy,) * series.slices
    return DoseReading(120.0, values, values, phantom_cm, "ctdivol-tag", flags)


def ssde(ctdivol_mgy: float, phantom_cm: int, diameter_mm: float) -> float:
    value = ssde_mgy(ctdivol_mgy, phantom_cm, diameter_mm)
    assert value is not None
    return value


def test_the_fraction_does_not_know_the_phantom(series: CtSeries) -> None:
    """Twice the number on the small phantom is the same dose."""
    large = slice_facts(series, dose(series, 5.0, 32), TABLE)
    ratio = ssde(1.0, 32, large[0].diameter_mm) / ssde(1.0, 16, large[0].diameter_mm)
    small = slice_facts(series, dose(series, 5.0 * ratio, 16), TABLE)
    assert ratio == pytest.approx(2.08, abs=0.05)
    for one, other in zip(large, small, strict=True):
        assert one.region == other.region
        assert one.ctdivol_mgy == pytest.approx(other.ctdivol_mgy, rel=0.01)
        assert one.normal_ctdivol_mgy == other.normal_ctdivol_mgy


def test_the_fraction_is_ssde_over_reference_ssde(series: CtSeries) -> None:
    facts = replace(slice_facts(series, dose(series, 3.0, 32), TABLE)[0], noise_hu=None, texture=None)
    row = TABLE.row("chest")
    assert facts.region == row.region
    grown = math.exp(row.growth_per_cm * (facts.diameter_mm - row.diameter_mm) / 10)
    expected = ssde(3.0, 32, facts.diameter_mm) / (ssde(row.ctdivol_mgy, 32, row.diameter_mm) * grown)
    assert 0.1 < expected < 0.9
    assert match(facts, PhotonSchedule()).fraction == pytest.approx(expected)


@pytest.mark.parametrize(
    ("tag", "phantom_cm", "expected"),
    [
        ("HEAD", 32, ("head", "tags")),
        ("", 16, ("head", "phantom")),
        ("", 32, ("abdomen-pelvis", "phantom")),
        ("", None, ("abdomen-pelvis", "default")),
    ],
)
def test_what_the_image_leaves_open(
    tmp_path: Path, tag: str, phantom_cm: Literal[16, 32] | None, expected: tuple[str, str]
) -> None:
    """A cylinder of water is nobody: header, phantom, then the body."""
    y, x = np.mgrid[:128, :128] - 63.5
    water = np.where(np.hypot(x, y) < 40, 0.0, -1000.0).astype(np.float32)
    source = read_series(make_series(tmp_path / "water", hounsfield=np.repeat(water[None], 3, axis=0)))
    for header in source.headers:
        header.BodyPartExamined = tag
        header.SeriesDescription = ""
    found = bodies(source, dose(source, 5.0, phantom_cm), TABLE)
    assert {(one.region, one.region_by) for one in found} == {expected}


def test_the_diameter_tag_is_a_check_not_the_truth(series: CtSeries) -> None:
    reading = dose(series, 5.0, 32)
    plain = bodies(series, reading, TABLE)
    series.headers[0].WaterEquivalentDiameter = plain[0].diameter_mm * 1.05
    series.headers[1].WaterEquivalentDiameter = plain[1].diameter_mm * 1.3
    checked = bodies(series, reading, TABLE)
    assert [one.diameter_mm for one in checked] == [one.diameter_mm for one in plain]
    assert ["DIAMETER_TAG_DISAGREES" in one.flags for one in checked] == [False, True, False, False]


def test_a_large_matrix_shows_the_same_bodies(series: CtSeries) -> None:
    factor = 2048 // series.hounsfield.shape[1]
    large = replace(
        series,
        hounsfield=series.hounsfield.repeat(factor, axis=1).repeat(factor, axis=2),
        padding=None if series.padding is None else series.padding.repeat(factor, 1).repeat(factor, 2),
        pixel_spacing_mm=tuple(one / factor for one in series.pixel_spacing_mm),
    )
    reading = dose(series, 5.0, 32)
    assert _coarse(large)[0].shape[1:] == (1024, 1024)
    for fine, coarse in zip(bodies(large, reading, TABLE), bodies(series, reading, TABLE), strict=True):
        assert fine.diameter_mm == pytest.approx(coarse.diameter_mm, abs=2.0)
        assert replace(fine, diameter_mm=0.0) == replace(coarse, diameter_mm=0.0)


def test_regions_are_told_in_order(series: CtSeries) -> None:
    facts = slice_facts(series, dose(series, 5.0, 32), TABLE)
    chest = [replace(one, region="chest", region_by="image") for one in facts[:3]]
    assert regions_told([*chest, replace(facts[3], region="neck", region_by="tags")]) == (
        "chest by image 3, neck by tags 1"
    )


def test_iterative_reconstruction_reaches_the_gate(series: CtSeries) -> None:
    flagged = dose(series, 5.0, 32, ("ITERATIVE_RECONSTRUCTION",))
    assert all(one.iterative for one in slice_facts(series, flagged, TABLE))
    assert not any(one.iterative for one in slice_facts(series, dose(series, 5.0, 32), TABLE))


def test_one_thin_slice_conditions_nothing_alone(tmp_path: Path) -> None:
    """At 1 mm the dose of a slice is the mean of five; at 5 mm its own."""
    for spacing_mm, told in ((1.0, [5.0] * 2 + [6.0] * 5 + [5.0] * 2), (5.0, [5.0] * 4 + [10.0] + [5.0] * 4)):
        folder = tmp_path / str(spacing_mm)
        thin = read_series(make_series(folder, slices=9, slice_spacing_mm=spacing_mm))
        values = (5.0,) * 4 + (10.0,) + (5.0,) * 4
        reading = DoseReading(120.0, values, values, 32, "ctdivol-tag", ())
        assert [one.ctdivol_mgy for one in slice_facts(thin, reading, TABLE)] == pytest.approx(told)


# --- cut off by the field of view --------------------------------------------------------------------


def to_field(series: CtSeries, field_mm: float, side: int = 512) -> CtSeries:
    """The middle of the first slice, as a targeted reconstruction of this field shows it."""
    image, pixel_mm = series.hounsfield[0], series.pixel_spacing_mm[0]
    header = copy.deepcopy(series.headers[0])
    header.pop("WaterEquivalentDiameter", None)
    at = (np.arange(side) - (side - 1) / 2) * field_mm / side / pixel_mm + (image.shape[0] - 1) / 2
    shown = ndimage.map_coordinates(image, np.meshgrid(at, at, indexing="ij"), order=3, mode="nearest")
    return replace(
        series,
        hounsfield=shown[None].astype(np.float32),
        pixel_spacing_mm=(field_mm / side,) * 2,
        padding=None,
        headers=(header,),
    )


def test_a_patient_cut_off_counts_as_one_of_the_reference_size(series: CtSeries) -> None:
    one = replace(dose(series, 9.0, 32), ctdivol_mgy=(9.0,))
    small = to_field(series, 150.0)
    (facts,) = slice_facts(small, one, TABLE)
    assert (facts.region, facts.region_by) == ("chest", "tags")
    assert facts.diameter_mm == TABLE.row("chest").diameter_mm
    assert facts.flags == ("FOV_TRUNCATED", "SIZE_UNKNOWN")
    assert facts.overstated == "cut off"
    assert mean_diameter_mm([facts]) is None, "a size that was not seen is not told"
    assert mean_ssde_mgy(one, [facts]) is None
    whole = replace(facts, flags=(), diameter_mm=250.0)
    assert mean_diameter_mm([facts, whole]) == 250.0
    assert facts.normal_ctdivol_mgy == pytest.approx(TABLE.row("chest").ctdivol_mgy)


def test_the_scanner_knows_what_is_beyond_the_field(series: CtSeries) -> None:
    """WaterEquivalentDiameter is from the localizer, which shows all of the patient."""
    small = to_field(series, 150.0)
    header = copy.deepcopy(small.headers[0])
    header.WaterEquivalentDiameter = 310.0
    (body,) = bodies(replace(small, headers=(header,)), dose(small, 9.0, 32), TABLE)
    assert body.diameter_mm == 310.0
    assert body.flags == ("FOV_TRUNCATED", "DIAMETER_FROM_TAG")
    header.WaterEquivalentDiameter = 100.0
    (body,) = bodies(replace(small, headers=(header,)), dose(small, 9.0, 32), TABLE)
    assert "DIAMETER_FROM_TAG" not in body.flags


@pytest.mark.slow
@pytest.mark.parametrize("field_mm", [140.0, 180.0, 220.0])
def test_a_full_dose_spine_is_no_low_dose_head(shared_data: Path, field_mm: float) -> None:
    """Full-dose slices at their normal field and at that of a spine: the same dose, the same step."""
    for path in sorted((shared_data / "pairs" / "mayo").rglob("*full.dcm"))[::3]:
        whole = read_series([path])
        start, spine = (
            match(slice_facts(one, read_dose(one.headers), TABLE)[0], PhotonSchedule())
            for one in (whole, to_field(whole, field_mm))
        )
        assert spine.decided_by in ("tags", "both")
        assert abs(spine.step - start.step) <= 1


# --- real quarter doses --------------------------------------------------------------------------------


def decided(path: Path) -> tuple[str, float]:
    piece = read_series([path])
    start = match(slice_facts(piece, read_dose(piece.headers), TABLE)[0], PhotonSchedule())
    return start.decided_by, start.fraction


@pytest.mark.slow
def test_quarter_dose_under_full_dose_tags_is_told_by_its_noise(shared_data: Path) -> None:
    """Mayo repeats the full-dose header; every full-dose slice agrees with its own."""
    folder = shared_data / "pairs" / "mayo"
    quarters = {path.name: decided(path) for path in sorted(folder.rglob("*quarter.dcm"))}
    fulls = {path.name: decided(path) for path in sorted(folder.rglob("*full.dcm"))}
    assert len(quarters) == len(fulls) == 15
    assert {who for who, _ in quarters.values()} == {"noise"}
    assert {who for who, _ in fulls.values()} == {"both"}
    for name, (_, fraction) in quarters.items():
        assert fraction < 0.7 * fulls[name.replace("quarter", "full")][1]
