"""A node that never answers, or something else that does: what the plugin makes of it."""

import json
from typing import Any, cast

import pytest
from dicomnode_plugin.archive import Archive
from dicomnode_plugin.desk import Desk
from dicomnode_plugin.ledger import PropertyLedger
from dicomnode_plugin.node import NodeTrouble, NotTheNode
from dicomnode_plugin.record import Record, fingerprint
from dicomnode_plugin.settings import Settings

from tests.orthanc.test_clock import OneSeries


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
