"""What the plugin costs, measured: the way to the node, and the look over all series at start."""

import os
import subprocess
import time
from collections.abc import Callable
from datetime import datetime
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.uid import generate_uid

from dicomnode.network.receive import Receiver
from dicomnode.spool import Spool
from tests.journey.scene import free_port, wait_until
from tests.makers import make_series
from tests.orthanc.conftest import PLUGIN, node_settings
from tests.orthanc.orthancs import Orthanc, running_plugin

SLICES, SIDE, ROUNDS = 120, 512, 3
MANY = 2000


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_way_to_the_node_takes_little_longer_than_storescu(
    tmp_path: Path, orthanc_program: str, program: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the event STABLE_SERIES to the last image at a receiver of the node's; fastest of a few rounds."""
    monkeypatch.setenv("TCP_NODELAY", "1")
    storescu = program("storescu")
    arrived: list[float] = []
    lua = tmp_path / "clock.lua"
    lua.write_text("function OnStableSeries(id, tags, metadata) print('stable ' .. id) end")
    orthanc = Orthanc(
        orthanc_program, tmp_path / "orthanc", plugin=PLUGIN, node_port=free_port(), LuaScripts=[str(lua)]
    )
    port = int(orthanc.configuration["DicomModalities"]["dicomnode"][2])
    settings = node_settings(tmp_path, port, orthanc)
    spool = Spool(settings.node.spool, 0)
    spool.claim()
    receiver = Receiver(settings, spool, lambda *_: arrived.append(time.time()), lambda *_: None)
    receiver.start()
    noise = np.random.default_rng(0).normal(0, 30, (SLICES, SIDE, SIDE)).astype(np.float32)
    plugin_seconds, plain_seconds = [], []
    try:
        with running_plugin(orthanc):
            for turn in range(ROUNDS):
                paths = make_series(tmp_path / f"in{turn}", noise, name=str(turn))
                source = orthanc.upload(paths)
                wait_until(lambda: len(arrived) == SLICES, told=orthanc.log)
                plugin_seconds.append(max(arrived) - _stable_at(orthanc, source))
                arrived.clear()
                others = _as_another_series(paths)
                began = time.time()
                subprocess.run(
                    [
                        storescu,
                        "-aet",
                        orthanc.ae_title,
                        "-aec",
                        "DICOMNODE",
                        "127.0.0.1",
                        str(port),
                        *others,
                    ],
                    check=True,
                    env=os.environ,
                )
                wait_until(lambda: len(arrived) == SLICES)
                plain_seconds.append(max(arrived) - began)
                arrived.clear()
    finally:
        receiver.stop()
        spool.release()
    ratio = min(plugin_seconds) / min(plain_seconds)
    print(f"\nplugin {min(plugin_seconds):.2f} s, storescu {min(plain_seconds):.2f} s: {ratio:.2f} times")
    print(
        f"all rounds: {[round(one, 2) for one in plugin_seconds]} {[round(one, 2) for one in plain_seconds]}"
    )
    assert ratio < 1.3


def _stable_at(orthanc: Orthanc, series_id: str) -> float:
    """When Orthanc's event fired, in Unix seconds: a Lua script beside the plugin writes it to the log."""
    (line,) = [one for one in orthanc.log().splitlines() if f"stable {series_id}" in one]
    day, clock = line[1:].split()[:2]
    moment = datetime.strptime(f"{datetime.now().year}{day} {clock}", "%Y%m%d %H:%M:%S.%f")
    return moment.timestamp()


def _as_another_series(paths: list[Path]) -> list[str]:
    """The same images under other UIDs: the receiver would find the first ones known."""
    series = generate_uid()
    for path in paths:
        data = dcmread(path)
        data.SeriesInstanceUID, data.SOPInstanceUID = series, generate_uid()
        data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID
        data.save_as(path)
    return [str(path) for path in paths]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_look_over_all_series_is_quick_and_blocks_nothing(tmp_path: Path, orthanc_program: str) -> None:
    """Two thousand series of one image each that no event told of; then the same, all judged already."""
    (path,) = make_series(tmp_path / "in", slices=1)
    orthanc = Orthanc(orthanc_program, tmp_path / "orthanc", plugin=PLUGIN, node_port=1, StableAge=600)
    with running_plugin(orthanc):
        data = dcmread(path)
        for _ in range(MANY):
            data.SeriesInstanceUID, data.SOPInstanceUID = generate_uid(), generate_uid()
            data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID
            content = BytesIO()
            data.save_as(content)
            orthanc.post("/instances", content.getvalue())
        orthanc.kill()
        orthanc.configuration["StableAge"] = 1
        orthanc.start()
        slowest = 0.0
        while not orthanc.get("/dicomnode/status")["sweep"]["finished"]:
            began = time.monotonic()
            orthanc.get("/system")
            slowest = max(slowest, time.monotonic() - began)
        told = orthanc.get("/dicomnode/status")["sweep"]
        assert (told["looked_at"], told["found"]) == (MANY, MANY), "none was ever judged"
        wait_until(lambda: _judged(orthanc), 300)

        orthanc.kill()
        orthanc.start()
        wait_until(lambda: orthanc.get("/dicomnode/status")["sweep"]["finished"])
        again = orthanc.get("/dicomnode/status")["sweep"]
        each_ms = 1000 * again["seconds"] / MANY
        print(f"\nfirst {told['seconds']} s, again {again['seconds']} s: {each_ms:.2f} ms a series")
        print(f"slowest answer of Orthanc meanwhile {slowest:.3f} s")
        assert (again["looked_at"], again["found"]) == (MANY, 0)
        assert each_ms < 10.0
        assert slowest < 2.0


def _judged(orthanc: Orthanc) -> bool:
    """Has the plugin written of the last series, and of every fiftieth?"""
    names = orthanc.get("/series")
    return all("4310" in orthanc.metadata(one) for one in [names[-1], *names[::50]])
