"""Which images a series has, by an archive that has it: counted while the series is waited for."""

from collections.abc import Callable
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.uid import SecondaryCaptureImageStorage

from dicomnode.engines.need.engine import NeedEngine
from dicomnode.journey.order import Order
from dicomnode.node import Node
from dicomnode.settings import Settings, Source
from tests.archive import filled
from tests.archives_orthanc import running_orthanc
from tests.journey.scene import Pacs, low_dose_series, send_to, settings_for, wait_for_jobs, wait_until

pytestmark = pytest.mark.slow

CLOSED, QUIET = 1.5, 60.0
"""Seconds. What is proven complete goes on soon; else the test would take a minute."""


def asking(tmp_path: Path, pacs: Pacs, source: Source) -> Settings:
    times = {"closed_seconds": CLOSED, "quiet_seconds": QUIET, "give_up_seconds": QUIET}
    values = settings_for(tmp_path, pacs.port, completeness=times).model_dump()
    return Settings.model_validate({**values, "sources": [source.model_dump()]})


def order_of(node: Node) -> Order:
    (job,) = node.jobs()
    assert node._journey is not None
    return node._journey.book.order(job.job_id)


def test_the_end_of_a_series_that_comes_later_is_waited_for(
    tmp_path: Path, pacs: Pacs, engine: NeedEngine, program: Callable[[str], str]
) -> None:
    """Seven of ten slices, from the first on: without the archive they would count as a whole series."""
    paths = low_dose_series(tmp_path / "in", slices=10)
    with running_orthanc(program("Orthanc"), tmp_path) as orthanc:
        filled(orthanc, paths)
        with Node(asking(tmp_path, pacs, orthanc), engine=engine) as node:
            send_to(node.port, paths[:7])
            waits_at_least(node, 3 * CLOSED)
            send_to(node.port, paths[7:])
            (job,) = wait_for_jobs(node)
            assert (job.instances, job.generation) == (10, 0)
            assert order_of(node).confidence == "closed"


def test_as_many_as_the_archive_has_are_enough(
    tmp_path: Path,
    pacs: Pacs,
    engine: NeedEngine,
    program: Callable[[str], str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A series that begins with number 4: nothing but the archive can say that there is no more of it."""
    monkeypatch.setattr("dicomnode.journey.asking.COUNT_PAUSE_SECONDS", 0.5)
    paths = low_dose_series(tmp_path / "in", slices=10)[3:]
    with running_orthanc(program("Orthanc"), tmp_path) as orthanc:
        filled(orthanc, paths)
        with Node(asking(tmp_path, pacs, orthanc), engine=engine) as node:
            send_to(node.port, paths)
            wait_until(lambda: len(node.jobs()) == 1, QUIET / 2, told=node.jobs)
            assert "as many as the archive knows" in order_of(node).completed_because


def test_what_lies_beside_the_images_is_not_waited_for(
    tmp_path: Path,
    pacs: Pacs,
    engine: NeedEngine,
    program: Callable[[str], str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A dose screen in the series of the images: the archive counts eight objects, of which seven are CT."""
    monkeypatch.setattr("dicomnode.journey.asking.COUNT_PAUSE_SECONDS", 0.5)
    paths = low_dose_series(tmp_path / "in", slices=10)[3:]
    screen = dcmread(paths[0])
    screen.SOPClassUID = screen.file_meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    screen.SOPInstanceUID = screen.file_meta.MediaStorageSOPInstanceUID = "1.2.3.4.9"
    screen.save_as(tmp_path / "screen.dcm")
    study = [*paths, tmp_path / "screen.dcm"]
    with running_orthanc(program("Orthanc"), tmp_path) as orthanc:
        filled(orthanc, study)
        with Node(asking(tmp_path, pacs, orthanc), engine=engine) as node:
            send_to(node.port, study)
            wait_until(lambda: len(node.jobs()) == 1, QUIET / 2, told=node.jobs)
            assert "as many as the archive knows" in order_of(node).completed_because


def waits_at_least(node: Node, seconds: float) -> None:
    with pytest.raises(AssertionError):
        wait_until(lambda: bool(node.jobs()), seconds)
