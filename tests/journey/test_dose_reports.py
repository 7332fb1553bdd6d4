"""A dose report comes, late as usual: it feeds what waits for it, once, and changes nothing that was sent."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from pydicom import dcmread

from dicomnode.engines.need.engine import NeedEngine
from dicomnode.journey.job import Job, fresh_run
from dicomnode.node import Node
from dicomnode.settings import Settings
from tests.archive import filled, running_archive
from tests.journey.scene import (
    Pacs,
    decoded,
    free_port,
    low_dose_series,
    running,
    send_to,
    settings_for,
    wait_for_jobs,
    wait_until,
)
from tests.journey.test_crashes import CRASHING, assert_exactly_once, jobs_of, settings_file
from tests.makers import make_series, make_uid, phantom
from tests.report_makers import LOCALIZER, Irradiation, make_dose_report

pytestmark = pytest.mark.slow

EVENT, OTHER = make_uid("event"), make_uid("other event")
SCOUT = Irradiation(make_uid("scout"), 0.1, acquisition=LOCALIZER, protocol="Topogram")
LOW = Irradiation(EVENT, 1.0, 32)


def series_without_dose(folder: Path, event_uid: str | None = EVENT, **values: object) -> list[Path]:
    """Five noisy slices whose headers tell neither CTDIvol nor mAs."""

    def change(data, index: int) -> None:
        if event_uid is not None:
            data.IrradiationEventUID = event_uid
        for keyword, value in values.items():
            setattr(data, keyword, value)

    return make_series(folder, phantom(5, noise_hu=60.0), vendor="none", change=change)


def study_of(paths: list[Path]) -> str:
    return str(dcmread(paths[0], specific_tags=["StudyInstanceUID"]).StudyInstanceUID)


def found(settings: Settings, job: Job, station: str = "dose") -> dict:
    return json.loads((settings.node.spool / "work" / job.job_id / f"{station}.json").read_text())


def wait_for(node: Node, status: str, run: int) -> Job:
    wait_until(lambda: [(job.status, job.run) for job in node.jobs()] == [(status, run)], told=node.jobs)
    return node.jobs()[0]


def source_of_dose(pacs: Pacs) -> list[str]:
    """What the report that was sent says under Source of Dose Information (113854)."""

    def below(item) -> list:
        return [one for child in item.get("ContentSequence", []) for one in (child, *below(child))]

    (uid,) = pacs.reports()
    items = below(decoded(pacs.kept()[uid]))
    sources = [item for item in items if item.ConceptNameCodeSequence[0].CodeValue == "113854"]
    return [item.ConceptCodeSequence[0].CodeValue for item in sources]


def test_a_series_refused_for_want_of_a_dose_goes_on_when_its_report_comes(
    tmp_path: Path, pacs: Pacs, engine: NeedEngine
) -> None:
    settings = settings_for(tmp_path, pacs.port)
    paths = series_without_dose(tmp_path / "in")
    scout = make_dose_report(tmp_path / "sr" / "1.dcm", study_of(paths), [SCOUT])
    both = make_dose_report(tmp_path / "sr" / "2.dcm", study_of(paths), [SCOUT, LOW])
    with Node(settings, engine=engine) as node:
        send_to(node.port, paths)
        refused = wait_for(node, "refused", run=1)
        assert (refused.rule, refused.dose_reports) == ("dose-unknown", ())

        assert len(send_to(node.port, [scout]).sent) == 1
        job = wait_for(node, "refused", run=2)
        assert job.rule == "dose-unknown", "a localizer's dose is nobody else's"

        send_to(node.port, [both])
        job = wait_for(node, "done", run=3)
        send_to(node.port, [scout, both])
        send_to(node.port, low_dose_series(tmp_path / "other", seed=9))
        assert wait_for_jobs(node, 2)[0] == job, "the same reports again start nothing"
    with Node(settings, engine=engine) as node:
        assert node.jobs()[0] == job, "nor does a restart"

    reports = [str(dcmread(path).SOPInstanceUID) for path in (scout, both)]
    dose = found(settings, job)
    assert (dose["source"], dose["phantom_cm"]) == ("radiation-dose-report", 32)
    assert dose["ctdivol_mgy"] == [1.0] * 5
    assert dose["report_uids"] == reports[1:]
    assert sorted(job.dose_reports) == sorted(dose["reports_considered"]) == sorted(reports)
    assert len(pacs.images()) == 5 + 5
    held = {path.name for path in (settings.node.spool / "incoming").glob("*/*.dcm")}
    assert len(held) == 5 + 5 + 2, "the reports are kept beside the images"


def test_the_report_that_is_sent_names_the_scanners_own_record_as_the_source(
    tmp_path: Path, pacs: Pacs, engine: NeedEngine
) -> None:
    settings = settings_for(tmp_path, pacs.port)
    paths = series_without_dose(tmp_path / "in")
    in_gray = Irradiation(EVENT, 0.002, 16, units={"113830": "Gy"})
    early = make_dose_report(tmp_path / "sr" / "1.dcm", study_of(paths), [in_gray, SCOUT])
    with Node(settings, engine=engine) as node:
        send_to(node.port, [early])
        send_to(node.port, paths)
        (job,) = wait_for_jobs(node)
    assert (job.status, job.run) == ("done", 1), "a report that is there before the images is used at once"
    dose, facts = found(settings, job), found(settings, job, "measure")
    assert (dose["phantom_cm"], dose["ctdivol_mgy"]) == (16, [2.0] * 5)
    on_body_phantom = [one["ctdivol_mgy"] for one in facts["slices"]]
    assert on_body_phantom == pytest.approx([1.0] * 5, rel=0.1), "about half of it on the 32 cm phantom"
    assert source_of_dose(pacs) == ["113856"]


def test_a_result_made_with_a_report_is_another_object_than_one_made_without(
    tmp_path: Path, pacs: Pacs, engine: NeedEngine
) -> None:
    def change(data, index: int) -> None:
        data.IrradiationEventUID = EVENT

    uids = []
    for name in ("without", "with"):
        settings = settings_for(tmp_path / name, pacs.port, identity={"device_uid": "1.2.3"})
        paths = low_dose_series(tmp_path / name / "in", change=change)
        with Node(settings, engine=engine) as node:
            if name == "with":
                low = make_dose_report(tmp_path / "sr" / "1.dcm", study_of(paths), [LOW])
                send_to(node.port, [low])
            send_to(node.port, paths)
            (job,) = wait_for_jobs(node)
        assert found(settings, job)["source"] == "ctdivol-tag"
        uids.append(job.derived_series_uid)
    assert uids[0] != uids[1]


def test_two_events_that_could_both_be_it_leave_the_series_refused(
    tmp_path: Path, pacs: Pacs, engine: NeedEngine
) -> None:
    settings = settings_for(tmp_path, pacs.port)
    paths = series_without_dose(tmp_path / "in", event_uid=None, AcquisitionTime="101505")
    when = {"started": "20240102101500", "ended": "20240102101510"}
    events = [Irradiation(uid, mgy, **when) for uid, mgy in ((EVENT, 1.0), (OTHER, 12.0))]
    report = make_dose_report(tmp_path / "sr" / "1.dcm", study_of(paths), events)
    alone = make_dose_report(tmp_path / "again" / "sr" / "2.dcm", "1.2.3.4", events[:1])
    with Node(settings, engine=engine) as node:
        send_to(node.port, paths)
        wait_for(node, "refused", run=1)
        send_to(node.port, [report, alone])
        job = wait_for(node, "refused", run=2)
    dose = found(settings, job)
    assert (dose["source"], dose["flags"]) == ("none", ["REPORT_AMBIGUOUS"])
    assert dose["reports_considered"] == [str(dcmread(report).SOPInstanceUID)], "another study's is not"


def test_what_was_sent_is_not_changed_by_a_report_that_contradicts_it(
    tmp_path: Path, pacs: Pacs, engine: NeedEngine
) -> None:
    def change(data, index: int) -> None:
        data.IrradiationEventUID = EVENT

    settings = settings_for(tmp_path, pacs.port)
    paths = low_dose_series(tmp_path / "in", change=change)
    agrees, contradicts = (
        make_dose_report(tmp_path / f"{mgy}.dcm", study_of(paths), [Irradiation(EVENT, mgy)], content_time=at)
        for mgy, at in ((1.1, "103000"), (3.0, "103100"))
    )
    with Node(settings, engine=engine) as node:
        send_to(node.port, paths)
        wait_for(node, "done", run=1)
        before = dict(pacs.kept())
        send_to(node.port, [agrees])
        wait_until(lambda: len(node.jobs()[0].dose_reports) == 1, told=node.jobs)
        assert node.jobs()[0].dose_remark is None
        send_to(node.port, [contradicts])
        wait_until(lambda: len(node.jobs()[0].dose_reports) == 2, told=node.jobs)
        (job,) = node.jobs()
    assert (job.status, job.run) == ("done", 1)
    assert "3 times the CTDIvol" in (job.dose_remark or "")
    with Node(settings, engine=engine) as node:
        assert node.jobs() == [job]
    assert pacs.kept() == before
    assert found(settings, job)["report_uids"] == []


def test_a_report_that_comes_while_the_series_is_worked_on_is_not_overlooked(
    tmp_path: Path, pacs: Pacs, engine: NeedEngine
) -> None:
    settings = settings_for(tmp_path, pacs.port)
    paths = series_without_dose(tmp_path / "in")
    report = make_dose_report(tmp_path / "sr" / "1.dcm", study_of(paths), [LOW])
    nodes: list[Node] = []

    def send_while_it_measures(job: Job) -> None:
        if (job.status, job.station, job.run) == ("working", "measure", 1) and nodes:
            node = nodes.pop()
            send_to(node.port, [report])
            assert node._journey is not None
            reports = node._journey.reports
            wait_until(lambda: reports.known(study_of(paths)))

    with Node(settings, observe=send_while_it_measures, engine=engine) as node:
        nodes.append(node)
        send_to(node.port, paths)
        job = wait_for(node, "done", run=2)
    assert found(settings, job)["source"] == "radiation-dose-report"


def test_a_report_that_nobody_sends_is_asked_for_until_it_is_there(
    tmp_path: Path,
    pacs: Pacs,
    engine: NeedEngine,
    program: Callable[[str], str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("dicomnode.journey.asking.PAUSES_SECONDS", (0.5,) * 200)
    paths = series_without_dose(tmp_path / "in")
    scout = make_dose_report(tmp_path / "sr" / "1.dcm", study_of(paths), [SCOUT])
    both = make_dose_report(tmp_path / "sr" / "2.dcm", study_of(paths), [SCOUT, LOW])
    dead = {"name": "dead", "ae_title": "DEAD", "host": "127.0.0.1", "port": free_port()}
    with running_archive(program("dcmqrscp"), tmp_path) as archive:
        filled(archive, [scout])
        values = settings_for(tmp_path, pacs.port).model_dump()
        settings = Settings.model_validate({**values, "sources": [dead, archive.model_dump()]})
        with Node(settings, engine=engine) as node:
            send_to(node.port, paths)
            wait_for(node, "refused", run=2)
        with Node(settings, engine=engine) as node:
            filled(archive, [both])
            job = wait_for(node, "done", run=3)
    assert found(settings, job)["source"] == "radiation-dose-report"
    assert len(job.dose_reports) == 2


def test_a_run_that_the_database_takes_up_gives_way_to_a_newer_one(
    tmp_path: Path, pacs: Pacs, engine: NeedEngine
) -> None:
    """Killed after the record said refused, started again by a report: the old run knows nothing of that."""
    with Node(settings_for(tmp_path, pacs.port), engine=engine) as node:
        send_to(node.port, series_without_dose(tmp_path / "in"))
        job = wait_for(node, "refused", run=1)
        journey = node._journey
        assert journey is not None
        journey._stations.forget_dose(job.job_id)
        journey.book.update(job.job_id, fresh_run)
        ending = journey._visit(job.job_id, "match", 1)
        assert ending is not None
        journey._after(job.job_id, ending)
        assert wait_for(node, "refused", run=2).rule == "dose-unknown"


@pytest.mark.slow
def test_a_crash_amid_taking_up_again_is_made_good_at_the_next_start(
    tmp_path: Path, pacs: Pacs, engine: NeedEngine
) -> None:
    """The stations were taken back, the record not yet; and the report was filed, its sender not yet told."""
    settings = settings_for(tmp_path, pacs.port)
    paths = series_without_dose(tmp_path / "in")
    report = make_dose_report(tmp_path / "sr" / "1.dcm", study_of(paths), [LOW])
    with Node(settings, engine=engine) as node:
        send_to(node.port, paths)
        job = wait_for(node, "refused", run=1)
    for station in ("measure", "dose"):
        (settings.node.spool / "work" / job.job_id / f"{station}.json").unlink()
    header = dcmread(report)
    node = Node(settings, engine=engine)
    node._spool.file(header.SeriesInstanceUID, header.SOPInstanceUID, report.read_bytes())
    with node:
        job = wait_for(node, "done", run=2)
    assert_exactly_once(pacs, job, slices=5)
    assert found(settings, job)["source"] == "radiation-dose-report"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_killed_at_every_moment_of_the_second_start_it_still_delivers_once(
    tmp_path: Path, pacs: Pacs
) -> None:
    moments = ("again", "begin:dose", "end:dose", "end:measure", "begin:match", "end:match", "sending")
    settings, config = settings_file(tmp_path, pacs)
    paths = series_without_dose(tmp_path / "in")
    report = make_dose_report(tmp_path / "sr" / "1.dcm", study_of(paths), [LOW])
    with running(settings, tmp_path, *CRASHING, config, "refused", *moments, "never") as node:
        node.wait_until_ready()
        send_to(settings.node.port, paths)
        wait_until(lambda: "life: again" in node.log(), 120, told=node.log)
        node.wait_until_ready()
        assert jobs_of(settings)[0].rule == "dose-unknown"
        send_to(settings.node.port, [report])
        wait_until(lambda: "life: never" in node.log(), 240, told=node.log)
        node.wait_until_ready()
        wait_until(lambda: jobs_of(settings)[0].status == "done", told=lambda: jobs_of(settings))
        assert node.terminate() == 0
    assert node.log().count("died of SIGKILL") == 1 + len(moments)
    (job,) = jobs_of(settings)
    assert_exactly_once(pacs, job, slices=5)
    assert found(settings, job)["source"] == "radiation-dose-report"
