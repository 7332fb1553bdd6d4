"""Journeys of what arrives in unusual ways: interleaved, as one multi-frame object, with broken pixels."""

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import (
    UID,
    EnhancedCTImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from dicomnode.engines.need.engine import NeedEngine
from dicomnode.network import protocol
from dicomnode.network.receive import ReceivedInstance
from dicomnode.node import Node
from tests.journey.scene import (
    Pacs,
    decoded,
    low_dose_series,
    send_to,
    settings_for,
    wait_for_jobs,
    wait_until,
)
from tests.makers import make_series, make_uid


def test_two_series_interleaved_on_one_association_are_two_complete_results(
    tmp_path: Path, pacs: Pacs, engine: NeedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = low_dose_series(tmp_path / "one", slices=6, seed=1)
    two = low_dose_series(tmp_path / "two", slices=6, seed=2)
    came: list[tuple[str, str]] = []
    ended: list[frozenset[str]] = []
    stored, closed = Node._on_stored, Node._on_association_end

    def on_stored(node: Node, received: ReceivedInstance) -> None:
        came.append((received.series_instance_uid, received.sop_instance_uid))
        stored(node, received)

    def on_end(node: Node, outcome, series_uids: frozenset[str]) -> None:
        ended.append(series_uids)
        closed(node, outcome, series_uids)

    monkeypatch.setattr(Node, "_on_stored", on_stored)
    monkeypatch.setattr(Node, "_on_association_end", on_end)
    with Node(settings_for(tmp_path, pacs.port), engine=engine) as node:
        mixed = [path for pair in zip(one, two, strict=True) for path in pair]
        assert len(send_to(node.port, mixed, associations=1).sent) == 12
        jobs = wait_for_jobs(node, 2)

    headers = [dcmread(path, stop_before_pixels=True) for path in mixed]
    assert came == [(header.SeriesInstanceUID, header.SOPInstanceUID) for header in headers], "interleaved"
    assert ended == [frozenset(header.SeriesInstanceUID for header in headers)], "on one association"
    assert [(job.status, job.instances, job.generation) for job in jobs] == [("done", 6, 0)] * 2
    results = [decoded(pacs.kept()[uid]) for uid in pacs.images()]
    sources = {(header.SeriesInstanceUID, header.SOPInstanceUID) for header in headers}
    made = {job.derived_series_uid: job.source_series_uid for job in jobs}
    assert {
        (made[result.SeriesInstanceUID], result.SourceImageSequence[0].ReferencedSOPInstanceUID)
        for result in results
    } == sources, "each result has the images of its own series, and all of them"
    assert (len(results), len(made), len(pacs.reports())) == (12, 2, 2)


def companion(path: Path, image: Path, sop_class: str) -> Path:
    """What lies in the same study and is no CT, as a file of its own series."""
    data = dcmread(image)
    data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = UID(sop_class)
    data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = UID(make_uid(sop_class, path.name))
    data.SeriesInstanceUID, data.Modality = make_uid("companion", sop_class), "OT"
    if sop_class in protocol.COMPANION_DOCUMENT_CLASSES:
        del data.PixelData
    data.save_as(path)
    return path


def test_a_whole_study_with_screens_and_documents_is_taken_and_only_ct_is_worked(
    tmp_path: Path, pacs: Pacs, engine: NeedEngine
) -> None:
    """An archive that routes studies stops at the first object that is not taken, CT or not."""
    images = low_dose_series(tmp_path / "ct")
    classes = (*protocol.COMPANION_IMAGE_CLASSES, *protocol.COMPANION_DOCUMENT_CLASSES)
    beside = [companion(tmp_path / f"{number}.dcm", images[0], uid) for number, uid in enumerate(classes)]
    settings = settings_for(tmp_path, pacs.port)
    with Node(settings, engine=engine) as node:
        assert len(send_to(node.port, [*beside, *images]).sent) == len(classes) + 5
        (job,) = wait_for_jobs(node)
    assert (job.status, job.instances) == ("done", 5)
    held = [dcmread(path).SOPInstanceUID for path in settings.node.spool.glob("incoming/*/*.dcm")]
    assert set(held) >= {dcmread(path).SOPInstanceUID for path in beside}, "what is answered is on the disk"
    with Node(settings, engine=engine) as node:
        time.sleep(3 * settings.completeness.quiet_seconds)
        assert [one.job_id for one in node.jobs()] == [job.job_id], "nor is it found at the next start"


def as_enhanced_ct(frames: int) -> Callable[[Dataset, int], None]:
    """Makes of a CT image one multi-frame Enhanced CT object (PS3.3 A.38)."""

    def change(data: Dataset, index: int) -> None:
        data.SOPClassUID = EnhancedCTImageStorage
        data.ImageType = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
        data.NumberOfFrames = frames
        data.PixelData = data.PixelData * frames
        orientation, measures = Dataset(), Dataset()
        orientation.ImageOrientationPatient = data.ImageOrientationPatient
        measures.PixelSpacing, measures.SliceThickness = data.PixelSpacing, data.SliceThickness
        shared = Dataset()
        shared.PlaneOrientationSequence = DicomSequence([orientation])
        shared.PixelMeasuresSequence = DicomSequence([measures])
        data.SharedFunctionalGroupsSequence = DicomSequence([shared])
        groups = []
        for frame in range(frames):
            position, group = Dataset(), Dataset()
            position.ImagePositionPatient = ["0", "0", str(3 * frame)]
            group.PlanePositionSequence = DicomSequence([position])
            groups.append(group)
        data.PerFrameFunctionalGroupsSequence = DicomSequence(groups)
        for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness"):
            delattr(data, keyword)

    return change


def test_a_multi_frame_object_that_is_refused_is_kept_and_the_next_series_is_done(
    tmp_path: Path, pacs: Pacs, engine: NeedEngine
) -> None:
    settings = settings_for(tmp_path, pacs.port)
    paths = make_series(tmp_path / "multi-frame", slices=1, change=as_enhanced_ct(8))
    assert dcmread(paths[0]).pixel_array.shape[0] == 8
    with Node(settings, engine=engine) as node:
        assert len(send_to(node.port, paths).sent) == 1
        wait_until(lambda: node.jobs(), told=node.jobs)
        send_to(node.port, low_dose_series(tmp_path / "next"))
        jobs = {job.instances: job for job in wait_for_jobs(node, 2)}
    assert (jobs[1].status, jobs[1].rule) == ("refused", "not-axial"), "its frames are of no known type"
    assert jobs[5].status == "done"
    assert len(pacs.images()) == 5
    classes = {
        str(dcmread(path, specific_tags=["SOPClassUID"]).SOPClassUID): path
        for path in (settings.node.spool / "incoming").glob("*/*.dcm")
    }
    kept = dcmread(classes[EnhancedCTImageStorage])
    assert np.array_equal(kept.pixel_array, dcmread(paths[0]).pixel_array), "refused is not lost"


def cut(codestream: bytes) -> bytes:
    return codestream[: len(codestream) // 2 & ~1]


def blank(codestream: bytes) -> bytes:
    return bytes(len(codestream))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("syntax", "damage"),
    [
        (RLELossless, cut),
        (JPEGLSLossless, cut),
        (JPEG2000Lossless, cut),
        (RLELossless, blank),
        (JPEGLSLossless, blank),
        (JPEG2000Lossless, blank),
    ],
)
def test_a_corrupt_codestream_is_refused_by_name_and_the_node_goes_on(
    tmp_path: Path, pacs: Pacs, engine: NeedEngine, syntax: str, damage: Callable[[bytes], bytes]
) -> None:
    settings = settings_for(tmp_path, pacs.port)
    paths = low_dose_series(tmp_path / "corrupt", slices=4, transfer_syntax=syntax)
    data = dcmread(paths[2])
    (codestream,) = generate_frames(data.PixelData, number_of_frames=1)
    data.PixelData = encapsulate([damage(codestream)])
    data.save_as(paths[2], enforce_file_format=True)
    with Node(settings, engine=engine) as node:
        assert len(send_to(node.port, paths).sent) == 4, "the receiver does not look at pixels"
        wait_until(lambda: node.jobs(), told=node.jobs)
        send_to(node.port, low_dose_series(tmp_path / "next", slices=3, seed=9, transfer_syntax=syntax))
        jobs = {job.instances: job for job in wait_for_jobs(node, 2)}
    assert (jobs[4].status, jobs[4].rule) in {("refused", "undecodable"), ("refused", "broken-instance")}
    assert jobs[3].status == "done"
    assert len(pacs.images()) == 3


@pytest.mark.slow
def test_the_result_does_not_depend_on_how_the_images_were_encoded(
    tmp_path: Path, engine: NeedEngine
) -> None:
    results = []
    for syntax in (ExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian, RLELossless):
        with Pacs() as pacs:
            settings = settings_for(tmp_path / syntax, pacs.port)
            paths = low_dose_series(tmp_path / syntax / "in", slices=3, transfer_syntax=syntax)
            with Node(settings, engine=engine) as node:
                send_to(node.port, paths)
                (job,) = wait_for_jobs(node)
            assert job.status == "done"
            images = [decoded(pacs.kept()[uid]) for uid in pacs.images()]
            images.sort(key=lambda image: image.InstanceNumber)
            results.append([image.PixelData for image in images])
    assert len(results[0]) == 3
    assert all(one == results[0] for one in results)
