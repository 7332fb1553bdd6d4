"""Dose reports: to which images an event is joined."""

from dataclasses import replace
from datetime import datetime

import pytest
from pydicom.dataset import Dataset

from dicomnode.dicom.dose_joining import join, scans_of
from dicomnode.dicom.dose_report import DoseEvent
from tests.dicom.dose_events import EVENT, OTHER, image, spiral

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
