"""What each destination gets: naming, report, maps, key objects; and what it does not take."""

import errno
import json
import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from dicomnode.dicom.report import write_report
from dicomnode.dose_reference import DoseReference
from dicomnode.engines.need.engine import NeedEngine
from dicomnode.errors import NoSpread
from dicomnode.journey import writing
from dicomnode.journey.job import read_jobs
from dicomnode.journey.manifest import read_manifest
from dicomnode.node import Node
from dicomnode.settings import Settings
from dicomnode.web.standing import told
from tests.journey.scene import (
    IMAGE,
    KEY_OBJECTS,
    PARAMETRIC_MAP,
    REPORT,
    Pacs,
    decoded,
    low_dose_series,
    send_to,
    settings_for,
    wait_for_jobs,
    wait_until,
)
from tests.makers import make_series, phantom

pytestmark = pytest.mark.slow

ALL = (IMAGE, REPORT, PARAMETRIC_MAP, KEY_OBJECTS)
EVERYTHING = {"removed_map": True, "uncertainty_map": True, "key_objects": True}


def settings_with(
    folder: Path, peers: Mapping[int, Mapping[str, object]], **sections: dict[str, object]
) -> Settings:
    """Settings with one destination a port, each with what it asks for."""
    told = settings_for(folder, *peers, **sections).model_dump(mode="json")
    for destination, asked in zip(told["destinations"], peers.values(), strict=True):
        destination.update(asked)
    if any(asked.get("uncertainty_map") for asked in peers.values()):
        told["engine"]["uncertainty_seeds"] = 2
    return Settings.model_validate(told)


def very_low_dose_series(folder: Path) -> list[Path]:
    """So far from normal dose that the engine has two passes to go."""
    return make_series(folder, phantom(5, noise_hu=200.0), ctdivol_mgy=0.1, effective_mas=1.5)


def of_class(pacs: Pacs, sop_class: str) -> list[Dataset]:
    kept = pacs.kept()
    return [decoded(kept[uid]) for uid in pacs.of_class(sop_class)]


def in_hounsfield(parametric_map: Dataset) -> dict[str, np.ndarray]:
    """By the UID of its source slice: the frame in HU."""
    mapping = parametric_map.SharedFunctionalGroupsSequence[0].RealWorldValueMappingSequence[0]
    frames = parametric_map.pixel_array * mapping.RealWorldValueSlope + mapping.RealWorldValueIntercept
    items = parametric_map.PerFrameFunctionalGroupsSequence
    names = [
        item.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID for item in items
    ]
    return dict(zip(names, frames, strict=True))


@pytest.mark.slow
def test_two_destinations_of_different_policy_one_of_which_takes_images_only(
    tmp_path: Path, engine: NeedEngine
) -> None:
    with Pacs(classes=ALL) as rich, Pacs(classes=(IMAGE,)) as plain:
        named = {"image_type2": "SECONDARY", "series_description_prefix": "LOW | ", "keep_manufacturer": True}
        settings = settings_with(tmp_path, {rich.port: EVERYTHING, plain.port: EVERYTHING | named})
        paths = very_low_dose_series(tmp_path / "in")
        with Node(settings, engine=engine) as node:
            send_to(node.port, paths)
            (job,) = wait_for_jobs(node)
            at_rich, at_plain = job.destinations
            assert job.status == "done"
            assert (at_rich.state, at_rich.sent, at_rich.total, at_rich.reason) == ("delivered", 9, 9, None)
            assert (at_plain.state, at_plain.sent, at_plain.total) == ("delivered", 5, 9)
            assert at_plain.attempts == 1, "what is refused for good is not asked again"
            for left_out in ("removed map", "uncertainty map", "key objects", "report"):
                assert f"{left_out} refused for good (status 0122)" in (at_plain.reason or "")
            assert job.reason == f"pacs1: {at_plain.reason}"
            asked = len(plain.asked)

            # The archive learns the other classes; an operator starts the job again.
            port = plain.port
            plain.stop()
            plain.classes = ALL
            plain.start()
            assert plain.port == port
            node.retry(job.job_id)
            wait_until(lambda: node.jobs()[0].final and node.jobs()[0].destinations[1].complete)
            assert [sop_class for sop_class, *_ in plain.asked[asked:]] == [
                PARAMETRIC_MAP, PARAMETRIC_MAP, KEY_OBJECTS, REPORT,
            ]  # fmt: skip
            assert node.jobs()[0].reason is None
            assert len(rich.asked) == 9

    assert not set(rich.kept()) & set(plain.kept())
    for pacs, word, prefix, maker in (
        (rich, "PRIMARY", "AI-DN | ", "dicomnode"),
        (plain, "SECONDARY", "LOW | ", "SIEMENS"),
    ):
        images = of_class(pacs, IMAGE)
        assert {image.ImageType[1] for image in images} == {word}
        assert {image.SeriesDescription for image in images} == {f"{prefix}Thorax 3.0"}
        assert {image.Manufacturer for image in images} == {maker}
        maps = {one.ContentLabel: one for one in of_class(pacs, PARAMETRIC_MAP)}
        assert all(one.SeriesDescription.startswith(prefix) for one in maps.values())
        removed, spread = in_hounsfield(maps["REMOVED"]), in_hounsfield(maps["UNCERTAINTY"])
        for source in map(dcmread, paths):
            (result,) = [
                one
                for one in images
                if one.SourceImageSequence[0].ReferencedSOPInstanceUID == source.SOPInstanceUID
            ]
            change = source.pixel_array.astype(float) - result.pixel_array
            assert np.array_equal(removed[source.SOPInstanceUID], change)
            assert removed[source.SOPInstanceUID].any()
            assert spread[source.SOPInstanceUID].any()
        (keys,) = of_class(pacs, KEY_OBJECTS)
        named_images = [item for item in keys.ContentSequence if item.ValueType == "IMAGE"]
        assert len(named_images) == 5
        assert pacs.asked[-1][1] == pacs.reports()[0], "the report goes last"


