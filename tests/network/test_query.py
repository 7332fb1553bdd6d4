"""Asking a real archive (dcmtk's dcmqrscp) for dose reports and the size of a series."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pydicom import Dataset, dcmread
from pynetdicom import AE, evt
from pynetdicom.sop_class import ComprehensiveSRStorage, StudyRootQueryRetrieveInformationModelFind

from dicomnode.errors import DiskFull, PeerBusy, PeerRefused, PeerUnreachable
from dicomnode.network import query
from dicomnode.network.filing import Filing, Request
from dicomnode.network.query import fetch_dose_reports, series_related_instances
from dicomnode.network.requestor import Patience
from dicomnode.settings import Source
from dicomnode.spool import Spool
from tests.archive import filled, running_archive
from tests.archives_orthanc import running_orthanc
from tests.makers import make_series
from tests.network.conftest import free_port
from tests.report_makers import Irradiation, make_dose_report

PATIENCE = Patience(5.0, 10.0, 20.0)


@pytest.fixture
def archive(tmp_path: Path, program: Callable[[str], str]) -> Iterator[Source]:
    """An empty dcmqrscp."""
    with running_archive(program("dcmqrscp"), tmp_path) as source:
        yield source


def test_the_dose_reports_of_a_study_are_brought_and_filed_as_they_are(
    archive: Source, tmp_path: Path
) -> None:
    images = make_series(tmp_path / "images", slices=3)
    study = str(dcmread(images[0]).StudyInstanceUID)
    reports = [
        make_dose_report(tmp_path / f"{number}.dcm", study, [Irradiation("1.2.3", float(number))])
        for number in (1, 2)
    ]
    elsewhere = make_dose_report(tmp_path / "other.dcm", "1.2.3.4", [Irradiation("1.2.4")])
    filled(archive, [*images, *reports, elsewhere])

    spool = Spool(tmp_path / "spool", reserve_bytes=0)
    filing = Filing(spool)
    assert fetch_dose_reports(archive, "NODE", study, filing.file, PATIENCE) == 2
    held = {dcmread(path).SOPInstanceUID: dcmread(path) for path in spool.incoming.rglob("*.dcm")}
    assert held == {dcmread(path).SOPInstanceUID: dcmread(path) for path in reports}

    again: list[bool] = []
    assert fetch_dose_reports(
        archive, "NODE", study, lambda request: again.append(filing.file(request).new), PATIENCE
    )
    assert again == [False, False], "the same bytes once more"
    assert fetch_dose_reports(archive, "NODE", "1.2.99", filing.file, PATIENCE) == 0


@pytest.mark.parametrize("kind", ["dcmqrscp", "Orthanc"])
def test_reports_of_another_kind_in_the_study_keep_no_dose_report_back(
    kind: str, tmp_path: Path, program: Callable[[str], str]
) -> None:
    """An archive cannot send what was not negotiated, and says so with a failure; ours are among those."""
    report = make_dose_report(tmp_path / "dose.dcm", "1.2.6", [Irradiation("1.2.3")])
    findings = [another_report(report, tmp_path / f"{number}.dcm", f"1.2.6.{number}") for number in range(4)]
    running = running_archive if kind == "dcmqrscp" else running_orthanc
    with running(program(kind), tmp_path) as source:
        filled(source, findings[:2])
        with pytest.raises(PeerBusy):
            fetch_dose_reports(source, "NODE", "1.2.6", lambda _: None, PATIENCE)
        filled(source, [report, *findings[2:]])
        brought: list[str] = []
        assert (
            fetch_dose_reports(
                source,
                "NODE",
                "1.2.6",
                lambda request: brought.append(request.affected_sop_instance_uid),
                PATIENCE,
            )
            == 1
        )
    assert brought == [dcmread(report).SOPInstanceUID]


def another_report(report: Path, path: Path, uid: str) -> Path:
    """A Comprehensive SR of the same study, in a series of its own."""
    data = dcmread(report)
    data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = ComprehensiveSRStorage
    data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = f"{uid}.1"
    data.SeriesInstanceUID = uid
    data.save_as(path)
    return path


def test_a_peer_that_hangs_up_between_two_messages_is_a_matter_of_time(archive: Source) -> None:
    def ask() -> None:
        with query._association(archive, "NODE", PATIENCE) as association:
            association.abort()
            list(query._find(association, archive, query.count_keys("1.2", "1.3")))

    with pytest.raises(PeerBusy, match="before it was asked"):
        ask()


def test_what_cannot_be_kept_is_not_counted_and_the_archive_is_told(archive: Source, tmp_path: Path) -> None:
    report = make_dose_report(tmp_path / "1.dcm", "1.2.5", [Irradiation("1.2.3")])
    filled(archive, [report])

    def full(request: Request) -> None:
        raise DiskFull("no space")

    with pytest.raises(PeerBusy):
        fetch_dose_reports(archive, "NODE", "1.2.5", full, PATIENCE)


def test_an_archive_that_does_not_count_tells_no_size(archive: Source, tmp_path: Path) -> None:
    images = make_series(tmp_path / "images", slices=3)
    header = dcmread(images[0])
    filled(archive, images)
    study, series = str(header.StudyInstanceUID), str(header.SeriesInstanceUID)
    assert series_related_instances(archive, "NODE", study, series, PATIENCE) is None


def test_the_size_of_a_series_as_an_orthanc_tells_it(tmp_path: Path, program: Callable[[str], str]) -> None:
    images = make_series(tmp_path / "images", slices=7)
    header = dcmread(images[0])
    study, series = str(header.StudyInstanceUID), str(header.SeriesInstanceUID)
    with running_orthanc(program("Orthanc"), tmp_path) as orthanc:
        assert series_related_instances(orthanc, "NODE", study, series, PATIENCE) is None
        filled(orthanc, images[:4])
        assert series_related_instances(orthanc, "NODE", study, series, PATIENCE) == 4
        filled(orthanc, images[4:])
        assert series_related_instances(orthanc, "NODE", study, series, PATIENCE) == 7


@pytest.mark.parametrize(
    ("told", "read"), [("7", 7), ("", None), ("0", None), (None, None), ("another series", None)]
)
def test_the_size_of_a_series_is_what_the_source_says_of_that_series(
    told: str | None, read: int | None
) -> None:
    asked: list[Dataset] = []

    def answer(event: evt.Event) -> Iterator[tuple[int, Dataset | None]]:
        asked.append(event.identifier)
        found = Dataset()
        found.QueryRetrieveLevel, found.StudyInstanceUID = "SERIES", "1.2"
        found.SeriesInstanceUID = "1.3.9" if told == "another series" else "1.3"
        if told is not None:
            found.NumberOfSeriesRelatedInstances = "7" if told == "another series" else told
        yield 0xFF00, found

    entity = AE("ARCHIVE")
    entity.add_supported_context(StudyRootQueryRetrieveInformationModelFind)
    server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_FIND, answer)])
    assert server is not None
    source = Source(name="a", ae_title="ARCHIVE", host="127.0.0.1", port=server.server_address[1])
    try:
        assert series_related_instances(source, "NODE", "1.2", "1.3", PATIENCE) == read
    finally:
        server.shutdown()
    assert (asked[0].StudyInstanceUID, asked[0].SeriesInstanceUID) == ("1.2", "1.3")


@pytest.mark.parametrize("series_uid", [None, "", "not a UID"])
def test_an_answer_that_names_no_series_ends_no_asking(series_uid: str | None) -> None:
    def answer(event: evt.Event) -> Iterator[tuple[int, Dataset | None]]:
        found = Dataset()
        found.QueryRetrieveLevel, found.StudyInstanceUID, found.Modality = "SERIES", "1.2", "SR"
        if series_uid is not None:
            found.SeriesInstanceUID = series_uid
        yield 0xFF00, found

    entity = AE("ARCHIVE")
    entity.add_supported_context(StudyRootQueryRetrieveInformationModelFind)
    server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_FIND, answer)])
    assert server is not None
    source = Source(name="a", ae_title="ARCHIVE", host="127.0.0.1", port=server.server_address[1])
    try:
        assert fetch_dose_reports(source, "NODE", "1.2", lambda _: None, PATIENCE) == 0
    finally:
        server.shutdown()


def test_sources_that_are_not_there_or_do_not_know_queries(
    archive: Source, node: object, tmp_path: Path
) -> None:
    nowhere = archive.model_copy(update={"port": free_port()})
    with pytest.raises(PeerUnreachable, match="archive"):
        series_related_instances(nowhere, "NODE", "1.2", "1.3", PATIENCE)
    port = node.port  # type: ignore[attr-defined]
    storage = archive.model_copy(update={"port": port, "ae_title": "NODE"})
    with pytest.raises((PeerRefused, PeerUnreachable)):
        series_related_instances(storage, "SCANNER", "1.2", "1.3", PATIENCE)
