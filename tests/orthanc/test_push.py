"""Orthanc sends to a real node, and the node sends the enhanced series back into the same study."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset

from dicomnode.node import Node
from dicomnode.settings import Settings
from tests.journey.scene import free_port, low_dose_series, wait_for_jobs, wait_until
from tests.makers import make_series
from tests.orthanc.conftest import PLUGIN, node_settings
from tests.orthanc.orthancs import Orthanc, running_plugin, settle

StartNode = Callable[[Settings], Node]


@pytest.fixture
def orthanc(orthanc_program: str, tmp_path: Path) -> Orthanc:
    return Orthanc(orthanc_program, tmp_path / "orthanc", plugin=PLUGIN, node_port=free_port())


def node_port(orthanc: Orthanc) -> int:
    return int(orthanc.configuration["DicomModalities"]["dicomnode"][2])


@pytest.mark.slow
def test_a_stable_series_comes_back_enhanced_into_its_study_once(
    tmp_path: Path, orthanc: Orthanc, running_node: StartNode
) -> None:
    node = running_node(node_settings(tmp_path, node_port(orthanc), orthanc))
    paths = low_dose_series(tmp_path / "in")
    with running_plugin(orthanc):
        source = orthanc.upload(paths)
        told = orthanc.wait_for(source, "done")
        wait_for_jobs(node)
        wait_until(lambda: len(orthanc.enhanced()) == 1 and len(orthanc.enhanced()[0]["Instances"]) == 5)
        settle(4)  # the result is stable by now, and has been looked at

        (result,) = orthanc.enhanced()
        assert result["ParentStudy"] == orthanc.get(f"/series/{source}")["ParentStudy"]
        assert [one["id"] for one in told["results"]] == [result["ID"]]
        assert (told["final"], told["progress"]) == (True, 1.0)
        assert orthanc.plugin(result["ID"])["state"] == "result"
        assert orthanc.metadata(result["ID"])["4312"] == source
        assert orthanc.metadata(source)["4310"].startswith("done")
        assert [job["State"] for job in orthanc.jobs()] == ["Success"], "sent once, the result never"
        assert len(node.jobs()) == 1
        assert orthanc.status_of("POST", f"/dicomnode/series/{result['ID']}/enhance")[0] == 409
    assert "Traceback" not in orthanc.log()


@pytest.mark.slow
def test_images_that_come_late_are_sent_and_enhanced_with_the_others(
    tmp_path: Path, orthanc: Orthanc, running_node: StartNode
) -> None:
    node = running_node(node_settings(tmp_path, node_port(orthanc), orthanc))
    paths = low_dose_series(tmp_path / "in")
    with running_plugin(orthanc):
        source = orthanc.upload(paths[:4])
        orthanc.wait_for(source, "done")
        orthanc.upload(paths[4:])
        wait_until(
            lambda: sorted(len(one["Instances"]) for one in orthanc.enhanced()) == [4, 5], told=node.jobs
        )
        wait_until(lambda: len(orthanc.plugin(source)["results"]) == 2)
        settle(3)
        assert len(orthanc.jobs()) == 2
        assert [job.generation for job in node.jobs()] == [0, 1]


@pytest.mark.slow
def test_a_node_that_was_down_gets_everything_when_it_is_up(
    tmp_path: Path, orthanc: Orthanc, running_node: StartNode
) -> None:
    with running_plugin(orthanc):
        source = orthanc.upload(low_dose_series(tmp_path / "in"))
        wait_until(lambda: orthanc.plugin(source)["attempts"] >= 4)
        told = orthanc.plugin(source)
        assert told["state"] == "waiting"
        assert "Connection refused" in told["words"]
        assert "Connection refused" in orthanc.metadata(source)["4310"]
        assert "Connection refused" in orthanc.get("/dicomnode/status")["last_error"]["words"]
        began = time.monotonic()
        orthanc.get("/system")
        assert time.monotonic() - began < 1.0, "Orthanc answers meanwhile"

        running_node(node_settings(tmp_path, node_port(orthanc), orthanc))
        orthanc.wait_for(source, "done")
        assert len(orthanc.enhanced()) == 1


@pytest.mark.slow
def test_an_orthanc_killed_before_a_series_was_stable_finds_it_at_its_next_start(
    tmp_path: Path, orthanc: Orthanc, running_node: StartNode
) -> None:
    orthanc.configuration["StableAge"] = 4
    running_node(node_settings(tmp_path, node_port(orthanc), orthanc))
    with running_plugin(orthanc):
        wait_until(lambda: orthanc.get("/dicomnode/status")["sweep"]["finished"])
        source = orthanc.upload(low_dose_series(tmp_path / "in"))
        orthanc.kill()
        orthanc.start()
        orthanc.wait_for(source, "done")
        assert orthanc.get("/dicomnode/status")["sweep"]["found"] == 1
        assert not [
            one
            for one in orthanc.get("/changes")["Changes"]
            if one["ChangeType"] == "StableSeries" and one["ID"] == source
        ], "the event never came: the sweep alone found it"
        assert len(orthanc.enhanced()) == 1


@pytest.mark.slow
@pytest.mark.parametrize("how", ["kill", "stop"])
def test_an_orthanc_that_ends_in_the_middle_of_a_push_sends_it_to_its_end(
    how: str,
    tmp_path: Path,
    orthanc: Orthanc,
    running_node: StartNode,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    node = running_node(node_settings(tmp_path, node_port(orthanc), orthanc))
    paths = make_series(tmp_path / "in", slices=40, ctdivol_mgy=1.0, effective_mas=15.0)
    with running_plugin(orthanc):
        stored = tmp_path / "spool"
        source = orthanc.upload(paths)
        with monkeypatch.context() as slow:
            slow.setattr(os, "fsync", _slow_disk)
            wait_until(lambda: len(list(stored.rglob("*.dcm"))) >= 3, told=orthanc.log)
            (orthanc.kill if how == "kill" else orthanc.stop)()
            assert len(list(stored.rglob("*.dcm"))) < 40, "in the middle of it"
        orthanc.start()
        told = orthanc.wait_for(source, "done", seconds=200)
        settle(3)
        assert len(orthanc.enhanced()[0]["Instances"]) == 40
        assert len(orthanc.enhanced()) == len(told["results"])
        (last,) = [job for job in node.jobs() if job.generation == max(one.generation for one in node.jobs())]
        assert last.instances == 40


@pytest.mark.slow
def test_a_restart_sends_nothing_again_that_the_node_has(
    tmp_path: Path, orthanc: Orthanc, running_node: StartNode
) -> None:
    running_node(node_settings(tmp_path, node_port(orthanc), orthanc))
    orthanc.configuration["SaveJobs"] = False  # the jobs that are seen are those after the restart
    with running_plugin(orthanc):
        source = orthanc.upload(low_dose_series(tmp_path / "in"))
        orthanc.wait_for(source, "done")
        orthanc.kill()
        orthanc.start()
        wait_until(lambda: orthanc.get("/dicomnode/status")["sweep"]["finished"])
        settle(3)
        assert orthanc.jobs() == []
        assert len(orthanc.enhanced()) == 1


def _slow_disk(_: int) -> None:
    time.sleep(0.1)


def _secondary(data: Dataset, _: int) -> None:
    data.ImageType = ["DERIVED", "SECONDARY", "AXIAL"]


def _burned(data: Dataset, _: int) -> None:
    data.BurnedInAnnotation = "YES"


def _magnetic(data: Dataset, _: int) -> None:
    data.Modality = "MR"


def test_what_the_node_would_refuse_is_not_sent_and_says_why_and_can_be_sent_by_hand(
    tmp_path: Path, orthanc: Orthanc
) -> None:
    """No node: what would be sent fails, and so is told apart."""
    makers: dict[str, dict[str, Any]] = {
        "localizer": {"image_type": ("ORIGINAL", "PRIMARY", "LOCALIZER")},
        "not-axial": {"change": _secondary},
        "burned-in-text": {"change": _burned},
        "too-few-slices": {"slices": 1},
    }
    with running_plugin(orthanc):
        refused = {
            rule: orthanc.upload(make_series(tmp_path / rule, name=rule, **options))
            for rule, options in makers.items()
        }
        magnetic = orthanc.upload(make_series(tmp_path / "mr", change=_magnetic))
        for rule, series_id in refused.items():
            told = orthanc.wait_for(series_id, "not-sent", seconds=20)
            assert (told["rule"], told["final"]) == (rule, True)
            assert told["reason"] in orthanc.metadata(series_id)["4310"]
        assert orthanc.jobs() == []
        assert "4310" not in orthanc.metadata(magnetic)

        assert orthanc.post(f"/dicomnode/series/{refused['localizer']}/enhance")["asked"]
        wait_until(lambda: orthanc.plugin(refused["localizer"])["attempts"] >= 1, 20)
        assert orthanc.plugin(refused["localizer"])["rule"] == "localizer", "still told"
        assert {job["Content"]["ParentResources"][0] for job in orthanc.jobs()} == {refused["localizer"]}


def test_nothing_is_sent_by_itself_where_automatic_is_off(tmp_path: Path, orthanc: Orthanc) -> None:
    orthanc.configuration["DicomNode"] = {**PLUGIN, "Automatic": False}
    with running_plugin(orthanc):
        source = orthanc.upload(make_series(tmp_path / "in"))
        settle(4)
        assert (orthanc.plugin(source)["state"], orthanc.jobs()) == ("new", [])
        orthanc.post(f"/dicomnode/series/{source}/enhance")
        wait_until(lambda: orthanc.jobs() != [], 20)