def test_destinations_of_the_same_policy_share_their_objects(
    tmp_path: Path, pacs: Pacs, engine: NeedEngine
) -> None:
    with Pacs() as other:
        same = {"series_description_prefix": "AI-DN | ", "keep_manufacturer": False}
        settings = settings_with(tmp_path, {pacs.port: {}, other.port: same})
        with Node(settings, engine=engine) as node:
            send_to(node.port, low_dose_series(tmp_path / "in"))
            wait_for_jobs(node)
        assert pacs.kept() == other.kept()
        assert len(pacs.kept()) == 6
    (outgoing,) = (settings.node.spool / "work").glob("*/outgoing")
    assert len(list(outgoing.rglob("*.dcm"))) == 6
    assert len(read_manifest(outgoing).results) == 1


@pytest.mark.parametrize(
    "change", [{"image_type2": "PRIMARY"}, {"series_description_prefix": "X "}, {"keep_manufacturer": True}]
)
def test_every_part_of_the_naming_makes_other_objects(
    tmp_path: Path, pacs: Pacs, engine: NeedEngine, change: dict[str, object]
) -> None:
    with Pacs() as other:
        unusual = {"image_type2": "SECONDARY", "series_description_prefix": "B "}
        settings = settings_with(tmp_path, {pacs.port: unusual, other.port: unusual | change})
        with Node(settings, engine=engine) as node:
            send_to(node.port, low_dose_series(tmp_path / "in", slices=2))
            wait_for_jobs(node)
        assert (len(pacs.kept()), len(other.kept())) == (3, 3)
        assert not set(pacs.kept()) & set(other.kept())
        series = [{one.SeriesInstanceUID for one in of_class(peer, IMAGE)} for peer in (pacs, other)]
        (job,) = read_jobs(settings.node.spool)
        assert [{uid} for uid in told(job).results] == series, "whoever asks finds it under its own UID"
        assert series[0] != series[1]


@pytest.mark.slow
def test_a_map_that_has_to_wait_holds_up_neither_images_nor_report_and_is_given_up_alone(
    tmp_path: Path, engine: NeedEngine
) -> None:
    with Pacs(classes=ALL) as pacs:
        pacs.answer = lambda sop_class, uid: 0xA700 if sop_class == PARAMETRIC_MAP else 0x0000
        retry = {"first_seconds": 0.1, "longest_seconds": 0.2, "give_up_days": 2e-5}
        settings = settings_with(tmp_path, {pacs.port: {"removed_map": True, "retry": retry}})
        with Node(settings, engine=engine) as node:
            send_to(node.port, low_dose_series(tmp_path / "in"))
            (job,) = wait_for_jobs(node)
    assert job.status == "done"
    (peer,) = job.destinations
    assert (peer.state, peer.sent, peer.total) == ("delivered", 6, 7)
    assert peer.attempts > 1
    assert "given up" in (peer.reason or "")
    assert len(pacs.reports()) == 1
    classes = [sop_class for sop_class, *_ in pacs.asked]
    assert classes[:7] == [*[IMAGE] * 5, PARAMETRIC_MAP, REPORT]
    assert set(classes[7:]) == {PARAMETRIC_MAP}


