"""Dose reports: what is read, against dcmtk's dsrdump, and to which images it is joined."""

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

from dicomnode.dicom.dose import DoseReading, differs, read_dose, report_over_reading
from dicomnode.dicom.dose_joining import join, scans_of
from dicomnode.dicom.dose_report import DoseEvent, merged, parse_dose_report, read_dose_report
from dicomnode.errors import NotADoseReport
from tests.makers import make_series
from tests.report_makers import (
    LOCALIZER,
    SEQUENCED,
    STATIONARY,
    Irradiation,
    dose_report_data,
    make_dose_report,
)

STUDY = "1.2.3.4"
EVENT, OTHER, TOPOGRAM = "1.2.3.4.1", "1.2.3.4.2", "1.2.3.4.3"
ENHANCED_DOSE_SR = "1.2.840.10008.5.1.4.1.1.88.76"


def events_of(folder: Path, *events: Irradiation, **options) -> tuple[DoseEvent, ...]:
    return read_dose_report(make_dose_report(folder / "dose.dcm", STUDY, events, **options)).events


# --- reading, with an oracle ------------------------------------------------------------


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


# --- joining ------------------------------------------------------------------------------


def image(**values: object) -> Dataset:
    data = Dataset()
    data.StudyInstanceUID, data.KVP = STUDY, "120"
    for keyword, value in values.items():
        if value is not None:
            setattr(data, keyword, value)
    return data


def spiral(event_uid: str, ctdivol_mgy: float = 8.0, **values) -> DoseEvent:
    made = DoseEvent("9.1", STUDY, (event_uid,) if event_uid else (), acquisition="spiral")
    return replace(made, ctdivol_mgy=ctdivol_mgy, phantom_cm=values.pop("phantom_cm", 32), **values)


AT = datetime(2024, 1, 2, 10, 15)
LATER = datetime(2024, 1, 2, 10, 17)


def joined(headers: list[Dataset], *events: DoseEvent) -> tuple[str | None, str | None]:
    """(event's first UID or its protocol, flag) of the only scan of a series."""
    (scan,) = scans_of(headers)
    event, flag = join(scan, events)
    return (None if event is None else (*event.event_uids, event.protocol)[0]), flag


def test_the_events_uid_joins_and_one_event_feeds_many_series() -> None:
    events = (spiral(OTHER), spiral(EVENT, protocol="x"))
    for kernel in ("B30f", "B70f"):
        series = [image(IrradiationEventUID=EVENT, ConvolutionKernel=kernel)] * 3
        assert joined(series, *events) == (EVENT, None)


def test_a_localizers_event_feeds_nothing_even_under_its_own_uid() -> None:
    scout = replace(spiral(EVENT, 0.1), acquisition="constant-angle")
    assert joined([image(IrradiationEventUID=EVENT)], scout) == (None, "REPORT_NOT_JOINED")
    assert joined([image(IrradiationEventUID=EVENT)], scout, spiral(OTHER)) == (None, "REPORT_NOT_JOINED")


WITHOUT_UID = "REPORT_JOINED_WITHOUT_UID"
UNUSABLE = [{"ctdivol_mgy": None}, {"flags": ("DLP_DISAGREES",)}, {"flags": ("CTDIVOL_MAS_MISMATCH",)}]


@pytest.mark.parametrize("unusable", UNUSABLE)
def test_an_event_whose_dose_is_of_no_use_may_still_be_the_right_one(unusable: dict) -> None:
    series = [image(ProtocolName="Thorax")]
    other = replace(spiral(OTHER, protocol="Thorax"), **unusable)
    assert joined(series, spiral(EVENT, protocol="Thorax")) == (EVENT, WITHOUT_UID)
    assert joined(series, spiral(EVENT, protocol="Thorax"), other) == (None, "REPORT_AMBIGUOUS")
    monitoring = replace(other, acquisition="stationary")
    assert joined(series, spiral(EVENT, protocol="Thorax"), monitoring) == (EVENT, WITHOUT_UID)


