"""The sender against real peers on loopback: every status is looked at, nothing is sent twice."""

import contextlib
import os
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset, dcmread
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless

from dicomnode.errors import DeliveryInterrupted, NetworkError, PeerBusy, PeerRefused, PeerUnreachable
from dicomnode.network.header import same_values
from dicomnode.network.implicit import as_implicit
from dicomnode.network.part10 import read_meta
from dicomnode.network.requestor import Patience
from dicomnode.network.send import echo, send_files
from dicomnode.settings import Destination, Network
from tests.makers import make_series
from tests.network.conftest import CALLER, data_set_of, free_port, wait_until

HASTY = Patience(connect_seconds=1.0, negotiation_seconds=1.0, answer_seconds=1.0)


@pytest.fixture
def series(tmp_path):
    return make_series(tmp_path / "series", slices=24)


def uids(paths):
    return {read_meta(path).sop_instance_uid for path in paths}


# --- delivered ------------------------------------------------------------------------------------


@pytest.mark.parametrize("associations", [1, 3])
def test_every_instance_arrives_byte_for_byte(start_peer, series, associations):
    def when_all_are_open(number, event):
        assert wait_until(lambda: len(event.assoc.ae.active_associations) >= associations)
        return 0x0000

    peer = start_peer(when_all_are_open)
    delivery = send_files(series, peer.destination(associations=associations), CALLER)
    assert set(delivery.sent) == set(peer.stored) == uids(series)
    assert len(delivery.sent) == len(series)
    assert delivery.refused == ()
    assert delivery.destination == "pacs"
    for path in series:
        assert peer.stored[read_meta(path).sop_instance_uid] == data_set_of(path)
    assert max(peer.peak_associations) == associations


@pytest.mark.parametrize("max_pdu_bytes", [0, 4096, 16384, 1 << 20])
def test_the_peers_pdu_length_is_kept(start_peer, series, max_pdu_bytes):
    peer = start_peer(max_pdu_bytes=max_pdu_bytes)
    assert len(send_files(series[:3], peer.destination(), CALLER).sent) == 3
    assert peer.stored[read_meta(series[0]).sop_instance_uid] == data_set_of(series[0])


def test_the_order_given_is_the_order_sent(start_peer, series):
    peer = start_peer()
    delivery = send_files(series, peer.destination(associations=1), CALLER)
    assert list(delivery.sent) == [read_meta(path).sop_instance_uid for path in series]


def test_dcmtk_takes_a_series(series, tmp_path, program):
    with running_storescp(program("storescp"), tmp_path, "--fork") as (destination, folder):
        delivery = send_files(series, destination, CALLER)
    assert set(delivery.sent) == uids(series)
    held = {dcmread(path).SOPInstanceUID: path for path in folder.iterdir()}
    assert set(held) == uids(series)
    for path in series:
        assert dcmread(held[read_meta(path).sop_instance_uid]).PixelData == dcmread(path).PixelData


def test_a_peer_that_knows_no_explicit_vr_gets_the_same_objects_without(series, tmp_path, program):
    """Sequences, private elements and all: only the VRs are gone, and the bytes are the same each time."""

    def enrich(data: Dataset, index: int) -> None:
        inner = Dataset()
        inner.CodeValue, inner.CodeMeaning = "1", "größer"
        data.SpecificCharacterSet = "ISO_IR 192"
        data.ProcedureCodeSequence = [inner, inner]
        data.private_block(0x0071, "MAKER", create=True).add_new(1, "FD", 2.5)

    paths = make_series(tmp_path / "rich", slices=3, change=enrich)
    with running_storescp(program("storescp"), tmp_path, "+xi") as (destination, folder):
        delivery = send_files(paths, destination, CALLER)
        assert set(delivery.sent) == uids(paths)
        assert send_files(paths[:1], destination, CALLER).sent
    held = {dcmread(path).SOPInstanceUID: dcmread(path) for path in folder.iterdir()}
    for path in paths:
        sent, came = dcmread(path), held[read_meta(path).sop_instance_uid]
        assert came.file_meta.TransferSyntaxUID == ImplicitVRLittleEndian
        assert np.frombuffer(came[0x00711001].value, "<f8") == 2.5
        del came[0x00711001], sent[0x00711001]
        assert came == sent
    encoded = [as_implicit(data_set_of(paths[0]), "x") for _ in range(2)]
    assert encoded[0] == encoded[1]


