"""The listening socket: pynetdicom's server, hardened against peers that are slow, silent or hostile.

What pynetdicom 3.0 leaves open and is closed here:

* a connection has no read timeout, so that a peer which stops in the middle of a PDU holds its thread and its
  slot for ever;
* a PDU may announce 4 GiB and is read before anyone looks at it, even before the association is accepted;
* connections that never ask for an association take the slots of those that do, and one that is
  closed at once keeps its thread until the ACSE timeout;
* an instance of a class it has never heard of breaks the association off, and what would have come after it
  is lost;
* nobody is told reliably, and after the last instance, that an association has ended.
"""

import contextlib
import logging
import select
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from pynetdicom import AE, evt
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.service_class import ServiceClass
from pynetdicom.sop_class import uid_to_service_class
from pynetdicom.transport import AssociationSocket, RequestHandler, ThreadedAssociationServer

from dicomnode.network.protocol import CLASS_NOT_SUPPORTED

_log: Final = logging.getLogger(__name__)
SPARE_CONNECTIONS: Final = 64
_NEGOTIATION_BYTES: Final = 1 << 20
_READ_BYTES: Final = 1 << 18
_IDLE_AFTER_SECONDS: Final = 1.0
_IDLE_WAIT_SECONDS: Final = 0.02
_ENDING_SECONDS: Final = 10.0


class BoundedSocket(AssociationSocket):
    """An association's socket that reads in large pieces, never more than a PDU may hold, never for ever."""

    longest_pdu_bytes: int = _NEGOTIATION_BYTES
    last_read_at: float = 0.0

    @classmethod
    def adopt(cls, plain: AssociationSocket, longest_pdu_bytes: int) -> "BoundedSocket":
        """Take over the state of an open AssociationSocket; making a new one would announce it twice."""
        bounded = cls.__new__(cls)
        bounded.__dict__.update(plain.__dict__)
        bounded.longest_pdu_bytes = max(longest_pdu_bytes, _NEGOTIATION_BYTES)
        return bounded

    @property
    def idle(self) -> bool:
        """Say whether nothing has come for a second."""
        return time.monotonic() - self.last_read_at > _IDLE_AFTER_SECONDS

    @property
    def ready(self) -> bool:
        """Say whether there is something to read; wait for it a little where nothing came for a second.

        pynetdicom asks a thousand times a second, of which ten idle associations took a quarter of a core.
        """
        if self.idle and self.socket is not None and self._is_connected:
            with contextlib.suppress(OSError, ValueError):  # told by the question below
                select.select([self.socket], [], [], _IDLE_WAIT_SECONDS)
        return bool(super().ready)

    def recv(self, nr_bytes: int) -> bytearray:
        """Read `nr_bytes`, fewer when the peer has closed.

        Raises OSError for a length no PDU may announce, and when the bytes do not come in time: the
        socket's timeout counts for all of them, a peer cannot keep its thread by a byte now and then.
        """
        if nr_bytes > self.longest_pdu_bytes:
            raise ConnectionAbortedError("the peer announced a PDU longer than agreed")
        if self.socket is None:
            return bytearray()
        self.last_read_at = began = time.monotonic()
        patience_seconds = self.socket.gettimeout()
        content = bytearray(nr_bytes)
        rest = memoryview(content)
        while rest:
            read = self.socket.recv_into(rest, min(len(rest), _READ_BYTES))
            if not read:
                return content[: nr_bytes - len(rest)]
            rest = rest[read:]
            if rest and patience_seconds and time.monotonic() - began > patience_seconds:
                raise TimeoutError("the peer takes too long over one PDU")
        return content


class _RestfulCheckpoint(threading.Event):
    """What an association's thread passes in every turn of its loop; while it is idle, the turns are rare."""

    def __init__(self, bounded: BoundedSocket) -> None:
        super().__init__()
        self._socket = bounded
        self.set()

    def wait(self, timeout: float | None = None) -> bool:
        if self._socket.idle:
            time.sleep(_IDLE_WAIT_SECONDS)
        return super().wait(timeout)


class _Connection(RequestHandler):
    """One connection, from accept to its very end."""

    server: "Listener"

    def handle(self) -> None:
        association = self._create_association()
        plain = association.dul.socket
        if plain is not None:
            bounded = BoundedSocket.adopt(plain, self.server.ae.maximum_pdu_size)
            association.dul.socket = bounded
            association._reactor_checkpoint = _RestfulCheckpoint(bounded)
        _refuse_unknown_classes(association)
        evt.trigger(association, evt.EVT_CONN_OPEN, {"address": self.client_address})
        association.start()
        association.join()
        self.server.on_end(association)


