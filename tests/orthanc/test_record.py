"""What a record remembers of the hand-over: which images it was of, and whether a result has come since."""

import json
from dataclasses import replace

import pytest
from dicomnode_plugin.following import ARRIVAL_SECONDS
from dicomnode_plugin.node import NodeSeries
from dicomnode_plugin.record import Record, fingerprint, write_record

from tests.orthanc.test_clock import HOUR_SECONDS
from tests.orthanc.test_refused_images import NO_ROOM, TAKEN, Clinic, Site

SENT = Record(seen=fingerprint("abc"), sent=fingerprint("abc"), instances=3, listed=100.9, since=500.0)


@pytest.mark.parametrize(
    ("images", "updated", "behind"),
    [
        ("abc", 300.0, False),
        ("ab", 99.0, False),  # one deleted, none come since
        ("ad", 300.0, True),  # one come while the node worked, two deleted
        ("ad", 100.0, True),  # in the second in which they were listed, which Orthanc does not divide
        ("abcd", 99.0, True),
    ],
)
def test_images_that_came_after_the_list_count_whatever_was_deleted(
    images: str, updated: float, behind: bool
) -> None:
    assert SENT.is_behind(images, updated) is behind


def test_the_list_is_as_old_as_the_attempt_that_sent_it() -> None:
    site = Site(lambda image: TAKEN)
    site.clinic.series["one"] = ["a", "b", "c"]
    site.desk.consider("one")
    site.work()
    listed = site.record("one").listed
    site.now += 60.0
    record = site.finish("one")
    assert record.listed == listed < record.since - 50.0


def test_an_image_that_comes_while_orthanc_lists_the_others_is_later_than_the_list() -> None:
    site = Site(lambda image: TAKEN)
    site.clinic.series["one"] = ["a", "b", "c"]
    site.desk.consider("one")
    began, slow = site.now, site.clinic.RestApiGet

    def listing(uri: str) -> bytes:
        told = slow(uri)
        site.now += 5.0
        return told

    site.clinic.RestApiGet = listing  # type: ignore[method-assign]
    site.desk.work()
    assert site.record("one").listed == began


class Done:
    """A node that has sent its result, under one UID to one destination and under another to the other."""

    def health(self) -> str:
        return ""

    def series(self, uid: str) -> NodeSeries:
        return NodeSeries("done", True, 1.0, "", 3, None, None, (("1.2.840.98", "1.2.840.99"),), ())

    def start_again(self, uid: str) -> tuple[str, int]:
        return "done", 0


class LookingUp(Clinic):
    """An Orthanc that finds the series of these UIDs."""

    has: frozenset[str] = frozenset()

    def RestApiPost(self, uri: str, body: str) -> bytes:
        if uri == "/tools/lookup":
            return json.dumps([{"Type": "Series", "ID": body}] if body in self.has else []).encode()
        return super().RestApiPost(uri, body)


def at_a_clinic_with(*uids: str, node: object = None) -> Site:
    site = Site(lambda image: TAKEN, node or Done())
    site.clinic = LookingUp(lambda image: TAKEN)
    site.clinic.has = frozenset(uids)
    site.clinic.series |= {"one": ["a", "b", "c"], **{uid: ["d"] for uid in uids}}
    site.archive = type(site.archive)(site.clinic)
    site.start()
    site.desk.consider("one")
    return site


@pytest.mark.parametrize("uid", ["1.2.840.98", "1.2.840.99"])
def test_a_result_is_here_under_the_uid_of_whichever_destination_however_often_it_is_asked_for(
    uid: str,
) -> None:
    site = at_a_clinic_with(uid)
    for _ in range(3):
        began = site.now
        record = site.finish("one")
        assert (record.state, record.words, record.results) == ("done", "the enhanced series is here", (uid,))
        assert site.now < began + ARRIVAL_SECONDS, "it waited for what was here"
        site.desk.consider("one", by_hand=True)
        assert not site.record("one").final