@pytest.mark.parametrize(
    ("character_set", "name"),
    [
        ("ISO_IR 192", b"M\xfcller^J"),
        (["", "ISO 2022 IR 87"], b"A^B=\x1b$B;3"),
        (None, b"M\xfcller^J"),
        ("GB18030", b"\xcd\xf5^\xff"),
    ],
)
@pytest.mark.parametrize("options", [["+e"], ["-e"]])
def test_without_vrs_every_value_is_the_same_bytes(tmp_path, run_dcmtk, character_set, name, options):
    """Also a name that its character set cannot read: another one would be another patient's."""

    def enrich(data: Dataset, index: int) -> None:
        inner, outer = Dataset(), Dataset()
        inner.CodeMeaning, inner.PixelPaddingValue = "AAAAAAAAAA", 7
        outer.PurposeOfReferenceCodeSequence = [inner, inner]
        data.SourceImageSequence, data.ReferencedImageSequence = [outer, outer], []
        data.PatientName, data.PixelSpacing = "AAAAAAAAAA", ["0.7500000", "0.7500000"]
        data.AccessionNumber = None
        if character_set is not None:
            data.SpecificCharacterSet = character_set

    first, path = make_series(tmp_path / "s", slices=1, change=enrich)[0], tmp_path / "lengths.dcm"
    assert run_dcmtk("dcmconv", "+te", *options, first, path).returncode == 0
    path.write_bytes(path.read_bytes().replace(b"AAAAAAAAAA", name.ljust(10)))
    explicit = data_set_of(path)
    implicit = as_implicit(explicit, "x")
    assert implicit.count(name) == 5
    assert same_values((explicit, ExplicitVRLittleEndian, 0), (implicit, ImplicitVRLittleEndian, 0))


def test_both_uncompressed_syntaxes_accepted_the_bytes_go_as_they_are(start_peer, series):
    peer = start_peer(contexts=((CTImageStorage, ["1.2.840.10008.1.2", "1.2.840.10008.1.2.1"]),))
    send_files(series[:2], peer.destination(), CALLER)
    for path in series[:2]:
        assert peer.stored[read_meta(path).sop_instance_uid] == data_set_of(path)


def test_our_own_node_takes_a_series(node, series):
    assert set(send_files(series, node.destination(), CALLER).sent) == uids(series)
    assert sum(received.new for received in node.received) == len(series)


def test_an_instance_of_several_megabytes(node, tmp_path):
    big = make_series(tmp_path / "big", np.zeros((1, 1536, 1536), dtype=np.float32))
    assert len(send_files(big, node.destination(), CALLER).sent) == 1
    assert node.received[0].path.read_bytes().endswith(data_set_of(big[0]))


def test_compressed_instances_go_as_they_are_beside_others(start_peer, series):
    data = dcmread(series[0])
    data.compress(RLELossless)
    data.save_as(series[0])
    peer = start_peer(contexts=((CTImageStorage, [ExplicitVRLittleEndian, RLELossless]),))
    assert len(send_files(series, peer.destination(), CALLER).sent) == len(series)
    assert peer.stored[read_meta(series[0]).sop_instance_uid] == data_set_of(series[0])


def test_nothing_to_send_needs_no_peer():
    nowhere = Destination(name="x", ae_title="X", host="127.0.0.1", port=1)
    assert send_files([], nowhere, CALLER).sent == ()


# --- statuses ---------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [0xB000, 0xB006, 0xB007, 0x0111])
def test_a_warning_is_stored(start_peer, series, status):
    peer = start_peer(lambda number, event: status)
    delivery = send_files(series[:4], peer.destination(), CALLER)
    assert set(delivery.sent) == uids(series[:4])
    assert delivery.refused == ()


@pytest.mark.parametrize("status", [0x0110, 0x0122, 0x0124, 0xA900, 0xC000, 0xFFF1])
def test_a_permanent_status_refuses_the_instance_and_not_the_others(start_peer, series, status):
    peer = start_peer(lambda number, event: status if number == 2 else 0x0000)
    delivery = send_files(series[:6], peer.destination(associations=1), CALLER)
    assert delivery.refused == ((read_meta(series[2]).sop_instance_uid, status),)
    assert set(delivery.sent) == uids(series[:2] + series[3:6])


def test_patience_comes_from_the_settings():
    patience = Patience.configured(Network(negotiation_seconds=7, message_seconds=9))
    assert patience == Patience(10.0, 7.0, 9.0)


