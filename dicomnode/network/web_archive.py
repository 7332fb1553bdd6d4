"""Fetching a series from an archive over HTTP: Orthanc's REST API, or QIDO-RS and WADO-RS (PS3.18).

One instance at a time comes into memory, as with C-STORE, and none that is larger than
`network.max_instance_mib`. A server may be slow, wrong or hostile: no redirect is followed, nothing
compressed is unpacked, every answer has a limit of bytes and of time, and nothing of an answer goes into an
address or a path unchecked. What it sends is checked once more when it is filed.
"""

import base64
import json
import re
import ssl
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from email.message import Message
from typing import Any, Final, Protocol

import httpx

from dicomnode.checked import is_uid
from dicomnode.errors import (
    InstanceRefused,
    NetworkError,
    PeerBusy,
    PeerRefused,
    PeerUnreachable,
    SeriesUnknown,
)
from dicomnode.network import part10, protocol
from dicomnode.network.filing import Request
from dicomnode.settings import WebSource

MOST_INSTANCES: Final = 100_000
LONGEST_LIST_BYTES: Final = 256 * 2**20
"""Orthanc tells about half a kilobyte of an instance, QIDO-RS two."""
LONGEST_FRAME_BYTES: Final = 1 << 16
"""What multipart and Part 10 may put around a data set."""
LONGEST_TIMES: Final = 10
"""So many times its timeout a whole answer may take: a server that drips holds nobody for ever."""
_PAGE: Final = 1000
_ORTHANC_ID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{8}){4}")
_SOP_INSTANCE_UID: Final = "00080018"
_JSON: Final = ("application/json", "application/dicom+json")
_DICOM: Final = "application/dicom"
_MULTIPART: Final = "multipart/related"


@dataclass(frozen=True)
class Listed:
    """An instance that an archive has; `path` leads to it from the root of the service."""

    sop_instance_uid: str
    path: str


class WebArchive(Protocol):
    """An archive that tells which instances a series has, and hands each of them over.

    Both raise PeerUnreachable where it does not answer, PeerBusy where it answers with trouble that may
    pass, PeerRefused where it lets us in no further; `instances` raises SeriesUnknown, `fetch`
    InstanceRefused for what is no instance that may be filed.
    """

    def instances(self, study_uid: str, series_uid: str) -> list[Listed]:
        """What it has of a series, each instance once."""
        ...

    def fetch(self, listed: Listed) -> Request:
        """One instance, as a C-STORE request of it would be; nothing of its data set is checked yet."""
        ...


@contextmanager
def web_archive(source: WebSource, most_bytes: int) -> Iterator[WebArchive]:
    """Connections to an archive, for any number of threads; no instance is larger than `most_bytes`."""
    link = _Link(source, most_bytes)
    try:
        yield _Orthanc(link) if source.kind == "orthanc" else _DicomWeb(link)
    finally:
        link.close()


