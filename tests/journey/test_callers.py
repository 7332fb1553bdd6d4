"""Two archives on one node: each gets the results of its own series, and of no other."""

import json
from pathlib import Path

import pytest

from dicomnode.engines.need.engine import NeedEngine
from dicomnode.journey.order import read_order
from dicomnode.network.send import send_files
from dicomnode.node import Node
from dicomnode.settings import Destination, Settings
from tests.journey.scene import Pacs, low_dose_series, settings_for, wait_for_jobs, wait_until

pytestmark = pytest.mark.slow
SCANNERS = {"callers": [{"ae_title": "ORTHANC-A"}, {"ae_title": "ORTHANC-B"}, {"ae_title": "ORTHANC-C"}]}


def two_archives(folder: Path, a: Pacs, b: Pacs) -> Settings:
    settings = settings_for(folder, a.port, b.port)
    values = settings.model_dump() | SCANNERS
    for peer, caller in zip(values["destinations"], ("ORTHANC-A", "ORTHANC-B"), strict=True):
        peer["callers"] = [caller]
    return Settings.model_validate(values)


def send_as(caller: str, port: int, paths: list[Path]) -> None:
    node = Destination(name="node", ae_title="DICOMNODE", host="127.0.0.1", port=port)
    assert len(send_files(paths, node, caller, 1).sent) == len(paths)


def test_each_archive_gets_only_the_results_of_what_it_sent(tmp_path: Path, engine: NeedEngine) -> None:
    with Pacs() as a, Pacs() as b:
        settings = two_archives(tmp_path, a, b)
        with Node(settings, engine=engine) as node:
            send_as("ORTHANC-A", node.port, low_dose_series(tmp_path / "one", slices=4))
            send_as("ORTHANC-B", node.port, low_dose_series(tmp_path / "two", slices=5))
            jobs = wait_for_jobs(node, 2)
        assert [job.status for job in jobs] == ["done", "done"]
        names = {job.instances: [state.name for state in job.destinations] for job in jobs}
        assert names == {4: ["pacs0"], 5: ["pacs1"]}
        assert (len(a.images()), len(b.images())) == (4, 5)


def test_a_series_of_both_goes_to_both(tmp_path: Path, engine: NeedEngine) -> None:
    paths = low_dose_series(tmp_path / "in", slices=5)
    with Pacs() as a, Pacs() as b:
        settings = two_archives(tmp_path, a, b)
        with Node(settings, engine=engine) as node:
            send_as("ORTHANC-A", node.port, paths[:3])
            send_as("ORTHANC-B", node.port, paths[3:])
            (job,) = wait_for_jobs(node)
            order = read_order(settings.node.spool / "work" / job.job_id)
        assert order.senders == ("ORTHANC-A", "ORTHANC-B")
        assert (len(a.images()), len(b.images())) == (5, 5)


def test_a_result_that_nobody_takes_says_so_and_goes_out_when_the_configuration_is_mended(
    tmp_path: Path, engine: NeedEngine
) -> None:
    with Pacs() as a, Pacs() as b:
        settings = two_archives(tmp_path, a, b)
        with Node(settings, engine=engine) as node:
            send_as("ORTHANC-C", node.port, low_dose_series(tmp_path / "in", slices=4))
            (job,) = wait_for_jobs(node)
            assert job.status == "undelivered"
            assert job.reason is not None
            assert "ORTHANC-C" in job.reason
            assert "destinations[].callers" in job.reason
            assert node.retry(job.job_id).status == "undelivered", "nothing has changed, and nothing hangs"
        values = settings.model_dump()
        values["destinations"][1]["callers"] = ["ORTHANC-B", "ORTHANC-C"]
        with Node(Settings.model_validate(values), engine=engine) as node:
            node.retry(job.job_id)
            wait_until(lambda: node.jobs()[0].final, told=node.jobs)
            assert node.jobs()[0].status == "done"
        assert (len(a.images()), len(b.images())) == (0, 4)


def test_an_order_of_an_earlier_version_asks_the_files_who_sent_them(
    tmp_path: Path, engine: NeedEngine
) -> None:
    with Pacs() as a, Pacs() as b:
        settings = two_archives(tmp_path, a, b)
        b.stop()
        with Node(settings, engine=engine) as node:
            send_as("ORTHANC-C", node.port, low_dose_series(tmp_path / "in", slices=4))
            (job,) = wait_for_jobs(node)
        path = settings.node.spool / "work" / job.job_id / "order.json"
        values = json.loads(path.read_text())
        assert values.pop("senders") == ["ORTHANC-C"]
        path.write_text(json.dumps(values))
        open_to_all = settings.model_dump()
        open_to_all["destinations"][0]["callers"] = ["ORTHANC-C"]
        with Node(Settings.model_validate(open_to_all), engine=engine) as node:
            node.retry(job.job_id)
            wait_until(lambda: node.jobs()[0].final, told=node.jobs)
        assert len(a.images()) == 4


def test_what_both_have_sent_goes_to_both_also_when_the_second_comes_after_the_result(
    tmp_path: Path, engine: NeedEngine
) -> None:
    paths = low_dose_series(tmp_path / "in", slices=4)
    with Pacs() as a, Pacs() as b:
        settings = two_archives(tmp_path, a, b)
        with Node(settings, engine=engine) as node:
            send_as("ORTHANC-A", node.port, paths)
            wait_for_jobs(node)
            send_as("ORTHANC-A", node.port, paths)
            assert (len(a.images()), len(b.images())) == (4, 0)
            send_as("ORTHANC-B", node.port, paths)
            wait_until(lambda: len(b.images()) == 4, told=node.jobs)
            (job,) = wait_for_jobs(node)
        assert job.status == "done"
        assert [state.name for state in job.destinations] == ["pacs0", "pacs1"]
        assert a.kept() == b.kept(), "the same result"
        assert len(a.asked) == len(a.kept()), "nothing was sent twice"


def test_a_second_sender_is_known_after_a_crash_before_anybody_was_told(
    tmp_path: Path, engine: NeedEngine
) -> None:
    paths = low_dose_series(tmp_path / "in", slices=4)
    with Pacs() as a, Pacs() as b:
        settings = two_archives(tmp_path, a, b)
        with Node(settings, engine=engine) as node:
            send_as("ORTHANC-A", node.port, paths)
            wait_for_jobs(node)
            node._stopping.set()  # the thread that decides is gone; the receiver still answers
            node._thread.join()
            send_as("ORTHANC-B", node.port, paths[:1])
        with Node(settings, engine=engine) as node:
            wait_until(lambda: len(b.images()) == 4, told=node.jobs)
            wait_for_jobs(node)
        assert a.kept() == b.kept(), "the same result"
        assert len(a.asked) == len(a.kept()), "nothing was sent twice"
