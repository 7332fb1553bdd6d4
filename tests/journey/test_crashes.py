"""kill -9 at every moment of the journey: nothing lost, nothing doubled, one set of bytes for each UID."""

import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dicomnode.journey.job import Job, read_jobs
from dicomnode.network.send import echo
from dicomnode.settings import Destination, Settings
from tests.journey.scene import Pacs, low_dose_series, send_to, settings_for, wait_until

ROOT = Path(__file__).resolve().parents[2]
MOMENTS = (
    *("queued", "end:assemble", "begin:dose", "end:measure", "begin:match"),
    *("amid:reconstruct", "end:reconstruct", "begin:judge", "end:judge", "begin:write", "end:write"),
    *("sending", "attempt", "delivered"),
)
"""In the order in which a job comes by. `end` is the hard one: the database does not know what is done."""


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


class Process:
    """A node of its own process."""

    def __init__(self, settings: Settings, folder: Path, *command: str) -> None:
        self.settings = settings
        with (folder / "node.log").open("ab") as log:
            self.process = subprocess.Popen([sys.executable, *command], cwd=ROOT, stdout=log, stderr=log)

    def wait_until_ready(self) -> None:
        node = self.settings.node
        peer = Destination(name="node", ae_title=node.ae_title, host="127.0.0.1", port=node.port)

        def answers() -> bool:
            assert self.process.poll() is None, "the node has ended before it was ready"
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", node.port)):
                    return False
            return echo(peer, "SCANNER") > 0

        wait_until(answers)

    def wait_for_death(self) -> None:
        assert self.process.wait(timeout=60) == -signal.SIGKILL

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def terminate(self) -> int:
        self.process.terminate()
        return self.process.wait(timeout=60)


@contextmanager
def running(settings: Settings, folder: Path, *command: str) -> Iterator[Process]:
    process = Process(settings, folder, *command)
    try:
        yield process
    finally:
        if process.process.poll() is None:
            process.kill()


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
@pytest.mark.timeout(240)
def test_killed_at_every_moment_in_turn_it_still_delivers_once(tmp_path: Path, pacs: Pacs) -> None:
    settings, config = settings_file(tmp_path, pacs)
    paths = low_dose_series(tmp_path / "in")
    for number, moment in enumerate((*MOMENTS, "never")):
        with running(settings, tmp_path, "-m", "tests.journey.crashing_node", config, moment) as node:
            if number == 0:
                node.wait_until_ready()
                send_to(settings.node.port, paths)
            if moment != "never":
                node.wait_for_death()
                continue
            node.wait_until_ready()
            wait_until(lambda: jobs_of(settings)[0].final, told=lambda: jobs_of(settings))
            assert node.terminate() == 0
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
                lambda: list(work.glob("*/outgoing.making/PRIMARY/*.dcm")), told=lambda: jobs_of(settings)
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
    command = ("-m", "tests.journey.crashing_node", config, "poison")
    with running(settings, tmp_path, *command) as node:
        node.wait_until_ready()
        send_to(settings.node.port, low_dose_series(tmp_path / "bad", slices=4, side=48))
        wait_until(lambda: len(list((settings.node.spool / "work").glob("*/job.json"))) == 1)
        node.wait_for_death()
    good = low_dose_series(tmp_path / "good")
    for _ in range(2):
        with running(settings, tmp_path, *command) as node:
            node.wait_for_death()
    with running(settings, tmp_path, *command) as node:
        node.wait_until_ready()
        send_to(settings.node.port, good)
        wait_until(
            lambda: [job.final for job in jobs_of(settings)] == [True, True], told=lambda: jobs_of(settings)
        )
        assert node.terminate() == 0
    bad, done = jobs_of(settings)
    assert bad.status == "failed"
    assert bad.reason == "the process died 3 times at station 'reconstruct'"
    assert_exactly_once(pacs, done, slices=5)
