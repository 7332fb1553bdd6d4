"""The Lua script in a real Orthanc without the Python plugin."""

from collections.abc import Callable
from pathlib import Path

import pytest

from dicomnode.node import Node
from dicomnode.settings import Settings
from tests.journey.scene import free_port, low_dose_series, wait_until
from tests.makers import make_series
from tests.orthanc.conftest import node_settings
from tests.orthanc.orthancs import LUA, Orthanc, running_plugin, settle


@pytest.fixture
def orthanc(orthanc_program: str, tmp_path: Path) -> Orthanc:
    script = tmp_path / "dicomnode.lua"
    text = LUA.read_text()
    patient = "FIRST_PAUSE, LONGEST_PAUSE = 10, 600"
    assert patient in text
    script.write_text(text.replace(patient, "FIRST_PAUSE, LONGEST_PAUSE = 1, 2"))
    return Orthanc(orthanc_program, tmp_path / "orthanc", node_port=free_port(), LuaScripts=[str(script)])


@pytest.mark.slow
def test_lua_routes_a_series_once_and_never_its_result(
    tmp_path: Path, orthanc: Orthanc, running_node: Callable[[Settings], Node]
) -> None:
    port = orthanc.configuration["DicomModalities"]["dicomnode"][2]
    node = running_node(node_settings(tmp_path, port, orthanc))
    with running_plugin(orthanc):
        source = orthanc.upload(low_dose_series(tmp_path / "in"))
        wait_until(
            lambda: len(orthanc.enhanced()) == 1 and orthanc.enhanced()[0]["IsStable"], told=orthanc.log
        )
        settle(3)
        assert orthanc.metadata(source)["4310"].startswith("sent")
        assert [job["State"] for job in orthanc.jobs()] == ["Success"]
        assert len(node.jobs()) == len(orthanc.enhanced()) == 1
        orthanc.upload(make_series(tmp_path / "scout", image_type=("ORIGINAL", "PRIMARY", "LOCALIZER")))
        settle(4)
        assert len(orthanc.jobs()) == 1, "the filter of the script"


@pytest.mark.slow
def test_lua_tries_again_at_events_and_not_in_a_tight_loop(
    tmp_path: Path, orthanc: Orthanc, running_node: Callable[[Settings], Node]
) -> None:
    with running_plugin(orthanc):
        source = orthanc.upload(low_dose_series(tmp_path / "in", seed=1))
        wait_until(lambda: "attempt 1 failed" in orthanc.metadata(source).get("4310", ""), 30, orthanc.log)
        settle(3)
        assert len(orthanc.jobs()) == 1, "no event, no attempt"
        others = make_series(tmp_path / "mr", slices=3)
        orthanc.upload(others[:1])
        wait_until(lambda: "attempt 2 failed" in orthanc.metadata(source)["4310"], 30, orthanc.log)
        running_node(
            node_settings(tmp_path, orthanc.configuration["DicomModalities"]["dicomnode"][2], orthanc)
        )
        settle(2.5)
        orthanc.upload(others[1:])
        wait_until(lambda: orthanc.metadata(source)["4310"].startswith("sent"), 30, orthanc.log)


@pytest.mark.slow
def test_lua_tells_of_a_failure_whose_job_orthanc_has_forgotten(tmp_path: Path, orthanc: Orthanc) -> None:
    orthanc.configuration["JobsHistorySize"] = 0
    with running_plugin(orthanc):
        source = orthanc.upload(low_dose_series(tmp_path / "in"))
        wait_until(lambda: "attempt 1 failed" in orthanc.metadata(source).get("4310", ""), 20, orthanc.log)
    assert "Lua command" not in orthanc.log()


@pytest.mark.slow
def test_lua_sends_a_failed_series_that_has_grown_once_and_not_twice_at_the_same_event(
    tmp_path: Path, orthanc: Orthanc
) -> None:
    orthanc.configuration["StableAge"] = 4
    with running_plugin(orthanc):
        paths = low_dose_series(tmp_path / "in")
        source = orthanc.upload(paths[:4])
        wait_until(lambda: "attempt 1 failed" in orthanc.metadata(source).get("4310", ""), 30, orthanc.log)
        settle(1.5)
        orthanc.upload(paths[4:])
        wait_until(lambda: "attempt 2 failed" in orthanc.metadata(source)["4310"], 30, orthanc.log)
        assert len(orthanc.jobs()) == 2, "tried again when the image came"
        wait_until(lambda: len(orthanc.jobs()) > 2, 30, orthanc.log)
        settle(1)
        assert len(orthanc.jobs()) == 3, "and once when the series was stable"
