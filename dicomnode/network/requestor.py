"""One association we request: the upper layer of PS3.8 and the two DIMSE messages a Storage SCU needs.

Blocking, without a thread: write a message, read its answer. Negotiation is encoded and decoded by
pynetdicom's PDU classes. pynetdicom's own requestor passes every PDU through queues of two polling
threads, which made the sender the bottleneck; here an instance is read, framed and written as it is.
"""

import contextlib
import socket
import struct
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pynetdicom.pdu import (
    A_ABORT_RQ,
    A_ASSOCIATE_AC,
    A_ASSOCIATE_RQ,
    A_RELEASE_RP,
    A_RELEASE_RQ,
)
from pynetdicom.pdu_primitives import (
    A_ASSOCIATE,
    ImplementationClassUIDNotification,
    ImplementationVersionNameNotification,
    MaximumLengthNotification,
)
from pynetdicom.presentation import build_context
from pynetdicom.transport import AddressInformation

from dicomnode.errors import NetworkError, PeerBusy, PeerRefused, PeerUnreachable
from dicomnode.network import protocol
from dicomnode.network.implicit import as_implicit
from dicomnode.network.part10 import FileMeta
from dicomnode.settings import Destination, Network

_ACCEPT: Final = 0x02
_REJECT: Final = 0x03
_DATA: Final = 0x04
_RELEASE_REQUEST: Final = 0x05
_RELEASE_REPLY: Final = 0x06
_ABORT: Final = 0x07
_SHORTEST_ACCEPT: Final = 68
_TRANSIENT: Final = 2
_REJECTIONS: Final = {
    (1, 1): "no reason given",
    (1, 2): "application context not supported",
    (1, 3): "calling AE title not recognized",
    (1, 7): "called AE title not recognized",
    (2, 1): "no reason given",
    (2, 2): "protocol version not supported",
    (3, 1): "temporary congestion",
    (3, 2): "local limit exceeded",
}
OUR_LONGEST_PDU: Final = 131072
_LONGEST_NEGOTIATION: Final = 1 << 20
LONGEST_FRAGMENT: Final = 1 << 18
_BATCH_BYTES: Final = 1 << 20
_COMMAND: Final = 0x01
_LAST: Final = 0x02
_C_STORE: Final = 0x0001
_C_ECHO: Final = 0x0030
_NO_DATA_SET: Final = 0x0101
_DATA_SET: Final = 0x0001

Syntax = tuple[str, str]
"""SOP Class UID and Transfer Syntax UID of one presentation context."""


@dataclass(frozen=True)
class Patience:
    """How long to wait for a peer."""

    connect_seconds: float = 10.0
    negotiation_seconds: float = 30.0
    answer_seconds: float = 120.0

    @classmethod
    def configured(cls, network: Network) -> "Patience":
        """Return the patience the settings ask for."""
        return cls(cls.connect_seconds, network.negotiation_seconds, network.message_seconds)


USUAL_PATIENCE: Final = Patience()


