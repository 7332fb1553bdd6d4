"""The HTTP port: uvicorn in a thread of its own, beside the node and never in its way."""

import logging
import socket
import threading
from typing import Final

import uvicorn

from dicomnode.errors import NetworkError
from dicomnode.settings import Web
from dicomnode.web.interface import interface
from dicomnode.web.standing import House

MOST_CONNECTIONS: Final = 64
_IDLE_SECONDS: Final = 15
_GRACE_SECONDS: Final = 3.0

log: Final = logging.getLogger(__name__)


class WebServer:
    """Answers over HTTP for one node."""

    def __init__(self, web: Web, house: House) -> None:
        self._web = web
        self._socket: socket.socket | None = None
        self._server = uvicorn.Server(
            uvicorn.Config(
                interface(house, web),
                log_config=None,
                log_level="critical",  # its lines hold addresses, and those hold UIDs
                access_log=False,
                lifespan="off",
                ws="none",
                loop="asyncio",
                http="h11",
                proxy_headers=False,
                server_header=False,
                limit_concurrency=MOST_CONNECTIONS,
                timeout_keep_alive=_IDLE_SECONDS,
                timeout_graceful_shutdown=1,
            )
        )
        self._thread = threading.Thread(target=self._serve, name="web", daemon=True)

    def start(self) -> None:
        """Open the port. Raises NetworkError when it cannot be opened."""
        host, port = self._web.host, self._web.port or 0
        try:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            self._socket = socket.create_server((host, port), family=family, backlog=MOST_CONNECTIONS)
        except OSError as error:
            raise NetworkError(
                f"cannot listen for HTTP on {host} port {port} ({error.strerror});"
                " does another program use it? set web.host and web.port"
            ) from error
        self._thread.start()
        log.info("answers HTTP on port %d", self.port)

    def stop(self) -> bool:
        """Close the port and let open requests end for a moment; whether the thread has come to rest."""
        self._server.should_exit = True
        if self._thread.is_alive():
            self._thread.join(_GRACE_SECONDS)
        if self._socket is not None:
            self._socket.close()
        return not self._thread.is_alive()

    @property
    def port(self) -> int:
        """The port that is open (the one taken, where 0 was asked for)."""
        return int(self._socket.getsockname()[1]) if self._socket is not None else 0

    def _serve(self) -> None:
        assert self._socket is not None
        try:
            self._server.run(sockets=[self._socket])
        except Exception as error:  # noqa: BLE001 - the node goes on without it
            log.error("the HTTP interface has ended by an error (%s); the node goes on", type(error).__name__)
