"""Dose reports: what is read, against dcmtk's dsrdump."""

import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset

from dicomnode.dicom.dose import read_dose
from dicomnode.dicom.dose_report import DoseEvent, merged, parse_dose_report, read_dose_report
from dicomnode.errors import NotADoseReport
from tests.dicom.dose_events import EVENT, OTHER, STUDY, TOPOGRAM, events_of, image
from tests.makers import make_series
from tests.report_makers import LOCALIZER, STATIONARY, Irradiation, dose_report_data, make_dose_report

ENHANCED_DOSE_SR = "1.2.840.10008.5.1.4.1.1.88.76"

CODES = {
    "113830": "ctdivol_mgy",
    "113838": "dlp_mgy_cm",
    "113825": "scanning_length_mm",
    "113733": "kvp",
    "113734": "current_ma",
    "113834": "rotation_seconds",
    "113828": "pitch",
}
LENIENT = ("-Er", "-Ev", "-Ec", "-Ee", "-Ei", "+Pc", "+Pl")
LINE = re.compile(r"^(?P<indent> *)<.*?:\((?P<concept>[^,]+),[^)]*\)=(?P<value>.*)>$")


def told_by_dsrdump(dsrdump: str, path: Path) -> Iterator[dict[str, str]]:
    """What dcmtk prints below each CT Acquisition: concept code -> first number, text or code."""
    run = subprocess.run([dsrdump, *LENIENT, str(path)], capture_output=True, text=True, errors="replace")
    event: dict[str, str] | None = None
    for line in run.stdout.splitlines():
        found = LINE.match(line)
        if found is None:
            continue
        if len(found["indent"]) <= 2:
            if event is not None:
                yield event
            event = {} if found["concept"] == "113819" else None
        elif event is not None:
            value = re.match(r'"([^"]*)"|\(([^,]*),', found["value"])
            event.setdefault(found["concept"], (value[1] or value[2] or "") if value else "")


REPORTS = [
    ("CT-RDSR-GEPixelMed.dcm", 2),
    ("CT-RDSR-Philips_BigBore4DCT.dcm", 1),
    ("CT-RDSR-Siemens-Continued-1.dcm", 2),
    ("CT-RDSR-Siemens-Continued-2.dcm", 2),
    ("CT-RDSR-Siemens-Multi-1.dcm", 1),
    ("CT-RDSR-Siemens-Multi-2.dcm", 2),
    ("CT-RDSR-Siemens-Multi-3.dcm", 3),
]


def assert_as_told(events: tuple[DoseEvent, ...], oracle: list[dict[str, str]]) -> None:
    assert len(events) == len(oracle)
    for event, told in zip(events, oracle, strict=True):
        for code, name in CODES.items():
            read = getattr(event, name)
            if read is None and code in told:
                assert f"{name.split('_')[0].upper()}_OUT_OF_RANGE" in event.flags
            else:
                assert read == (pytest.approx(float(told[code])) if code in told else None), name
        assert event.event_uids == (told["113769"],)
        assert event.protocol == told.get("125203", "")
        assert event.localizer == (told["113820"] == "113805")
        assert event.phantom_cm == {"113690": 16, "113691": 32}[told["113835"]]


@pytest.mark.parametrize(("name", "count"), REPORTS)
def test_real_reports_read_as_dcmtk_prints_them(
    shared_data: Path, program: Callable[[str], str], name: str, count: int
) -> None:
    path = shared_data / "dose-reports" / name
    oracle = list(told_by_dsrdump(program("dsrdump"), path))
    assert len(oracle) == count
    assert_as_told(read_dose_report(path).events, oracle)


def test_what_only_a_report_of_quality_control_holds_is_dropped_by_name(shared_data: Path) -> None:
    spiral, standing = read_dose_report(shared_data / "dose-reports" / REPORTS[0][0]).events
    assert spiral.feeds_images
    assert (standing.ctdivol_mgy, standing.flags) == (None, ("CTDIVOL_OUT_OF_RANGE",)), "222.59 mGy"
    assert not standing.feeds_images


