"""Dose reports: what the event of a series changes in the dose that was read of its images."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset

from dicomnode.dicom.dose import DoseReading, differs, read_dose, report_over_reading
from dicomnode.dicom.dose_joining import scans_of
from tests.dicom.dose_events import EVENT, OTHER, events_of, image, spiral
from tests.report_makers import SEQUENCED, Irradiation


def modulated(**values) -> list[Dataset]:
    """Three slices of 50, 100, 150 mAs, the event's UID in them."""
    told: dict[str, object] = {"IrradiationEventUID": EVENT, "Manufacturer": "SIEMENS", "ExposureTime": 500}
    return [
        image(**{**told, "XRayTubeCurrent": 2 * mas, "Exposure": mas, "SpiralPitchFactor": 1.0, **values})
        for mas in (50, 100, 150)
    ]


def dose(reading: DoseReading) -> tuple[str, int | None, list[float]]:
    return reading.source, reading.phantom_cm, [round(value or -1, 6) for value in reading.ctdivol_mgy]


def test_the_mean_of_the_event_beats_what_mas_would_give_and_is_spread_by_current() -> None:
    reading = read_dose(modulated(), [spiral(EVENT, 8.0, report_uid="9.7")])
    assert dose(reading) == ("radiation-dose-report", 32, [4.0, 8.0, 12.0])
    assert reading.mean_ctdivol_mgy == pytest.approx(8.0)
    assert reading.report_uids == ("9.7",)
    assert "CTDIVOL_SPREAD_BY_CURRENT" in reading.flags
    assert read_dose(modulated()).source == "computed-from-mas"


def test_a_report_that_is_not_joined_changes_nothing_but_a_flag() -> None:
    without, unjoined = read_dose(modulated()), read_dose(modulated(), [spiral(OTHER)])
    assert unjoined == replace(without, flags=tuple(sorted((*without.flags, "REPORT_NOT_JOINED"))))


def test_the_dose_is_known_where_the_images_tell_nothing() -> None:
    headers = [image(IrradiationEventUID=EVENT, KVP="") for _ in range(3)]
    assert read_dose(headers).source == "none"
    reading = read_dose(headers, [spiral(EVENT, 60.0, phantom_cm=16, kvp=100.0)])
    assert dose(reading) == ("radiation-dose-report", 16, [60.0] * 3)
    assert (reading.kvp, reading.flags) == (100.0, ("KVP_FROM_REPORT",))


def with_tags(ctdivol: float, phantom_code: str | None, **values) -> list[Dataset]:
    headers = modulated(CTDIvol=ctdivol, **values)
    for header in headers:
        if phantom_code is not None:
            item = Dataset()
            item.CodeValue, item.CodingSchemeDesignator = phantom_code, "DCM"
            header.CTDIPhantomTypeCodeSequence = [item]
    return headers


def test_the_tag_with_its_phantom_is_kept_and_a_contradiction_is_flagged() -> None:
    tags = read_dose(with_tags(8.0, "113691"))
    for ctdivol, phantom, flagged in ((8.1, 32, False), (13.0, 32, True), (5.0, 32, True), (16.2, 16, False)):
        reading = read_dose(with_tags(8.0, "113691"), [spiral(EVENT, ctdivol, phantom_cm=phantom)])
        assert dose(reading) == dose(tags)
        assert ("CTDIVOL_DIFFERS_FROM_REPORT" in reading.flags) is flagged, (ctdivol, phantom)


@pytest.mark.parametrize("phantom", [16, 32])
def test_the_report_settles_which_phantom(phantom: int) -> None:
    unknown = with_tags(10.0, None)
    assert read_dose(unknown).phantom_cm is None, "0.1 mGy / mAs could be either"
    reading = read_dose(unknown, [spiral(EVENT, 10.2, phantom_cm=phantom)])
    assert dose(reading) == ("ctdivol-tag", phantom, [5.0, 10.0, 15.0]), "the tag's own vector"
    assert "PHANTOM_FROM_REPORT" in reading.flags
    assert not {"PHANTOM_UNKNOWN", "PHANTOM_INFERRED"} & set(reading.flags)


def test_the_reports_phantom_outranks_an_inferred_one_only_where_the_doses_agree() -> None:
    looks_like_body = with_tags(8.0, None)
    assert read_dose(looks_like_body).phantom_cm == 32
    assert read_dose(looks_like_body, [spiral(EVENT, 8.0, phantom_cm=16)]).phantom_cm == 16
    same_dose_on_the_other = read_dose(looks_like_body, [spiral(EVENT, 16.4, phantom_cm=16)])
    assert same_dose_on_the_other.phantom_cm == 32
    assert "CTDIVOL_DIFFERS_FROM_REPORT" not in same_dose_on_the_other.flags


def test_a_tag_without_phantom_that_contradicts_the_report_gives_way_to_it() -> None:
    reading = read_dose(with_tags(10.0, None), [spiral(EVENT, 20.5, phantom_cm=16)])
    assert dose(reading) == ("radiation-dose-report", 16, [10.25, 20.5, 30.75])
    assert "CTDIVOL_DIFFERS_FROM_REPORT" in reading.flags


def test_two_events_in_one_series_each_give_their_own_mean() -> None:
    headers = [image(IrradiationEventUID=uid, KVP=None) for uid in (EVENT, EVENT, OTHER, OTHER)]
    reading = read_dose(headers, [spiral(OTHER, 3.0), spiral(EVENT, 9.0)])
    assert dose(reading)[2] == [9.0, 9.0, 3.0, 3.0]
    mixed = read_dose(headers, [spiral(OTHER, 3.0), spiral(EVENT, 9.0, phantom_cm=16)])
    assert (mixed.source, mixed.flags) == ("none", ("REPORT_PHANTOMS_DIFFER",))
    half = read_dose(headers, [spiral(EVENT, 9.0)])
    assert half.source == "none", "half of the slices is too few"
    assert "REPORT_CTDIVOL_INCOMPLETE" in half.flags


def test_flags_of_the_event_are_told_as_the_reports(tmp_path: Path) -> None:
    (event,) = events_of(tmp_path, Irradiation(EVENT, 0.008, units={"113830": "Gy"}))
    reading = read_dose([image(IrradiationEventUID=EVENT)] * 2, [event])
    assert reading.flags == ("REPORT_CTDIVOL_UNIT_CONVERTED",)


@given(st.floats(0.2, 90.0), st.floats(0.2, 90.0), st.sampled_from([16, 32]), st.sampled_from([16, 32]))
def test_a_late_report_is_weighed_as_an_early_one(
    tag: float, event: float, on: int, reported_on: int
) -> None:
    """The ratio that a late report shows is the one that the flag at reading rests on."""
    headers = with_tags(tag, {16: "113690", 32: "113691"}[on])
    told = [spiral(EVENT, event, phantom_cm=reported_on)]
    ratio = report_over_reading(read_dose(headers), scans_of(headers), told)
    expected = event * (0.5 if reported_on == 16 else 1) / (tag * (0.5 if on == 16 else 1))
    assert ratio == pytest.approx(expected)
    flagged = "CTDIVOL_DIFFERS_FROM_REPORT" in read_dose(headers, told).flags
    assert flagged is differs(expected)


def test_a_sequenced_scan_needs_no_pitch(tmp_path: Path) -> None:
    (event,) = events_of(
        tmp_path,
        Irradiation(EVENT, 20.0, 16, acquisition=SEQUENCED, current_ma=300.0, rotation_seconds=0.5),
    )
    assert event.mgy_per_mas == pytest.approx(20 / 150)
    assert event.feeds_images
