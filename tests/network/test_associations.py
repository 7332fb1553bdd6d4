"""Associations with the receiver: who gets one, in which syntaxes, and what becomes of a broken one."""

import dataclasses
import socket
import struct
import subprocess
import sys
import threading
import time

import pytest
from pydicom import Dataset, dcmread
from pydicom.uid import (
    JPEG2000,
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    RLELossless,
)
from pynetdicom import AE
from pynetdicom.sop_class import Verification

from dicomnode.errors import DeliveryInterrupted, NetworkError
from dicomnode.network import part10
from dicomnode.network.filing import read_file_header
from dicomnode.network.requestor import Requestor
from dicomnode.network.send import send_files
from dicomnode.settings import Destination
from dicomnode.spool import Spool
from tests.makers import make_series
from tests.network.conftest import CALLER, NODE, Node, Sender, data_set_of, filed, wait_until

# --- associations -------------------------------------------------------------------------------


def rejection(node: Node, calling: str = CALLER, called: str = NODE) -> tuple[int, int, int] | None:
    entity = AE(ae_title=calling)
    entity.add_requested_context(Verification)
    association = entity.associate("127.0.0.1", node.port, ae_title=called)
    if association.is_established:
        association.release()
        return None
    answer = association.acceptor.primitive
    assert association.is_rejected
    return answer.result, answer.result_source, answer.diagnostic


def test_an_unknown_caller_is_rejected(node):
    assert rejection(node, calling="STRANGER") == (1, 1, 3)
    assert rejection(node) is None


def test_another_called_ae_title_is_rejected(node):
    assert rejection(node, called="OTHER") == (1, 1, 7)


def test_the_case_of_an_ae_title_counts(node):
    assert rejection(node, calling=CALLER.lower()) == (1, 1, 3)


def test_without_callers_nobody_may_send(start_node):
    assert rejection(start_node(callers=[])) == (1, 1, 3)


def test_a_known_caller_from_another_host_is_rejected(start_node):
    callers = [{"ae_title": CALLER, "host": "192.0.2.7"}, {"ae_title": "HERE", "host": "localhost"}]
    node = start_node(callers=callers)
    assert rejection(node) == (1, 1, 3)
    assert rejection(node, calling="HERE") is None


def test_one_association_too_many_is_rejected_for_the_moment(start_node):
    node = start_node(network={"max_associations": 2})
    held = [Sender(node), Sender(node)]
    assert rejection(node) == (2, 3, 2)
    held[0].association.release()
    assert wait_until(lambda: node.receiver.associations == 1)
    assert rejection(node) is None
    held[1].association.abort()


def test_a_caller_whose_host_cannot_be_looked_up_is_rejected(start_node):
    assert rejection(start_node(callers=[{"ae_title": CALLER, "host": "no-such-host.invalid"}])) == (1, 1, 3)


def test_a_port_that_is_taken_is_told(node, start_node):
    values = {"ae_title": NODE, "host": "127.0.0.1", "port": node.port}
    with pytest.raises(NetworkError, match=r"port \d+ .*node\.port"):
        start_node(node=values)


def test_silent_connections_take_no_slot(start_node):
    node = start_node(network={"max_associations": 2})
    silent = [socket.create_connection(("127.0.0.1", node.port)) for _ in range(20)]
    time.sleep(0.1)
    assert rejection(node) is None
    for connection in silent:
        connection.close()


@pytest.mark.parametrize("syntax", [DeflatedExplicitVRLittleEndian, JPEG2000, "1.2.840.10008.1.2.4.50"])
def test_deflated_and_lossy_are_refused_in_negotiation(node, syntax):
    entity = AE(ae_title=CALLER)
    entity.add_requested_context(CTImageStorage, syntax)
    entity.add_requested_context(Verification)
    association = entity.associate("127.0.0.1", node.port, ae_title=NODE)
    assert [cx.abstract_syntax for cx in association.rejected_contexts] == [CTImageStorage]
    association.release()


