"""The node fetches the images itself; and progress, outcome and retries as its HTTP tells them."""

import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from pydicom import dcmread

from dicomnode.journey.job import Job
from dicomnode.node import Node
from dicomnode.settings import Settings
from tests.journey.scene import free_port, low_dose_series, wait_for_jobs, wait_until
from tests.makers import make_series
from tests.orthanc.conftest import PLUGIN, TOKEN, following, node_settings, pulling
from tests.orthanc.orthancs import Orthanc, running_plugin, settle

StartNode = Callable[[Settings], Node]


@pytest.fixture
def orthanc(orthanc_program: str, tmp_path: Path) -> Orthanc:
    return Orthanc(orthanc_program, tmp_path / "orthanc", plugin=PLUGIN, node_port=free_port())


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The sources of all requests to fetch that have come to a node, which works them off as ever."""
    asked: list[str] = []
    fetch = Node.fetch

    def noted(node: Node, source: str, study_uid: str, series_uid: str) -> None:
        asked.append(source)
        fetch(node, source, study_uid, series_uid)

    monkeypatch.setattr(Node, "fetch", noted)
    return asked


@pytest.mark.slow
def test_the_node_fetches_a_series_and_its_progress_is_seen(
    tmp_path: Path, orthanc: Orthanc, running_node: StartNode, fetched: list[str]
) -> None:
    web_port = free_port()
    node = running_node(node_settings(tmp_path, free_port(), orthanc, web_port=web_port))
    orthanc.configuration["DicomNode"] = pulling(web_port, orthanc)
    with running_plugin(orthanc):
        paths = low_dose_series(tmp_path / "in", slices=10, side=96)
        source = orthanc.upload(paths[:9])
        seen: list[tuple[str, float]] = []

        def ended() -> bool:
            told = orthanc.plugin(source)
            if (now := (told["state"], told["progress"])) not in seen[-1:]:
                seen.append(now)
            time.sleep(0.2)
            return bool(told["state"] == "done" and told["final"])

        wait_until(ended, told=lambda: (seen, orthanc.log()[-2000:]))
        shares = [share for _, share in seen]
        assert shares == sorted(shares)
        assert any(0.1 < share < 1.0 for share in shares), seen
        assert "working" in {state for state, _ in seen}
        (result,) = orthanc.enhanced()
        assert [one["id"] for one in orthanc.plugin(source)["results"]] == [result["ID"]]
        assert len(result["Instances"]) == 9
        assert orthanc.plugin(result["ID"])["state"] == "result", "at once, not when it is stable"
        assert orthanc.jobs() == [], "nothing was pushed"

        orthanc.upload(paths[9:])
        wait_until(lambda: sorted(len(one["Instances"]) for one in orthanc.enhanced()) == [9, 10])
        orthanc.wait_for(source, "done")
        settle(3)
        assert fetched == ["orthanc", "orthanc"]
        assert [job.generation for job in node.jobs()] == [0, 1]
        assert TOKEN not in orthanc.log()
        assert TOKEN not in str(orthanc.get("/dicomnode/status"))
        assert orthanc.get("/dicomnode/status")["node"] == {"reachable": True, "words": ""}

        orthanc.post(f"/dicomnode/series/{source}/enhance")
        wait_until(lambda: len(fetched) == 3, 20, lambda: orthanc.plugin(source))
        wait_until(lambda: orthanc.plugin(source)["final"], 40, lambda: orthanc.plugin(source))
        assert orthanc.plugin(source)["state"] == "done"
        assert len(node.jobs()) == len(orthanc.enhanced()) == 2, "asked again it fetches nothing twice"


@pytest.mark.slow
def test_a_pull_waits_for_a_node_that_is_down_or_full_and_outlives_a_kill(
    tmp_path: Path, orthanc: Orthanc, running_node: StartNode
) -> None:
    port, web_port = free_port(), free_port()
    orthanc.configuration["DicomNode"] = pulling(web_port, orthanc)
    with running_plugin(orthanc):
        source = orthanc.upload(low_dose_series(tmp_path / "in"))
        wait_until(lambda: orthanc.plugin(source)["attempts"] >= 3)
        assert "web.port" in orthanc.metadata(source)["4310"], "down"
        full = running_node(node_settings(tmp_path, port, orthanc, web_port=web_port, reserve_gib=1e6))
        wait_until(
            lambda: "below its reserve" in orthanc.metadata(source)["4310"],
            told=lambda: orthanc.metadata(source),
        )
        orthanc.kill()
        full.stop(1.0)
        orthanc.start()
        assert orthanc.plugin(source)["state"] == "waiting"
        running_node(node_settings(tmp_path, port, orthanc, web_port=web_port))
        orthanc.wait_for(source, "done")
        assert len(orthanc.enhanced()) == 1


@pytest.mark.slow
def test_a_refusal_of_the_node_is_shown_and_can_be_tried_again_by_hand(
    tmp_path: Path, orthanc: Orthanc, running_node: StartNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    retried: list[str] = []
    retry = Node.retry

    def noted(node: Node, job_id: str) -> Job:
        retried.append(job_id)
        return retry(node, job_id)

    monkeypatch.setattr(Node, "retry", noted)
    web_port = free_port()
    node = running_node(node_settings(tmp_path, node_port(orthanc), orthanc, web_port=web_port))
    orthanc.configuration["DicomNode"] = following(web_port)
    with running_plugin(orthanc):
        tilted = (1.0, 0.0, 0.0, 0.0, 0.8, 0.6)
        source = orthanc.upload(make_series(tmp_path / "in", orientation=tilted))
        told = orthanc.wait_for(source, "refused")
        assert told["rule"] is not None
        assert told["reason"] in orthanc.metadata(source)["4310"]
        pushed = len(orthanc.jobs())

        (job,) = wait_for_jobs(node)
        orthanc.post(f"/dicomnode/series/{source}/enhance")
        wait_until(lambda: retried == [job.job_id], 20)
        wait_until(lambda: node.jobs()[0].run == job.run + 1 and node.jobs()[0].final, 20)
        wait_until(lambda: orthanc.plugin(source)["final"], 40, lambda: orthanc.plugin(source))
        assert orthanc.plugin(source)["state"] == "refused"
        assert len(orthanc.jobs()) == pushed, "the node has all images: it is only asked to try again"


@pytest.mark.slow
def test_images_that_the_node_had_to_leave_out_are_told_in_orthanc(
    tmp_path: Path, orthanc: Orthanc, running_node: StartNode
) -> None:
    web_port = free_port()
    running_node(node_settings(tmp_path, free_port(), orthanc, web_port=web_port))
    orthanc.configuration["DicomNode"] = pulling(web_port, orthanc)
    paths = low_dose_series(tmp_path / "in", slices=6)
    broken = dcmread(paths[-1])
    broken.PixelData = broken.PixelData[:-2000]
    broken.save_as(paths[-1])
    with running_plugin(orthanc):
        source = orthanc.upload(paths)
        orthanc.wait_for(source, "done")
        assert len(orthanc.enhanced()[0]["Instances"]) == 5
        assert "1 of 6 images could not be fetched" in orthanc.plugin(source)["words"]
        assert "1 of 6 images could not be fetched" in orthanc.metadata(source)["4310"]


@pytest.mark.parametrize(
    ("wrong", "in_series", "in_status"),
    [
        ({"Token": "guessed"}, ["Token", "web.token"], ["Token", "web.token"]),
        ({"Token": ""}, ["Token", "web.token"], ["Token", "web.token"]),
        ({"Source": "b"}, ["Source is b", "web_sources", "orthanc"], []),
    ],
)
def test_a_wrong_token_and_a_wrong_source_are_told(
    wrong: dict[str, str],
    in_series: list[str],
    in_status: list[str],
    tmp_path: Path,
    orthanc: Orthanc,
    running_node: StartNode,
) -> None:
    web_port = free_port()
    running_node(node_settings(tmp_path, free_port(), orthanc, web_port=web_port))
    orthanc.configuration["DicomNode"] = pulling(web_port, orthanc, **wrong)
    with running_plugin(orthanc):
        source = orthanc.upload(make_series(tmp_path / "in"))
        wait_until(lambda: orthanc.plugin(source)["attempts"] >= 1, 20)
        status = orthanc.get("/dicomnode/status")
        for words in in_series:
            assert words in orthanc.metadata(source)["4310"]
            assert words in status["last_error"]["words"]
        assert status["node"]["reachable"] is True
        assert all(words in status["node"]["words"] for words in in_status), status["node"]
        assert bool(status["node"]["words"]) is bool(in_status)
        assert TOKEN not in str(status)
        assert "guessed" not in str(status)


@pytest.mark.slow
def test_a_node_without_http_is_told_and_its_result_is_found_all_the_same(
    tmp_path: Path, orthanc: Orthanc, running_node: StartNode
) -> None:
    web_port = free_port()
    running_node(node_settings(tmp_path, node_port(orthanc), orthanc))
    orthanc.configuration["DicomNode"] = following(web_port)
    with running_plugin(orthanc):
        wait_until(lambda: orthanc.get("/dicomnode/status")["node"]["reachable"] is False, 20)
        words = orthanc.get("/dicomnode/status")["node"]["words"]
        assert f"127.0.0.1:{web_port}" in words
        assert "web.port" in words
        source = orthanc.upload(low_dose_series(tmp_path / "in"))
        wait_until(
            lambda: orthanc.plugin(source)["results"],
            told=lambda: (orthanc.plugin(source), orthanc.get("/dicomnode/status")),
        )
        (result,) = orthanc.enhanced()
        told = orthanc.plugin(source)
        assert [one["id"] for one in told["results"]] == [result["ID"]]
        assert not told["final"], "another stack of it may still be refused, for all that is known here"
        line = r"sent 10 %: a result has arrived; .* cannot be asked: .*web\.port"
        wait_until(lambda: re.search(line, orthanc.metadata(source)["4310"]), 20)
    del orthanc.configuration["DicomNode"]["Url"]
    with running_plugin(orthanc):
        wait_until(lambda: orthanc.plugin(source)["final"], 20)
        assert "no Url is given" in orthanc.plugin(source)["words"]
        assert (orthanc.plugin(source)["state"], orthanc.plugin(source)["progress"]) == ("done", 1.0)


def node_port(orthanc: Orthanc) -> int:
    return int(orthanc.configuration["DicomModalities"]["dicomnode"][2])
