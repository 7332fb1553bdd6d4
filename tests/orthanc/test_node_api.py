"""What the plugin reads from the answers at Url: those of a node, and those of anything else."""

import json
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer, SimpleHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from dicomnode_plugin.node import NodeApi, NodeTrouble, NotTheNode

from tests.journey.scene import wait_until

HEALTH = {"status": "ok", "version": "1", "ae_title": "DICOMNODE"}
SERIES = {"state": "done", "final": True, "progress": 1.0, "images": 3, "results": ["1.2.1", "1.2.3"]}


@contextmanager
def web_server(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
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
            self.send_header("Location", "https://user:hush@node.example/health?key=hush")
            self.end_headers()

    with web_server(Proxy) as url:
        told = trouble(NodeApi(url, "secret").health)
    assert isinstance(told, NotTheNode)
    assert told.status == status
    assert "names another address: https://node.example/health; Url is to be" in str(told)
    assert "secret" not in str(told)
    assert "hush" not in str(told)


@pytest.mark.parametrize("location", ["/login", "app/x.html"])
def test_a_redirect_to_a_place_of_the_same_server_is_told_whole(location: str) -> None:
    with web_server(answering(302, {}, {"Location": location})) as url:
        told = trouble(NodeApi(url, "").health)
        assert f"names another address: {url}/{location.lstrip('/')}; " in str(told)


def answering(
    status: int, told: object, headers: Mapping[str, str] | None = None, health: object = None
) -> type[BaseHTTPRequestHandler]:
    """A server that always answers this, but to /health what a node would, where that is given."""

    class Answering(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            of_health = self.path == "/health" and health is not None
            self._answer(200 if of_health else status, health if of_health else told)

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self._answer(status, told)

        def _answer(self, status: int, told: object) -> None:
            body = told if isinstance(told, bytes) else json.dumps(told).encode()
            self.send_response(status)
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    return Answering


@pytest.mark.parametrize(
    ("more", "results"),
    [
        (
            {"jobs": [{"results": ["1.2.1", "1.2.2"]}, {"results": ["1.2.3"]}]},
            (("1.2.1", "1.2.2"), ("1.2.3",)),
        ),
        ({"jobs": [{"results": []}, {"results": ["1.2.3"]}]}, (("1.2.3",),)),
        ({"jobs": [{"result": "1.2.1"}, {"result": "1.2.3"}]}, (("1.2.1",), ("1.2.3",))),  # an older node
        ({}, (("1.2.1",), ("1.2.3",))),
    ],
)
def test_each_result_is_read_with_the_uids_it_has_anywhere(
    more: dict[str, object], results: tuple[tuple[str, ...], ...]
) -> None:
    with web_server(answering(200, SERIES | more)) as url:
        assert NodeApi(url, "").series("1.2").results == results


@pytest.mark.parametrize("location", [{}, {"Location": ""}, {"Location": "http://[x"}])
def test_a_redirect_to_nowhere_is_a_redirect(location: dict[str, str]) -> None:
    with web_server(answering(307, {}, location)) as url:
        told = trouble(NodeApi(url, "").health)
    assert isinstance(told, NotTheNode)
    assert told.status == 307
    assert "names another address: ?; " in str(told)


@pytest.mark.parametrize("status", [400, 403, 404, 405, 409, 410, 422, 500, 502, 503])
def test_who_refuses_without_a_word_is_not_the_node(status: int) -> None:
    with web_server(answering(status, {"message": "no"})) as url:
        node = NodeApi(url, "")
        for ask in (node.health, lambda: node.series("1.2"), lambda: node.fetch("here", "1.2", "1.2.3")):
            told = trouble(ask)
            assert (told.of_the_node, told.status) == (False, status)
    with web_server(answering(status, {"error": "the disk is full"}, health=HEALTH)) as url:
        told = trouble(lambda: NodeApi(url, "").fetch("here", "1.2", "1.2.3"))
        assert (told.of_the_node, told.status) == (True, status)


@contextmanager
def failing_node(**settings: Any) -> Iterator[str]:
    """The server that the node's HTTP runs on, whose own words are no JSON; whatever asks the node fails."""

    async def fails(scope: object, receive: object, send: object) -> None:
        raise RuntimeError

    server = uvicorn.Server(uvicorn.Config(fails, port=0, lifespan="off", log_config=None, **settings))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        wait_until(lambda: server.started)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


@pytest.mark.parametrize(
    ("settings", "status", "words"),
    [
        ({"limit_concurrency": 1}, 503, "the node is busy (HTTP 503)"),
        ({}, 500, "the node could not answer: it is being stopped, or its log says why (HTTP 500)"),
    ],
    ids=["too many connections", "fails"],
)
def test_the_words_of_the_nodes_server_are_the_nodes(
    settings: Mapping[str, Any], status: int, words: str
) -> None:
    with failing_node(**settings) as url:
        told = trouble(NodeApi(url, "").health)
    assert (told.of_the_node, told.status, str(told)) == (True, status, words)


@pytest.mark.parametrize(("status", "body"), [(502, b"Service Unavailable"), (503, b"Internal Server Error")])
def test_the_words_of_the_nodes_server_are_no_nodes_with_another_status(status: int, body: bytes) -> None:
    with web_server(answering(status, body)) as url:
        assert not trouble(NodeApi(url, "").health).of_the_node


def test_a_node_that_can_tell_says_when_to_come_again() -> None:
    with web_server(answering(503, {"error": "shutting down"}, {"Retry-After": "7"})) as url:
        told = trouble(NodeApi(url, "").health)
    assert (told.of_the_node, told.status, told.retry_after_seconds) == (True, 503, 7.0)


@pytest.mark.parametrize("status", [404, 405, 501])
def test_words_of_another_server_are_not_the_nodes(status: int) -> None:
    with web_server(answering(status, {"error": "Not Found"})) as url:
        node = NodeApi(url, "")
        for ask in (node.health, lambda: node.series("1.2"), lambda: node.start_again("1.2")):
            assert isinstance(trouble(ask), NotTheNode)


@pytest.mark.parametrize("status", [404, 422])
def test_a_setting_is_blamed_and_a_series_ended_by_the_node_alone(status: int) -> None:
    def fetch_from(url: str) -> NodeTrouble:
        return trouble(lambda: NodeApi(url, "").fetch("here", "1.2", "1.2.3"))

    with web_server(answering(status, {"error": "no such source"}, health=HEALTH)) as url:
        told = fetch_from(url)
        assert (told.of_the_node, told.status, "no such source" in str(told)) == (True, status, True)
    with web_server(answering(status, {"error": "no such source"}, health={"status": "UP"})) as url:
        assert not fetch_from(url).of_the_node


@pytest.mark.parametrize(("scheme", "of_the_node"), [("Bearer", True), ('Basic realm="x"', False)])
def test_a_password_is_no_token(scheme: str, of_the_node: bool) -> None:
    with web_server(answering(401, {"error": "no"}, {"WWW-Authenticate": scheme})) as url:
        told = trouble(lambda: NodeApi(url, "").series("1.2"))
    assert (told.of_the_node, told.status) == (of_the_node, 401)
    assert ("DicomNode.Token" in str(told)) is of_the_node


@pytest.mark.parametrize(
    "told",
    [
        *(SERIES | wrong for wrong in ({"jobs": 7}, {"images": float("inf")}, {"progress": "x"})),
        {"state": "done"},
        [],
        "a page",
        b"[" * 60_000,
    ],
)
@pytest.mark.parametrize("status", [200, 500])
def test_an_answer_that_is_none_of_a_node_is_trouble_and_no_error(told: object, status: int) -> None:
    with web_server(answering(status, told)) as url:
        assert isinstance(trouble(lambda: NodeApi(url, "").series("1.2")), NotTheNode)
