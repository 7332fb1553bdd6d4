"""A node that never answers, or something else that does."""

import json
import threading
from http.server import HTTPServer, SimpleHTTPRequestHandler
from pathlib import Path
from typing import Any, cast

import pytest
from dicomnode_plugin.archive import Archive
from dicomnode_plugin.desk import Desk
from dicomnode_plugin.ledger import PropertyLedger
from dicomnode_plugin.node import NodeApi, NodeTrouble
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


def test_another_web_server_at_url_is_told_as_that(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with HTTPServer(("127.0.0.1", 0), SimpleHTTPRequestHandler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(NodeTrouble, match=r"not the HTTP of a dicomnode; .* web\.port"):
            NodeApi(f"http://127.0.0.1:{server.server_port}", "").health()
        with pytest.raises(NodeTrouble, match="not the HTTP of a dicomnode"):  # which does not know POST
            NodeApi(f"http://127.0.0.1:{server.server_port}", "").fetch("here", "1.2", "1.2.3")
        server.shutdown()
