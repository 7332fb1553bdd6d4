"""kill -9 at every moment of the journey: nothing lost, nothing doubled, one set of bytes for each UID."""

import json
from pathlib import Path

import pytest

from dicomnode.journey.job import Job, read_jobs
from dicomnode.journey.stations import STATIONS
from dicomnode.settings import Settings
from tests.journey.scene import (
    Pacs,
    free_port,
    low_dose_series,
    running,
    send_to,
    settings_for,
    wait_until,
)

CRASHING = ("-m", "tests.journey.crashing_node")
MOMENTS = (
    "queued",
    *(f"{moment}:{station}" for station in STATIONS[:4] for moment in ("begin", "end")),
    *("amid:reconstruct", "end:reconstruct", "begin:judge", "end:judge", "begin:write", "end:write"),
    *("sending", "attempt", "delivered"),
)
"""In the order in which a job comes by. `end` is the hard one: the database does not know what is done."""


def jobs_of(settings: Settings) -> list[Job]:
    return read_jobs(settings.node.spool)


def assert_exactly_once(pacs: Pacs, job: Job, slices: int) -> None:
    """One result: every image, one report, every byte the same however often it was sent."""
    assert job.status == "done", job
    kept = pacs.kept()
    assert len(kept) == slices + 1
    assert len(pacs.images()) == slices
    assert len(pacs.reports()) == 1


def settings_file(tmp_path: Path, pacs: Pacs, **sections: dict) -> tuple[Settings, str]:
    settings = settings_for(tmp_path, pacs.port, node={"port": free_port()}, **sections)
    path = tmp_path / "node.yaml"
    path.write_text(json.dumps(settings.model_dump(mode="json")))
    return settings, str(path)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_killed_at_every_moment_in_turn_it_still_delivers_once(tmp_path: Path, pacs: Pacs) -> None:
    settings, config = settings_file(tmp_path, pacs)
    paths = low_dose_series(tmp_path / "in")
    with running(settings, tmp_path, *CRASHING, config, *MOMENTS, "never") as node:
        node.wait_until_ready()
        send_to(settings.node.port, paths)
        wait_until(lambda: "life: never" in node.log(), 240, told=node.log)
        node.wait_until_ready()
        wait_until(lambda: jobs_of(settings)[0].final, told=lambda: jobs_of(settings))
        assert node.terminate() == 0
    assert node.log().count("died of SIGKILL") == len(MOMENTS)
    (job,) = jobs_of(settings)
    assert_exactly_once(pacs, job, slices=5)


@pytest.mark.slow
def test_killed_while_receiving_writing_and_sending_and_with_its_database_lost(tmp_path: Path) -> None:
    serve = ("-m", "dicomnode", "serve", "--config")
    with Pacs(seconds=0.3) as pacs:
        settings, config = settings_file(
            tmp_path, pacs, completeness={"quiet_seconds": 9, "give_up_seconds": 9}
        )
        paths = low_dose_series(tmp_path / "in")
        work = settings.node.spool / "work"
        with running(settings, tmp_path, *serve, config) as node:
            node.wait_until_ready()
            send_to(settings.node.port, paths[:3])
            node.kill()
        with running(settings, tmp_path, *serve, config) as node:
            node.wait_until_ready()
            send_to(settings.node.port, paths)
            wait_until(
                lambda: list(work.glob("*/outgoing.making/0/images/*.dcm")), told=lambda: jobs_of(settings)
            )
            node.kill()
        assert not list(work.glob("*/outgoing"))
        (settings.node.spool / "dicomnode.sqlite").unlink()
        with running(settings, tmp_path, *serve, config) as node:
            wait_until(lambda: len(pacs.asked) >= 2, told=lambda: jobs_of(settings))
            node.kill()
        already = len(pacs.asked)
        with running(settings, tmp_path, *serve, config) as node:
            wait_until(lambda: jobs_of(settings)[0].final, told=lambda: jobs_of(settings))
            assert node.terminate() == 0
        (job,) = jobs_of(settings)
        assert job.instances == 5
        assert already >= 2
        assert_exactly_once(pacs, job, slices=5)


@pytest.mark.slow
def test_a_series_that_kills_the_process_is_given_up_and_the_next_one_is_done(
    tmp_path: Path, pacs: Pacs
) -> None:
    settings, config = settings_file(tmp_path, pacs)
    with running(settings, tmp_path, *CRASHING, config, *["poison"] * 4) as node:
        node.wait_until_ready()
        send_to(settings.node.port, low_dose_series(tmp_path / "bad", slices=4, side=48))
        wait_until(lambda: node.log().count("life: poison") == 4, told=node.log)
        node.wait_until_ready()
        send_to(settings.node.port, low_dose_series(tmp_path / "good"))
        wait_until(
            lambda: [job.final for job in jobs_of(settings)] == [True, True], told=lambda: jobs_of(settings)
        )
        assert node.terminate() == 0
    bad, done = jobs_of(settings)
    assert bad.status == "failed"
    assert bad.reason == "the process died 3 times at station 'reconstruct'"
    assert_exactly_once(pacs, done, slices=5)
