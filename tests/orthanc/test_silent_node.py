"""A node that never answers, or something else that does: what the plugin makes of it."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import pytest
from dicomnode_plugin.archive import Archive
from dicomnode_plugin.desk import Desk
from dicomnode_plugin.ledger import PropertyLedger
from dicomnode_plugin.node import NodeSeries, NodeTrouble, NotTheNode
from dicomnode_plugin.record import Record, fingerprint
from dicomnode_plugin.settings import DAY_SECONDS, Settings

from tests.orthanc.test_clock import HOUR_SECONDS, OneSeries
from tests.orthanc.test_refused_images import TAKEN, Site


class ManySeries(OneSeries):
    """An Orthanc that has whatever CT series it is asked for."""

    def RestApiGet(self, uri: str) -> bytes:
        told = super().RestApiGet(uri)
        if uri.startswith("/series/") and "/metadata/" not in uri:
            told = json.dumps({**json.loads(told), "ID": uri.rpartition("/")[2]}).encode()
        return told


class Node:
    """Fails, each time it is asked."""

    def __init__(self, trouble: NodeTrouble) -> None:
        self.asked, self._trouble = 0, trouble

    def health(self) -> str:
        return ""

    def fetch(self, source: str, study_uid: str, series_uid: str) -> None:
        self.asked += 1
        raise self._trouble


@pytest.mark.parametrize(
    ("trouble", "asked"),
    [
        (NodeTrouble("silence", 0), 1),
        (NotTheNode("a page", 404), 1),
        (NodeTrouble("the disk is full", 503), 5),
    ],
    ids=str,
)
def test_a_silent_node_is_asked_once_a_turn_and_one_that_answers_of_every_series(
    trouble: NodeTrouble, asked: int
) -> None:
    sdk, node = ManySeries(), Node(trouble)
    archive: Any = Archive(sdk)
    settings = Settings(mode="pull", source="here", url="http://127.0.0.1:1")
    desk = Desk(settings, archive, PropertyLedger(sdk), cast(Any, node), lambda words: None, lambda: 360000.0)
    for name in "abcde":
        desk.consider(name)
    desk.work()
    assert node.asked == asked


class Elsewhere:
    """At Url is another web server, which has no page for anything."""

    def health(self) -> str:
        raise NotTheNode("not the HTTP of a dicomnode", 404)

    def fetch(self, source: str, study_uid: str, series_uid: str) -> None:
        self.health()

    def start_again(self, uid: str) -> tuple[str, int]:
        self.health()
        return "", 0


def at_the_wrong_url(before: Record | None = None) -> tuple[Desk, Archive]:
    sdk = ManySeries()
    archive = Archive(cast(Any, sdk))
    if before is not None:
        archive.keep("a", before, None)
    settings = Settings(mode="pull", source="here", url="http://127.0.0.1:1")
    node = cast(Any, Elsewhere())
    return Desk(settings, archive, PropertyLedger(sdk), node, lambda words: None, lambda: 360000.0), archive


def test_the_404_of_another_web_server_says_nothing_of_the_source() -> None:
    desk, archive = at_the_wrong_url()
    desk.consider("a")
    desk.work()
    told = archive.record("a")
    assert told is not None
    assert "not the HTTP of a dicomnode" in told.words
    assert "DicomNode.Source" not in told.words
    assert desk.reach.reachable is False


def test_the_404_of_another_web_server_says_nothing_of_a_job() -> None:
    images = fingerprint("abc")
    desk, archive = at_the_wrong_url(Record(state="done", seen=images, sent=images, instances=3))
    desk.consider("a", by_hand=True)
    told = archive.record("a")
    assert told is not None
    assert (told.state, told.final) == ("done", True)
    assert "could not be tried again: not the HTTP of a dicomnode" in told.words


def test_whoever_answers_asks_for_no_longer_pause_than_the_longest() -> None:
    """A week would end the series at once."""
    sdk, node = ManySeries(), Node(NodeTrouble("the disk is full", 503, 30.0 * DAY_SECONDS))
    archive = Archive(cast(Any, sdk))
    settings = Settings(mode="pull", source="here", url="http://127.0.0.1:1", longest_retry_seconds=90.0)
    desk = Desk(settings, archive, PropertyLedger(sdk), cast(Any, node), lambda words: None, lambda: 360000.0)
    desk.consider("a")
    desk.work()
    told = archive.record("a")
    assert told is not None
    assert (told.state, told.due - 360000.0) == ("waiting", 90.0)


class Stacks:
    """A node that works at a series of two stacks: one result is sent, the other stack ends as `end` says."""

    end = NodeSeries("refused", True, 1.0, "", 3, "r", "stack 2 was refused", (), ())

    def __init__(self, trouble: NodeTrouble | None = None) -> None:
        self.trouble, self.told = trouble, NodeSeries("running", False, 0.5, "stack 2", 3, None, None, (), ())

    def health(self) -> str:
        if self.trouble:
            raise self.trouble
        return ""

    def series(self, uid: str) -> NodeSeries:
        self.health()
        return self.told

    def start_again(self, uid: str) -> tuple[str, int]:
        return self.series(uid).state, 1

    def fetch(self, source: str, study_uid: str, series_uid: str) -> NodeSeries:
        return self.told


UNKNOWN = NodeSeries("unknown", False, 0.0, "", 0, None, None, (), ())
SILENCE = NodeTrouble("the node's HTTP does not answer")
BUSY = NodeTrouble("the node is busy (HTTP 503)", 503)
TOKEN = NodeTrouble("the node refuses the token (HTTP 401)", 401)
ELSEWHERE = NotTheNode("not the HTTP of a dicomnode", 404)
TROUBLES = pytest.mark.parametrize("trouble", [SILENCE, BUSY, TOKEN, ELSEWHERE], ids=str)


def hand_over(site: Site) -> Site:
    """The node has the images; of two results, one has come."""
    site.archive.study_uid = lambda series: "1.2"  # type: ignore[method-assign]
    site.clinic.series |= {"one": ["a", "b", "c"], "result": ["d"], "second": ["e"], "third": ["f"]}
    site.desk.consider("one")
    for _ in range(60):
        if site.record("one").phase == "following":
            break
        site.work()
    site.desk._link("one", "result")
    assert (site.record("one").phase, site.record("one").results) == ("following", ("result",))
    return site


def at_work(node: Stacks, **settings: Any) -> Site:
    site = hand_over(Site(lambda image: TAKEN, node, **settings))
    site.work(3)
    return site


def silent_for(site: Site, seconds: float) -> Record:
    """Or until the series is through; looked at every ten seconds."""
    until = site.now + seconds
    while site.now < until and not site.record("one").final:
        site.now += 9.0
        site.work()
    return site.record("one")


@TROUBLES
@pytest.mark.parametrize("restarts", [False, True])
def test_a_node_that_has_told_of_a_series_is_asked_until_it_tells_the_end(
    trouble: NodeTrouble, restarts: bool
) -> None:
    """However long it is silent, and whatever has come: another stack may be refused."""
    node = Stacks()
    site = at_work(node)
    node.trouble = trouble
    record = silent_for(site, DAY_SECONDS)
    assert not record.final
    assert "a result has arrived" in record.words
    assert str(trouble) in record.words
    if restarts:
        site.start()
        assert not silent_for(site, 2 * HOUR_SECONDS).final
    node.trouble, node.told = None, Stacks.end
    assert (site.finish("one").state, site.record("one").words) == ("refused", "stack 2 was refused")
    assert site.record("one").results == ("result",)


def refused_and_tried_again(node: Stacks) -> Site:
    """Two results more have come, and a stack is still missing."""
    site = at_work(node)
    node.told = Stacks.end
    site.finish("one")
    for result in ("second", "third"):
        site.desk._link("one", result)
    return site


def asked_for_by_hand(node: Stacks) -> Site:
    """It never told of the series before somebody asked; a result more has come since."""
    node.trouble = SILENCE
    site = at_work(node)
    assert silent_for(site, DAY_SECONDS).final
    node.trouble = None
    site.desk.consider("one", by_hand=True)
    assert site.desk.reach.silent_seconds == 0.0
    site.desk._link("one", "second")
    return site


def fetched_from(node: Stacks) -> Site:
    """It took the order to fetch, and has answered nothing since."""
    node.trouble = SILENCE
    return at_work(node, mode="pull", source="here", url="http://127.0.0.1:1")


def with_late_images(node: Stacks) -> Site:
    """Told of before they came, and handed over again with them."""
    site = at_work(node)
    node.trouble = SILENCE
    site.clinic.series["one"].append("late")
    site.desk.consider("one")
    site.work(5)
    site.desk._link("one", "second")
    return site


@TROUBLES
@pytest.mark.parametrize(
    "begun", [refused_and_tried_again, asked_for_by_hand, fetched_from, with_late_images]
)
def test_a_node_has_told_of_a_series_however_it_came_to_tell(
    begun: Callable[[Stacks], Site], trouble: NodeTrouble
) -> None:
    node = Stacks()
    site = begun(node)
    assert site.record("one").phase == "following"
    node.trouble = trouble
    assert not silent_for(site, DAY_SECONDS).final


@TROUBLES
@pytest.mark.parametrize("before", [0.0, 2 * HOUR_SECONDS])
def test_where_nobody_can_be_asked_a_result_says_enough_after_an_hour(
    before: float, trouble: NodeTrouble
) -> None:
    """After the hand-over: silence of before does not count."""
    site = Site(lambda image: TAKEN, Stacks(trouble))
    quiet_until = site.now + before
    while site.now < quiet_until:
        site.work()
    began = hand_over(site).now
    assert not silent_for(site, 0.75 * HOUR_SECONDS).final
    record = silent_for(site, DAY_SECONDS)
    assert site.now < began + 1.5 * HOUR_SECONDS
    assert (record.state, record.progress) == ("done", 1.0)
    assert f"its progress was not seen: {trouble}" in record.words


@TROUBLES
def test_where_nobody_can_be_asked_a_series_without_result_is_not_through(trouble: NodeTrouble) -> None:
    site = Site(lambda image: TAKEN, Stacks(trouble))
    site.clinic.series["one"] = ["a", "b", "c"]
    site.desk.consider("one")
    assert not silent_for(site, DAY_SECONDS).final
    assert site.record("one").words == str(trouble)


def test_a_result_from_before_the_late_images_says_nothing_of_them() -> None:
    site = at_work(Stacks(SILENCE))
    assert silent_for(site, DAY_SECONDS).final
    site.clinic.series["one"].append("late")
    site.desk.consider("one")
    assert not silent_for(site, DAY_SECONDS).final
    site.desk._link("one", "second")
    assert silent_for(site, DAY_SECONDS).state == "done"


def test_silences_with_an_answer_between_are_two() -> None:
    node = Stacks(SILENCE)
    site = at_work(node)
    silent_for(site, 0.75 * HOUR_SECONDS)
    node.trouble, node.told = None, UNKNOWN
    site.now += 60.0
    site.desk.reach.check()
    assert site.desk.reach.reachable
    node.trouble = SILENCE
    assert not silent_for(site, 0.75 * HOUR_SECONDS).final
    assert silent_for(site, 0.5 * HOUR_SECONDS).final


@pytest.mark.parametrize("step", [-5.0, 5 * DAY_SECONDS])
def test_a_clock_that_is_set_hurries_no_end(step: float) -> None:
    site = at_work(Stacks(SILENCE))
    lasted = 0.0
    while lasted < 0.75 * HOUR_SECONDS:
        before, pause = site.now, max(1.0, site.desk.work())
        lasted += pause
        site.now = before + pause + (step if step < 0.0 or lasted < 20.0 else 0.0)
    assert not site.record("one").final


@TROUBLES
@pytest.mark.parametrize("told", [True, False])
def test_a_node_that_is_silent_for_good_is_given_up_and_can_be_asked_again(
    trouble: NodeTrouble, told: bool
) -> None:
    node = Stacks(None if told else trouble)
    site = Site(lambda image: TAKEN, node, give_up_days=0.5)
    site.clinic.series["one"] = ["a", "b", "c"]
    if told:
        hand_over(site)
    else:
        site.desk.consider("one")
    site.work(3)
    node.trouble, began = trouble, site.now
    assert not silent_for(site, 0.45 * DAY_SECONDS).final
    record = silent_for(site, DAY_SECONDS)
    assert site.now < began + 0.7 * DAY_SECONDS
    assert record.state == "failed"
    assert record.words.startswith("given up after 0.5 days (")
    assert ("a result has arrived" in record.words) is told
    node.trouble, node.told = None, Stacks.end
    site.desk.consider("one", by_hand=True)
    assert site.finish("one").words == "stack 2 was refused"


@pytest.mark.parametrize("told", [True, False])
def test_without_url_a_series_is_followed_no_longer(told: bool) -> None:
    node = Stacks(None if told else SILENCE)
    site = at_work(node)
    site._node = None
    site.start()
    record = silent_for(site, 60.0)
    assert (record.state, record.words) == (
        "done",
        "the enhanced series has arrived; no Url is given: whether it is all cannot be asked",
    )


def test_without_url_a_result_that_is_still_to_come_says_enough() -> None:
    site = Site(lambda image: TAKEN, Stacks(SILENCE))
    site.clinic.series |= {"one": ["a", "b", "c"], "result": ["d"]}
    site.desk.consider("one")
    site.work(5)
    site._node = None
    site.start()
    assert (silent_for(site, 60.0).state, site.record("one").progress) == ("sent", 0.1)
    site.desk._link("one", "result")
    assert (site.record("one").state, site.record("one").progress) == ("done", 1.0)


def test_a_node_that_was_busy_for_a_quarter_of_an_hour_is_heard_afterwards() -> None:
    node = Stacks(BUSY)
    site = at_work(node)
    silent_for(site, 0.25 * HOUR_SECONDS)
    node.trouble, node.told = None, replace(Stacks.end, reason="stack 1 was refused")
    assert site.finish("one").words == "stack 1 was refused"


def test_a_node_that_has_lost_its_memory_cannot_say_whether_a_result_is_all() -> None:
    node = Stacks()
    site = at_work(node)
    node.told = UNKNOWN
    record = site.finish("one")
    assert (record.state, len(site.clinic.sent)) == ("done", 1)
    assert "nor whether that was all" in record.words