def test_reports_that_repeat_their_events_tell_each_once(shared_data: Path) -> None:
    paths = sorted((shared_data / "dose-reports").glob("CT-RDSR-Siemens-Multi-*.dcm"))
    reports = [read_dose_report(path) for path in paths]
    assert sum(len(report.events) for report in reports) == 6
    events = merged(reversed(reports))
    assert [event.ctdivol_mgy for event in events] == [0.15, 8.13, 7.02]
    assert {event.report_uid for event in events} == {reports[2].sop_instance_uid}, "the last one counts"


FULL = Irradiation(
    EVENT,
    8.0,
    32,
    dlp_mgy_cm=240.0,
    scanning_length_mm=300.0,
    current_ma=200.0,
    rotation_seconds=0.5,
    pitch=0.8,
    protocol="Thorax",
    acquisition_number="2",
    started="20240102101459.250000+0100",
    ended="20240102101509",
)
SCOUT = Irradiation(TOPOGRAM, 0.1, 32, acquisition=LOCALIZER, protocol="Topogram")


def test_a_made_report_reads_as_dcmtk_prints_it(tmp_path: Path, program: Callable[[str], str]) -> None:
    events = events_of(tmp_path, SCOUT, FULL)
    assert_as_told(events, list(told_by_dsrdump(program("dsrdump"), tmp_path / "dose.dcm")))
    full = events[1]
    assert full.started_at == datetime(2024, 1, 2, 10, 14, 59, 250000), "by the scanner's own clock"
    assert full.ended_at == datetime(2024, 1, 2, 10, 15, 9)
    assert full.acquisition_number == "2"
    assert full.effective_mas == pytest.approx(125)
    assert full.mgy_per_mas == pytest.approx(0.064)
    assert full.flags == ()
    assert [event.feeds_images for event in events] == [False, True]


@pytest.mark.parametrize("options", [{"nested": 5}, {"sop_class_uid": ENHANCED_DOSE_SR}])
def test_events_are_found_at_any_depth_and_in_both_classes(tmp_path: Path, options: dict) -> None:
    plain = [replace(event, report_uid="") for event in events_of(tmp_path / "plain", SCOUT, FULL)]
    odd = [replace(event, report_uid="") for event in events_of(tmp_path / "odd", SCOUT, FULL, **options)]
    assert odd == plain


def test_an_event_inside_another_is_an_event_of_its_own() -> None:
    report = dose_report_data(STUDY, [replace(FULL, event_uid=None, ctdivol_mgy=None), SCOUT])
    outer, inner = report.ContentSequence[4:6]
    outer.ContentSequence.append(inner)
    del report.ContentSequence[5]
    thorax, scout = parse_dose_report(report).events
    assert (thorax.event_uids, thorax.localizer, thorax.protocol) == ((), False, "Thorax")
    assert (scout.event_uids, scout.localizer, scout.ctdivol_mgy) == ((TOPOGRAM,), True, 0.1)
    assert thorax.ctdivol_mgy == pytest.approx(8.0), "from its DLP, not from the event inside it"


@pytest.mark.parametrize(
    ("written", "unit", "read", "flags"),
    [
        (8.0, "mGy", 8.0, set()),
        (0.008, "Gy", 8.0, {"CTDIVOL_UNIT_CONVERTED"}),
        (8.0, None, 8.0, {"CTDIVOL_UNIT_MISSING"}),
        (8.0, "mSv", None, {"CTDIVOL_UNIT_UNKNOWN"}),
        (8.0, "Gy", None, {"CTDIVOL_UNIT_CONVERTED", "CTDIVOL_OUT_OF_RANGE"}),
        (0.008, "mGy", None, {"CTDIVOL_OUT_OF_RANGE"}),
        ("8,0", "mGy", 8.0, set()),
        ("eight", "mGy", None, set()),
        ("nan", "mGy", None, set()),
        ("", "mGy", None, set()),
    ],
)
def test_units_and_text_numbers(
    tmp_path: Path, written: float | str, unit: str | None, read: float | None, flags: set[str]
) -> None:
    (event,) = events_of(tmp_path, Irradiation(EVENT, written, units={"113830": unit}))
    assert event.ctdivol_mgy == (None if read is None else pytest.approx(read))
    assert set(event.flags) == flags
    assert event.feeds_images is (read is not None)


