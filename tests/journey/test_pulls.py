"""Series that the node fetches itself: from a real Orthanc over REST and over DICOMweb, through trouble."""

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydicom import dcmread

from dicomnode.engines.need.engine import NeedEngine
from dicomnode.journey.job import read_jobs
from dicomnode.journey.order import read_order
from dicomnode.network.filing import ReceivedInstance, Request
from dicomnode.network.part10 import read_meta
from dicomnode.node import Node
from dicomnode.settings import Settings, WebSource
from dicomnode.spool import Spool
from tests.archives_orthanc import WebOrthanc
from tests.journey.scene import (
    Pacs,
    free_port,
    low_dose_series,
    running,
    settings_for,
    wait_for_jobs,
    wait_until,
)
from tests.journey.test_hostile_source import SOURCE, FakeOrthanc
from tests.network.test_web_archive import says, served

pytestmark = pytest.mark.slow
Told = dict[str, Any]


@pytest.fixture
def orthanc(tmp_path: Path, program: Callable[[str], str]) -> Iterator[WebOrthanc]:
    with WebOrthanc(program("Orthanc"), tmp_path) as server:
        yield server


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dicomnode.journey.pulling.FIRST_PAUSE_SECONDS", 0.2)
    monkeypatch.setattr("dicomnode.journey.pulling.LONGEST_PAUSE_SECONDS", 1.0)


def pulling_settings(folder: Path, pacs: Pacs, *sources: WebSource, **sections: dict[str, Any]) -> Settings:
    """A node with HTTP, a destination, and sources to fetch from; secrets as they are."""
    values = settings_for(folder, pacs.port, **sections).model_dump()
    return Settings.model_validate(values | {"web": {"port": 0}, "web_sources": [*sources]})


def uids(path: Path) -> tuple[str, str]:
    """(Study, Series) Instance UID of a file."""
    data = dcmread(path, stop_before_pixels=True)
    return str(data.StudyInstanceUID), str(data.SeriesInstanceUID)


class Client:
    """Plays the archive that asks."""

    def __init__(self, port: int | None) -> None:
        self._client = httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=20)

    def post(self, source: str, path: Path) -> Told:
        study, series = uids(path)
        body = {"source": source, "study_instance_uid": study, "series_instance_uid": series}
        answer = self._client.post("/series", json=body)
        assert answer.status_code == 202, answer.text
        told: Told = answer.json()
        return told

    def get(self, path: Path) -> Told:
        answer = self._client.get(f"/series/{uids(path)[1]}")
        assert answer.status_code == 200, answer.text
        told: Told = answer.json()
        return told

    def wait(self, path: Path, state: str, seconds: float = 100.0) -> Told:
        wait_until(lambda: self.get(path)["state"] == state, seconds, told=lambda: self.get(path))
        return self.get(path)


@pytest.mark.parametrize("kind", ["orthanc", "dicomweb"])
def test_a_series_is_fetched_enhanced_and_told_of(
    tmp_path: Path, engine: NeedEngine, pacs: Pacs, orthanc: WebOrthanc, kind: str
) -> None:
    paths = low_dose_series(tmp_path / "in", slices=6)
    orthanc.store(paths)
    quiet = {"closed_seconds": 0.2, "quiet_seconds": 30.0, "give_up_seconds": 60.0}
    settings = pulling_settings(tmp_path, pacs, orthanc.source(kind), completeness=quiet)
    with Node(settings, engine=engine) as node:
        client = Client(node.web_port)
        assert client.get(paths[0])["state"] == "unknown"
        first = client.post("orthanc-a", paths[0])
        assert (first["state"], first["final"]) == ("fetching", False)
        seen: list[Told] = []
        began = time.monotonic()
        while not seen or not seen[-1]["final"]:
            seen.append(client.get(paths[0]))
            assert time.monotonic() < began + 100, seen[-1]
            time.sleep(0.02)
        (job,) = wait_for_jobs(node)
        took_seconds = time.monotonic() - began
    assert job.status == "done"
    assert took_seconds < 30, "it waited for silence, although the source said how many there are"
    assert len(pacs.images()) == 6
    order = read_order(settings.node.spool / "work" / job.job_id)
    assert (order.senders, order.confidence) == (("ORTHANC-A",), "closed")
    held = sorted((settings.node.spool / "incoming" / order.series_key).glob("*.dcm"))
    assert {read_meta(path).source_ae for path in held} == {"ORTHANC-A"}
    assert sorted(dcmread(path).PixelData for path in held) == sorted(
        dcmread(path).PixelData for path in paths
    )
    assert not list((settings.node.spool / "requests").glob("pull-*"))
    progress = [one["progress"] for one in seen]
    assert progress == sorted(progress), "it fell"
    assert all((one["progress"] == 1.0) == (one["state"] == "done") for one in seen)
    last = seen[-1]
    assert (last["state"], last["images"], last["results"]) == ("done", 6, [job.derived_series_uid])
    assert [one["job_id"] for one in last["jobs"]] == [job.job_id]