class Requestor:
    """An open association with a destination; a context manager that releases it, or aborts on an error.

    Raises PeerUnreachable when there is none for the moment, PeerRefused when there never will be one, and
    PeerBusy when an open one breaks off.
    """

    def __init__(
        self,
        destination: Destination,
        calling_ae: str,
        syntaxes: Sequence[Syntax],
        patience: Patience = USUAL_PATIENCE,
    ) -> None:
        self._name = destination.name
        self._patience = patience
        self._contexts: dict[Syntax, int] = {}
        self._fragment_bytes = 0
        self._message_id = 0
        self._socket = self._connect(destination)
        try:
            self._negotiate(destination, calling_ae, syntaxes)
        except BaseException:
            self._socket.close()
            raise

    def __enter__(self) -> "Requestor":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.release()
        else:
            self.abort()

    def accepted(self, meta: FileMeta) -> Syntax | None:
        """Class and transfer syntax in which the peer takes a file, None where it does not.

        As it lies on disk if the peer accepts that; else what is Explicit VR Little Endian in Implicit VR,
        which every peer must take that takes the class at all (PS3.5 section 10.1).
        """
        own = (meta.sop_class_uid, meta.transfer_syntax_uid)
        default = (meta.sop_class_uid, protocol.IMPLICIT_VR_LITTLE_ENDIAN)
        if own in self._contexts:
            return own
        explicit = meta.transfer_syntax_uid == protocol.EXPLICIT_VR_LITTLE_ENDIAN
        return default if explicit and default in self._contexts else None

    # --- messages -------------------------------------------------------------------------

    def store(self, meta: FileMeta, path: Path) -> int:
        """Send one instance that is `accepted` and return the status of the answer (PS3.7 section 9.3.1)."""
        syntax = self.accepted(meta)
        if syntax is None:
            return protocol.CLASS_NOT_SUPPORTED
        context = self._contexts[syntax]
        try:
            content = memoryview(path.read_bytes())[meta.data_set_at :]
        except OSError as error:
            raise NetworkError(f"{path.name}: cannot be read ({error.strerror})") from error
        if syntax[1] != meta.transfer_syntax_uid:
            content = memoryview(as_implicit(content, path.name))
        command = self._command(_C_STORE, meta.sop_class_uid, _DATA_SET, meta.sop_instance_uid)
        self._write(_pdus(context, _COMMAND, memoryview(command), self._fragment_bytes))
        self._write(_pdus(context, 0, content, self._fragment_bytes))
        return self._answer()

    def echo(self) -> int:
        """Send C-ECHO and return the status of the answer (PS3.7 section 9.3.5)."""
        context = next(number for (uid, _), number in self._contexts.items() if uid == protocol.VERIFICATION)
        command = self._command(_C_ECHO, protocol.VERIFICATION, _NO_DATA_SET)
        self._write(_pdus(context, _COMMAND, memoryview(command), self._fragment_bytes))
        return self._answer()

    def release(self) -> None:
        """Release in good order. A peer that does not answer the release has nothing of ours any more."""
        with contextlib.suppress(OSError, PeerBusy):
            self._socket.settimeout(5.0)
            self._socket.sendall(A_RELEASE_RQ().encode())
            while (kind := self._read_pdu()[0]) != _RELEASE_REPLY:
                if kind == _RELEASE_REQUEST:  # both at once, PS3.8 section 7.2.2
                    self._socket.sendall(A_RELEASE_RP().encode())
        self._socket.close()

    def abort(self) -> None:
        """Break off, and tell the peer."""
        abort = A_ABORT_RQ()
        abort.source = 0x00
        abort.reason_diagnostic = 0x00
        with contextlib.suppress(OSError):
            self._socket.settimeout(1.0)
            self._socket.sendall(abort.encode())
        self._socket.close()

    def _command(self, field: int, sop_class_uid: str, data_set: int, sop_instance_uid: str = "") -> bytes:
        """Encode a request's command set, always Implicit VR Little Endian (PS3.7 section 6.3.1)."""
        self._message_id = self._message_id % 65535 + 1
        elements = _ui(0x0002, sop_class_uid) + _us(0x0100, field) + _us(0x0110, self._message_id)
        if field == _C_STORE:
            elements += _us(0x0700, 0)
        elements += _us(0x0800, data_set)
        if sop_instance_uid:
            elements += _ui(0x1000, sop_instance_uid)
        return struct.pack("<HHII", 0, 0, 4, len(elements)) + elements

    def _answer(self) -> int:
        """Read the response to the message just sent and return its status."""
        command = b""
        while True:
            kind, body = self._read_pdu()
            if kind != _DATA:
                raise PeerBusy(f"{self._name}: the peer ended the association instead of answering")
            for control, fragment in _fragments(body):
                command += fragment if control & _COMMAND else b""
                if control & _COMMAND and control & _LAST:
                    return self._status(command)

    def _status(self, command: bytes) -> int:
        values = dict(_command_values(command))
        try:
            (answered,) = struct.unpack("<H", values[0x0120])
            (status,) = struct.unpack("<H", values[0x0900])
        except (KeyError, struct.error) as error:
            raise PeerBusy(f"{self._name}: the peer's answer has no status") from error
        if answered != self._message_id:
            raise PeerBusy(f"{self._name}: the peer answered another message")
        return int(status)

    # --- upper layer ----------------------------------------------------------------------

    def _connect(self, destination: Destination) -> socket.socket:
        try:
            connection = socket.create_connection(
                (destination.host, destination.port), timeout=self._patience.connect_seconds
            )
        except OSError as error:
            raise PeerUnreachable(
                f"{self._name}: no connection to {destination.host}:{destination.port} ({error})"
            ) from error
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        return connection

    def _negotiate(self, destination: Destination, calling_ae: str, syntaxes: Sequence[Syntax]) -> None:
        self._socket.settimeout(self._patience.negotiation_seconds)
        try:
            self._socket.sendall(_association_request(destination, calling_ae, syntaxes))
            kind, body = self._read_pdu(_LONGEST_NEGOTIATION)
        except (OSError, PeerBusy) as error:
            raise PeerUnreachable(f"{self._name}: no answer to the association request") from error
        if kind == _REJECT:
            raise self._rejected(body, destination, calling_ae)
        if kind != _ACCEPT:
            raise PeerUnreachable(f"{self._name}: the peer aborted the association request")
        try:
            if len(body) < _SHORTEST_ACCEPT:
                raise ValueError("too short")
            accepted = A_ASSOCIATE_AC()
            accepted.decode(struct.pack(">BBL", kind, 0, len(body)) + body)
            answer = accepted.to_primitive()
        except (ValueError, LookupError, AttributeError, TypeError, struct.error) as error:
            raise PeerUnreachable(
                f"{self._name}: the answer to the association request is garbled"
            ) from error
        self._take(answer, syntaxes)
        self._socket.settimeout(self._patience.answer_seconds)

    def _take(self, accepted: A_ASSOCIATE, syntaxes: Sequence[Syntax]) -> None:
        """Note which contexts were accepted and how long the peer's PDUs may be."""
        proposed = {2 * number + 1: syntax for number, syntax in enumerate(syntaxes)}
        for context in accepted.presentation_context_definition_results_list:
            syntax = proposed.get(context.context_id or 0)
            if context.result == 0 and syntax and context.transfer_syntax[:1] == [syntax[1]]:
                self._contexts[syntax] = context.context_id or 0
        longest = accepted.maximum_length_received or LONGEST_FRAGMENT
        self._fragment_bytes = min(longest, LONGEST_FRAGMENT) - 6
        if self._fragment_bytes < 1:
            raise PeerRefused(f"{self._name}: the peer's Maximum Length of {longest} bytes is unusable")
        if not self._contexts:
            self.abort()
            raise PeerRefused(
                f"{self._name}: the peer accepts none of the SOP classes and transfer syntaxes proposed"
            )

    def _rejected(
        self, body: bytes, destination: Destination, calling_ae: str
    ) -> PeerUnreachable | PeerRefused:
        """PS3.8 section 9.3.4."""
        result, source, reason = body[1:4] if len(body) == 4 else (1, 0, 0)
        told = _REJECTIONS.get((source, reason), f"source {source}, reason {reason}")
        why = f"{self._name}: association rejected, {told}"
        if result == _TRANSIENT:
            return PeerUnreachable(why)
        return PeerRefused(
            f"{why}; the peer must know us as '{calling_ae}', and be called '{destination.ae_title}'"
        )

    def _write(self, pdus: Iterator[bytes | memoryview]) -> None:
        """Write PDUs in batches: one system call for many fragments, bounded memory for long instances."""
        batch: list[bytes | memoryview] = []
        size_bytes = 0
        try:
            for part in pdus:
                batch.append(part)
                size_bytes += len(part)
                if size_bytes >= _BATCH_BYTES:
                    self._socket.sendall(b"".join(batch))
                    batch, size_bytes = [], 0
            self._socket.sendall(b"".join(batch))
        except OSError as error:
            raise PeerBusy(f"{self._name}: the connection broke off while sending ({error})") from error

    def _read_pdu(self, longest_bytes: int = OUR_LONGEST_PDU) -> tuple[int, bytes]:
        """Read one PDU and return its type and body. Raises PeerBusy when the connection ends."""
        try:
            kind, length = struct.unpack(">BxL", self._read(6))
            if length > longest_bytes:
                raise PeerBusy(f"{self._name}: the peer sent a PDU longer than agreed")
            body = self._read(length)
        except OSError as error:
            raise PeerBusy(f"{self._name}: no answer ({error})") from error
        if kind == _ABORT:
            raise PeerBusy(f"{self._name}: the peer aborted the association")
        return kind, body

    def _read(self, size_bytes: int) -> bytes:
        content = bytearray()
        while len(content) < size_bytes:
            piece = self._socket.recv(size_bytes - len(content))
            if not piece:
                raise PeerBusy(f"{self._name}: the peer closed the connection")
            content += piece
        return bytes(content)