class Listener(ThreadedAssociationServer):
    """A DICOM listener in threads; `on_end` is called once for every connection, after all else."""

    request_queue_size = 128

    def __init__(
        self,
        ae: AE,
        address: tuple[str, int],
        handlers: Sequence[tuple[Any, Callable[[evt.Event], Any]]],
        on_end: Callable[[Association], None],
        max_associations: int,
    ) -> None:
        self.on_end = on_end
        self._max_connections = max_associations + SPARE_CONNECTIONS
        self._connections: set[threading.Thread] = set()
        super().__init__(
            ae,
            address,
            ae.ae_title,
            ae.supported_contexts,
            evt_handlers=[*handlers, (evt.EVT_CONN_CLOSE, _wake_if_never_asked)],
            request_handler=_Connection,
        )

    def start(self) -> None:
        """Serve in a thread of its own."""
        threading.Thread(target=self.serve_forever, args=(0.05,), name="dicom-listener", daemon=True).start()

    def stop_listening(self) -> None:
        """Take no new connection; those that are open go on."""
        socketserver.BaseServer.shutdown(self)
        self.server_close()

    def end_connections(self) -> None:
        """Abort what is open and wait until `on_end` was called for every connection.

        More than one round: a connection that was just accepted is not an association thread yet.
        """
        deadline = time.monotonic() + _ENDING_SECONDS
        while self._connections and time.monotonic() < deadline:
            for association in self.active_associations:
                if association.is_established:
                    association.abort()
                else:
                    _hang_up(association)
            time.sleep(0.01)

    def get_request(self) -> tuple[socket.socket, tuple[str, int]]:
        """Accept a connection. Nagle's algorithm would delay every answer to an instance by 40 ms."""
        connection, address = super().get_request()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        connection.settimeout(self.ae.network_timeout)
        return connection, address

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Refuse a connection when far more are open than may become associations."""
        if len(self._connections) < self._max_connections:
            return True
        _log.warning("connection refused: %d are open without an association", SPARE_CONNECTIONS)
        return False

    def process_request(self, request: Any, client_address: Any) -> None:
        """Give a connection a thread, and keep the thread in sight until it is done."""
        connection = threading.Thread(
            target=self._serve_connection,
            args=(request, client_address),
            name="dicom-connection",
            daemon=True,
        )
        self._connections.add(connection)
        connection.start()

    def _serve_connection(self, request: Any, client_address: Any) -> None:
        try:
            self.process_request_thread(request, client_address)
        finally:
            self._connections.discard(threading.current_thread())

    def server_close(self) -> None:
        """Close the listening socket; the connections end by themselves."""
        if self.socket is not None:
            self.socket.close()


def _hang_up(association: Association) -> None:
    """Close a connection that has not become an association; its threads notice by themselves."""
    plain = association.dul.socket
    if plain is not None and plain.socket is not None:
        with contextlib.suppress(OSError):
            plain.socket.shutdown(socket.SHUT_RDWR)


def _refuse_unknown_classes(association: Association) -> None:
    """Answer an instance of a class that pynetdicom has no service for with 0122, and go on."""
    serve = association._serve_request

    def serve_known(message: Any, context_id: int) -> None:
        asked = isinstance(message, C_STORE) and message.is_valid_request
        if not asked or uid_to_service_class(str(message.AffectedSOPClassUID)) is not ServiceClass:
            serve(message, context_id)
            return
        _log.warning("instance refused (%04X): SOP Class is of no kind known", CLASS_NOT_SUPPORTED)
        answer = C_STORE()
        answer.MessageIDBeingRespondedTo = message.MessageID
        answer.AffectedSOPInstanceUID = message.AffectedSOPInstanceUID
        answer.Status = CLASS_NOT_SUPPORTED
        association.dimse.send_msg(answer, context_id)

    association._serve_request = serve_known  # type: ignore[method-assign, assignment]


def _wake_if_never_asked(event: evt.Event) -> None:
    """A connection that closes before it asked for an association: do not wait for the request any longer."""
    if event.assoc.requestor.primitive is None:
        event.assoc.dul.to_user_queue.put(None)
