"""Journeys of a series that holds several stacks: each is worked by itself, once, and told by itself."""

from pathlib import Path

import pytest
from pydicom import Dataset, dcmread

from dicomnode.engines.need.engine import NeedEngine
from dicomnode.node import Node
from tests.journey.scene import Pacs, decoded, low_dose_series, send_to, settings_for, wait_for_jobs
from tests.makers import make_series

pytestmark = pytest.mark.slow

UIDS = {"series_uid": "1.2.3.77", "study_uid": "1.2.3.7"}


def kernel(name: str, folder: Path, seed: int, slices: int) -> list[Path]:
    def change(data: Dataset, _: int) -> None:
        data.FrameOfReferenceUID = "1.2.3.70"
        data.ConvolutionKernel = name

    return low_dose_series(folder / name, slices=slices, seed=seed, change=change, **UIDS)


def test_two_kernels_and_a_scout_under_one_uid(tmp_path: Path, pacs: Pacs, engine: NeedEngine) -> None:
    soft, sharp = kernel("B30f", tmp_path, 1, 5), kernel("B70f", tmp_path, 2, 4)
    scout = make_series(
        tmp_path / "scout", slices=1, image_type=("ORIGINAL", "PRIMARY", "LOCALIZER"), seed=3, **UIDS
    )
    settings = settings_for(tmp_path, pacs.port)
    with Node(settings, engine=engine) as node:
        send_to(node.port, [*soft, *scout, *sharp])
        jobs = {job.instances: job for job in wait_for_jobs(node, 3)}
        assert [(jobs[count].status, jobs[count].rule) for count in (5, 4, 1)] == [
            ("done", None),
            ("done", None),
            ("refused", "localizer"),
        ]
    results = [decoded(pacs.kept()[uid]) for uid in pacs.images()]
    came = {(image.SeriesInstanceUID, image.ConvolutionKernel, image.SeriesNumber): 0 for image in results}
    assert sorted(told for _, told, _ in came) == ["B30f", "B70f"], "one derived series a kernel"
    assert len({number for *_, number in came}) == 2
    assert {image.SourceImageSequence[0].ReferencedSOPInstanceUID for image in results} == {
        dcmread(path, stop_before_pixels=True).SOPInstanceUID for path in [*soft, *sharp]
    }
    assert len(pacs.reports()) == 2
    reports = {decoded(pacs.kept()[uid]).SeriesNumber for uid in pacs.reports()}
    assert not reports & {number for *_, number in came}
    asked = len(pacs.asked)
    with Node(settings, engine=engine) as node:
        send_to(node.port, [*sharp, *soft])
        wait_for_jobs(node, 3)
    assert len(pacs.asked) == asked, "sent again: nothing is worked twice"


def test_late_images_renew_only_the_stack_they_belong_to(
    tmp_path: Path, pacs: Pacs, engine: NeedEngine
) -> None:
    soft, sharp = kernel("B30f", tmp_path, 1, 5), kernel("B70f", tmp_path, 2, 4)
    with Node(settings_for(tmp_path, pacs.port), engine=engine) as node:
        send_to(node.port, soft)
        (first,) = wait_for_jobs(node)
        send_to(node.port, sharp[:3])
        second = next(job for job in wait_for_jobs(node, 2) if job.instances == 3)
        send_to(node.port, sharp[3:])
        jobs = wait_for_jobs(node, 3)
    assert sorted((job.instances, job.generation, job.status) for job in jobs) == [
        (3, 0, "done"),
        (4, 1, "done"),
        (5, 0, "done"),
    ]
    assert first.job_id in {job.job_id for job in jobs if job.instances == 5}
    assert len({job.derived_series_uid for job in jobs}) == 3
    assert second.derived_series_uid in {job.derived_series_uid for job in jobs}
    assert len(pacs.images()) == 5 + 3 + 4
