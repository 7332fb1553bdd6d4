"""Whole journeys: in by C-STORE, out by C-STORE, and everything between is the real thing."""

import json
import logging
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.uid import MRImageStorage, XRayRadiationDoseSRStorage

from dicomnode.engines.need.engine import NeedEngine
from dicomnode.journey.job import Job, request_retry
from dicomnode.node import Node
from dicomnode.settings import Settings
from tests.journey.scene import (
    Pacs,
    decoded,
    low_dose_series,
    send_to,
    settings_for,
    wait_for_jobs,
    wait_until,
)
from tests.makers import make_series, make_uid


def test_a_series_goes_in_and_its_enhanced_twin_and_report_arrive(
    tmp_path: Path, pacs: Pacs, engine: NeedEngine
) -> None:
    seen: list[Job] = []
    with Node(settings_for(tmp_path, pacs.port), observe=seen.append, engine=engine) as node:
        paths = low_dose_series(tmp_path / "in")
        assert len(send_to(node.port, paths).sent) == 5
        (job,) = wait_for_jobs(node)

    assert (job.status, job.verdict) in {("done", "pass"), ("done", "label")}
    assert job.destinations[0].sent == job.destinations[0].total == 6
    assert list(job.seconds) == ["assemble", "dose", "measure", "match", "reconstruct", "judge", "write"]
    stations = list(dict.fromkeys(told.station for told in seen))
    assert stations == [None, *job.seconds, "deliver"]
    assert max(told.done for told in seen if told.station == "reconstruct") == 5

    sources = [dcmread(path) for path in paths]
    results = [decoded(pacs.kept()[uid]) for uid in pacs.images()]
    by_source = {result.SourceImageSequence[0].ReferencedSOPInstanceUID: result for result in results}
    assert {result.SeriesInstanceUID for result in results} == {job.derived_series_uid}
    for source in sources:
        result = by_source[source.SOPInstanceUID]
        assert result.ImagePositionPatient == source.ImagePositionPatient
        assert result.StudyInstanceUID == source.StudyInstanceUID
        change = np.abs(result.pixel_array.astype(float) - source.pixel_array.astype(float))
        assert 0.0 < change.mean() < 200.0, "the pixels are neither those of the source nor of another"
    assert len(pacs.reports()) == 1
    assert pacs.asked[-1][1] == pacs.reports()[0], "the report goes last"
    work = next(tmp_path.rglob("match.json")).parent
    match, measure = (json.loads((work / name).read_text()) for name in ("match.json", "measure.json"))
    assert match["told"] in results[0].DerivationDescription
    assert [one["region"] for one in measure["slices"]] == ["chest"] * 5
    assert measure["regions"].encode() in pacs.kept()[pacs.reports()[0]]


@pytest.mark.slow
def test_the_same_series_again_is_the_same_result(tmp_path: Path, pacs: Pacs, engine: NeedEngine) -> None:
    settings = settings_for(tmp_path, pacs.port)
    paths = low_dose_series(tmp_path / "in")
    with Node(settings, engine=engine) as node:
        send_to(node.port, paths)
        (job,) = wait_for_jobs(node)
        asked = len(pacs.asked)
        assert len(send_to(node.port, paths).sent) == 5, "sent again is answered 0000"
        send_to(node.port, low_dose_series(tmp_path / "other", seed=9))
        jobs = wait_for_jobs(node, 2)
    assert jobs[0] == job
    with Node(settings, engine=engine) as node:
        assert node.jobs() == jobs, "and a restart changes nothing"
    assert len(pacs.asked) == 2 * asked