def test_a_peer_that_turns_away_whole_associations_still_gets_the_rest(
    tmp_path: Path, engine: NeedEngine
) -> None:
    with Pacs(classes=ALL) as pacs:
        pacs.turned_away = (PARAMETRIC_MAP,)
        settings = settings_with(tmp_path, {pacs.port: {"removed_map": True, "key_objects": True}})
        with Node(settings, engine=engine) as node:
            send_to(node.port, low_dose_series(tmp_path / "in"))
            (job,) = wait_for_jobs(node)
    assert (job.status, job.destinations[0].sent, job.destinations[0].total) == ("done", 7, 8)
    assert job.reason == "pacs0: removed map refused for good (status 0122)"
    assert (len(pacs.images()), len(pacs.reports()), len(pacs.of_class(KEY_OBJECTS))) == (5, 1, 1)


@pytest.mark.slow
def test_a_late_slice_withdraws_what_each_destination_has_got(tmp_path: Path, engine: NeedEngine) -> None:
    with Pacs(classes=ALL) as told, Pacs(classes=ALL) as silent, Pacs(classes=ALL) as away:
        away_port = away.port
        away.stop()
        impatient = {"first_seconds": 0.1, "longest_seconds": 0.1, "give_up_days": 1e-6}
        peers: dict[int, dict[str, object]] = {
            told.port: {"key_objects": True, "removed_map": True},
            silent.port: {},
            away_port: {"key_objects": True, "retry": impatient},
        }
        settings = settings_with(tmp_path, peers)
        paths = low_dose_series(tmp_path / "in", slices=6)
        with Node(settings, engine=engine) as node:
            send_to(node.port, paths[:5])
            wait_for_jobs(node)
            before = {uid: decoded(content) for uid, content in told.kept().items()}
            away.start()
            send_to(node.port, paths[5:])
            jobs = wait_for_jobs(node, 2)
        assert [job.status for job in jobs] == ["undelivered", "done"]
        withdrawn = [one for one in of_class(told, KEY_OBJECTS) if _title(one) == "113001"]
        (withdrawal,) = withdrawn
        named = {
            item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID
            for item in withdrawal.ContentSequence
            if item.ValueType in ("IMAGE", "COMPOSITE")
        }
        assert named == set(before)
        assert len(named) == 8
        news = [uid for _, uid, _, _ in told.asked[8:]]
        assert news.index(withdrawal.SOPInstanceUID) == 6, "right after the images of the new series"
        assert not set(silent.of_class(KEY_OBJECTS))
        assert [_title(one) for one in of_class(away, KEY_OBJECTS)] == ["113000"], (
            "it had nothing to withdraw"
        )


@pytest.mark.slow
def test_a_result_that_is_half_sent_is_withdrawn_when_it_has_been_sent(
    tmp_path: Path, engine: NeedEngine
) -> None:
    paths = low_dose_series(tmp_path / "in", slices=6)
    with Pacs(classes=ALL) as pacs:
        busy_for: list[str] = []
        full = True

        def answer(sop_class: str, uid: str) -> int:
            """The archive has no room for the third image it is ever offered, until it has."""
            if len(pacs.asked) == 2:
                busy_for.append(uid)
            return 0xA700 if full and uid in busy_for else 0x0000

        pacs.answer = answer
        retry = {"first_seconds": 0.1, "longest_seconds": 0.3}
        settings = settings_with(
            tmp_path, {pacs.port: {"key_objects": True, "associations": 1, "retry": retry}}
        )
        with Node(settings, engine=engine) as node:
            send_to(node.port, paths[:5])
            wait_until(lambda: len(pacs.asked) > 3)
            send_to(node.port, paths[5:])
            wait_until(lambda: len(pacs.reports()) == 1, told=node.jobs)  # that of the new result
            held_back = [_title(one) for one in of_class(pacs, KEY_OBJECTS)]
            full = False
            jobs = wait_for_jobs(node, 2)
    assert held_back == ["113000"], "the old result is not withdrawn while it is still being sent"
    assert [job.status for job in jobs] == ["done", "done"]
    old = jobs[0].derived_series_uid
    (withdrawal,) = [one for one in of_class(pacs, KEY_OBJECTS) if _title(one) == "113001"]
    named = {
        item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID
        for item in withdrawal.ContentSequence
        if item.ValueType in ("IMAGE", "COMPOSITE")
    }
    (outgoing,) = (settings.node.spool / "work" / jobs[0].job_id).glob("outgoing")
    assert named == {file.sop_instance_uid for file in read_manifest(outgoing).results[0].files()}
    assert {one.SeriesInstanceUID for one in of_class(pacs, IMAGE) if one.SOPInstanceUID in named} == {old}
    assert pacs.asked[-1][1] == withdrawal.SOPInstanceUID


