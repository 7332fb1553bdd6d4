"""The Storage SCP: who may send, and what each instance is answered.

An instance is answered 0000 only after its file and its folder are on the disk. Nothing is decoded here.
"""

import logging
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Literal

from pydicom.dataset import Dataset
from pynetdicom import AE, evt
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.pdu import P_DATA_TF

from dicomnode.errors import DicomnodeError, DiskFull, InstanceRefused, NetworkError, SpoolError
from dicomnode.network import protocol
from dicomnode.network.filing import Filing, InstanceStore, ReceivedInstance, Request
from dicomnode.network.listener import Listener
from dicomnode.settings import Settings

__all__ = ["AssociationOutcome", "ReceivedInstance", "Receiver"]

AssociationOutcome = Literal["released", "broken"]
_log: Final = logging.getLogger(__name__)


@dataclass
class _Open:
    """An accepted association: the series it brought, and the bytes of the instance now on its way."""

    calling_ae: str
    series_uids: set[str] = field(default_factory=set)
    instance_bytes: int = 0
    filed: int = 0
    refused: int = 0


class Receiver:
    """Listens for known callers and files what they send.

    `on_stored` is called for each instance that is safe on disk, before its sender is told, from one
    thread an association; it must be quick, and an exception in it is answered as a failure.
    `on_association_end` gets how an association ended ("released", or "broken" for abort, timeout and lost
    connections) and the series that no other open association carries any more, after the last `on_stored`.
    """

    def __init__(
        self,
        settings: Settings,
        store: InstanceStore,
        on_stored: Callable[[ReceivedInstance], None],
        on_association_end: Callable[[AssociationOutcome, frozenset[str]], None],
    ) -> None:
        self._settings = settings
        self._filing = Filing(store)
        self._on_stored = on_stored
        self._on_association_end = on_association_end
        self._open: dict[Association, _Open] = {}
        self._addresses: dict[str, set[str]] = {}
        self._guard = threading.Lock()
        self._listener: Listener | None = None

    # --- life -----------------------------------------------------------------------------

    def start(self) -> None:
        """Open the port. Raises NetworkError when it cannot be opened."""
        protocol.hush_pynetdicom()
        if not self._settings.callers:
            _log.warning("no callers are configured: every association will be rejected")
        node = self._settings.node
        handlers = [
            (evt.EVT_REQUESTED, self._on_requested),
            (evt.EVT_PDU_RECV, self._on_pdu),
            (evt.EVT_DIMSE_RECV, self._on_message),
            (evt.EVT_C_STORE, self._on_c_store),
        ]
        most = self._settings.network.max_associations
        try:
            self._listener = Listener(
                self._application_entity(), (node.host, node.port), handlers, self._on_end, most
            )
        except OSError as error:
            raise NetworkError(
                f"cannot listen on {node.host} port {node.port} ({error.strerror});"
                " is another node running? set node.host and node.port"
            ) from error
        self._listener.start()
        _log.info("listening as %s on port %d", self._settings.node.ae_title, self.port)

    def stop(self, grace_seconds: float = 0.0) -> None:
        """Close the port, let open associations finish for a while, then abort the rest.

        What was answered 0000 is safe either way. Every callback has been called when it returns.
        """
        if self._listener is None:
            return
        self._listener.stop_listening()
        deadline = time.monotonic() + grace_seconds
        while self.associations and time.monotonic() < deadline:
            time.sleep(0.02)
        self._listener.end_connections()
        self._listener = None

    @property
    def filing(self) -> Filing:
        """Where instances become files; what is fetched goes through the same, one at a time for each UID."""
        return self._filing

    @property
    def port(self) -> int:
        """The port that is open (the one taken, where 0 was asked for)."""
        if self._listener is None:
            return self._settings.node.port
        return int(self._listener.server_address[1])

    @property
    def associations(self) -> int:
        """How many associations are open."""
        with self._guard:
            return len(self._open)

    def __enter__(self) -> "Receiver":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _application_entity(self) -> AE:
        network = self._settings.network
        entity = AE(ae_title=self._settings.node.ae_title)
        entity.supported_contexts = protocol.accepted_contexts()
        entity.implementation_class_uid = protocol.IMPLEMENTATION_CLASS_UID
        entity.implementation_version_name = protocol.IMPLEMENTATION_VERSION_NAME
        entity.maximum_pdu_size = network.max_pdu_bytes
        entity.require_called_aet = True  # a second fence behind _admit
        entity.require_calling_aet = [caller.ae_title for caller in self._settings.callers]
        entity.maximum_associations = 10_000  # counted here instead: idle connections take no slot
        entity.acse_timeout = network.negotiation_seconds
        entity.dimse_timeout = network.message_seconds
        entity.network_timeout = network.idle_seconds
        return entity

    # --- association ----------------------------------------------------------------------

    def _on_requested(self, event: evt.Event) -> None:
        """Accept or reject an association; runs before pynetdicom's own negotiation."""
        association = event.assoc
        request = association.requestor.primitive
        if request is None:
            return
        calling = request.calling_ae_title.strip()
        rejection = self._admit(association, calling, request.called_ae_title.strip())
        if rejection is None:
            return
        address = association.requestor.address
        _log.warning("association of %r from %s rejected: %s", calling[:16], address, rejection[1])
        association.requestor.ae_title = calling
        association.acse.send_reject(*rejection[0].codes)
        association.is_rejected = True
        association.kill()

    def _admit(
        self, association: Association, calling: str, called: str
    ) -> tuple[protocol.Rejection, str] | None:
        """Take the association in, or return how and why to reject it."""
        if called != self._settings.node.ae_title:
            return protocol.CALLED_AE_NOT_RECOGNIZED, "it called another AE title than node.ae_title"
        if not self._knows(calling, _plain(association.requestor.address)):
            return protocol.CALLING_AE_NOT_RECOGNIZED, "its AE title and address are not among the callers"
        with self._guard:
            if len(self._open) >= self._settings.network.max_associations:
                return protocol.LOCAL_LIMIT_EXCEEDED, "network.max_associations are open"
            self._open[association] = _Open(calling)
        return None

    def _knows(self, calling: str, address: str) -> bool:
        return any(
            caller.ae_title == calling and (caller.host is None or address in self._look_up(caller.host))
            for caller in self._settings.callers
        )

    def _look_up(self, host: str) -> set[str]:
        """Return the addresses of a caller's host; while the name service is away, the last ones known."""
        try:
            found = {_plain(str(entry[4][0])) for entry in socket.getaddrinfo(host, None)}
        except (OSError, UnicodeError):
            _log.warning("the host '%s' of a caller cannot be looked up", host)
            return self._addresses.get(host, set())
        self._addresses[host] = found
        return found

    def _on_end(self, association: Association) -> None:
        """Called once the threads of an association are done, whatever ended it."""
        with self._guard:
            ended = self._open.pop(association, None)
            if ended is None:
                return
            still_coming = {uid for other in self._open.values() for uid in other.series_uids}
        outcome: AssociationOutcome = "released" if association.is_released else "broken"
        series_uids = frozenset(ended.series_uids - still_coming)
        _log.info(
            "association of %r %s: %d instances of %d series filed, %d refused",
            *(ended.calling_ae, outcome, ended.filed, len(ended.series_uids), ended.refused),
        )
        if series_uids:
            self._on_association_end(outcome, series_uids)

    # --- bytes ----------------------------------------------------------------------------

    def _on_pdu(self, event: evt.Event) -> None:
        """Count the bytes of the instance on its way; pynetdicom itself has no limit."""
        if not isinstance(event.pdu, P_DATA_TF):
            return
        state = self._open.get(event.assoc)
        if state is None:
            return
        state.instance_bytes += event.pdu.pdu_length
        if state.instance_bytes > self._settings.network.max_instance_bytes:
            _log.warning("association aborted: an instance is larger than network.max_instance_mib")
            event.assoc.abort()

    def _on_message(self, event: evt.Event) -> None:
        state = self._open.get(event.assoc)
        if state is not None:
            state.instance_bytes = 0

    # --- instance -------------------------------------------------------------------------

    def _on_c_store(self, event: evt.Event) -> Dataset | int:
        state = self._open.get(event.assoc)
        if state is None or not isinstance(event.request, C_STORE):
            return protocol.CLASS_NOT_SUPPORTED
        try:
            received = self._filing.file(_request(event, event.request, state.calling_ae))
        except DicomnodeError as error:
            state.refused += 1
            status, comment = _told(error)
            _log.warning("instance of %r refused (%04X): %s", state.calling_ae, status, error)
            return _failure(status, comment)
        if received.aside:
            told = "the first stays, a copy is put into quarantine"
            _log.warning("instance of %r %s: %s", state.calling_ae, received.aside, told)
        state.filed += 1
        with self._guard:
            state.series_uids.add(received.series_instance_uid)
        self._on_stored(received)
        return protocol.SUCCESS


