"""The HTTP interface of a running node: who may ask, what is answered, and that it endangers nothing."""

import logging
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from dicomnode.engines.need.engine import NeedEngine
from dicomnode.errors import NetworkError
from dicomnode.node import Node
from dicomnode.settings import Settings
from dicomnode.web import door
from tests.journey.scene import Pacs, low_dose_series, send_to, settings_for, wait_for_jobs, wait_until
from tests.journey.test_pulls import uids

TOKEN = "hush-0123456789"
NOWHERE: dict[str, Any] = {
    "name": "nowhere",
    "ae_title": "NOWHERE",
    "kind": "orthanc",
    "url": "http://127.0.0.1:9",
}


def web_settings(folder: Path, *ports: int, token: str | None = None, **node: Any) -> Settings:
    values = settings_for(folder, *ports, node=node).model_dump()
    return Settings.model_validate(values | {"web": {"port": 0, "token": token}, "web_sources": [NOWHERE]})


@pytest.fixture
def node(tmp_path: Path, engine: NeedEngine) -> Iterator[Node]:
    with Node(web_settings(tmp_path), engine=engine) as running:
        yield running


def client_of(node: Node, **headers: str) -> httpx.Client:
    return httpx.Client(
        base_url=f"http://127.0.0.1:{node.web_port}", headers=headers, trust_env=False, timeout=10
    )


def asked(series: str = "1.2.3", **changes: str) -> dict[str, str]:
    return {"source": "nowhere", "study_instance_uid": "1.2", "series_instance_uid": series} | changes


def requests_of(node: Node) -> list[Path]:
    return sorted((node._spool.root / "requests").glob("pull-*"))


# --- who may ask ------------------------------------------------------------------------------------


def test_only_the_token_opens_anything_but_the_health(tmp_path: Path, engine: NeedEngine) -> None:
    paths = ("/series/1.2.3", "/openapi.json", "/nothing")
    with Node(web_settings(tmp_path, token=TOKEN), engine=engine) as node:
        wrong: tuple[dict[str, str], ...] = (
            {},
            {"Authorization": f"Bearer {TOKEN}x"},
            {"Authorization": f"Basic {TOKEN}"},
        )
        for given in (*wrong, {"Authorization": "Bearer"}, {"Authorization": "Bearer " + "x" * 9000}):
            client = client_of(node, **given)
            assert client.get("/health").json()["ae_title"] == "DICOMNODE"
            for answer in (
                *(client.get(path) for path in paths),
                client.post("/series", json=asked()),
                client.post("/jobs/x/retry"),
            ):
                assert answer.status_code == 401
        assert not requests_of(node)
        client = client_of(node, Authorization=f"Bearer {TOKEN}")
        assert client.get("/series/1.2.3").json()["state"] == "unknown"
        assert client.get("/openapi.json").json()["info"]["title"] == "dicomnode"
        assert client.post("/series", json=asked()).status_code == 202


def test_without_a_token_no_page_of_a_browser_may_ask(node: Node) -> None:
    assert client_of(node).get("/series/1.2.3").status_code == 200
    for headers in ({"Host": "evil.example"}, {"Origin": "http://evil.example"}, {"Origin": "null"}):
        client = client_of(node, **headers)
        assert client.get("/series/1.2.3").status_code == 403
        assert client.post("/series", json=asked()).status_code == 403
    assert not requests_of(node)


# --- what is answered ---------------------------------------------------------------------------------


@pytest.mark.parametrize("uid", ["1..2", "1.2.a", "01.2", "1" * 65, "%2e%2e", "1.2.3%00", "1.2.3%0a"])
def test_a_malformed_uid_is_no_series(node: Node, uid: str) -> None:
    answer = client_of(node).get(f"/series/{uid}")
    assert answer.status_code == 422
    assert answer.json().keys() == {"error"}
    for key in ("study_instance_uid", "series_instance_uid"):
        refused = client_of(node).post("/series", json=asked(**{key: uid}))
        assert refused.status_code == 422
        assert key in refused.json()["error"]
        assert uid not in refused.json()["error"]
    assert not requests_of(node)


def test_every_error_is_told_in_json_with_its_status(node: Node) -> None:
    client = client_of(node)
    answers = {
        404: [
            client.get("/nothing"),
            client.post("/series", json=asked(source="elsewhere")),
            client.post("/jobs/no-such-job/retry"),
            client.post("/jobs/../retry"),
            client.post("/jobs/%2e%2e/retry"),
        ],
        405: [client.delete("/series/1.2.3")],
        422: [
            client.post("/series", content=b"{", headers={"Content-Type": "application/json"}),
            client.post("/series", json=[]),
            client.post("/series", json=asked(more="x")),
            client.post("/series", json=asked(source="../../etc")),
        ],
        413: [
            client.post("/series", content=b" " * (door.MOST_BODY_BYTES + 1)),
            client.post("/series", content=(b" " * 4096 for _ in range(100))),
        ],
    }
    for status, those in answers.items():
        for answer in those:
            assert answer.status_code == status, (answer.request.url, answer.text)
            assert answer.headers["content-type"] == "application/json"
            assert answer.json().keys() == {"error"}
    assert not requests_of(node)