@pytest.mark.slow
def test_images_that_come_late_make_a_new_result_of_all_images(
    tmp_path: Path, pacs: Pacs, engine: NeedEngine
) -> None:
    paths = low_dose_series(tmp_path / "in", slices=5)
    with Node(settings_for(tmp_path, pacs.port), engine=engine) as node:
        send_to(node.port, paths[:4])
        wait_for_jobs(node, 1)
        send_to(node.port, paths[4:])
        first, second = wait_for_jobs(node, 2)
    assert [(job.generation, job.instances) for job in (first, second)] == [(0, 4), (1, 5)]
    assert [job.status for job in (first, second)] == ["done", "done"]
    assert first.derived_series_uid != second.derived_series_uid
    assert len(pacs.images()) == 9, "no SOP Instance UID of the first result was used for the second"
    assert len(pacs.reports()) == 2


@pytest.mark.slow
def test_a_destination_that_is_down_gets_it_later_and_delays_no_other(
    tmp_path: Path, pacs: Pacs, engine: NeedEngine
) -> None:
    late = Pacs().start()
    late.stop()
    with Node(settings_for(tmp_path, late.port, pacs.port), engine=engine) as node:
        send_to(node.port, low_dose_series(tmp_path / "in"))
        wait_until(lambda: len(pacs.reports()) == 1)
        (job,) = node.jobs()
        wait_until(lambda: node.jobs()[0].destinations[0].attempts >= 3, told=node.jobs)
        assert node.jobs()[0].status == "sending"
        with late:
            (job,) = wait_for_jobs(node)
    assert job.status == "done"
    assert late.kept() == pacs.kept()


@pytest.mark.slow
def test_a_result_that_could_not_leave_gives_way_to_the_one_with_more_images(
    tmp_path: Path, pacs: Pacs, engine: NeedEngine
) -> None:
    pacs.stop()
    paths = low_dose_series(tmp_path / "in", slices=5)
    with Node(settings_for(tmp_path, pacs.port), engine=engine) as node:
        send_to(node.port, paths[:4])
        wait_until(lambda: node.jobs() and node.jobs()[0].status == "sending", told=node.jobs)
        send_to(node.port, paths[4:])
        wait_until(lambda: len(node.jobs()) == 2, told=node.jobs)
        wait_until(lambda: node.jobs()[0].final, told=node.jobs)
        pacs.start()
        first, second = wait_for_jobs(node, 2)
    assert [job.status for job in (first, second)] == ["superseded", "done"]
    assert len(pacs.images()) == 5


@pytest.mark.slow
def test_what_was_stored_before_a_peer_ran_full_is_not_sent_again(
    tmp_path: Path, pacs: Pacs, engine: NeedEngine
) -> None:
    pacs.answer = lambda sop_class, uid: 0xA700 if len(pacs.asked) == 3 else 0x0000
    with Node(settings_for(tmp_path, pacs.port), engine=engine) as node:
        send_to(node.port, low_dose_series(tmp_path / "in"))
        (job,) = wait_for_jobs(node)
    assert job.status == "done"
    assert job.destinations[0].attempts == 2
    stored = [uid for _, uid, _, status in pacs.asked if status == 0]
    assert len(stored) == len(set(stored)) == 6


@pytest.mark.slow
def test_a_permanent_refusal_keeps_the_report_back_until_someone_asks_again(
    tmp_path: Path, pacs: Pacs, engine: NeedEngine
) -> None:
    pacs.answer = lambda sop_class, uid: 0xC123 if len(pacs.asked) == 2 else 0x0000
    settings = settings_for(tmp_path, pacs.port)
    with Node(settings, engine=engine) as node:
        send_to(node.port, low_dose_series(tmp_path / "in"))
        (job,) = wait_for_jobs(node)
        assert job.status == "undelivered"
        assert "1 of 5 images refused for good (status C123)" in (job.reason or "")
        assert pacs.reports() == [], "a report about images that are not there is worse than none"
        pacs.answer = lambda sop_class, uid: 0x0000
        before = len(pacs.asked)
        request_retry(settings.node.spool, job.job_id)
        wait_until(lambda: node.jobs()[0].status == "done", told=node.jobs)
    assert [sop_class for sop_class, *_ in pacs.asked[before:]] == [
        "1.2.840.10008.5.1.4.1.1.2",
        "1.2.840.10008.5.1.4.1.1.88.33",
    ], "the image that was refused, then the report"


