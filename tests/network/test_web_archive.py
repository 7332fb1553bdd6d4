"""A server that is wrong or hostile: what it can send does no harm, and is told in words."""

import gzip
import json
import re
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicomnode.errors import (
    InstanceRefused,
    NetworkError,
    PeerBusy,
    PeerRefused,
    PeerUnreachable,
    SeriesUnknown,
)
from dicomnode.network import web_archive as module
from dicomnode.network.part10 import frame, parse_meta
from dicomnode.network.web_archive import Listed, WebArchive, only_part, web_archive
from dicomnode.settings import WebSource
from tests.makers import make_series
from tests.network.conftest import free_port

UID = "1.2.3.4"
ORTHANC_ID = "-".join(["0123abcd"] * 5)
ITS_FILE = Listed(UID, f"/instances/{ORTHANC_ID}/file")
Answer = Callable[[bytes, socket.socket], None]


class Server:
    """A server that answers each request as it is told; `asked` are the request lines and headers."""

    def __init__(self, answer: Answer, tls: ssl.SSLContext | None = None) -> None:
        self.answer, self._tls = answer, tls
        self.asked: list[bytes] = []
        self._socket = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def port(self) -> int:
        return int(self._socket.getsockname()[1])

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, suppress(OSError):
            if self._tls is None:
                self._hear(connection)
            else:
                with self._tls.wrap_socket(connection, server_side=True) as private:
                    self._hear(private)

    def _hear(self, connection: socket.socket) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            came = connection.recv(65536)
            if not came:
                return
            head += came
        head, _, body = head.partition(b"\r\n\r\n")
        self.asked.append(head)
        # Whoever closes before all of the request was read takes the answer back with it (RST).
        wanted = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
        while len(body) < int(wanted[1] if wanted else 0):
            came = connection.recv(65536)
            if not came:
                return
            body += came
        self.answer(head, connection)

    def close(self) -> None:
        self._socket.close()


@contextmanager
def served(answer: Answer, tls: ssl.SSLContext | None = None) -> Iterator[Server]:
    server = Server(answer, tls)
    try:
        yield server
    finally:
        server.close()


def says(body: bytes, kind: str, status: str = "200 OK", *headers: str) -> Answer:
    lines = [f"HTTP/1.1 {status}", f"Content-Type: {kind}", f"Content-Length: {len(body)}", *headers]
    head = ("\r\n".join([*lines, "Connection: close"]) + "\r\n\r\n").encode()
    return lambda _, connection: connection.sendall(head + body)


def told(value: Any) -> Answer:
    return says(json.dumps(value).encode(), "application/json")


@contextmanager
def archive(
    server: Server, kind: str = "orthanc", most_bytes: int = 1 << 20, **changes: Any
) -> Iterator[WebArchive]:
    values = {
        "name": "a",
        "ae_title": "A",
        "kind": kind,
        "url": f"http://127.0.0.1:{server.port}",
        "timeout_seconds": 2,
    }
    with web_archive(WebSource.model_validate(values | changes), most_bytes) as opened:
        yield opened


def refusal(answer: Answer, ask: Callable[[WebArchive], object], **how: Any) -> NetworkError:
    with served(answer) as server, archive(server, **how) as opened, pytest.raises(NetworkError) as caught:
        ask(opened)
    return caught.value


def fetch(opened: WebArchive) -> object:
    return opened.fetch(ITS_FILE)


def listing(opened: WebArchive) -> object:
    return opened.instances("1.2", "1.2.3")


def test_a_body_without_end_is_broken_off_at_the_limit() -> None:
    sent = 0

    def endless(_: bytes, connection: socket.socket) -> None:
        nonlocal sent
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/dicom\r\n\r\n")
        while True:
            sent += connection.send(bytes(65536))

    error = refusal(endless, fetch, most_bytes=4 << 20)
    assert isinstance(error, InstanceRefused)
    assert "more than 4 MiB" in str(error)
    time.sleep(0.2)
    assert sent < 64 << 20, "it went on reading"


