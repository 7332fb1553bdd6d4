"""A node that never answers, or something else that does."""

import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer, SimpleHTTPRequestHandler
from pathlib import Path
from typing import Any, cast

import pytest
from dicomnode_plugin.archive import Archive
from dicomnode_plugin.desk import Desk
from dicomnode_plugin.ledger import PropertyLedger
from dicomnode_plugin.node import NodeApi, NodeTrouble, NotTheNode
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
    """Fails with one HTTP status; 0 is no answer."""

    def __init__(self, status: int) -> None:
        self.asked, self._status = 0, status

    def health(self) -> str:
        return ""

    def fetch(self, source: str, study_uid: str, series_uid: str) -> None:
        self.asked += 1
        raise NodeTrouble("trouble", self._status)


@pytest.mark.parametrize(("status", "asked"), [(0, 1), (503, 5)])
def test_a_silent_node_is_asked_once_a_turn_and_one_that_answers_of_every_series(
    status: int, asked: int
) -> None:
    sdk, node = ManySeries(), Node(status)
    archive: Any = Archive(sdk)
    settings = Settings(mode="pull", source="here", url="http://127.0.0.1:1")
    desk = Desk(settings, archive, PropertyLedger(sdk), cast(Any, node), lambda words: None, lambda: 360000.0)
    for name in "abcde":
        desk.consider(name)
    desk.work()
    assert node.asked == asked


@contextmanager
def web_server(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def trouble(ask: Callable[[], object]) -> NodeTrouble:
    with pytest.raises(NodeTrouble) as caught:
        ask()
    return caught.value


def test_another_web_server_at_url_is_told_as_that(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with web_server(SimpleHTTPRequestHandler) as url:
        node = NodeApi(url, "")
        told = [trouble(ask) for ask in (node.health, lambda: node.fetch("here", "1.2", "1.2.3"))]
    for one in told:
        assert isinstance(one, NotTheNode)
        assert re.search(r"not the HTTP of a dicomnode; .* web\.port", str(one))
    assert [one.status for one in told] == [404, 501]  # it does not know POST


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed_and_tells_where_it_leads(status: int) -> None:
    class Proxy(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            assert self.headers["Authorization"] == "Bearer secret"
            self.send_response(status)
            self.send_header("Location", "https://node.example/health")
            self.end_headers()

    with web_server(Proxy) as url:
        told = trouble(NodeApi(url, "secret").health)
    assert isinstance(told, NotTheNode)
    assert told.status == status
    assert "names another address: https://node.example/health; Url is to be" in str(told)
    assert "secret" not in str(told)


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