@pytest.mark.parametrize(
    "syntax",
    [ImplicitVRLittleEndian, RLELossless, JPEGLosslessSV1, JPEG2000Lossless, ExplicitVRBigEndian],
)
def test_lossless_implicit_and_big_endian_are_accepted(node, syntax):
    sender = Sender(node, syntax)
    [context] = [cx for cx in sender.association.accepted_contexts if cx.abstract_syntax == CTImageStorage]
    assert context.transfer_syntax == [syntax]
    sender.association.release()


def test_explicit_little_endian_is_preferred(node):
    entity = AE(ae_title=CALLER)
    entity.add_requested_context(
        CTImageStorage, [ImplicitVRLittleEndian, JPEGLosslessSV1, ExplicitVRLittleEndian]
    )
    association = entity.associate("127.0.0.1", node.port, ae_title=NODE)
    assert association.accepted_contexts[0].transfer_syntax == [ExplicitVRLittleEndian]
    association.release()


def test_a_compressed_instance_is_filed_undecoded(node, tmp_path):
    path = make_series(tmp_path / "plain", slices=1)[0]
    data = dcmread(path)
    data.compress(RLELossless)
    data.save_as(path)
    sender = Sender(node, RLELossless)
    assert sender.send(path).Status == 0x0000
    assert node.received[0].transfer_syntax_uid == RLELossless
    assert (dcmread(filed(node)[0]).pixel_array == data.pixel_array).all()


def test_the_pdu_length_offered(node):
    sender = Sender(node)
    assert sender.association.acceptor.maximum_length == 131072
    sender.association.release()


# --- broken connections -------------------------------------------------------------------------


def test_a_connection_lost_in_the_middle_leaves_the_instances_before_it(node, series):
    meta = part10.read_meta(series[0])
    association = Requestor(node.destination(), CALLER, [(meta.sop_class_uid, meta.transfer_syntax_uid)])
    for path in series[:3]:
        assert association.store(part10.read_meta(path), path) == 0x0000
    uid = part10.read_meta(series[3]).sop_instance_uid
    command = association._command(0x0001, meta.sop_class_uid, 1, uid)
    header = struct.pack(">BxLLBB", 4, len(command) + 6, len(command) + 2, 1, 3)
    half = struct.pack(">BxLLBB", 4, 4006, 4002, 1, 0) + data_set_of(series[3])[:4000]
    association._socket.sendall(header + command + half)
    association.abort()
    assert wait_until(lambda: node.ended)
    assert node.ended == [("broken", frozenset({node.received[0].series_instance_uid}))]
    assert len(filed(node)) == 3
    assert not list(node.spool.root.rglob("*.tmp"))


def test_a_peer_that_vanishes_without_a_word_ends_as_broken(node, series):
    sender = Sender(node)
    assert sender.send(series[0]).Status == 0x0000
    sender.association.dul.socket.socket.shutdown(socket.SHUT_RDWR)
    assert wait_until(lambda: node.ended)
    assert node.ended[0][0] == "broken"
    assert node.receiver.associations == 0


def test_a_peer_that_stops_in_the_middle_of_a_pdu_is_let_go(start_node, series):
    node = start_node(network={"idle_seconds": 0.5})
    meta = part10.read_meta(series[0])
    association = Requestor(node.destination(), CALLER, [(meta.sop_class_uid, meta.transfer_syntax_uid)])
    assert association.store(meta, series[0]) == 0x0000
    association._socket.sendall(struct.pack(">BxL", 4, 100_000) + bytes(100))
    assert wait_until(lambda: node.ended, seconds=5)
    assert node.ended[0][0] == "broken"
    association.abort()


def test_a_peer_that_drips_bytes_is_let_go(start_node):
    node = start_node(network={"idle_seconds": 0.5})
    connection = socket.create_connection(("127.0.0.1", node.port), timeout=5)
    connection.sendall(struct.pack(">BxL", 1, 1000))
    began = time.monotonic()
    while time.monotonic() - began < 10:
        try:
            connection.sendall(b"x")
        except OSError:
            break
        time.sleep(0.1)
    assert time.monotonic() - began < 5
    connection.close()