def test_a_number_written_as_text_is_read_with_its_unit(tmp_path: Path) -> None:
    def as_text(report: Dataset) -> None:
        (acquisition,) = (
            item for item in report.ContentSequence if item.ConceptNameCodeSequence[0].CodeValue == "113819"
        )
        ctdivol = acquisition.ContentSequence[-1].ContentSequence[0]
        assert ctdivol.ConceptNameCodeSequence[0].CodeValue == "113830"
        del ctdivol.MeasuredValueSequence
        ctdivol.ValueType, ctdivol.TextValue = "TEXT", "0,0123 Gy"

    (event,) = events_of(tmp_path, FULL, change=as_text)
    assert event.ctdivol_mgy == pytest.approx(12.3)


def test_lengths_in_centimetres_and_ctdivol_from_dlp(tmp_path: Path) -> None:
    centimetres = replace(FULL, ctdivol_mgy=None, scanning_length_mm=30.0, units={"113825": "cm"})
    (event,) = events_of(tmp_path, centimetres)
    assert event.scanning_length_mm == 300
    assert event.ctdivol_mgy == pytest.approx(8.0)
    assert set(event.flags) == {"CTDIVOL_FROM_DLP", "SCANNING_LENGTH_UNIT_CONVERTED"}
    assert event.feeds_images


@pytest.mark.parametrize(
    ("event", "flag"),
    [
        (replace(FULL, scanning_length_mm=30.0), "DLP_DISAGREES"),
        (replace(FULL, ctdivol_mgy=80.0, dlp_mgy_cm=None), "CTDIVOL_MAS_MISMATCH"),
        (replace(FULL, ctdivol_mgy=0.3, dlp_mgy_cm=None), "CTDIVOL_MAS_MISMATCH"),
    ],
)
def test_numbers_that_contradict_each_other_feed_no_image(
    tmp_path: Path, event: Irradiation, flag: str
) -> None:
    (read,) = events_of(tmp_path, event)
    assert read.flags == (flag,)
    assert not read.feeds_images


def test_behind_a_tin_filter_ctdivol_is_low_and_dlp_agrees(tmp_path: Path) -> None:
    filtered = replace(FULL, ctdivol_mgy=0.3, dlp_mgy_cm=9.0, scanning_length_mm=300.0, phantom_cm=None)
    (event,) = events_of(tmp_path, filtered)
    assert event.flags == ("CTDIVOL_LOW_FOR_MAS",)
    assert event.feeds_images
    reading = read_dose([image(IrradiationEventUID=EVENT, Manufacturer="SIEMENS")], [event])
    assert (reading.source, reading.phantom_cm) == ("radiation-dose-report", None), "mAs tells no phantom"


def test_a_table_that_stood_still_may_have_added_rotations_up(tmp_path: Path) -> None:
    unknown, known = events_of(
        tmp_path,
        Irradiation(EVENT, 60.0, acquisition=STATIONARY),
        Irradiation(OTHER, 8.0, acquisition=STATIONARY, current_ma=250.0, rotation_seconds=0.5),
    )
    assert (unknown.feeds_images, known.feeds_images) == (False, True)


