"""A node that never answers, or something else that does: what the plugin makes of it."""

import json
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


SILENCE = NodeTrouble("the node's HTTP does not answer")
BUSY = NodeTrouble("the node is busy (HTTP 503)", 503)
TOKEN = NodeTrouble("the node refuses the token (HTTP 401)", 401)
ELSEWHERE = NotTheNode("not the HTTP of a dicomnode", 404)
TROUBLES = pytest.mark.parametrize("trouble", [SILENCE, BUSY, TOKEN, ELSEWHERE], ids=str)


def at_work(node: Stacks) -> Site:
    """It has the images; of two results, one has come."""
    site = Site(lambda image: TAKEN, node)
    site.clinic.series |= {"one": ["a", "b", "c"], "result": ["d"]}
    site.desk.consider("one")
    site.work(5)
    assert not site.record("one").final
    site.desk._link("one", "result")
    assert site.record("one").results == ("result",)
    return site


def silent_for(site: Site, seconds: float) -> Record:
    """Or until the series is through."""
    until = site.now + seconds
    while site.now < until and not site.record("one").final:
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


@TROUBLES
def test_a_series_that_the_node_refused_before_is_not_through_by_a_second_result(
    trouble: NodeTrouble,
) -> None:
    """Tried again by somebody, it told of the refusal; the third stack is still to come."""
    node = Stacks()
    site = at_work(node)
    node.told = Stacks.end
    site.finish("one")
    node.trouble = trouble
    for result in ("second", "third"):
        site.clinic.series[result] = ["e"]
        site.desk._link("one", result)
    assert not silent_for(site, 2 * HOUR_SECONDS).final


@TROUBLES
def test_where_nobody_can_be_asked_a_result_says_enough_after_an_hour(trouble: NodeTrouble) -> None:
    site = at_work(Stacks(trouble))
    began = site.now
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


def test_a_node_that_was_busy_for_a_quarter_of_an_hour_is_heard_afterwards() -> None:
    node = Stacks(BUSY)
    site = at_work(node)
    silent_for(site, 0.25 * HOUR_SECONDS)
    node.trouble, node.told = None, replace(Stacks.end, reason="stack 1 was refused")
    assert site.finish("one").words == "stack 1 was refused"