@pytest.mark.parametrize("unusable", UNUSABLE)
def test_images_that_name_their_event_are_joined_to_no_other(unusable: dict) -> None:
    own = replace(spiral(OTHER), **unusable)
    series = [image(ProtocolName="Thorax", IrradiationEventUID=OTHER)]
    assert joined(series, spiral("", protocol="Thorax"), own) == (None, "REPORT_NOT_JOINED")


def test_another_study_is_never_joined() -> None:
    assert joined([image(IrradiationEventUID=EVENT, StudyInstanceUID="1.2.9")], spiral(EVENT)) == (None, None)


def test_by_order_never() -> None:
    assert joined([image()], spiral(EVENT)) == (None, "REPORT_NOT_JOINED"), "nothing agrees"
    assert joined([image()], spiral(EVENT), spiral(OTHER)) == (None, "REPORT_AMBIGUOUS")


def test_time_picks_one_event_out_of_several() -> None:
    first = spiral(EVENT, started_at=AT, ended_at=AT.replace(second=10))
    second = spiral(OTHER, started_at=LATER, ended_at=LATER.replace(second=10))
    series = [image(AcquisitionDate="20240102", AcquisitionTime=f"10150{index}.5") for index in range(5)]
    assert joined(series, first, second) == (EVENT, WITHOUT_UID)
    series = [image(AcquisitionDateTime="20240102101705.123456+0100")]
    assert joined(series, first, second) == (OTHER, WITHOUT_UID)
    assert joined([image(AcquisitionDateTime="20240102101600")], first, second) == (None, "REPORT_NOT_JOINED")


def test_two_candidates_by_time_are_not_joined() -> None:
    events = [spiral(uid, started_at=AT, ended_at=LATER) for uid in (EVENT, OTHER)]
    series = [image(AcquisitionDate="20240102", AcquisitionTime="101600", ProtocolName="Thorax")]
    assert joined(series, *events) == (None, "REPORT_AMBIGUOUS")
    both = [image(AcquisitionDate="20240102", AcquisitionTime=time) for time in ("101500", "101700")]
    apart = (spiral(EVENT, started_at=AT, ended_at=AT), spiral(OTHER, started_at=LATER, ended_at=LATER))
    assert joined(both, *apart) == (None, "REPORT_AMBIGUOUS"), "the series spans two events"


def test_the_name_of_a_protocol_agrees_but_picks_none_out_of_several() -> None:
    series = [image(ProtocolName="THORAX")]
    assert joined(series, spiral(EVENT, protocol="Thorax")) == (EVENT, WITHOUT_UID)
    several = (spiral(EVENT, protocol="Thorax"), spiral(OTHER, protocol="Abdomen"))
    assert joined(series, *several) == (None, "REPORT_AMBIGUOUS")


@pytest.mark.parametrize(
    ("values", "event"),
    [
        ({"KVP": "100"}, {"kvp": 120.0}),
        ({"AcquisitionNumber": 3}, {"acquisition_number": "2"}),
        ({"ScanOptions": "HELICAL MODE"}, {"acquisition": "sequenced"}),
        ({"IrradiationEventUID": OTHER}, {}),
    ],
)
def test_what_contradicts_is_no_candidate(values: dict, event: dict) -> None:
    told = spiral(EVENT, protocol="Thorax")
    assert joined([image(ProtocolName="Thorax")], told) == (EVENT, WITHOUT_UID)
    series = [image(ProtocolName="Thorax", **values)]
    assert joined(series, replace(told, **event)) == (None, "REPORT_NOT_JOINED")


def test_the_acquisition_number_picks_one_out_of_several() -> None:
    events = [spiral(uid, acquisition_number=number) for uid, number in ((EVENT, "2"), (OTHER, "3"))]
    assert joined([image(AcquisitionNumber=3)], *events) == (OTHER, WITHOUT_UID)


# --- the reading ----------------------------------------------------------------------------


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
