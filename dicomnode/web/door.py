"""Who may come in, and how much they may bring: around the interface, before it reads anything."""

import asyncio
import hmac
import json
import logging
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dicomnode.settings import Web

MOST_BODY_BYTES: Final = 1 << 16
BODY_SECONDS: Final = 10.0
_OPEN_TO_ALL: Final = "/health"
_OURSELVES: Final = ("localhost", "127.0.0.1", "[::1]")

log: Final = logging.getLogger(__name__)


class Door:
    """An ASGI application around another: token, size and time of a request, and errors of the program.

    Without a token only this machine can reach the interface. A page in a browser of this machine may not:
    it would be named in Origin, or have come by a name other than the machine's own.
    """

    def __init__(self, inside: ASGIApp, web: Web) -> None:
        self._inside = inside
        self._token = web.token.get_secret_value().encode("ascii") if web.token else None
        self._hosts = {web.host, *_OURSELVES}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        headers = {name.lower(): value for name, value in scope["headers"]}
        refusal = self._refusal(scope["path"], headers)
        if refusal is not None:
            await _answer(send, *refusal)
            return
        begun = False

        async def noted(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            body = await _body(receive)
            await self._inside(scope, _Replayed(body, receive), noted)
        except _TooMuch:
            told = 413, f"a request has at most {MOST_BODY_BYTES} bytes"
        except TimeoutError:
            told = 408, f"a request is to come within {BODY_SECONDS:g} s"
        except Exception as error:  # noqa: BLE001 - told without its message, which may quote a data set
            log.error("an error of the program in the HTTP interface (%s)", type(error).__name__)
            told = 500, "an error of the program; the log of the node names it"
        else:
            return
        if not begun:
            await _answer(send, *told)

    def _refusal(self, path: str, headers: dict[bytes, bytes]) -> tuple[int, str] | None:
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or int(length[:20]) > MOST_BODY_BYTES:
            return 413, f"a request has at most {MOST_BODY_BYTES} bytes"
        if path == _OPEN_TO_ALL:
            return None
        if self._token is not None:
            scheme, _, given = headers.get(b"authorization", b"").partition(b" ")
            if scheme.lower() != b"bearer" or not hmac.compare_digest(given.strip(), self._token):
                return 401, "the token is missing or wrong; send web.token as 'Authorization: Bearer <token>'"
            return None
        host = headers.get(b"host", b"").decode("latin-1")
        name = host.partition("]")[0] + "]" if host.startswith("[") else host.partition(":")[0]
        if name.lower() not in self._hosts or b"origin" in headers:
            return 403, "without web.token only programs of this machine may ask, by http://127.0.0.1"
        return None


class _TooMuch(Exception):
    """A body without its length, and longer than any request."""


async def _body(receive: Receive) -> bytes:
    """The body of one request, up to a size and for a time."""
    body, more = b"", True
    async with asyncio.timeout(BODY_SECONDS):
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = bool(message.get("more_body"))
            if len(body) > MOST_BODY_BYTES:
                raise _TooMuch
    return body


class _Replayed:
    """Hands over a body that has come; afterwards only that the client has gone can still be told."""

    def __init__(self, body: bytes, receive: Receive) -> None:
        self._body: bytes | None = body
        self._receive = receive

    async def __call__(self) -> Message:
        if self._body is None:
            return await self._receive()
        body, self._body = self._body, None
        return {"type": "http.request", "body": body, "more_body": False}


async def _answer(send: Send, status: int, words: str) -> None:
    body = json.dumps({"error": words}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    if status in (408, 413):
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
