"""A transfer that somebody pauses in Orthanc's list of jobs is said to be paused, and holds up no other."""

from pathlib import Path

import pytest

from tests.journey.scene import Pacs, free_port, low_dose_series, wait_until
from tests.orthanc.conftest import PLUGIN
from tests.orthanc.orthancs import Orthanc, running_plugin


@pytest.mark.slow
def test_a_paused_transfer_holds_up_no_other_and_goes_on_when_it_is_resumed(
    orthanc_program: str, tmp_path: Path
) -> None:
    port = free_port()
    orthanc = Orthanc(orthanc_program, tmp_path / "orthanc", plugin=PLUGIN, node_port=port)
    with Pacs(port, seconds=0.5) as node, running_plugin(orthanc):
        slow = orthanc.upload(low_dose_series(tmp_path / "slow", slices=10, seed=1))
        wait_until(lambda: [job["State"] for job in orthanc.jobs()] == ["Running"], 20)
        (job,) = orthanc.jobs()
        orthanc.post(f"/jobs/{job['ID']}/pause")
        wait_until(lambda: orthanc.plugin(slow)["state"] == "paused", 20, lambda: orthanc.plugin(slow))
        assert "paused in Orthanc" in orthanc.metadata(slow)["4310"]

        other = orthanc.upload(low_dose_series(tmp_path / "other", seed=2))
        orthanc.wait_for(other, "sent", seconds=30)
        assert orthanc.plugin(slow)["state"] == "paused"
        orthanc.post(f"/jobs/{job['ID']}/resume")
        orthanc.wait_for(slow, "sent", seconds=30)
        assert len(node.images()) == len(node.asked) == 15, "each image once"