def test_asked_again_it_fetches_only_what_is_missing(
    tmp_path: Path, engine: NeedEngine, pacs: Pacs, orthanc: WebOrthanc
) -> None:
    paths = low_dose_series(tmp_path / "in", slices=6)
    orthanc.store(paths[:4])
    settings = pulling_settings(tmp_path, pacs, orthanc.source("orthanc"))
    with Node(settings, engine=engine) as node:
        client = Client(node.web_port)
        client.post("orthanc-a", paths[0])
        client.wait(paths[0], "done")
        again = client.post("orthanc-a", paths[0])
        assert not again["final"], "whether there are more is not known yet"
        after = client.wait(paths[0], "done")
        assert (after["images"], len(after["jobs"]), after["generation"]) == (4, 1, 0)
        orthanc.store(paths[4:])
        held = {path: path.stat().st_mtime_ns for path in settings.node.spool.glob("incoming/*/*.dcm")}
        client.post("orthanc-a", paths[0])
        wait_until(lambda: client.get(paths[0])["generation"] == 1, told=lambda: client.get(paths[0]))
        assert client.wait(paths[0], "done")["images"] == 6
        assert all(path.stat().st_mtime_ns == written for path, written in held.items())
        first, second = node.jobs()
    assert (first.instances, second.instances, second.generation) == (4, 6, 1)


def test_a_source_that_is_down_is_waited_for_in_words_and_fetched_from_when_it_is_up(
    tmp_path: Path, engine: NeedEngine, pacs: Pacs, orthanc: WebOrthanc
) -> None:
    paths = low_dose_series(tmp_path / "in")
    orthanc.store(paths)
    orthanc.kill()
    settings = pulling_settings(tmp_path, pacs, orthanc.source("orthanc"))
    with Node(settings, engine=engine) as node:
        client = Client(node.web_port)
        client.post("orthanc-a", paths[0])
        wait_until(
            lambda: "no connection" in client.get(paths[0])["words"], told=lambda: client.get(paths[0])
        )
        assert client.get(paths[0])["state"] == "fetching"
    with Node(settings, engine=engine) as node:  # the request has outlived the stop
        client = Client(node.web_port)
        assert client.get(paths[0])["state"] == "fetching"
        orthanc.start()
        assert client.wait(paths[0], "done")["images"] == 5
    assert len(pacs.images()) == 5