def test_out_of_resources_breaks_off_and_tells_what_is_there(start_peer, series):
    peer = start_peer(lambda number, event: 0xA700 if number == 5 else 0x0000)
    with pytest.raises(DeliveryInterrupted, match="A700") as caught:
        send_files(series, peer.destination(associations=1), CALLER)
    assert isinstance(caught.value, PeerBusy)
    assert caught.value.retry
    assert list(caught.value.sent) == [read_meta(path).sop_instance_uid for path in series[:5]]
    assert set(peer.stored) == set(caught.value.sent)


def test_the_rest_is_enough_the_second_time(start_peer, series):
    peer = start_peer(lambda number, event: 0xA700 if number == 7 else 0x0000)
    with pytest.raises(DeliveryInterrupted) as caught:
        send_files(series, peer.destination(), CALLER)
    rest = [path for path in series if read_meta(path).sop_instance_uid not in caught.value.sent]
    delivery = send_files(rest, peer.destination(), CALLER)
    assert set(caught.value.sent) | set(delivery.sent) == uids(series)
    assert not set(caught.value.sent) & set(delivery.sent)


def test_a_class_the_peer_does_not_take_is_refused_without_holding_up_the_others(
    start_peer, series, tmp_path
):
    def to_other_class(data: Dataset, index: int) -> None:
        data.SOPClassUID = "1.2.840.10008.5.1.4.1.1.88.33"

    report = make_series(tmp_path / "sr", slices=1, change=to_other_class)
    peer = start_peer()
    delivery = send_files(series[:3] + report, peer.destination(), CALLER)
    assert set(delivery.sent) == uids(series[:3])
    assert delivery.refused == ((read_meta(report[0]).sop_instance_uid, 0x0122),)


# --- no association -------------------------------------------------------------------------------


def test_nobody_listens(series):
    nowhere = Destination(name="gone", ae_title="X", host="127.0.0.1", port=free_port())
    with pytest.raises(PeerUnreachable, match="gone: no connection") as caught:
        send_files(series, nowhere, CALLER)
    assert caught.value.retry
    with pytest.raises(PeerUnreachable):
        echo(nowhere, CALLER)


def test_a_host_that_does_not_exist(series):
    nowhere = Destination(name="gone", ae_title="X", host="no-such-host.invalid", port=104)
    with pytest.raises(PeerUnreachable):
        send_files(series, nowhere, CALLER)


def test_an_unknown_caller_is_refused_for_good(start_peer, series):
    peer = start_peer(callers=("SOMEBODY",))
    with pytest.raises(PeerRefused, match="calling AE title not recognized") as caught:
        send_files(series, peer.destination(), CALLER)
    assert not caught.value.retry
    assert CALLER in str(caught.value)


def test_a_wrong_called_ae_title_is_refused_for_good(start_peer, series):
    with pytest.raises(PeerRefused, match="called AE title not recognized"):
        send_files(series, start_peer().destination(ae_title="WRONG"), CALLER)


def test_no_class_accepted_is_refused_for_good(start_peer, series):
    peer = start_peer(contexts=((CTImageStorage, [RLELossless]),))
    with pytest.raises(PeerRefused, match="accepts none"):
        send_files(series, peer.destination(), CALLER)


def test_a_peer_with_fewer_associations_still_gets_everything(start_node, series):
    node = start_node(network={"max_associations": 1})
    assert set(send_files(series, node.destination(associations=3), CALLER).sent) == uids(series)


def test_a_peer_that_is_full_is_a_matter_of_time(start_node, series):
    node = start_node(network={"max_associations": 1})
    busy = socket.create_connection(("127.0.0.1", node.port))
    from dicomnode.network.requestor import Requestor

    meta = read_meta(series[0])
    with Requestor(node.destination(), CALLER, [(meta.sop_class_uid, meta.transfer_syntax_uid)]):
        with pytest.raises(PeerUnreachable, match="rejected") as caught:
            send_files(series, node.destination(), CALLER)
        assert caught.value.retry
    busy.close()