def test_series_that_must_not_be_enhanced_are_kept_and_told_by_their_rule(
    tmp_path: Path, pacs: Pacs, engine: NeedEngine
) -> None:
    settings = settings_for(tmp_path, pacs.port)
    with_gap = low_dose_series(tmp_path / "gap", slices=6)
    del with_gap[3]
    localizer = make_series(tmp_path / "localizer", slices=1, image_type=("ORIGINAL", "PRIMARY", "LOCALIZER"))
    air = np.full((4, 64, 64), -1000.0, np.float32)
    nothing_known = make_series(tmp_path / "air", air, vendor="none")
    good = low_dose_series(tmp_path / "good", slices=3)
    with Node(settings, engine=engine) as node:
        for paths in (with_gap, localizer, nothing_known, good):
            send_to(node.port, paths)
        jobs = {job.instances: job for job in wait_for_jobs(node, 4)}
    assert [(jobs[count].status, jobs[count].rule) for count in (5, 1, 4, 3)] == [
        ("refused", "gap-in-series"),
        ("refused", "localizer"),
        ("refused", "dose-unknown"),
        ("done", None),
    ]
    kept = list((settings.node.spool / "incoming").glob("*/*.dcm"))
    assert len(kept) == 5 + 1 + 4 + 3, "refused is not lost"
    assert len(pacs.images()) == 3
    assert len(list((settings.node.spool / "refused").glob("*/*.json"))) == 3


def test_our_own_result_coming_back_is_stored_and_ignored(
    tmp_path: Path, pacs: Pacs, engine: NeedEngine
) -> None:
    settings = settings_for(tmp_path, pacs.port)
    with Node(settings, engine=engine) as node:
        send_to(node.port, low_dose_series(tmp_path / "in"))
        wait_for_jobs(node)
        own = sorted((settings.node.spool / "work").glob("*/outgoing/0/images/*.dcm"))
        asked = len(pacs.asked)
        delivery = send_to(node.port, own)
        jobs = wait_for_jobs(node, 2)
    assert (len(delivery.sent), delivery.refused) == (5, ())
    assert (jobs[1].status, jobs[1].rule) == ("ignored", "already-enhanced")
    assert len(pacs.asked) == asked


def test_a_dose_report_is_stored_without_a_journey_and_mr_is_not_negotiated(
    tmp_path: Path, pacs: Pacs, engine: NeedEngine
) -> None:
    def as_dose_report(data, index: int) -> None:
        data.SOPClassUID = XRayRadiationDoseSRStorage
        data.SOPInstanceUID = make_uid("dose report")
        data.Modality = "SR"
        for keyword in ("PixelData", "Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit"):
            delattr(data, keyword)

    def as_mr(data, index: int) -> None:
        data.SOPClassUID = MRImageStorage
        data.Modality = "MR"

    settings = settings_for(tmp_path, pacs.port)
    report = make_series(tmp_path / "report", slices=1, change=as_dose_report)
    mr = make_series(tmp_path / "mr", slices=2, change=as_mr)
    with Node(settings, engine=engine) as node:
        assert len(send_to(node.port, report).sent) == 1
        answer = send_to(node.port, [*mr, *low_dose_series(tmp_path / "in")])
        assert [status for _, status in answer.refused] == [0x0122, 0x0122]
        assert len(answer.sent) == 5
        (job,) = wait_for_jobs(node)
    with Node(settings, engine=engine) as node:
        assert node.jobs() == [job], "the sweep at start makes no job of a dose report either"
    assert job.instances == 5


