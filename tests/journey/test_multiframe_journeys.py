"""A multi-frame object goes in by C-STORE, a classic derived series comes out."""

import time
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.uid import CTImageStorage

from dicomnode.engines.need.engine import NeedEngine
from dicomnode.node import Node
from tests.journey.scene import Pacs, decoded, low_dose_series, send_to, settings_for, wait_for_jobs
from tests.multiframe_makers import make_enhanced, make_legacy

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("make", [make_enhanced, make_legacy])
def test_one_object_of_frames_comes_back_as_a_derived_series(
    tmp_path: Path, pacs: Pacs, engine: NeedEngine, make
) -> None:
    path = make(tmp_path / "m.dcm", low_dose_series(tmp_path / "classic"))
    settings = settings_for(tmp_path, pacs.port, completeness={"quiet_seconds": 600, "give_up_seconds": 600})
    with Node(settings, engine=engine) as node:
        began = time.monotonic()
        assert len(send_to(node.port, [path]).sent) == 1
        (job,) = wait_for_jobs(node)
        assert time.monotonic() - began < 300, "a whole object does not wait for the quiet time"
        again = send_to(node.port, [path])
        assert len(again.sent) == 1, "sent again is answered 0000"
        assert len(node.jobs()) == 1
    assert (job.status, job.verdict) in {("done", "pass"), ("done", "label")}, job
    assert job.destinations[0].sent == job.destinations[0].total == 6

    source = dcmread(path)
    results = [decoded(pacs.kept()[uid]) for uid in pacs.images()]
    assert {result.SOPClassUID for result in results} == {CTImageStorage}
    assert {result.SeriesInstanceUID for result in results} == {job.derived_series_uid}
    frames = [int(result.SourceImageSequence[0].ReferencedFrameNumber) for result in results]
    assert sorted(frames) == [1, 2, 3, 4, 5]
    for frame, result in zip(frames, results, strict=True):
        assert result.SourceImageSequence[0].ReferencedSOPInstanceUID == source.SOPInstanceUID
        place = source.PerFrameFunctionalGroupsSequence[frame - 1].PlanePositionSequence[0]
        assert result.ImagePositionPatient == place.ImagePositionPatient
        change = np.abs(result.pixel_array.astype(float) - source.pixel_array[frame - 1].astype(float))
        assert 0.0 < change.mean() < 200.0, "the pixels are neither those of the frame nor of another"
    assert len(pacs.reports()) == 1


def test_parts_of_a_concatenation_become_one_series(tmp_path: Path, pacs: Pacs, engine: NeedEngine) -> None:
    classic = low_dose_series(tmp_path / "classic")
    parts = [
        make_enhanced(tmp_path / "1.dcm", classic[:2], part=(1, 2, 0)),
        make_enhanced(tmp_path / "2.dcm", classic[2:], part=(2, 2, 2)),
    ]
    settings = settings_for(
        tmp_path, pacs.port, completeness={"closed_seconds": 0.2, "quiet_seconds": 60, "give_up_seconds": 600}
    )
    with Node(settings, engine=engine) as node:
        send_to(node.port, parts[1:])
        time.sleep(2.0)
        assert not node.jobs(), "a part alone waits for the others"
        send_to(node.port, parts[:1])
        (job,) = wait_for_jobs(node)
    assert job.status == "done", job
    assert len(pacs.images()) == 5
    numbers = {int(decoded(pacs.kept()[uid]).InstanceNumber) for uid in pacs.images()}
    assert numbers == {1, 2, 3, 4, 5}