def test_a_localizer_is_known_by_its_name_where_its_type_is_not_told(tmp_path: Path) -> None:
    scout, spiral = events_of(
        tmp_path, replace(SCOUT, acquisition=None), replace(FULL, protocol="Scout and Thorax")
    )
    assert (scout.localizer, spiral.localizer) == (True, False)


def test_two_tubes_add_and_different_voltages_are_not_one(tmp_path: Path) -> None:
    def parameters(report: Dataset) -> Dataset:
        found = report.ContentSequence[4].ContentSequence[-2]
        assert found.ConceptNameCodeSequence[0].CodeValue == "113822"
        return found

    def second_tube(report: Dataset) -> None:
        other = dose_report_data(STUDY, [replace(FULL, kvp=80.0, current_ma=300.0)])
        parameters(report).ContentSequence.append(parameters(other).ContentSequence[-1])

    (event,) = events_of(tmp_path, FULL, change=second_tube)
    assert event.current_ma == 500
    assert event.kvp is None
    assert {"SECOND_TUBE", "KVP_DIFFERS"} <= set(event.flags)


@pytest.mark.parametrize("what", ["image", "text", "empty", "cut", "no event", "missing"])
def test_what_is_no_dose_report_of_a_ct_is_an_error_by_name(tmp_path: Path, what: str) -> None:
    path = tmp_path / "file.dcm"
    if what == "image":
        (path,) = make_series(tmp_path / "series", slices=1)
    elif what == "cut":
        make_dose_report(path, STUDY, [FULL])
        path.write_bytes(path.read_bytes()[:900])
    elif what == "no event":
        make_dose_report(path, STUDY, [])
    elif what != "missing":
        path.write_bytes(b"hello" if what == "text" else b"")
    with pytest.raises(NotADoseReport, match=path.name):
        read_dose_report(path)


def test_a_bottomless_tree_ends(tmp_path: Path) -> None:
    report = Dataset()
    report.SOPClassUID = ENHANCED_DOSE_SR
    report.ContentSequence = [Dataset()]
    report.ContentSequence[0].ContentSequence = report.ContentSequence
    with pytest.raises(NotADoseReport):
        parse_dose_report(report)


@given(
    st.sampled_from([*CODES, "113769", "113820", "113835", "113822"]),
    st.sampled_from(["NumericValue", "CodeValue", "UID", "TextValue", "DateTime", "MeasuredValueSequence"]),
    st.sampled_from(["", "x" * 300, "-1", "1e400", "\\", "0\\1"]),
)
def test_whatever_is_written_into_an_item_it_is_one_event(code: str, keyword: str, value: str) -> None:
    report = dose_report_data(STUDY, [FULL])
    spoiled = 0
    for item in walk(report):
        if item.ConceptNameCodeSequence[0].CodeValue == code:
            for holder in (item, *item.get("MeasuredValueSequence", []), item.ConceptNameCodeSequence[0]):
                holder.add_new(keyword, "LO", value)
                spoiled += 1
    assert spoiled
    (event,) = parse_dose_report(report).events
    for name in CODES.values():
        read = getattr(event, name)
        assert read is None or read > 0


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
def test_hundreds_of_damaged_files_are_read_or_refused_by_name(tmp_path: Path) -> None:
    path = make_dose_report(tmp_path / "dose.dcm", STUDY, [SCOUT, FULL], nested=2)
    whole = path.read_bytes()
    rng = np.random.default_rng(113819)
    read = 0
    for _ in range(300):
        damaged = bytearray(whole)
        for at in rng.integers(0, len(whole), 6):
            damaged[at] = rng.integers(256)
        path.write_bytes(damaged[: rng.integers(200, len(whole))] if rng.random() < 0.3 else damaged)
        with suppress(NotADoseReport):
            read += len(read_dose_report(path).events) > 0
    assert 0 < read < 300, "some are whole enough, some are not"


def walk(item: Dataset) -> Iterator[Dataset]:
    for below in list(item.get("ContentSequence", [])):
        yield below
        yield from walk(below)