def test_a_request_is_on_the_disk_when_it_is_answered(node: Node) -> None:
    answer = client_of(node).post("/series", json=asked())
    assert answer.status_code == 202
    assert (answer.json()["state"], answer.json()["images"]) == ("fetching", 0)
    (record,) = requests_of(node)
    assert record.stat().st_mode & 0o777 == 0o600
    assert "1.2.3" not in record.name
    for _ in range(3):
        assert client_of(node).post("/series", json=asked()).status_code == 202
    assert requests_of(node) == [record], "the same again is the same"


def test_below_the_reserve_it_is_to_be_asked_again_later(tmp_path: Path, engine: NeedEngine) -> None:
    with Node(web_settings(tmp_path, reserve_gib=1e6), engine=engine) as node:
        answer = client_of(node).post("/series", json=asked())
        assert answer.status_code == 503
        assert int(answer.headers["retry-after"]) > 0
        assert "reserve" in answer.json()["error"]
        assert str(tmp_path) not in answer.text
        assert not requests_of(node)
        assert client_of(node).get("/series/1.2.3").json()["state"] == "unknown"


@pytest.mark.slow
def test_a_pushed_series_is_told_of_and_its_job_started_again(
    tmp_path: Path, engine: NeedEngine, pacs: Pacs, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    paths = low_dose_series(tmp_path / "in", slices=4)
    _, series_uid = uids(paths[0])
    pacs.answer = lambda sop_class, uid: 0xC000
    with Node(web_settings(tmp_path, pacs.port), engine=engine) as node:
        client = client_of(node)
        send_to(node.port, paths)
        states = [client.get(f"/series/{series_uid}").json()]
        assert (states[0]["state"], states[0]["images"]) == ("receiving", 4)
        while not states[-1]["final"]:
            states.append(client.get(f"/series/{series_uid}").json())
            assert len(states) < 20_000, states[-1]
        (job,) = wait_for_jobs(node)
        told = states[-1]
        assert (told["state"], told["images"]) == ("undelivered", 4)
        assert "C000" in told["reason"]
        assert told["progress"] < 1
        values = [one["progress"] for one in states]
        assert values == sorted(values)
        pacs.answer = lambda sop_class, uid: 0x0000
        again = client.post(f"/jobs/{job.job_id}/retry")
        assert (again.status_code, again.json()["job_id"]) == (202, job.job_id)
        wait_until(lambda: client.get(f"/series/{series_uid}").json()["state"] == "done")
        assert client.get(f"/series/{series_uid}").json()["progress"] == 1.0
        assert client.post(f"/jobs/{job.job_id}/retry").status_code == 409
    ours = [record for record in caplog.records if not record.name.startswith(("httpx", "httpcore"))]
    assert ours
    assert not [record for record in ours if series_uid in record.getMessage()]


# --- that it endangers nothing --------------------------------------------------------------------------


def test_a_port_that_is_taken_is_refused_by_name_and_everything_let_go(
    tmp_path: Path, engine: NeedEngine
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        values = web_settings(tmp_path).model_dump() | {"web": {"port": port}}
        with pytest.raises(NetworkError, match=rf"port {port} .*web\.port"):
            Node(Settings.model_validate(values), engine=engine).start()
    with Node(Settings.model_validate(values), engine=engine) as node:
        assert node.web_port == port


@pytest.mark.slow
def test_a_flood_of_idle_connections_keeps_no_image_out(
    tmp_path: Path, engine: NeedEngine, pacs: Pacs
) -> None:
    paths = low_dose_series(tmp_path / "in", slices=4)
    with Node(web_settings(tmp_path, pacs.port), engine=engine) as node:
        idle = [socket.create_connection(("127.0.0.1", node.web_port or 0)) for _ in range(120)]
        for number, connection in enumerate(idle):
            connection.sendall(b"POST /series HTTP/1.1\r\nHost: localhost\r\n" + b"X: y" * (number % 2))
        began = time.monotonic()
        assert len(send_to(node.port, paths).sent) == 4
        assert time.monotonic() - began < 10
        for connection in idle:
            connection.close()
        wait_until(lambda: client_of(node).get("/health").status_code == 200)
        (job,) = wait_for_jobs(node)
    assert job.status == "done"


def test_a_body_that_does_not_come_is_not_waited_for(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "BODY_SECONDS", 0.2)
    with socket.create_connection(("127.0.0.1", node.web_port or 0), timeout=10) as connection:
        connection.sendall(b"POST /series HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\n{")
        assert connection.recv(100).startswith(b"HTTP/1.1 408")


def test_it_stops_with_the_node_although_a_client_hangs_on(tmp_path: Path, engine: NeedEngine) -> None:
    node = Node(web_settings(tmp_path), engine=engine)
    node.start()
    port = node.web_port or 0
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(b"GET /series/1.2.3 HTTP/1.1\r\nHost: localhost\r\n")
        assert node.stop(), "a thread is left"
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))


def test_nothing_of_it_is_loaded_where_no_port_is_set(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib; from tests.journey.scene import settings_for; from dicomnode.node import Node\n"
        f"with Node(settings_for(pathlib.Path({str(tmp_path)!r}))): pass\n"
        "print([name for name in ('fastapi', 'starlette', 'uvicorn', 'httpx') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