def test_a_body_that_drips_is_not_waited_for_for_ever() -> None:
    def dripping(_: bytes, connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/dicom\r\n\r\n")
        while True:
            connection.send(b"x")
            time.sleep(0.05)

    began = time.monotonic()
    assert isinstance(refusal(dripping, fetch, timeout_seconds=0.2), PeerUnreachable)
    assert 1.5 < time.monotonic() - began < 10


def test_silence_and_a_closed_door_are_trouble_that_may_pass() -> None:
    assert isinstance(refusal(lambda *_: time.sleep(3), fetch, timeout_seconds=0.3), PeerUnreachable)
    assert isinstance(refusal(lambda *_: None, fetch), PeerBusy)
    nobody = f"http://127.0.0.1:{free_port()}"
    with served(told([])) as server, archive(server, url=nobody) as opened:
        with pytest.raises(PeerUnreachable, match="no connection"):
            fetch(opened)
        assert not server.asked


def test_a_certificate_that_is_not_trusted_is_told_and_trusted_where_the_machine_is_told_to(
    tmp_path: Path, program: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = tmp_path / "made.pem"
    command = [program("openssl"), "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    command += ["-subj", "/CN=archive", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run([*command, "-keyout", str(made), "-out", str(made)], check=True, capture_output=True)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(made)
    with served(told([]), tls) as server:
        url = f"https://127.0.0.1:{server.port}"
        with archive(server, url=url, timeout_seconds=20) as opened, pytest.raises(PeerUnreachable) as caught:
            listing(opened)
        assert f"certificate of {url} is not trusted" in str(caught.value)
        assert "SSL_CERT_FILE" in str(caught.value)
        assert not server.asked
        monkeypatch.setenv("SSL_CERT_FILE", str(made))
        with archive(server, url=url, timeout_seconds=20) as opened, pytest.raises(SeriesUnknown):
            listing(opened)
        assert server.asked


def test_nothing_compressed_is_unpacked() -> None:
    bomb = gzip.compress(bytes(256 << 20))
    assert len(bomb) < 1 << 20
    how = "Content-Encoding: gzip"
    for ask, kind in ((fetch, "application/dicom"), (listing, "application/json")):
        error = refusal(says(bomb, kind, "200 OK", how), ask)
        assert isinstance(error, PeerBusy)
        assert "compressed" in str(error)


def test_it_is_asked_for_nothing_compressed() -> None:
    with served(told([])) as server, archive(server) as opened:
        with pytest.raises(SeriesUnknown):
            listing(opened)
        assert b"accept-encoding: identity" in server.asked[0].lower()


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "307 Temporary Redirect", "308 Permanent"])
def test_no_redirect_is_followed_and_no_password_carried_elsewhere(status: str) -> None:
    with served(told([])) as elsewhere:
        there = f"Location: http://127.0.0.1:{elsewhere.port}/tools/lookup"
        error = refusal(says(b"", "text/plain", status, there), listing, username="u", password="p")
        assert isinstance(error, PeerRefused)
        assert not elsewhere.asked
        assert str(elsewhere.port) not in str(error)


def test_no_proxy_of_the_environment_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    with served(told([])) as proxy, served(told([])) as server:
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{proxy.port}")
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.port}")
        with archive(server) as opened, pytest.raises(SeriesUnknown):
            listing(opened)
        assert (len(proxy.asked), len(server.asked)) == (0, 1)


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (says(b"<html>log in</html>", "text/html"), PeerBusy),
        (says(b"", "application/dicom", "500 Internal Server Error"), PeerBusy),
        (says(b"", "application/dicom", "401 Unauthorized"), PeerRefused),
        (says(b"", "application/dicom", "403 Forbidden"), PeerRefused),
        (says(b"", "application/dicom", "404 Not Found"), SeriesUnknown),
        (says(b"no DICOM", "application/dicom"), InstanceRefused),
        (says(bytes(128) + b"DICM" + b"\xff" * 70_000, "application/dicom"), InstanceRefused),
        (lambda _, connection: connection.sendall(b"SSH-2.0-OpenSSH\r\n"), PeerBusy),
    ],
)
def test_what_is_no_instance_is_told_by_its_kind(answer: Answer, kind: type[NetworkError]) -> None:
    error = refusal(answer, fetch)
    assert type(error) is kind
    assert str(error).startswith("a: ")


@pytest.mark.parametrize(
    "value",
    [
        {},
        [1],
        [{"Type": "Series"}],
        [{"Type": "Series", "ID": "../../changes"}],
        [{"Type": "Series", "ID": f"{ORTHANC_ID}/../x"}],
        [{"Type": "Series", "ID": 5}],
        [{"Type": "Series", "ID": ORTHANC_ID, "MainDicomTags": {"SOPInstanceUID": "../x"}}],
        [{"Type": "Series", "ID": ORTHANC_ID, "MainDicomTags": []}],
    ],
)
def test_a_list_that_is_none_is_refused_and_nothing_of_it_gets_into_an_address(value: Any) -> None:
    with served(told(value)) as server, archive(server) as opened:
        with pytest.raises(PeerBusy):
            listing(opened)
        lines = [asked.partition(b"\r\n")[0] for asked in server.asked]
        assert all(line.split()[1] in (b"/tools/lookup", f"/series/{ORTHANC_ID}/instances".encode())
                   for line in lines)  # fmt: skip