def timed_echo(destination: Destination, calling_ae: str, patience: Patience) -> tuple[int, float]:
    """Open an association, send C-ECHO, release; return the status and the seconds it took."""
    started = time.perf_counter()
    syntaxes = [(protocol.VERIFICATION, protocol.IMPLICIT_VR_LITTLE_ENDIAN)]
    with Requestor(destination, calling_ae, syntaxes, patience) as association:
        status = association.echo()
    return status, time.perf_counter() - started


# --- encoding -------------------------------------------------------------------------------------


def _association_request(destination: Destination, calling_ae: str, syntaxes: Sequence[Syntax]) -> bytes:
    """Encode an A-ASSOCIATE-RQ with one transfer syntax a context, so that the peer's choice is known."""
    request = A_ASSOCIATE()
    request.application_context_name = "1.2.840.10008.3.1.1.1"
    request.calling_ae_title = calling_ae
    request.called_ae_title = destination.ae_title
    request.calling_presentation_address = AddressInformation("0.0.0.0", 0)
    request.called_presentation_address = AddressInformation("0.0.0.0", destination.port)
    contexts = [build_context(sop_class, syntax) for sop_class, syntax in syntaxes]
    for number, context in enumerate(contexts):
        context.context_id = 2 * number + 1
    request.presentation_context_definition_list = contexts
    longest = MaximumLengthNotification()
    longest.maximum_length_received = OUR_LONGEST_PDU
    implementation = ImplementationClassUIDNotification()
    implementation.implementation_class_uid = protocol.IMPLEMENTATION_CLASS_UID
    version = ImplementationVersionNameNotification()
    version.implementation_version_name = protocol.IMPLEMENTATION_VERSION_NAME
    request.user_information = [longest, implementation, version]
    pdu = A_ASSOCIATE_RQ()
    pdu.from_primitive(request)
    return pdu.encode()