def test_a_result_that_is_nowhere_in_this_orthanc_is_waited_for_and_told_as_not_here() -> None:
    site = at_a_clinic_with("1.2.840.97")
    began = site.now
    record = site.finish("one")
    assert site.now >= began + ARRIVAL_SECONDS
    assert (record.state, record.results) == ("done", ())
    assert "has not come into this Orthanc" in record.words


class Older(Done):
    """It tells the UID at the first destination alone."""

    def series(self, uid: str) -> NodeSeries:
        return replace(super().series(uid), results=(("1.2.840.98",),))


def test_a_result_of_an_older_node_is_here_once_it_was_recognised() -> None:
    site = at_a_clinic_with(node=Older())
    site.work(3)
    handed = site.record("one")
    assert handed.phase == "following"
    site.clinic.metadata["/series/one/metadata/4311"] = write_record(handed.but(results=("other",)))
    site.start()
    began = site.now
    assert site.finish("one").words == "the enhanced series is here"
    assert site.now < began + ARRIVAL_SECONDS


class TwoStacks(Done):
    def series(self, uid: str) -> NodeSeries:
        return replace(super().series(uid), results=(("1.2.840.98",), ("1.2.840.99",)))


class OlderWithTwoStacks(Done):
    def series(self, uid: str) -> NodeSeries:
        return replace(super().series(uid), results=(("1.2.840.97",), ("1.2.840.98",)))


@pytest.mark.parametrize(("linked", "had", "here"), [(1, 0, True), (2, 1, True), (1, 1, False)])
def test_an_older_node_is_believed_by_what_has_come_since_it_was_asked(
    linked: int, had: int, here: bool
) -> None:
    """Of two results one at most, so that the other is waited for."""
    site = at_a_clinic_with(node=OlderWithTwoStacks())
    site.work(3)
    handed = site.record("one").but(results=("x", "y")[:linked], had=had)
    site.clinic.metadata["/series/one/metadata/4311"] = write_record(handed)
    site.start()
    began = site.now
    assert ("is here" in site.finish("one").words) is here
    assert site.now >= began + ARRIVAL_SECONDS


def test_all_stacks_are_waited_for() -> None:
    site = at_a_clinic_with("1.2.840.98", node=TwoStacks())
    site.work(5)
    assert site.record("one").words == "the result is on its way"
    site.clinic.has |= {"1.2.840.99"}
    site.clinic.series["1.2.840.99"] = ["e"]
    began = site.now
    assert site.finish("one").results == ("1.2.840.98", "1.2.840.99")
    assert site.now < began + ARRIVAL_SECONDS


def test_every_moment_that_has_been_is_by_now_at_the_latest() -> None:
    for since, listed in ((500.0, 900.0), (900.0, 500.0)):
        record = replace(SENT, since=since, listed=listed, due=1000.0).not_after(600.0)
        assert max(record.since, record.listed) == 600.0
        assert (record.since - record.listed, record.due) == (since - listed, 700.0)


def test_of_series_due_at_once_the_first_to_come_is_the_first_to_go() -> None:
    """Whatever Orthanc calls them."""
    site = Site(lambda image: TAKEN)
    site.clinic.series |= {name: [f"{name}{index}" for index in range(3)] for name in "zbm"}
    for name in "zbm":
        site.desk.consider(name)
    site.work(10)
    assert [images[0] for images in site.clinic.sent] == ["z0", "b0", "m0"]


@pytest.mark.parametrize("turns", [0, 1])
def test_a_clock_that_was_set_back_while_orthanc_was_down_keeps_nothing_waiting(turns: int) -> None:
    """Queued, and refused for the first time."""
    site = Site(lambda image: NO_ROOM if turns else TAKEN)
    site.clinic.series["one"] = ["a", "b", "c"]
    site.desk.consider("one")
    site.work(2 * turns)
    assert site.record("one").phase == "waiting"
    site.clinic.answer = lambda image: TAKEN
    site.now -= HOUR_SECONDS
    site.start()
    began = site.now
    assert site.finish("one").state == "sent"
    assert site.now < began + 60.0
