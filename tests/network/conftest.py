"""Peers for the network tests: real sockets on loopback, pynetdicom and DCMTK on the other end."""

import io
import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from socketserver import BaseServer

import pytest
from pydicom import Dataset, dcmread
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom import AE, evt
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.sop_class import CTImageStorage, Verification

from dicomnode.network import part10
from dicomnode.network.receive import AssociationOutcome, ReceivedInstance, Receiver
from dicomnode.settings import Destination, Settings
from dicomnode.spool import Spool
from tests.makers import make_series

CALLER = "SCANNER"
NODE = "NODE"


@dataclass
class Node:
    """A receiver on a free port of loopback, and everything it told."""

    spool: Spool
    receiver: Receiver
    received: list[ReceivedInstance] = field(default_factory=list)
    ended: list[tuple[AssociationOutcome, frozenset[str]]] = field(default_factory=list)

    @property
    def port(self) -> int:
        return self.receiver.port

    def destination(self, **values: object) -> Destination:
        return Destination.model_validate(
            {"name": "node", "ae_title": NODE, "host": "127.0.0.1", "port": self.port} | values
        )

    def files(self) -> list[Path]:
        return [path for path in self.spool.root.rglob("*") if path.is_file()]


@pytest.fixture
def start_node(tmp_path: Path) -> Iterator[Callable[..., Node]]:
    """Return a function that starts a receiver with changed settings; all are stopped at the end."""
    nodes: list[Node] = []

    def start(reserve_bytes: int = 0, **sections: object) -> Node:
        values = {
            "node": {"ae_title": NODE, "host": "127.0.0.1", "port": 0},
            "callers": [{"ae_title": CALLER}],
        }
        settings = Settings.model_validate(values | sections)
        spool = Spool(tmp_path / f"spool-{len(nodes)}", reserve_bytes)
        received: list[ReceivedInstance] = []
        ended: list[tuple[AssociationOutcome, frozenset[str]]] = []
        receiver = Receiver(settings, spool, received.append, lambda how, uids: ended.append((how, uids)))
        receiver.start()
        nodes.append(Node(spool, receiver, received, ended))
        return nodes[-1]

    yield start
    for node in nodes:
        node.receiver.stop()


@pytest.fixture
def node(start_node: Callable[..., Node]) -> Node:
    """A receiver with the usual settings."""
    return start_node()


@dataclass
class Peer:
    """A pynetdicom Storage SCP that answers what it is told to."""

    port: int
    stored: dict[str, bytes]
    peak_associations: list[int]

    def destination(self, **values: object) -> Destination:
        return Destination.model_validate(
            {"name": "pacs", "ae_title": "PEER", "host": "127.0.0.1", "port": self.port} | values
        )


@pytest.fixture
def start_peer() -> Iterator[Callable[..., Peer]]:
    """Return a function that starts a peer; `answer(number, event)` gives the status of the n-th instance."""
    servers = []

    def start(
        answer: Callable[[int, evt.Event], int] = lambda number, event: 0x0000,
        contexts: tuple[tuple[str, list[str]], ...] = ((CTImageStorage, ["1.2.840.10008.1.2.1"]),),
        max_associations: int = 10,
        max_pdu_bytes: int = 16382,
        callers: tuple[str, ...] = (),
    ) -> Peer:
        entity = AE(ae_title="PEER")
        entity.require_called_aet = True
        entity.require_calling_aet = list(callers)
        entity.maximum_associations = max_associations
        entity.maximum_pdu_size = max_pdu_bytes
        entity.add_supported_context(Verification)
        for sop_class, syntaxes in contexts:
            entity.add_supported_context(sop_class, syntaxes)
        guard = threading.Lock()
        stored: dict[str, bytes] = {}
        numbers = iter(range(1_000_000))
        peak: list[int] = []

        def on_store(event: evt.Event) -> int:
            with guard:
                number = next(numbers)
                peak.append(len(entity.active_associations))
            status = answer(number, event)
            if status == 0x0000 or 0xB000 <= status <= 0xBFFF:
                uid = str(event.request.AffectedSOPInstanceUID)
                stored[uid] = event.encoded_dataset(include_meta=False)
            return status

        server = entity.start_server(
            ("127.0.0.1", 0),
            block=False,
            evt_handlers=[(evt.EVT_C_STORE, on_store), (evt.EVT_CONN_OPEN, no_delay)],
        )
        servers.append(server)
        return Peer(server.server_address[1], stored, peak)

    yield start
    for server in servers:
        for association in server.active_associations:
            association.abort()
        BaseServer.shutdown(server)
        server.server_close()


def no_delay(event: evt.Event) -> None:
    event.assoc.dul.socket.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def data_set_of(path: Path) -> bytes:
    """The encoded data set of a file, found by pydicom's reader, not by ours."""
    with path.open("rb") as file:
        dcmread(file, stop_before_pixels=True, specific_tags=[])
        file.seek(0)
        content = file.read()
    meta_length = int.from_bytes(content[140:144], "little")
    return content[144 + meta_length :]


@pytest.fixture
def run_dcmtk(program: Callable[[str], str]) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Return a function that runs a DCMTK program; without TCP_NODELAY it waits 40 ms for every instance."""

    def run(name: str, *arguments: object) -> subprocess.CompletedProcess[str]:
        command = [program(name), *map(str, arguments)]
        return subprocess.run(
            command, capture_output=True, text=True, timeout=60, env=os.environ | {"TCP_NODELAY": "1"}
        )

    return run


def wait_until(condition: Callable[[], object], seconds: float = 5.0) -> bool:
    """Wait for something another thread does."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def series(tmp_path):
    return make_series(tmp_path / "series", slices=6)


class Sender:
    """A pynetdicom SCU that can say what no proper one would."""

    def __init__(self, node: Node, syntax: str = ExplicitVRLittleEndian, calling: str = CALLER) -> None:
        entity = AE(ae_title=calling)
        entity.add_requested_context(CTImageStorage, syntax)
        entity.add_requested_context(Verification)
        self.association = entity.associate(
            "127.0.0.1", node.port, ae_title=NODE, evt_handlers=[(evt.EVT_CONN_OPEN, no_delay)]
        )

    def send(self, path: Path, **changes: object) -> Dataset:
        """Send the data set of a file as it lies there, with parts of the request exchanged."""
        meta = part10.read_meta(path)
        values = {"sop_class": meta.sop_class_uid, "uid": meta.sop_instance_uid, "data": data_set_of(path)}
        return self.send_raw(**(values | changes))  # type: ignore[arg-type]

    def send_raw(self, sop_class: str, uid: str, data: bytes) -> Dataset:
        request = C_STORE()
        request.MessageID, request.Priority = 1, 2
        request.AffectedSOPClassUID, request.AffectedSOPInstanceUID = sop_class, uid
        request.DataSet = io.BytesIO(data)
        association = self.association
        association._reactor_checkpoint.clear()
        while not association._is_paused:
            time.sleep(0.0001)
        context = next(cx for cx in association.accepted_contexts if cx.abstract_syntax == CTImageStorage)
        association.dimse.send_msg(request, context.context_id)
        _, answer = association.dimse.get_msg(block=True)
        association._reactor_checkpoint.set()
        told = Dataset()
        if answer is not None:
            told.Status, told.ErrorComment = answer.Status, answer.ErrorComment
        return told


@pytest.fixture
def sender(node):
    sender = Sender(node)
    yield sender
    sender.association.release()


def filed(node: Node) -> list[Path]:
    return sorted(node.spool.incoming.rglob("*.dcm"))