def test_an_association_that_was_idle_goes_on_at_once(node, sender, series):
    assert sender.send(series[0]).Status == 0x0000
    time.sleep(1.2)
    began = time.monotonic()
    assert sender.send(series[1]).Status == 0x0000
    assert time.monotonic() - began < 1.0


def test_a_node_that_is_killed_has_everything_it_answered_for(tmp_path):
    series = make_series(tmp_path / "series", slices=300)
    process = subprocess.Popen(
        [sys.executable, "-c", _A_NODE, str(tmp_path / "spool")], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    port = int(process.stdout.readline())
    destination = Destination(name="node", ae_title="DICOMNODE", host="127.0.0.1", port=port)

    def kill_when_some_are_there():
        wait_until(lambda: len(list((tmp_path / "spool").rglob("*.dcm"))) > 40)
        process.kill()

    threading.Thread(target=kill_when_some_are_there).start()
    with pytest.raises(DeliveryInterrupted) as caught:
        send_files(series, destination, CALLER, associations=3)
    process.wait()
    sent = set(caught.value.sent)
    assert sent
    spool = Spool(tmp_path / "spool", 0)
    spool.claim()
    [folder] = spool.series()
    headers = [read_file_header(path) for path in folder.glob("*.dcm")]
    assert sent <= {header.sop_instance_uid for header in headers}
    assert not list(spool.root.rglob("*.tmp"))


_A_NODE = """
import sys, time
from pathlib import Path
from dicomnode.network.receive import Receiver
from dicomnode.settings import Settings
from dicomnode.spool import Spool

node = {"host": "127.0.0.1", "port": 0}
settings = Settings.model_validate({"node": node, "callers": [{"ae_title": "SCANNER"}]})
spool = Spool(Path(sys.argv[1]), 0)
spool.claim()
with Receiver(settings, spool, lambda received: None, lambda how, uids: None) as receiver:
    print(receiver.port, flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("kind", [0x01, 0x04])
def test_a_pdu_that_announces_gigabytes_is_not_waited_for(node, kind):
    with socket.create_connection(("127.0.0.1", node.port), timeout=5) as connection:
        connection.sendall(struct.pack(">BxL", kind, 0xFFFFFFF0) + bytes(64))
        try:
            while connection.recv(1024):
                pass
        except ConnectionResetError:
            pass
    assert rejection(node) is None


def test_stopping_ends_open_associations(start_node, series):
    node = start_node()
    sender = Sender(node)
    silent = socket.create_connection(("127.0.0.1", node.port))
    assert sender.send(series[0]).Status == 0x0000
    began = time.monotonic()
    node.receiver.stop()
    assert time.monotonic() - began < 5
    assert node.ended[0][0] == "broken"
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", node.port or 1), timeout=1)
    silent.close()
    assert not [thread for thread in threading.enumerate() if "Acceptor" in thread.name]


def test_stopping_with_grace_lets_a_sender_finish(start_node, series):
    node = start_node()
    sender = Sender(node)
    stopping = threading.Thread(target=node.receiver.stop, args=(10.0,))
    stopping.start()
    time.sleep(0.2)
    for path in series:
        assert sender.send(path).Status == 0x0000
    sender.association.release()
    stopping.join(5)
    assert not stopping.is_alive()
    assert [how for how, _ in node.ended] == ["released"]


def test_the_log_names_no_one(node, sender, series, caplog, tmp_path):
    caplog.set_level("INFO")

    def private(data: Dataset, index: int) -> None:
        data.PatientName = "Secret^Name"

    path = make_series(tmp_path / "private", slices=1, change=private)[0]
    uid = part10.read_meta(path).sop_instance_uid
    sender.send(path)
    sender.send(path, data=data_set_of(path)[:-9])
    sender.send(path, uid="../../etc/x")
    assert "refused (0117)" in caplog.text
    assert not [word for word in ("Secret", uid, "etc/x") if word in caplog.text]


def test_received_instances_are_values(node, sender, series):
    sender.send(series[0])
    with pytest.raises(dataclasses.FrozenInstanceError):
        node.received[0].new = False