class Sick(NeedEngine):
    """An engine with a fault that no error class foresees."""

    def refine(self, prior, low_dose, neighbours, starts):
        if low_dose.shape[-1] == 48:
            raise ZeroDivisionError("something nobody thought of")
        return super().refine(prior, low_dose, neighbours, starts)


def sick(engine: NeedEngine) -> NeedEngine:
    return Sick(engine.card, engine.projection, engine.image, engine.device)


@pytest.mark.slow
def test_an_error_of_the_program_ends_one_job_and_not_the_node(
    tmp_path: Path, pacs: Pacs, engine: NeedEngine, caplog: pytest.LogCaptureFixture
) -> None:
    settings = settings_for(tmp_path, pacs.port)
    with Node(settings, engine=sick(engine)) as node:
        send_to(node.port, low_dose_series(tmp_path / "bad", slices=4, side=48))
        wait_for_jobs(node, 1)
        send_to(node.port, low_dose_series(tmp_path / "good"))
        bad, good = wait_for_jobs(node, 2)
    assert (bad.status, good.status) == ("failed", "done")
    assert "ZeroDivisionError" in (bad.reason or "")
    assert any(record.exc_info for record in caplog.records), "the traceback is in the log"
    with Node(settings, engine=engine) as node:
        node.retry(bad.job_id)
        wait_until(lambda: node.jobs()[0].status == "done", told=node.jobs)
    assert len(pacs.images()) == 9


