"""The node changes its mind after it has told its last word, and Orthanc shows the later word."""

from collections.abc import Callable
from pathlib import Path

import pytest

from dicomnode.node import Node
from dicomnode.settings import Settings
from tests.journey.scene import Pacs, free_port, low_dose_series, wait_until
from tests.journey.test_dose_reports import LOW, series_without_dose, study_of
from tests.orthanc.conftest import PLUGIN, following, node_settings
from tests.orthanc.orthancs import Orthanc, running_plugin, settle
from tests.report_makers import make_dose_report

StartNode = Callable[[Settings], Node]


@pytest.fixture
def orthanc(orthanc_program: str, tmp_path: Path) -> Orthanc:
    return Orthanc(orthanc_program, tmp_path / "orthanc", plugin=PLUGIN, node_port=free_port())


@pytest.mark.slow
def test_a_refused_series_whose_result_comes_after_all_is_told_as_done(
    tmp_path: Path, orthanc: Orthanc, running_node: StartNode
) -> None:
    web_port, port = free_port(), int(orthanc.configuration["DicomModalities"]["dicomnode"][2])
    node = running_node(node_settings(tmp_path, port, orthanc, web_port=web_port))
    orthanc.configuration["DicomNode"] = following(web_port)
    with running_plugin(orthanc):
        paths = series_without_dose(tmp_path / "in")
        source = orthanc.upload(paths)
        assert orthanc.wait_for(source, "refused")["rule"] == "dose-unknown"

        report = orthanc.upload([make_dose_report(tmp_path / "sr" / "1.dcm", study_of(paths), [LOW])])
        orthanc.post("/modalities/dicomnode/store", report)
        wait_until(lambda: [job.status for job in node.jobs()] == ["done"], told=node.jobs)
        wait_until(lambda: len(orthanc.plugin(source)["results"]) == 1)
        told = orthanc.wait_for(source, "done", seconds=20)
        assert (told["final"], told["progress"], told["rule"], told["reason"]) == (True, 1.0, None, None)
        wait_until(lambda: orthanc.metadata(source)["4310"].startswith("done"), 10)


@pytest.mark.slow
def test_a_restart_sends_nothing_where_images_were_deleted_and_all_where_one_came_as_well(
    tmp_path: Path, orthanc: Orthanc
) -> None:
    port = int(orthanc.configuration["DicomModalities"]["dicomnode"][2])
    with Pacs(port) as node, running_plugin(orthanc):
        paths = low_dose_series(tmp_path / "in", slices=6)
        source = orthanc.upload(paths[:5])
        orthanc.wait_for(source, "sent", seconds=30)
        settle(2)  # Orthanc's stamps have whole seconds
        for instance in orthanc.get(f"/series/{source}")["Instances"][:2]:
            assert orthanc.status_of("DELETE", f"/instances/{instance}")[0] == 200

        orthanc.stop()
        orthanc.start()
        wait_until(lambda: orthanc.get("/dicomnode/status")["sweep"]["finished"], 20)
        settle(3)
        assert len(node.asked) == 5, "the node has had all that is left"

        orthanc.upload(paths[5:])
        orthanc.kill()
        orthanc.start()
        wait_until(lambda: len(node.asked) == 5 + 4, 20, lambda: len(node.asked))
        assert len(node.images()) == 6