def _title(document: Dataset) -> str:
    return str(document.ConceptNameCodeSequence[0].CodeValue)


def test_a_model_that_draws_nothing_is_refused_at_the_start(
    tmp_path: Path, pacs: Pacs, engine: NeedEngine
) -> None:
    one_pass = replace(engine, card=engine.card.model_copy(update={"projection_passes": 1}))
    settings = settings_with(tmp_path, {pacs.port: {"uncertainty_map": True}})
    with pytest.raises(NoSpread, match="uncertainty_seeds"):
        Node(settings, engine=one_pass).start()


def test_a_series_of_normal_dose_has_no_uncertainty_map_and_says_why(
    tmp_path: Path, engine: NeedEngine
) -> None:
    with Pacs(classes=ALL) as pacs:
        settings = settings_with(tmp_path, {pacs.port: {"uncertainty_map": True}})
        table = DoseReference().model_dump()
        rows = [row | {"ctdivol_mgy": 0.001} for row in table["regions"]]
        reference = table | {"version": "tiny", "regions": rows}
        settings = settings.model_copy(
            update={"dose": settings.dose.model_validate({"reference": reference})}
        )
        with Node(settings, engine=engine) as node:
            send_to(node.port, low_dose_series(tmp_path / "in"))
            (job,) = wait_for_jobs(node)
        assert (job.status, job.reason) == ("done", "pacs0: no uncertainty map was made")
        assert pacs.of_class(PARAMETRIC_MAP) == []
        assert len(pacs.images()) == 5
    told = json.loads((settings.node.spool / "work" / job.job_id / "reconstruct.json").read_text())
    assert "nothing is drawn" in told["uncertainty"]["left_out"]


@pytest.mark.slow
def test_all_files_or_none_and_the_same_ones_at_the_next_attempt(
    tmp_path: Path, pacs: Pacs, engine: NeedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dicomnode.journey.workflow._FIRST_PAUSE_SECONDS", 0.2)
    settings = settings_with(tmp_path, {pacs.port: {"removed_map": True}})
    work = settings.node.spool / "work"
    half_written: list[set[str]] = []

    def full_disk_twice(*arguments: object) -> Path:
        (making,) = work.glob("*/outgoing.making")
        assert not list(work.glob("*/outgoing"))
        files = [*making.rglob("*.dcm")]
        assert len(files) == 6, "images and map are there, the report and the manifest are not"
        half_written.append({dcmread(path, stop_before_pixels=True).SOPInstanceUID for path in files})
        if len(half_written) < 3:
            raise OSError(errno.ENOSPC, "no space left on device")
        return write_report(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(writing, "write_report", full_disk_twice)
    with Node(settings, engine=engine) as node:
        send_to(node.port, low_dose_series(tmp_path / "in"))
        (job,) = wait_for_jobs(node)
    assert job.status == "done"
    assert len(half_written) == 3
    assert half_written[0] == half_written[1] == half_written[2]
    (outgoing,) = work.glob("*/outgoing")
    (result,) = read_manifest(outgoing).results
    assert {file.sop_instance_uid for file in result.files()} > half_written[0]
    assert all((outgoing / file.path).exists() for file in result.files())


@pytest.mark.slow
def test_nodes_with_one_key_agree_on_uids_and_others_do_not(
    tmp_path: Path, engine: NeedEngine, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    paths = low_dose_series(tmp_path / "in", slices=2)
    uids = []
    given = {"uid_key": "0123456789abcdef" * 4}
    for number, identity in enumerate((given, given, {}, {}, {"uid_key": "f" * 64})):
        folder = tmp_path / str(number)
        folder.mkdir()
        with Pacs() as pacs, Node(settings_for(folder, pacs.port, identity=identity), engine=engine) as node:
            send_to(node.port, paths)
            wait_for_jobs(node)
            uids.append(frozenset(pacs.kept()))
        assert (folder / "spool" / "uid.key").exists() == (not identity)
    assert uids[0] == uids[1]
    assert len(set(uids)) == 4
    key = (tmp_path / "2" / "spool" / "uid.key").read_bytes()
    for secret in ("0123456789abcdef", key.hex(), str(key)):
        assert secret not in caplog.text