@pytest.mark.slow
def test_a_full_disk_makes_a_job_wait_and_go_on_by_itself(
    tmp_path: Path, pacs: Pacs, engine: NeedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dicomnode.journey.workflow._FIRST_PAUSE_SECONDS", 0.3)
    with Node(settings_for(tmp_path, pacs.port), engine=engine) as node:
        send_to(node.port, low_dose_series(tmp_path / "in"))
        node._spool.reserve_bytes = 2**62
        wait_until(lambda: node.jobs() and node.jobs()[0].status == "waiting", told=node.jobs)
        assert "reserve" in (node.jobs()[0].reason or "")
        node._spool.reserve_bytes = 0
        (job,) = wait_for_jobs(node)
    assert job.status == "done"
    assert job.run >= 2


@pytest.mark.slow
def test_a_result_that_fails_the_gate_stays_until_the_gate_is_changed(
    tmp_path: Path, pacs: Pacs, engine: NeedEngine
) -> None:
    strict = settings_for(tmp_path, pacs.port, quality={"max_bias_hu": 1e-9, "on_failure": "hold"})
    with Node(strict, engine=engine) as node:
        send_to(node.port, low_dose_series(tmp_path / "in", slices=8))
        (job,) = wait_for_jobs(node)
    assert (job.status, job.rule) == ("held", "held-by-quality")
    assert pacs.asked == []
    with Node(settings_for(tmp_path, pacs.port), engine=engine) as node:
        node.retry(job.job_id)
        (job,) = wait_for_jobs(node)
    assert job.status == "done"
    assert len(pacs.images()) == 8


class Slow(NeedEngine):
    """An engine that takes its time, so that there is time to stop it."""

    def refine(self, prior, low_dose, neighbours, starts):
        time.sleep(0.5)
        return super().refine(prior, low_dose, neighbours, starts)


@pytest.mark.slow
def test_an_orderly_stop_loses_no_work_and_counts_as_no_crash(
    tmp_path: Path, pacs: Pacs, engine: NeedEngine
) -> None:
    slow = Slow(engine.card, engine.projection, engine.image, engine.device)
    settings = settings_for(tmp_path, pacs.port)
    paths = low_dose_series(tmp_path / "in", slices=12)
    with Node(settings, engine=slow) as node:
        send_to(node.port, paths)
    for _ in range(4):
        with Node(settings, engine=slow) as node:
            wait_until(lambda: node.jobs() and node.jobs()[0].station == "reconstruct", told=node.jobs)
        assert node.jobs()[0].status == "working"
        assert dict(node.jobs()[0].starts) == {}
    with Node(settings, engine=engine) as node:
        (job,) = wait_for_jobs(node)
    assert job.status == "done"
    assert len(pacs.images()) == 12


@pytest.mark.slow
def test_a_job_that_waited_while_the_configuration_changed_and_changed_back_is_done_once(
    tmp_path: Path, pacs: Pacs, engine: NeedEngine
) -> None:
    slow = Slow(engine.card, engine.projection, engine.image, engine.device)
    before = settings_for(tmp_path, pacs.port)
    after = settings_for(tmp_path, pacs.port, identity={"series_description_prefix": "NEW | "})

    def at_work(node: Node, jobs: int) -> bool:
        now = node.jobs()
        return len(now) == jobs and (now[-1].status, now[-1].station) == ("working", "reconstruct")

    with Node(before, engine=slow) as node:
        send_to(node.port, low_dose_series(tmp_path / "in", slices=8))
        wait_until(lambda: at_work(node, 1), told=node.jobs)
    with Node(after, engine=slow) as node:
        wait_until(lambda: at_work(node, 2), told=node.jobs)
        first, second = node.jobs()
        assert first.status == "superseded"
        assert second.job_id in (first.reason or "")
    with Node(before, engine=engine) as node:
        first, second = wait_for_jobs(node, 2)
    assert (first.status, second.status) == ("done", "superseded")
    assert len(pacs.images()) == 8
    assert all(decoded(pacs.kept()[uid]).SeriesDescription.startswith("AI-DN | ") for uid in pacs.images())


@pytest.mark.slow
def test_peers_that_want_another_image_type_get_other_objects(
    tmp_path: Path, pacs: Pacs, engine: NeedEngine
) -> None:
    with Pacs() as other:
        told = settings_for(tmp_path, pacs.port, other.port).model_dump(mode="json")
        told["destinations"][1]["image_type2"] = "SECONDARY"
        told["destinations"][1]["report"] = False
        with Node(Settings.model_validate(told), engine=engine) as node:
            send_to(node.port, low_dose_series(tmp_path / "in"))
            (job,) = wait_for_jobs(node)
        assert job.status == "done"
        assert not set(pacs.kept()) & set(other.kept())
        for peer, word in ((pacs, "PRIMARY"), (other, "SECONDARY")):
            types = [decoded(peer.kept()[uid]).ImageType[1] for uid in peer.images()]
            assert types == [word] * 5
        assert (len(pacs.reports()), len(other.reports())) == (1, 0)


def test_logs_and_file_names_hold_no_identifier_and_nothing_leaves_the_machine(
    tmp_path: Path, pacs: Pacs, engine: NeedEngine, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    peers: set[str] = set()
    listening = True

    def listen(event: str, arguments: tuple) -> None:
        if listening and event == "socket.connect":
            peers.add(str(arguments[1][0]))
        elif listening and event == "socket.getaddrinfo":
            peers.add(str(arguments[0]))

    sys.addaudithook(listen)
    settings = settings_for(tmp_path, pacs.port)
    paths = low_dose_series(tmp_path / "in")
    with Node(settings, engine=engine) as node:
        send_to(node.port, paths)
        (job,) = wait_for_jobs(node)
    listening = False
    assert peers <= {"127.0.0.1", "0.0.0.0"}
    assert peers
    header = dcmread(paths[0])
    secrets = [str(header.PatientName), header.PatientID, header.SeriesInstanceUID, header.StudyInstanceUID]
    secrets += [str(job.derived_series_uid), header.SOPInstanceUID]
    told = "\n".join(record.getMessage() for record in caplog.records if record.name.startswith("dicomnode"))
    assert told
    names = "\n".join(str(path.relative_to(tmp_path)) for path in settings.node.spool.rglob("*"))
    for secret in secrets:
        assert secret not in told
        assert secret not in names
