"""Images that the node refuses, through whatever else goes wrong: the others arrive, and words are true."""

import hashlib
import json
import random
from collections.abc import Callable
from typing import Any, cast

import pytest
from dicomnode_plugin.archive import Archive
from dicomnode_plugin.desk import Desk
from dicomnode_plugin.ledger import PropertyLedger
from dicomnode_plugin.node import NodeSeries
from dicomnode_plugin.record import SENT_SHARE, Record, fingerprint
from dicomnode_plugin.settings import DAY_SECONDS, Settings

from tests.orthanc.doubles import Database, OldSdk
from tests.orthanc.test_clock import HEADER, HOUR_SECONDS

TAKEN = ""
REFUSED = 'C-STORE SCU to AET "DICOMNODE" has failed with DIMSE status 0xC000'
NO_ROOM = 'C-STORE SCU to AET "DICOMNODE" has failed with DIMSE status 0xA700'
NOBODY = "DicomAssociation - connecting to AET: Connection refused"


class Killed(BaseException):
    """The end of a process, at any of its calls."""


class Clinic(OldSdk):
    """An Orthanc whose jobs are over as soon as they are asked for; `answer` is the node's to an image."""

    def __init__(self, answer: Callable[[str], str]) -> None:
        super().__init__(Database())
        self.answer = answer
        self.before_a_call: Callable[[], object] = dict
        self.series: dict[str, list[str]] = {}
        self.metadata: dict[str, str] = {}
        self.jobs: dict[str, dict[str, object]] = {}
        self.sent: list[list[str]] = []
        """What each job was given, refused or not."""

    def RestApiGet(self, uri: str) -> bytes:
        self.before_a_call()
        kind, name = uri.split("/")[1:3]
        if kind == "instances":
            return json.dumps(HEADER).encode()
        if "/metadata/" in uri:
            return str(self._found(self.metadata, uri)).encode()
        if kind == "jobs":
            return json.dumps(self._found(self.jobs, name)).encode()
        images = self._found(self.series, name)
        tags = {"Modality": "CT", "SeriesInstanceUID": name}
        return json.dumps({"ID": name, "MainDicomTags": tags, "Instances": images}).encode()

    def RestApiPut(self, uri: str, body: str) -> bytes:
        self.before_a_call()
        self.metadata[uri] = body
        return b""

    def RestApiPost(self, uri: str, body: str) -> bytes:
        self.before_a_call()
        given = json.loads(body)["Resources"]
        images = [image for one in given for image in self.series.get(one, [one])]
        name = f"job-{len(self.sent)}"
        self.sent.append(images)
        self.jobs[name] = {"State": "Success", "Progress": 100}
        for before, image in enumerate(images):
            trouble = self.answer(image)
            if trouble:
                share = round(100 * before / len(images))
                self.jobs[name] = {"State": "Failure", "Progress": share, "ErrorDetails": trouble}
                break
        return json.dumps({"ID": name}).encode()

    @staticmethod
    def _found(kept: dict[str, Any], name: str) -> Any:
        if name not in kept:
            raise RuntimeError(17)
        return kept[name]


class Site:
    """A plugin in a clinic, with the clock in hand; it pushes, and `node` is asked how far the node is."""

    def __init__(self, answer: Callable[[str], str], node: object = None, **settings: Any) -> None:
        self.clinic, self.now = Clinic(answer), 100 * HOUR_SECONDS
        self._settings, self._node = Settings(modality="dicomnode", **settings), cast(Any, node)
        self.archive = Archive(cast(Any, self.clinic))
        self.start()

    def start(self) -> None:
        """A process of Orthanc begins where the last one was."""
        ledger = PropertyLedger(self.clinic)
        self.desk = Desk(
            self._settings, self.archive, ledger, self._node, lambda words: None, lambda: self.now
        )
        for series_id in self.desk.under_way.restore():
            self.desk.consider(series_id)

    def record(self, series_id: str) -> Record:
        return self.archive.record(series_id) or Record()

    def work(self, turns: int = 1) -> None:
        for _ in range(turns):
            self.now += max(1.0, self.desk.work())

    def finish(self, series_id: str) -> Record:
        """Until nothing more will happen to it."""
        for _ in range(10_000):
            if self.record(series_id).final:
                return self.record(series_id)
            self.work()
        raise AssertionError(self.record(series_id))


def named(count: int, seed: object = "") -> list[str]:
    return [hashlib.sha1(f"{seed} {index}".encode()).hexdigest() for index in range(count)]


