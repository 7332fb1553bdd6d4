"""Talk with the node over HTTP. Only the worker's thread calls it; the token stands in no message."""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import Any, Mapping, Sequence
from urllib.parse import quote, urljoin, urlsplit

TIMEOUT_SECONDS = 5.0
_LARGEST_ANSWER = 4 * 1024 * 1024
_NO_SERIES = "2.25.0"
"""A UID that no series has: asking for it tells whether the token is taken. /health answers everybody."""

_NOT_A_NODE = "what answers at Url is not the HTTP of a dicomnode; Url names the node's web.port"

_OF_THE_SERVER = {
    (503, b"Service Unavailable"): "the node is busy",
    (500, b"Internal Server Error"): "the node could not answer: it is being stopped, or its log says why",
}
"""What the server below the node says for it: while it has too many connections, and when the node fails."""

_REDIRECTS = frozenset((301, 302, 303, 307, 308))
_OF_OTHERS = frozenset((404, 405, 501))
"""What a node says to none of the GETs here."""

AGAIN = frozenset(("failed", "refused", "held", "undelivered"))
"""States of a job that the node can be asked to try again."""


class NodeTrouble(Exception):
    """The node did not answer, or not as asked. `status` is that of HTTP, 0 where no answer came at all."""

    def __init__(self, words: str, status: int = 0, retry_after_seconds: float = 0.0) -> None:
        super().__init__(words)
        self.status = status
        self.retry_after_seconds = retry_after_seconds

    @property
    def of_the_node(self) -> bool:
        """Is it the node's own word?"""
        return self.status != 0

    @property
    def of_one_series(self) -> bool:
        """May it answer otherwise for another series?"""
        return self.of_the_node and self.status not in (401, 403, 503)


class NotTheNode(NodeTrouble):
    """Something else answers at Url: its `status` says nothing of a series or a job."""

    @property
    def of_the_node(self) -> bool:
        """No."""
        return False


@dataclass(frozen=True)
class NodeSeries:
    """What the node says of one series; `progress` is 0 to 1, `again` are jobs without their result.

    `results` has for each result the UIDs that it has at the destinations, the first destination's first;
    `remarks` tell what is not as asked though there is a result.
    """

    state: str
    final: bool
    progress: float
    words: str
    images: int
    rule: str | None
    reason: str | None
    results: tuple[tuple[str, ...], ...]
    again: tuple[str, ...]
    remarks: tuple[str, ...] = ()


class _Stay(urllib.request.HTTPRedirectHandler):
    """A redirect would carry the token to somebody else. Nor is it read, which fails at some addresses."""

    def http_error_302(self, req: Any, fp: Any, code: int, msg: str, headers: Any) -> None:
        return None

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302


class NodeApi:
    """The node's HTTP at `url`, directly: proxies of the environment are not asked."""

    def __init__(self, url: str, token: str, timeout_seconds: float = TIMEOUT_SECONDS) -> None:
        self._url = url
        self._token = token
        self._timeout_seconds = timeout_seconds
        self._open = urllib.request.build_opener(urllib.request.ProxyHandler({}), _Stay()).open

    def health(self) -> str:
        """The version of a node that answers and takes the token. Raises NodeTrouble."""
        told = self._health()
        self.series(_NO_SERIES)
        return str(told.get("version", ""))

    def _health(self) -> Mapping[str, Any]:
        told = self._ask("GET", "/health")
        if "ae_title" not in told:
            raise NotTheNode(_NOT_A_NODE, http.client.OK)
        return told

    def series(self, uid: str) -> NodeSeries:
        """What the node knows of a series. Raises NodeTrouble."""
        return _read_series(self._ask("GET", f"/series/{quote(uid, safe='')}"))

    def fetch(self, source: str, study_uid: str, series_uid: str) -> NodeSeries:
        """Ask the node to fetch a series; it may be asked again. Raises NodeTrouble."""
        wanted = {"source": source, "study_instance_uid": study_uid, "series_instance_uid": series_uid}
        try:
            return _read_series(self._ask("POST", "/series", wanted))
        except NodeTrouble as trouble:
            if trouble.status in (404, 422):  # a setting is blamed, or the series ended: by the node?
                self._health()
            raise

    def start_again(self, uid: str) -> tuple[str, int]:
        """Have tried again what did not succeed: the state before, and how many jobs. Raises NodeTrouble."""
        told = self.series(uid)
        for job in told.again:
            self._ask("POST", f"/jobs/{quote(job, safe='')}/retry", {})
        return told.state, len(told.again)

    def _ask(self, method: str, path: str, body: Mapping[str, str] | None = None) -> Mapping[str, Any]:
        request = urllib.request.Request(self._url + path, method=method)
        if body is not None:
            request.data = json.dumps(body).encode()
            request.add_header("Content-Type", "application/json")
        if self._token:
            request.add_unredirected_header("Authorization", f"Bearer {self._token}")
        try:
            with self._open(request, timeout=self._timeout_seconds) as answer:
                return _decoded(answer.read(_LARGEST_ANSWER))
        except urllib.error.HTTPError as error:
            with error:
                raise _refused(method, error) from None
        except urllib.error.URLError as error:
            raise NodeTrouble(
                f"the node's HTTP does not answer at {self._url} ({error.reason});"
                " does it run, and is web.port set in its node.yaml?"
            ) from None
        except ValueError:
            raise NotTheNode(_NOT_A_NODE, http.client.OK) from None
        except (OSError, http.client.HTTPException) as error:
            raise NodeTrouble(f"the node's HTTP broke off ({type(error).__name__})") from None