def _pdus(
    context: int, control: int, content: memoryview, fragment_bytes: int
) -> Iterator[bytes | memoryview]:
    """Cut a command or data set into P-DATA-TF PDUs of one fragment each (PS3.8 annex E)."""
    for start in range(0, len(content), fragment_bytes):
        fragment = content[start : start + fragment_bytes]
        last = _LAST if start + fragment_bytes >= len(content) else 0
        yield struct.pack(">BxLLBB", _DATA, len(fragment) + 6, len(fragment) + 2, context, control | last)
        yield fragment


def _fragments(body: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the control header and content of each fragment of a P-DATA-TF PDU."""
    position = 0
    while position + 6 <= len(body):
        (length,) = struct.unpack_from(">L", body, position)
        yield body[position + 5], body[position + 6 : position + 4 + length]
        position += 4 + max(length, 2)


def _command_values(command: bytes) -> Iterator[tuple[int, bytes]]:
    position = 0
    while position + 8 <= len(command):
        number, length = struct.unpack_from("<2xHI", command, position)
        yield number, command[position + 8 : position + 8 + length]
        position += 8 + length


def _us(number: int, value: int) -> bytes:
    return struct.pack("<HHIH", 0, number, 2, value)


def _ui(number: int, uid: str) -> bytes:
    value = uid.encode("ascii")
    value += b"\x00" * (len(value) % 2)
    return struct.pack("<HHI", 0, number, len(value)) + value
