"""Damaged images, a series that cannot be read, an Orthanc that forgets its jobs: everything goes its way."""

from collections.abc import Callable
from pathlib import Path

import pytest
from pydicom import dcmread

from dicomnode.network.receive import ReceivedInstance, Receiver
from dicomnode.node import Node
from dicomnode.settings import Settings
from dicomnode.spool import Spool
from tests.journey.scene import free_port, low_dose_series, wait_until
from tests.orthanc.conftest import PLUGIN, following, node_settings
from tests.orthanc.orthancs import Orthanc, running_plugin, settle


@pytest.mark.slow
@pytest.mark.parametrize("by_hand", [False, True])
def test_a_series_whose_files_the_disk_has_lost_holds_up_no_other(
    orthanc_program: str, tmp_path: Path, by_hand: bool
) -> None:
    orthanc = Orthanc(
        orthanc_program, tmp_path / "orthanc", plugin=PLUGIN, node_port=free_port(), StableAge=2
    )
    with running_plugin(orthanc):
        wait_until(lambda: orthanc.get("/dicomnode/status")["sweep"]["finished"])
        lost = orthanc.upload(low_dose_series(tmp_path / "lost", seed=1))
        orthanc.kill()
        for path in (tmp_path / "orthanc" / "storage").glob("??/??/*"):
            path.unlink()
        orthanc.start()  # its memory of the files is gone, too
        if by_hand:
            orthanc.post(f"/dicomnode/series/{lost}/enhance")
        good = orthanc.upload(low_dose_series(tmp_path / "good", seed=2))
        wait_until(lambda: orthanc.plugin(good)["attempts"] >= 2, 20, lambda: orthanc.plugin(good))
        wait_until(lambda: "cannot be read" in orthanc.plugin(lost)["words"], 20)
        assert "cannot be read" in orthanc.metadata(lost)["4310"]


@pytest.mark.slow
def test_an_orthanc_that_keeps_no_history_of_jobs_sends_a_series_once(
    orthanc_program: str, tmp_path: Path
) -> None:
    port = free_port()
    arrived: list[ReceivedInstance] = []
    orthanc = Orthanc(orthanc_program, tmp_path / "orthanc", plugin=PLUGIN, node_port=port, JobsHistorySize=0)
    settings = node_settings(tmp_path, port, orthanc)
    spool = Spool(settings.node.spool, reserve_bytes=0)
    receiver = Receiver(settings, spool, arrived.append, lambda *_: None)
    receiver.start()
    try:
        with running_plugin(orthanc):
            source = orthanc.upload(low_dose_series(tmp_path / "in"))
            orthanc.wait_for(source, "sent", seconds=30)
            settle(8)
            assert len(arrived) == 5
    finally:
        receiver.stop()


@pytest.mark.slow
def test_an_image_that_the_node_refuses_keeps_back_no_other_and_is_told(
    orthanc_program: str, tmp_path: Path, running_node: Callable[[Settings], Node]
) -> None:
    port, web_port = free_port(), free_port()
    orthanc = Orthanc(orthanc_program, tmp_path / "orthanc", plugin=following(web_port), node_port=port)
    paths = low_dose_series(tmp_path / "in", slices=60)
    for path in (paths[0], paths[-1]):
        broken = dcmread(path)
        broken.PixelData = broken.PixelData[:-2000]
        broken.save_as(path)
    with running_plugin(orthanc):
        source = orthanc.upload(paths)
        wait_until(lambda: orthanc.plugin(source)["attempts"] >= 2, 20)
        running_node(node_settings(tmp_path, port, orthanc, web_port=web_port))
        orthanc.wait_for(source, "done")
        wait_until(lambda: orthanc.plugin(source)["final"], 70, lambda: orthanc.plugin(source))
        assert [len(one["Instances"]) for one in orthanc.enhanced()] == [58]
        assert "2 of 60 images were refused by the node" in orthanc.plugin(source)["words"]
        assert "2 of 60 images were refused by the node" in orthanc.metadata(source)["4310"]
        pushed = len(orthanc.jobs())

        orthanc.post(f"/dicomnode/series/{source}/enhance")
        wait_until(lambda: len(orthanc.jobs()) > pushed, 20, lambda: orthanc.plugin(source))
        orthanc.wait_for(source, "done")
        assert len(orthanc.enhanced()) == 1, "asked for again it brings nothing twice"
