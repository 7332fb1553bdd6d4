"""Two Orthancs on one node: each gets its own results and no others."""

from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import pytest
from pydicom import dcmread

from dicomnode.node import Node
from dicomnode.settings import Settings
from tests.journey.scene import free_port, low_dose_series, wait_until
from tests.orthanc.conftest import following, node_settings, pulling
from tests.orthanc.orthancs import Orthanc, running_plugin, settle

HERE = "the enhanced series is here"


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["push", "pull"])
def test_two_orthancs_share_a_node_and_each_gets_its_own_results(
    mode: str, tmp_path: Path, orthanc_program: str, running_node: Callable[[Settings], Node]
) -> None:
    port, web_port = free_port(), free_port()
    archives = [
        Orthanc(orthanc_program, tmp_path / name, name, plugin={}, node_port=port) for name in ("ONE", "TWO")
    ]
    for one in archives:
        section = following(web_port) if mode == "push" else pulling(web_port, one)
        one.configuration["DicomNode"] = section
    settings = node_settings(tmp_path, port, *archives, web_port=web_port)
    one, two = settings.destinations
    otherwise = two.model_copy(update={"series_description_prefix": "QUIET | "})
    node = running_node(settings.model_copy(update={"destinations": (one, otherwise)}))
    with running_plugin(*archives):
        sources = [
            one.upload(low_dose_series(tmp_path / f"in{seed}", seed=seed))
            for seed, one in enumerate(archives)
        ]
        for orthanc, source in zip(archives, sources, strict=True):
            assert orthanc.wait_for(source, "done")["words"] == HERE
        settle(4)  # a result that went to the wrong one would be there, and stable, by now

        assert len(node.jobs()) == 2
        pushed = 1 if mode == "push" else 0
        assert [len(one.jobs()) for one in archives] == [pushed, pushed]
        for orthanc, source in zip(archives, sources, strict=True):
            (result,) = orthanc.enhanced()
            assert [one["id"] for one in orthanc.plugin(source)["results"]] == [result["ID"]]
            made = dcmread(BytesIO(orthanc.file(result["Instances"][0])), stop_before_pixels=True)
            uid = orthanc.get(f"/series/{source}")["MainDicomTags"]["SeriesInstanceUID"]
            assert made.ReferencedSeriesSequence[0].SeriesInstanceUID == uid
            studies = {one["ParentStudy"] for one in orthanc.series()}
            assert len(studies) == 1, "reports of the other one's series did not come either"
        for orthanc, source in zip(archives, sources, strict=True):
            _ask_again(orthanc, source)
            assert orthanc.wait_for(source, "done", seconds=40.0)["words"] == HERE, "here, however often"


def _ask_again(orthanc: Orthanc, source: str) -> None:
    orthanc.post(f"/dicomnode/series/{source}/enhance")
    wait_until(lambda: not orthanc.plugin(source)["final"], 10.0, lambda: orthanc.plugin(source))