class _Link:
    """Bounded requests to one server."""

    def __init__(self, source: WebSource, most_bytes: int) -> None:
        self.source = source
        self.most_bytes = most_bytes + LONGEST_FRAME_BYTES
        # The environment may name proxies and hold credentials (.netrc): neither is ours.
        self._client = httpx.Client(
            headers={"Accept-Encoding": "identity", "User-Agent": "dicomnode", **_credentials(source)},
            timeout=source.timeout_seconds,
            follow_redirects=False,
            trust_env=False,
            verify=_authorities(source),
        )

    def close(self) -> None:
        self._client.close()

    def json(self, method: str, path: str, **request: Any) -> Any:
        """An answer in JSON, or None for 204. `path` as in `body`."""
        try:
            kind, body = self.body(method, path, _JSON, LONGEST_LIST_BYTES, **request)
        except InstanceRefused as error:
            raise self.refuse_list() from error
        if not kind:
            return None
        try:
            return json.loads(body)
        except (ValueError, RecursionError) as error:
            raise PeerBusy(f"{self.source.name}: its answer is no JSON") from error

    def body(
        self, method: str, path: str, kinds: tuple[str, ...], most_bytes: int, **request: Any
    ) -> tuple[str, bytes]:
        """(Content-Type, body) of an answer of one of these media types; ("", b"") for 204 No Content."""
        by = time.monotonic() + LONGEST_TIMES * self.source.timeout_seconds
        try:
            with self._client.stream(method, self.source.url + path, **request) as answer:
                self._require_success(answer)
                if answer.status_code == httpx.codes.NO_CONTENT:
                    return "", b""
                kind = self._kind(answer, kinds)
                return kind, self._read(answer, most_bytes, by)
        except httpx.TimeoutException as error:
            raise PeerUnreachable(
                f"{self.source.name}: no answer within {self.source.timeout_seconds:g} s"
            ) from error
        except (httpx.ConnectError, httpx.ProxyError) as error:
            raise PeerUnreachable(f"{self.source.name}: {_why(error, self.source.url)}") from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise PeerBusy(f"{self.source.name}: its answer broke off or is no HTTP") from error

    def _require_success(self, answer: httpx.Response) -> None:
        code, name = answer.status_code, self.source.name
        if code in (httpx.codes.OK, httpx.codes.NO_CONTENT):
            return
        if code in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
            raise PeerRefused(
                f"{name}: it does not let us in (HTTP {code}); check username and password in web_sources"
            )
        if code in (httpx.codes.NOT_FOUND, httpx.codes.GONE):
            raise SeriesUnknown(f"{name}: it does not have this (HTTP {code})")
        if 300 <= code < 400:
            raise PeerRefused(
                f"{name}: it redirects elsewhere (HTTP {code}), which is not followed; correct its url"
            )
        raise PeerBusy(f"{name}: it answers with an error (HTTP {code})")

    def _kind(self, answer: httpx.Response, kinds: tuple[str, ...]) -> str:
        kind = str(answer.headers.get("content-type", ""))
        encoding = answer.headers.get("content-encoding", "identity").strip().lower()
        if encoding not in ("", "identity"):
            raise PeerBusy(f"{self.source.name}: its answer is compressed, which was not asked for")
        if _media_type(kind) not in kinds:
            raise PeerBusy(f"{self.source.name}: its answer is not {' or '.join(kinds)}; is url right?")
        return kind

    def _read(self, answer: httpx.Response, most_bytes: int, by_seconds: float) -> bytes:
        body = bytearray()
        for piece in answer.iter_raw():
            body += piece
            if len(body) > most_bytes:
                raise InstanceRefused(
                    f"{self.source.name}: an answer of more than {most_bytes >> 20} MiB was broken off",
                    protocol.OUT_OF_RESOURCES,
                )
            if time.monotonic() > by_seconds:
                raise PeerUnreachable(f"{self.source.name}: an answer does not come to its end")
        return bytes(body)

    def refuse_list(self) -> NetworkError:
        """The error for a list that is not what it should be."""
        return PeerBusy(f"{self.source.name}: its list of instances cannot be understood")


class _Orthanc:
    """Orthanc's own REST API."""

    def __init__(self, link: _Link) -> None:
        self._link = link

    def instances(self, study_uid: str, series_uid: str) -> list[Listed]:
        """By the series UID; that an instance belongs to the study is checked when it is filed."""
        del study_uid
        found = _rows(self._link, self._link.json("POST", "/tools/lookup", content=series_uid))
        series = [self._id(row) for row in found if row.get("Type") == "Series"]
        if not series:
            raise SeriesUnknown(f"{self._link.source.name}: it does not know this series")
        listed: dict[str, Listed] = {}
        for one in series:
            for row in _rows(self._link, self._link.json("GET", f"/series/{one}/instances")):
                tags = row.get("MainDicomTags")
                uid = tags.get("SOPInstanceUID") if isinstance(tags, Mapping) else None
                _note(self._link, listed, uid, f"/instances/{self._id(row)}/file")
        return list(listed.values())

    def _id(self, row: Mapping[str, Any]) -> str:
        known = row.get("ID")
        if not isinstance(known, str) or not _ORTHANC_ID.fullmatch(known):
            raise self._link.refuse_list()
        return known

    def fetch(self, listed: Listed) -> Request:
        """The file as Orthanc keeps it."""
        _, content = self._link.body("GET", listed.path, (_DICOM,), self._link.most_bytes)
        return _request(self._link.source, listed, content)


class _DicomWeb:
    """QIDO-RS for the list (PS3.18 10.6), WADO-RS for each instance (10.4)."""

    def __init__(self, link: _Link) -> None:
        self._link = link

    def instances(self, study_uid: str, series_uid: str) -> list[Listed]:
        """Page by page, as large as the server likes them, until one brings nothing new."""
        path = f"/studies/{study_uid}/series/{series_uid}/instances"
        listed: dict[str, Listed] = {}
        while True:
            answer = self._link.json(
                "GET",
                path,
                params={"limit": _PAGE, "offset": len(listed)},
                headers={"Accept": "application/dicom+json"},
            )
            before = len(listed)
            for row in _rows(self._link, answer if answer is not None else []):
                uid = _first_value(row.get(_SOP_INSTANCE_UID))
                _note(self._link, listed, uid, f"{path}/{uid}")
            if len(listed) == before:
                break
        if not listed:
            raise SeriesUnknown(f"{self._link.source.name}: it does not know this series")
        return list(listed.values())

    def fetch(self, listed: Listed) -> Request:
        """In the transfer syntax in which the server keeps it."""
        wanted = f'{_MULTIPART}; type="{_DICOM}"; transfer-syntax=*'
        kind, body = self._link.body(
            "GET", listed.path, (_MULTIPART,), self._link.most_bytes, headers={"Accept": wanted}
        )
        return _request(self._link.source, listed, only_part(kind, body))