@pytest.mark.parametrize("seed", range(40))
def test_whatever_goes_wrong_each_image_that_is_taken_arrives_and_the_others_are_counted(seed: int) -> None:
    chance = random.Random(seed)
    images = named(chance.choice((1, 2, 39, 40, 41, 100, 170)), seed)
    late = named(3, "late")
    refused = {one for one in (*images, *late) if chance.random() < 0.1}
    arrived: set[str] = set()
    calm = False

    def answer(image: str) -> str:
        if not calm and chance.random() < 0.02:
            return chance.choice((NO_ROOM, NOBODY))
        if image in refused:
            return REFUSED
        arrived.add(image)
        return TAKEN

    def trouble() -> None:
        if chance.random() < 0.01:
            raise Killed

    def happens() -> None:
        if late and chance.random() < 0.1:
            site.clinic.series["one"].append(late.pop())
            site.desk.consider("one")
        elif chance.random() < 0.02 and len(site.clinic.series["one"]) > 2:
            site.clinic.series["one"].pop(chance.randrange(len(site.clinic.series["one"])))

    site = Site(answer)
    site.clinic.series["one"] = list(images)
    site.desk.consider("one")
    there, shown = set(images), 0.0
    for _ in range(60):
        site.clinic.before_a_call = trouble
        try:
            happens()
            site.work()
            site.clinic.before_a_call = dict
        except Killed:
            site.clinic.before_a_call = dict
            if chance.random() < 0.5:
                site.clinic.jobs.clear()
            site.start()
        before, there = there, set(site.clinic.series["one"])
        assert site.record("one").progress >= shown or there != before, "progress fell"
        shown = site.record("one").progress
    calm = True
    site.clinic.series["one"] += late
    site.desk.consider("one", by_hand=True)
    record = site.finish("one")
    there = set(site.clinic.series["one"])
    assert there - refused <= arrived, "an image was lost"
    if there & refused == there:
        assert record.state == "failed"
    else:
        assert (record.state, record.sent, record.progress) == ("sent", fingerprint(there), SENT_SHARE)
        assert record.left_out == len(there & refused)


def test_the_stretches_of_a_series_follow_each_other_and_no_other_series_comes_between() -> None:
    images = named(100)
    site = Site(lambda image: REFUSED if image in (images[10], images[60]) else TAKEN)
    site.clinic.series.update({"first": images, "second": ["b", "B"], "third": ["c", "C"]})
    for name in site.clinic.series:
        site.desk.consider(name)
        site.now += 1
    site.work(20)
    assert site.clinic.sent.index(["b", "B"]) == len(site.clinic.sent) - 2 > 3
    assert [site.record(name).state for name in site.clinic.series] == ["sent"] * 3


def test_after_a_pause_the_rest_of_a_half_sent_series_goes_before_all_that_came_meanwhile() -> None:
    images, up = named(100), True

    def answer(image: str) -> str:
        if image == images[10]:
            return REFUSED
        return TAKEN if up else NO_ROOM

    site = Site(answer)
    site.clinic.series["first"] = images
    site.desk.consider("first")
    while site.record("first").past == 0:
        site.work()
    up = False
    while not site.record("first").attempts:
        site.work()
    up, began = True, len(site.clinic.sent)
    site.now = site.record("first").due - 1.0
    for name in ("second", "third"):
        site.clinic.series[name] = [name, name.upper()]
        site.desk.consider(name)
    site.now = site.record("first").due + 60.0
    site.work(20)
    order = [job[0] in images for job in site.clinic.sent[began:]]
    assert order == sorted(order, reverse=True)
    assert [site.record(name).state for name in site.clinic.series] == ["sent"] * 3


def test_a_series_of_which_everything_is_refused_ends_after_one_stretch_and_keeps_no_list() -> None:
    site = Site(lambda image: REFUSED)
    site.clinic.series["one"] = named(3000)
    site.desk.consider("one")
    record = site.finish("one")
    assert record.state == "failed"
    assert "refused 40 of 3000 images" in record.words
    assert "0xC000" in record.words
    assert len(site.clinic.sent) == 41
    assert max(len(kept) for kept in site.clinic.metadata.values()) < 1000


class Forgetful:
    """A node that knows of no series."""

    def health(self) -> str:
        return ""

    def series(self, uid: str) -> NodeSeries:
        return NodeSeries("unknown", False, 0.0, "", 0, None, None, (), ())


def test_what_is_sent_a_second_time_and_taken_whole_is_not_called_refused() -> None:
    refused = {"b"}
    site = Site(lambda image: REFUSED if image in refused else TAKEN, node=Forgetful())
    site.clinic.series["one"] = ["a", "b", "c"]
    site.desk.consider("one")
    site.work(8)
    assert "1 of 3 images were refused" in site.record("one").words
    refused.clear()
    site.work(10)
    record = site.record("one")
    assert (len(site.clinic.sent), record.left_out) == (4, 0)
    assert record.words == "3 images are at the node"


def test_failures_before_a_stretch_that_went_over_do_not_count_among_those_after_it() -> None:
    images, up = named(200), True

    def answer(image: str) -> str:
        if not up:
            return NOBODY
        return REFUSED if image == images[0] else TAKEN

    site = Site(answer, give_up_days=1000.0 / DAY_SECONDS)
    site.clinic.series["one"] = images
    site.desk.consider("one")
    site.work(2)
    for _ in range(3):
        up, began = False, site.now
        while site.now < began + 400.0:
            site.work()
        assert site.record("one").attempts > 3
        up = True
        site.now = site.record("one").due
        site.work(2)
        assert site.record("one").attempts == 0
    assert site.finish("one").state == "sent"