@contextlib.contextmanager
def listening(behave):
    """A TCP server that is no DICOM peer."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(10)

        def serve():
            with contextlib.suppress(OSError), server.accept()[0] as connection:
                behave(connection)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield Destination(name="odd", ae_title="X", host="127.0.0.1", port=server.getsockname()[1])


@pytest.mark.parametrize(
    "behave",
    [
        lambda connection: time.sleep(2),
        lambda connection: connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n" * 3),
        lambda connection: connection.sendall(b"\x02\x00\x00\x00\x00\x10" + b"garbage!" * 2),
        lambda connection: connection.sendall(b"\x07\x00\x00\x00\x00\x04\x00\x00\x00\x00"),
        lambda connection: None,
    ],
    ids=["silent", "http", "garbled", "abort", "closes"],
)
def test_what_is_no_dicom_peer_is_unreachable(series, behave):
    with listening(behave) as destination, pytest.raises(PeerUnreachable, match="odd"):
        send_files(series, destination, CALLER, patience=HASTY)


# --- broken off -----------------------------------------------------------------------------------


def test_a_peer_that_aborts_in_the_middle(start_peer, series):
    def abort_sixth(number, event):
        if number == 5:
            event.assoc.abort()
        return 0x0000

    peer = start_peer(abort_sixth)
    with pytest.raises(DeliveryInterrupted) as caught:
        send_files(series, peer.destination(associations=1), CALLER)
    assert list(caught.value.sent) == [read_meta(path).sop_instance_uid for path in series[:5]]


def test_a_peer_that_does_not_answer(start_peer, series):
    def sleep_on_third(number, event):
        if number == 2:
            time.sleep(2)
        return 0x0000

    peer = start_peer(sleep_on_third)
    with pytest.raises(DeliveryInterrupted, match="no answer") as caught:
        send_files(series, peer.destination(associations=1), CALLER, patience=HASTY)
    assert len(caught.value.sent) == 2


def test_a_destination_that_is_killed_loses_nothing(tmp_path, program):
    series = make_series(tmp_path / "many", slices=300)
    storescp = program("storescp")
    with running_storescp(storescp, tmp_path) as (destination, folder):
        process_id = int((tmp_path / "pid").read_text())

        def kill_when_some_are_there():
            wait_until(lambda: len(list(folder.iterdir())) > 5)
            os.kill(process_id, signal.SIGKILL)

        killer = threading.Thread(target=kill_when_some_are_there)
        killer.start()
        with pytest.raises((DeliveryInterrupted, PeerUnreachable)) as caught:
            send_files(series, destination, CALLER, associations=1)
        killer.join()
    assert isinstance(caught.value, DeliveryInterrupted)
    sent = set(caught.value.sent)
    held = {path.name.split(".", 1)[1] for path in folder.iterdir()}
    assert sent <= held, "an instance counted as sent is not there"
    rest = [path for path in series if read_meta(path).sop_instance_uid not in sent]
    with running_storescp(storescp, tmp_path) as (destination, folder):
        send_files(rest, destination, CALLER)
        assert {path.name.split(".", 1)[1] for path in folder.iterdir()} == uids(series)


@contextlib.contextmanager
def running_storescp(storescp: str, folder: Path, *options: str):
    """A storescp that files under <modality>.<SOP Instance UID>; TCP_NODELAY or every answer waits 40 ms."""
    inbox = folder / "inbox"
    inbox.mkdir(exist_ok=True)
    port = free_port()
    command = [storescp, "-aet", "PACS", "-od", str(inbox), *options, str(port)]
    process = subprocess.Popen(
        command, env=os.environ | {"TCP_NODELAY": "1"}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    (folder / "pid").write_text(str(process.pid))
    destination = Destination(name="pacs", ae_title="PACS", host="127.0.0.1", port=port)
    try:
        assert wait_until(lambda: answers(destination), seconds=10)
        yield destination, inbox
    finally:
        process.kill()
        process.wait()


def answers(destination):
    try:
        return echo(destination, CALLER) >= 0
    except PeerUnreachable:
        return False


# --- files and echo -------------------------------------------------------------------------------


def test_a_file_that_is_none_is_told_before_anything_is_sent(start_peer, series, tmp_path):
    peer = start_peer()
    (tmp_path / "bad.dcm").write_bytes(b"nothing")
    for bad in (tmp_path / "bad.dcm", tmp_path / "missing.dcm"):
        with pytest.raises(NetworkError, match=bad.name) as caught:
            send_files([*series, bad], peer.destination(), CALLER)
        assert not caught.value.retry
    assert peer.stored == {}


def test_echo(start_peer, node):
    assert 0 < echo(start_peer().destination(), CALLER) < 5
    assert 0 < echo(node.destination(), CALLER) < 5


def test_echo_of_a_node_that_does_not_know_us(node):
    with pytest.raises(PeerRefused):
        echo(node.destination(), "STRANGER")
