"""Journeys through a spool in trouble: records that cannot be written, records that are damaged."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dicomnode.engines.need.engine import NeedEngine
from dicomnode.journey.book import JobBook
from dicomnode.journey.job import Job
from dicomnode.node import Node
from tests.journey.scene import (
    Pacs,
    low_dose_series,
    send_to,
    settings_for,
    wait_for_jobs,
    wait_until,
)

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dicomnode.journey.workflow._FIRST_PAUSE_SECONDS", 0.3)
    monkeypatch.setattr("dicomnode.node._AGAIN_SECONDS", 0.3)


class FullAt:
    """Lets no record be written any more from a moment on, until `free`."""

    def __init__(self, moment: Callable[[Job], bool]) -> None:
        self._moment = moment
        self.node: Node | None = None
        self.reached = False

    def _book(self) -> JobBook:
        assert self.node is not None
        assert self.node._journey is not None
        return self.node._journey.book

    def __call__(self, job: Job) -> None:
        if not self.reached and self._moment(job):
            self.reached = True
            self._book().records.reserve_bytes = 2**62

    def free(self) -> None:
        self._book().records.reserve_bytes = 0


@contextmanager
def filling_at(
    moment: Callable[[Job], bool], tmp_path: Path, pacs: Pacs, engine: NeedEngine
) -> Iterator[tuple[Node, FullAt]]:
    """A node that has got a series and whose disk takes no records from `moment` on."""
    full = FullAt(moment)
    with Node(settings_for(tmp_path, pacs.port), observe=full, engine=engine) as node:
        full.node = node
        send_to(node.port, low_dose_series(tmp_path / "in"))
        yield node, full


def passed_measure(job: Job) -> bool:
    return "measure" in job.seconds and not job.starts


@pytest.mark.parametrize(
    "moment",
    [
        pytest.param(lambda job: job.status == "queued", id="before the first station begins"),
        pytest.param(passed_measure, id="between two stations"),
        pytest.param(lambda job: job.station == "reconstruct", id="at work"),
        pytest.param(lambda job: job.station == "judge" and job.starts, id="before the end"),
    ],
)
def test_a_job_whose_record_cannot_be_written_waits_and_goes_on(
    tmp_path: Path, pacs: Pacs, engine: NeedEngine, moment: Callable[[Job], bool]
) -> None:
    with filling_at(moment, tmp_path, pacs, engine) as (node, full):
        wait_until(lambda: node.jobs() and node.jobs()[0].status == "waiting", told=node.jobs)
        assert full.reached
        assert "reserve" in (node.jobs()[0].reason or "")
        run = node.jobs()[0].run
        wait_until(lambda: node.jobs()[0].run > run, told=node.jobs)
        full.free()
        (job,) = wait_for_jobs(node)
    assert (job.status, job.reason) == ("done", None)
    assert len(pacs.images()) == 5


@pytest.mark.parametrize(
    "moment",
    [
        pytest.param(lambda job: job.status == "sending", id="before the attempt"),
        pytest.param(lambda job: any(peer.state == "sending" for peer in job.destinations), id="amid it"),
    ],
)
def test_a_delivery_whose_record_cannot_be_written_is_tried_again(
    tmp_path: Path, pacs: Pacs, engine: NeedEngine, moment: Callable[[Job], bool]
) -> None:
    with filling_at(moment, tmp_path, pacs, engine) as (node, full):
        wait_until(lambda: full.reached, told=node.jobs)
        with pytest.raises(AssertionError, match="not within"):
            wait_until(lambda: node.jobs()[0].final, seconds=1.5)
        full.free()
        (job,) = wait_for_jobs(node)
    assert job.status == "done"
    assert len(pacs.images()) == 5
    assert len(pacs.reports()) == 1


class Sick(NeedEngine):
    """An engine with a fault that no error class foresees."""

    def refine(self, prior, low_dose, neighbours, starts):
        raise ZeroDivisionError("something nobody thought of")


def test_a_failure_that_cannot_be_recorded_is_not_forgotten(
    tmp_path: Path, pacs: Pacs, engine: NeedEngine, caplog: pytest.LogCaptureFixture
) -> None:
    full = FullAt(lambda job: job.station == "reconstruct")
    sick = Sick(engine.card, engine.projection, engine.image, engine.device)
    with Node(settings_for(tmp_path, pacs.port), observe=full, engine=sick) as node:
        full.node = node
        send_to(node.port, low_dose_series(tmp_path / "in"))
        wait_until(lambda: "its end cannot be recorded" in caplog.text, told=node.jobs)
        wait_until(lambda: node.jobs()[0].status == "waiting", told=node.jobs)
        full.free()
        (job,) = wait_for_jobs(node)
    assert job.status == "failed"
    assert "ZeroDivisionError" in (job.reason or "")


@pytest.mark.slow
def test_damaged_records_stop_no_node_and_lose_no_job(
    tmp_path: Path, pacs: Pacs, engine: NeedEngine, caplog: pytest.LogCaptureFixture
) -> None:
    settings = settings_for(tmp_path, pacs.port)
    pacs.stop()
    with Node(settings, engine=engine) as node:
        send_to(node.port, low_dose_series(tmp_path / "waits", seed=1, slices=3))
        wait_until(lambda: node.jobs() and node.jobs()[0].destinations, told=node.jobs)
        wait_until(lambda: node.jobs()[0].destinations[0].attempts >= 2, told=node.jobs)
        (waiting,) = node.jobs()
    with pacs, Node(settings, engine=engine) as node:
        wait_for_jobs(node)
        send_to(node.port, low_dose_series(tmp_path / "done", seed=2))
        done = next(job for job in wait_for_jobs(node, 2) if job.job_id != waiting.job_id)
    gap = low_dose_series(tmp_path / "gap", seed=3, slices=7)
    del gap[3]
    with Node(settings, engine=engine) as node:
        send_to(node.port, gap)
        refused = next(job for job in wait_for_jobs(node, 3) if job.status == "refused")

    asked = len(pacs.asked)
    for damaged in (done, refused):
        (settings.node.spool / "work" / damaged.job_id / "job.json").write_text('{"half": ')
    with pacs, Node(settings, engine=engine) as node:
        after = {job.job_id: job.status for job in wait_for_jobs(node, 3)}
        send_to(node.port, low_dose_series(tmp_path / "next", seed=4))
        wait_for_jobs(node, 4)
    assert after == {waiting.job_id: "done", done.job_id: "done", refused.job_id: "refused"}
    assert "its record is made anew" in caplog.text
    assert len(pacs.asked) == asked + 6, "what a destination has is not sent again"


def test_a_job_on_its_way_with_a_damaged_record_arrives(
    tmp_path: Path, pacs: Pacs, engine: NeedEngine
) -> None:
    settings = settings_for(tmp_path, pacs.port)
    pacs.stop()
    with Node(settings, engine=engine) as node:
        send_to(node.port, low_dose_series(tmp_path / "in"))
        wait_until(lambda: node.jobs() and node.jobs()[0].status == "sending", told=node.jobs)
        wait_until(lambda: node.jobs()[0].destinations[0].attempts >= 2, told=node.jobs)
        (job,) = node.jobs()
    (settings.node.spool / "work" / job.job_id / "job.json").write_bytes(b"")
    with pacs, Node(settings, engine=engine) as node:
        (job,) = wait_for_jobs(node)
    assert job.status == "done"
    assert len(pacs.images()) == 5
    assert len(pacs.reports()) == 1