def test_a_source_that_goes_down_in_the_middle_makes_no_half_result(
    tmp_path: Path, engine: NeedEngine, pacs: Pacs, orthanc: WebOrthanc, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = low_dose_series(tmp_path / "in", slices=8)
    orthanc.store(paths)
    monkeypatch.setattr("dicomnode.journey.pulling.AT_ONCE", 1)
    settings = pulling_settings(tmp_path, pacs, orthanc.source("orthanc"))
    with Node(settings, engine=engine) as node:
        filing, fetched = node._receiver.filing, 0
        file, lock = filing.file, threading.Lock()

        def file_three(request: Request) -> ReceivedInstance:
            nonlocal fetched
            with lock:
                fetched += 1
                if fetched == 4:
                    orthanc.kill()
            return file(request)

        monkeypatch.setattr(filing, "file", file_three)
        client = Client(node.web_port)
        client.post("orthanc-a", paths[0])
        wait_until(
            lambda: "no connection" in client.get(paths[0])["words"], told=lambda: client.get(paths[0])
        )
        time.sleep(3)  # longer than completeness.give_up_seconds
        assert node.jobs() == [], "four of eight images went on"
        orthanc.start()
        client.wait(paths[0], "done")
        (job,) = node.jobs()
    assert (job.instances, len(pacs.images())) == (8, 8)


def test_of_late_images_no_half_revision_is_made(tmp_path: Path, engine: NeedEngine, pacs: Pacs) -> None:
    """Four of six images were a series; two come later, and between them the archive lets nobody in."""
    paths = low_dose_series(tmp_path / "in", slices=6)
    fake = FakeOrthanc(paths)
    late = {known: fake.files.pop(known) for known in list(fake.files)[4:]}
    shut = threading.Event()

    def door(head: bytes, connection: socket.socket) -> None:
        (says(b"", "text/plain", "401 Unauthorized") if shut.is_set() else fake)(head, connection)

    def shuts(head: bytes, connection: socket.socket) -> None:
        wait_until(lambda: held() == 5, 30)
        shut.set()
        door(head, connection)

    with served(door) as server:
        source = SOURCE | {"url": f"http://127.0.0.1:{server.port}"}
        settings = pulling_settings(tmp_path, pacs, WebSource.model_validate(source))
        folder = Spool(settings.node.spool, 0).series_folder(uids(paths[0])[1])

        def held() -> int:
            return len(list(folder.glob("*.dcm")))

        with Node(settings, engine=engine) as node:
            client = Client(node.web_port)
            client.post("hostile", paths[0])
            client.wait(paths[0], "done")
            fake.files |= late
            good = fake.files[list(late)[1]][1]
            fake.put(5, shuts)
            client.post("hostile", paths[0])
            wait_until(shut.is_set, 30)
            time.sleep(2 * settings.completeness.give_up_seconds)
            assert [job.instances for job in node.jobs()] == [4], "a revision without what is being fetched"
            fake.put(5, good)
            shut.clear()
            wait_until(lambda: len(node.jobs()) == 2 and all(job.final for job in node.jobs()), 100)
            assert sorted(job.instances for job in node.jobs()) == [4, 6]


def test_a_wrong_password_is_told_in_words_and_mended_in_the_configuration(
    tmp_path: Path, engine: NeedEngine, pacs: Pacs, orthanc: WebOrthanc
) -> None:
    paths = low_dose_series(tmp_path / "in")
    orthanc.store(paths)
    wrong = orthanc.source("dicomweb", password="wrong")
    with Node(pulling_settings(tmp_path, pacs, wrong), engine=engine) as node:
        client = Client(node.web_port)
        client.post("orthanc-a", paths[0])
        wait_until(lambda: "password" in client.get(paths[0])["words"], told=lambda: client.get(paths[0]))
        assert client.get(paths[0])["final"] is False
    with Node(pulling_settings(tmp_path, pacs, orthanc.source("dicomweb")), engine=engine) as node:
        Client(node.web_port).wait(paths[0], "done")


@pytest.mark.parametrize("kind", ["orthanc", "dicomweb"])
def test_a_series_that_the_source_does_not_know_is_given_up_after_a_day(
    tmp_path: Path, engine: NeedEngine, pacs: Pacs, orthanc: WebOrthanc, kind: str
) -> None:
    paths = low_dose_series(tmp_path / "in", slices=3)
    settings = pulling_settings(tmp_path, pacs, orthanc.source(kind))
    with Node(settings, engine=engine) as node:
        client = Client(node.web_port)
        client.post("orthanc-a", paths[0])
        wait_until(
            lambda: "does not know" in client.get(paths[0])["words"], told=lambda: client.get(paths[0])
        )
        assert client.get(paths[0])["state"] == "fetching"
        (record,) = (settings.node.spool / "requests").glob("pull-*.json")
    values = json.loads(record.read_text())
    record.write_text(json.dumps(values | {"trouble_since": "2020-01-01T00:00:00+00:00"}))
    with Node(settings, engine=engine) as node:
        client = Client(node.web_port)
        told = client.wait(paths[0], "failed")
        assert told["final"]
        assert told["words"] == "orthanc-a: it does not know this series; given up after 1 day"
        orthanc.store(paths)
        client.post("orthanc-a", paths[0])
        client.wait(paths[0], "done")


def test_two_archives_each_get_the_results_of_what_was_fetched_from_them(
    tmp_path: Path, engine: NeedEngine, orthanc: WebOrthanc, program: Callable[[str], str]
) -> None:
    one = low_dose_series(tmp_path / "one", slices=4)
    two = low_dose_series(tmp_path / "two", slices=5)
    orthanc.store(one)
    with Pacs() as a, Pacs() as b, WebOrthanc(program("Orthanc"), tmp_path, "orthanc-b") as other:
        other.store(two)
        settings = pulling_settings(tmp_path, a, orthanc.source("orthanc"), other.source("dicomweb"))
        values = settings.model_dump()
        peer = values["destinations"][0]
        values["destinations"] = [
            peer | {"callers": ["ORTHANC-A"]},
            peer | {"name": "pacs1", "port": b.port, "callers": ["ORTHANC-B"]},
        ]
        with Node(Settings.model_validate(values), engine=engine) as node:
            client = Client(node.web_port)
            client.post("orthanc-a", one[0])
            client.post("orthanc-b", two[0])
            client.wait(one[0], "done")
            client.wait(two[0], "done")
            assert (len(a.images()), len(b.images())) == (4, 5)
            other.store(one)
            client.post("orthanc-b", one[0])
            wait_until(lambda: len(b.images()) == 9, told=lambda: client.get(one[0]))
            assert len(client.get(one[0])["jobs"]) == 1, "it was enhanced once"


def test_killed_in_the_middle_of_a_pull_it_goes_on_and_enhances_once(
    tmp_path: Path, pacs: Pacs, orthanc: WebOrthanc
) -> None:
    paths = low_dose_series(tmp_path / "in", slices=20)
    orthanc.store(paths)
    settings = pulling_settings(tmp_path, pacs, orthanc.source("orthanc"), node={"port": free_port()})
    port = free_port()
    values = settings.model_dump(mode="json") | {"web": {"port": port}}
    values["web_sources"][0]["password"] = "open sesame"
    config = tmp_path / "node.yaml"
    config.write_text(json.dumps(values))
    serve = ("-m", "dicomnode", "serve", "--config", str(config))
    incoming = settings.node.spool / "incoming"
    client = Client(port)
    kept_at: list[int] = []
    with running(settings, tmp_path, *serve) as node:
        node.wait_until_ready()
        wait_until(lambda: _open(port))
        client.post("orthanc-a", paths[0])
    for least in (1, 8):
        with running(settings, tmp_path, *serve) as node:
            while len(list(incoming.glob("*/*.dcm"))) < least:
                assert node.process.poll() is None, node.log()
                time.sleep(0.002)
            node.kill()
            kept_at.append(len(list(incoming.glob("*/*.dcm"))))
    with running(settings, tmp_path, *serve) as node:
        node.wait_until_ready()
        wait_until(lambda: _open(port))
        assert client.wait(paths[0], "done", 200)["images"] == 20
        assert node.terminate() == 0
    (job,) = read_jobs(settings.node.spool)
    assert (job.status, job.instances) == ("done", 20)
    assert len(pacs.images()) == 20
    assert kept_at[0] < 20, "it was killed too late to prove anything"


def _open(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/health", trust_env=False).status_code == 200
    except httpx.TransportError:
        return False