def _refused(method: str, error: urllib.error.HTTPError) -> NodeTrouble:
    try:
        content = error.read(65536)
        told = _OF_THE_SERVER.get((error.code, content)) or str(_decoded(content).get("error", ""))[:300]
    except (OSError, http.client.HTTPException, ValueError, NodeTrouble):
        told = ""
    if error.code in _REDIRECTS:
        words = f"what answers at Url names another address: {_address(error)}; Url is to be the node's own"
        return NotTheNode(f"{words} (HTTP {error.code})", error.code)
    scheme = str(error.headers.get("WWW-Authenticate", "")).partition(" ")[0]
    if error.code == 401 and scheme.lower() != "bearer":
        words = "what answers at Url asks for a password, which no dicomnode does"
        return NotTheNode(f"{words}; Url is to be the node's own (HTTP 401)", error.code)
    if not told or (method == "GET" and error.code in _OF_OTHERS):  # a node always says why
        return NotTheNode(f"{_NOT_A_NODE} (HTTP {error.code})", error.code)
    if error.code == 401:
        told = "the node refuses the token: DicomNode.Token is to be its web.token"
    elif error.code == 403:
        told = f"the node refuses: {told}; DicomNode.Token is its web.token"
    after = str(error.headers.get("Retry-After", ""))
    seconds = float(after) if after.isascii() and after.isdigit() and len(after) < 7 else 0.0
    return NodeTrouble(f"{told} (HTTP {error.code})", error.code, seconds)


def _address(error: urllib.error.HTTPError) -> str:
    """Where a redirect leads, without what may be secret in it; a question mark where that cannot be read."""
    location = str(error.headers.get("Location", ""))
    try:
        found = urlsplit(urljoin(error.url, location))
    except ValueError:
        location = ""
    if not location:
        return "?"
    told = f"{found.scheme}://{found.netloc.rpartition('@')[2]}{found.path}"
    return "".join(one for one in told if " " < one < "\x7f")[:200]


def _decoded(content: bytes) -> Mapping[str, Any]:
    try:
        told = json.loads(content or b"{}")
    except RecursionError:  # nested deeper than Python goes
        told = None
    if not isinstance(told, dict):
        raise NotTheNode(_NOT_A_NODE, http.client.OK)
    return told


def _read_series(told: Mapping[str, Any]) -> NodeSeries:
    try:
        jobs = [job for job in told.get("jobs") or [] if isinstance(job, dict)]
        progress = min(1.0, max(0.0, float(told.get("progress") or 0.0)))
        return NodeSeries(
            state=str(told["state"]),
            final=bool(told["final"]),
            progress=progress,
            words=str(told.get("words") or ""),
            images=int(told.get("images") or 0),
            rule=None if told.get("rule") is None else str(told["rule"]),
            reason=None if told.get("reason") is None else str(told["reason"]),
            results=_read_results(told, jobs),
            again=tuple(str(job.get("job_id")) for job in jobs if job.get("status") in AGAIN),
            remarks=tuple(str(remark)[:300] for remark in told.get("remarks") or ()),
        )
    except (KeyError, TypeError, ValueError, OverflowError):
        raise NotTheNode(_NOT_A_NODE, http.client.OK) from None


def _read_results(told: Mapping[str, Any], jobs: Sequence[Mapping[str, Any]]) -> tuple[tuple[str, ...], ...]:
    """By job; an older node tells the UID at its first destination alone."""
    by_job = [job["results"] for job in jobs if isinstance(job.get("results"), list)]
    lists = by_job or [[uid] for uid in told.get("results") or ()]
    return tuple(tuple(str(uid) for uid in uids) for uids in lists if uids)