@pytest.mark.parametrize("body", [b"", b"{", b"[" * 100_000, b"\xff\xfe"])
def test_what_is_no_json_is_refused(body: bytes) -> None:
    assert isinstance(refusal(says(body, "application/json"), listing), PeerBusy)


def test_a_list_without_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_INSTANCES", 50)
    number = iter(range(10**9))

    def more(_: bytes, connection: socket.socket) -> None:
        row = {"00080018": {"vr": "UI", "Value": [f"1.2.{next(number)}"]}}
        says(json.dumps([row]).encode(), "application/dicom+json")(b"", connection)

    assert isinstance(refusal(more, listing, kind="dicomweb"), PeerBusy)


def test_a_server_that_repeats_its_first_page_is_understood() -> None:
    rows = [{"00080018": {"vr": "UI", "Value": [f"1.2.{number}"]}} for number in range(3)]
    page = says(json.dumps(rows).encode(), "application/dicom+json")
    with served(page) as server, archive(server, "dicomweb") as opened:
        found = opened.instances("1.5", "1.6")
    assert [one.path for one in found] == [f"/studies/1.5/series/1.6/instances/1.2.{n}" for n in range(3)]


def test_what_would_not_be_received_is_not_fetched_either(tmp_path: Path) -> None:
    """Deflated, for one: a few bytes of it can become gigabytes."""
    content = make_series(tmp_path, slices=1)[0].read_bytes()
    meta = parse_meta(content, "")
    framed = frame(meta.sop_class_uid, meta.sop_instance_uid, "1.2.840.10008.1.2.1.99", "X")
    deflated = framed + content[meta.data_set_at :]
    assert isinstance(refusal(says(deflated, "application/dicom"), fetch), InstanceRefused)
    with served(says(content, "application/dicom")) as server, archive(server) as opened:
        request = opened.fetch(ITS_FILE)
    assert (request.calling_ae, request.affected_sop_instance_uid) == ("A", UID)
    assert content.endswith(request.data_set)


# --- multipart --------------------------------------------------------------------------------------


def multipart(parts: Sequence[bytes], boundary: bytes, kind: str = "application/dicom") -> bytes:
    head = f"Content-Type: {kind}\r\nContent-Length: 1\r\n\r\n".encode()
    return b"".join(b"--" + boundary + b"\r\n" + head + part + b"\r\n" for part in parts) + (
        b"--" + boundary + b"--\r\n"
    )


@given(st.binary(max_size=300), st.sampled_from(["x", "a-b.c", "0123456789" * 7]), st.booleans())
def test_the_only_part_comes_out_as_it_went_in(content: bytes, boundary: str, preamble: bool) -> None:
    kind = f'multipart/related; type="application/dicom"; boundary="{boundary}"'
    body = b"preamble\r\n" * preamble + multipart([content], boundary.encode())
    if f"--{boundary}".encode() not in content:
        assert only_part(kind, body) == content


def test_the_letters_of_the_boundary_may_stand_in_the_pixels() -> None:
    content = b"ab--x--cd\r\n--xy" * 3
    assert only_part("multipart/related; boundary=x", multipart([content], b"x")) == content


@pytest.mark.parametrize(
    "body",
    [
        multipart([], b"x"),
        multipart([b"one", b"two"], b"x"),
        multipart([b"one"], b"y"),
        multipart([b"one"], b"x", "text/html"),
        multipart([b"one"], b"x")[:-6],
        b"",
        b"--x\r\n",
        b"--x--",
    ],
)
def test_anything_but_one_whole_part_is_refused(body: bytes) -> None:
    with pytest.raises(InstanceRefused):
        only_part("multipart/related; boundary=x", body)


@given(st.binary(max_size=200), st.text(max_size=30))
def test_no_body_and_no_header_makes_it_fall(body: bytes, kind: str) -> None:
    with suppress(InstanceRefused):
        assert only_part(f"multipart/related; boundary={kind}", body) in body, "nothing of its own making"