def _authorities(source: WebSource) -> ssl.SSLContext:
    """Those that the machine trusts: a hospital adds its own there."""
    if source.url.startswith("https:"):
        return ssl.create_default_context()
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # reading them takes its time, and nothing asks for them


def _why(error: BaseException, url: str) -> str:
    """No connection: nobody there, or somebody who cannot show who it is."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return (
                f"the certificate of {url} is not trusted ({cause.verify_message}); add its authority to"
                " those of this machine, or start the node with SSL_CERT_FILE naming a file that has it"
            )
        cause = cause.__cause__ or cause.__context__
    return f"no connection to {url}"


def _credentials(source: WebSource) -> dict[str, str]:
    if source.username is None:
        return {}
    password = source.password.get_secret_value() if source.password else ""
    told = base64.b64encode(f"{source.username}:{password}".encode()).decode("ascii")
    return {"Authorization": f"Basic {told}"}


def _rows(link: _Link, answer: object) -> list[Mapping[str, Any]]:
    if not isinstance(answer, list) or not all(isinstance(row, Mapping) for row in answer):
        raise link.refuse_list()
    return answer


def _note(link: _Link, listed: dict[str, Listed], uid: object, path: str) -> None:
    if not isinstance(uid, str) or not is_uid(uid) or len(listed) >= MOST_INSTANCES:
        raise link.refuse_list()
    listed.setdefault(uid, Listed(uid, path))


def _first_value(element: object) -> object:
    values = element.get("Value") if isinstance(element, Mapping) else None
    return values[0] if isinstance(values, list) and values else None


def _request(source: WebSource, listed: Listed, content: bytes) -> Request:
    """A Part 10 file as the C-STORE request it stands for. Raises InstanceRefused."""
    try:
        meta = part10.parse_meta(content, source.name)
    except NetworkError as error:
        raise InstanceRefused(f"{source.name}: it sent no DICOM file", protocol.NOT_WHOLE) from error
    if not protocol.is_accepted(meta.sop_class_uid, meta.transfer_syntax_uid):
        raise InstanceRefused(
            f"{source.name}: an object of a class or transfer syntax that is not received",
            protocol.CLASS_NOT_SUPPORTED,
        )
    return Request(
        affected_sop_class_uid=meta.sop_class_uid,
        affected_sop_instance_uid=listed.sop_instance_uid,
        context_sop_class_uid=meta.sop_class_uid,
        transfer_syntax_uid=meta.transfer_syntax_uid,
        calling_ae=source.ae_title,
        data_set=content[meta.data_set_at :],
    )


# --- multipart ------------------------------------------------------------------------------------


def _media_type(content_type: str) -> str:
    return content_type.partition(";")[0].strip().lower()


def only_part(content_type: str, body: bytes) -> bytes:
    """The content of the one part of a multipart/related body (RFC 2046 section 5.1).

    The boundary ends the part where its last occurrence stands: in the pixels its letters may stand, too.
    Raises InstanceRefused for any other number of parts, or for a part of another media type.
    """
    message = Message()
    message["Content-Type"] = content_type
    boundary = str(message.get_param("boundary", "")).encode("latin-1", "replace")
    opening = b"--" + boundary + b"\r\n"
    ending = body.rfind(b"\r\n--" + boundary + b"--")
    begin = 0 if body.startswith(opening) else body.find(b"\r\n" + opening) + 2
    head_end = body.find(b"\r\n\r\n", begin, begin + LONGEST_FRAME_BYTES)
    if not boundary or (begin == 1) or head_end < 0 or ending < head_end:
        raise InstanceRefused("the answer is no whole multipart message", protocol.NOT_WHOLE)
    head = body[begin + len(opening) : head_end].decode("latin-1")
    lines = [line.partition(":") for line in head.split("\r\n")]
    kinds = [value for name, _, value in lines if name.strip().lower() == "content-type"]
    content = body[head_end + 4 : ending]
    if [_media_type(kind) for kind in kinds] != [_DICOM] or b"\r\n" + opening in content:
        raise InstanceRefused("the answer holds something else than one DICOM object", protocol.NOT_WHOLE)
    return content