def _told(error: DicomnodeError) -> tuple[int, str]:
    """Return the status and the comment a sender is answered with; trouble of ours is a matter of time."""
    if isinstance(error, InstanceRefused):
        return error.status, str(error)
    if isinstance(error, DiskFull):
        return protocol.OUT_OF_RESOURCES, "disk below its reserve, send again later"
    if isinstance(error, SpoolError):
        return protocol.OUT_OF_RESOURCES, "cannot write to the disk, send again later"
    return protocol.NOT_WHOLE, "the copy already held cannot be read"


def _request(event: evt.Event, request: C_STORE, calling_ae: str) -> Request:
    return Request(
        affected_sop_class_uid=str(request.AffectedSOPClassUID),
        affected_sop_instance_uid=str(request.AffectedSOPInstanceUID),
        context_sop_class_uid=str(event.context.abstract_syntax),
        transfer_syntax_uid=str(event.context.transfer_syntax),
        calling_ae=calling_ae,
        data_set=event.encoded_dataset(include_meta=False),
    )


def _failure(status: int, comment: str) -> Dataset:
    """Status with an Error Comment (0000,0902), LO: 64 characters at most, nothing out of the data set."""
    answer = Dataset()
    answer.Status = status
    answer.ErrorComment = comment[:64]
    return answer


def _plain(address: str) -> str:
    """IPv4 in its IPv6 clothing is still the same address."""
    return address.removeprefix("::ffff:")
