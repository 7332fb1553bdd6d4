"""The receiver against real peers on loopback: what is filed, what is refused and how it is told."""

import threading
from pathlib import Path

import pytest
from pydicom import Dataset, dcmread
from pydicom.uid import (
    CTImageStorage,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    MRImageStorage,
    RLELossless,
)

from dicomnode.errors import InstanceRefused
from dicomnode.network import part10, protocol
from dicomnode.network.filing import Filing, Request
from dicomnode.spool import Spool
from tests.makers import make_series
from tests.network.conftest import CALLER, NODE, Node, Sender, data_set_of, filed, wait_until
from tests.report_makers import Irradiation, make_dose_report

# --- what is filed --------------------------------------------------------------------------------


def test_dcmtk_sends_a_series_and_every_byte_is_kept(node, series, run_dcmtk):
    sent = run_dcmtk("storescu", "-R", "-aet", CALLER, "-aec", NODE, "127.0.0.1", node.port, *series)
    assert sent.returncode == 0, sent.stderr
    assert [received.new for received in node.received] == [True] * 6
    assert len(filed(node)) == 6
    for source in series:
        expected = dcmread(source)
        held = dcmread(node.spool.find(str(expected.SOPInstanceUID)))
        assert held.preamble == bytes(128)
        assert held.file_meta.SourceApplicationEntityTitle == CALLER
        assert held.file_meta.ImplementationClassUID == protocol.IMPLEMENTATION_CLASS_UID
        assert held.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
        assert held.PixelData == expected.PixelData
        assert held.ImagePositionPatient == expected.ImagePositionPatient
    assert wait_until(lambda: node.ended)
    assert node.ended == [("released", frozenset({str(expected.SeriesInstanceUID)}))]


def test_the_data_set_is_kept_byte_for_byte(node, sender, series):
    assert sender.send(series[0]).Status == 0x0000
    content = filed(node)[0].read_bytes()
    assert content.endswith(data_set_of(series[0]))
    [received] = node.received
    assert received.path == filed(node)[0]
    assert received.instance_number == 1
    assert received.position_mm == tuple(dcmread(series[0]).ImagePositionPatient)
    assert received.received_at.tzinfo is not None
    arrival = received.arrival(5.0)
    assert (arrival.sop_instance_uid, arrival.at_seconds) == (received.sop_instance_uid, 5.0)


def test_an_instance_is_on_disk_before_its_sender_is_told(start_node, series):
    node = start_node()
    seen = []
    node.receiver._on_stored = lambda received: seen.append(received.path.read_bytes())
    assert Sender(node).send(series[0]).Status == 0x0000
    assert seen[0].endswith(data_set_of(series[0]))


@pytest.mark.parametrize("program_name", ["echoscu"])
def test_echo(node, run_dcmtk, program_name):
    assert run_dcmtk(program_name, "-aet", CALLER, "-aec", NODE, "127.0.0.1", node.port).returncode == 0


def test_an_identical_duplicate_is_answered_success_and_is_not_new(node, sender, series):
    assert [sender.send(series[0]).Status for _ in range(3)] == [0, 0, 0]
    assert [received.new for received in node.received] == [True, False, False]
    assert len(filed(node)) == 1


def test_duplicates_at_once_on_several_associations(node, series):
    senders = [Sender(node) for _ in range(4)]
    answers = []

    def send(sender):
        answers.extend(sender.send(path).Status for path in series)

    threads = [threading.Thread(target=send, args=(sender,)) for sender in senders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for sender in senders:
        sender.association.release()
    assert answers == [0] * 24
    assert sum(received.new for received in node.received) == 6
    assert len(filed(node)) == 6
    # The series is told once, when the last of the four associations has gone.
    assert wait_until(lambda: node.receiver.associations == 0)
    assert [uids for _, uids in node.ended] == [frozenset({node.received[0].series_instance_uid})]


def test_two_series_interleaved_on_one_association(node, sender, tmp_path):
    one, other = make_series(tmp_path / "one", slices=3), make_series(tmp_path / "other", slices=3)
    for pair in zip(one, other, strict=True):
        for path in pair:
            assert sender.send(path).Status == 0x0000
    assert sorted(len(list(folder.iterdir())) for folder in node.spool.series()) == [3, 3]
    sender.association.release()
    assert wait_until(lambda: node.ended)
    assert len(node.ended[0][1]) == 2


# --- what is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize("cut", [10, 200, 600, -1000, -1])
def test_a_truncated_data_set_is_refused_and_not_filed(node, sender, series, cut):
    answer = sender.send(series[0], data=data_set_of(series[0])[:cut])
    assert answer.Status in (0xC000, 0xC005)
    assert answer.ErrorComment
    assert node.files() == []
    assert sender.send(series[1]).Status == 0x0000  # the association goes on


def test_an_instance_uid_that_is_a_path_is_refused(node, sender, series):
    answer = sender.send(series[0], uid="../../etc/x")
    assert answer.Status == 0x0117
    assert node.files() == []


def test_an_instance_uid_that_is_too_long_is_refused(node, sender, series):
    assert sender.send(series[0], uid="1." * 40 + "1").Status == 0x0117
    assert sender.send(series[1]).Status == 0x0000


def test_a_data_set_of_another_class_is_refused(node, sender, tmp_path):
    def to_mr(data: Dataset, index: int) -> None:
        data.SOPClassUID = MRImageStorage

    path = make_series(tmp_path / "mr", slices=1, change=to_mr)[0]
    answer = sender.send(path, sop_class=str(CTImageStorage))
    assert answer.Status == 0xA900
    assert node.files() == []


def test_a_class_smuggled_into_the_context_of_another_is_refused(node, sender, series):
    assert sender.send(series[0], sop_class=str(MRImageStorage)).Status == 0x0122
    assert node.files() == []


def test_a_class_nobody_knows_is_refused_and_the_next_image_is_taken(node, sender, series):
    """pynetdicom alone breaks the association off: one broken file, and the rest of a study does not come."""
    assert sender.send(series[0], sop_class="1.2.3.31").Status == 0x0122
    assert sender.send(series[1]).Status == 0x0000
    assert len(filed(node)) == 1


def test_a_data_set_of_another_instance_is_refused(node, sender, series):
    assert sender.send(series[0], uid="1.2.3").Status == 0xC006
    assert node.files() == []


def test_same_uid_other_pixels_is_refused_and_quarantined(node, sender, series):
    assert sender.send(series[0]).Status == 0x0000
    other = bytearray(data_set_of(series[0]))
    other[-7] ^= 1
    answer = sender.send(series[0], data=bytes(other))
    assert answer.Status == 0xC010
    assert "content" in answer.ErrorComment
    assert [received.new for received in node.received] == [True]
    assert filed(node)[0].read_bytes().endswith(data_set_of(series[0]))  # the first one is untouched
    [kept] = node.spool.quarantined.glob("*.dcm")
    assert kept.read_bytes().endswith(bytes(other))
    assert sender.send(series[0], data=bytes(other)).Status == 0xC010
    assert len(list(node.spool.quarantined.glob("*.dcm"))) == 1


def sent_again(node: Node, first: Path, again: Path, syntax: str = ExplicitVRLittleEndian) -> int:
    """Send two files of one instance, each in its own syntax; the status of the second."""
    assert Sender(node).send(first).Status == 0x0000
    data = again.read_bytes()[part10.read_meta(again).data_set_at :]
    status = int(Sender(node, syntax).send(again, data=data).Status)
    assert len(filed(node)) == 1
    assert filed(node)[0].read_bytes().endswith(data_set_of(first)), "the first one is untouched"
    if data == data_set_of(first):
        return status
    kept = [path.read_bytes() for path in node.spool.quarantined.glob("*.dcm")]
    assert len(kept) == 1
    assert kept[0].endswith(data), "what was answered is on the disk"
    return status


def test_a_corrected_header_under_the_same_uid_is_taken_and_put_aside(node, series, tmp_path, caplog):
    def rename(data: Dataset, index: int) -> None:
        data.PatientName = "Corrected^Name"

    corrected = make_series(tmp_path / "again", name="series", slices=1, change=rename)[0]
    assert sent_again(node, series[0], corrected) == 0x0000
    assert [received.new for received in node.received] == [True, False]
    assert "another header: the first stays" in caplog.text
    assert "Corrected" not in caplog.text


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless])
def test_the_same_image_in_another_encoding_is_no_failure(node, series, tmp_path, syntax):
    """Scanners send Explicit, archives what they keep: a sender stops at the first failure."""
    again = make_series(tmp_path / "again", name="series", slices=1, transfer_syntax=syntax)[0]
    assert sent_again(node, series[0], again, syntax) == 0x0000


@pytest.mark.parametrize(
    "options", [["+ti"], ["+te", "+g"], ["+te", "-e"], ["+ti", "+e"], ["+te", "+p", "64", "64"]]
)
def test_the_same_content_with_other_lengths_and_vrs_is_the_same(node, tmp_path, run_dcmtk, options):
    """As another program writes it: VRs left out, group lengths, sequences of either length, paddings."""

    def add_sequences(data: Dataset, index: int) -> None:
        inner, outer = Dataset(), Dataset()
        inner.CodeValue, inner.CodeMeaning = "1", "odd"
        outer.PurposeOfReferenceCodeSequence = [inner, inner]
        outer.ReferencedSOPInstanceUID = "1.2.3"
        data.SourceImageSequence, data.ReferencedImageSequence = [outer, outer], []
        data.add_new(0x00091001, "UN", b"some ")
        data.add_new(0x00090010, "LO", "SOMEONE")

    first = make_series(tmp_path / "with", slices=1, change=add_sequences)[0]
    again = tmp_path / "again.dcm"
    assert run_dcmtk("dcmconv", *options, first, again).returncode == 0
    syntax = str(part10.read_meta(again).transfer_syntax_uid)
    data = again.read_bytes()[part10.read_meta(again).data_set_at :]
    assert data != data_set_of(first)
    assert Sender(node).send(first).Status == 0x0000
    assert Sender(node, syntax).send(again, data=data).Status == 0x0000
    assert [(one.new, one.aside) for one in node.received] == [(True, ""), (False, "")]
    assert not list(node.spool.quarantined.iterdir())
    changed = data.replace(b"odd\x20", b"even").replace(b"odd\x00", b"even")
    assert changed != data, "a value in a sequence in a sequence"
    assert Sender(node, syntax).send(again, data=changed).Status == 0x0000
    assert "another header" in node.received[-1].aside


@pytest.mark.parametrize("options", [["+ti"], ["+te", "+g"], ["+ti", "-e"]])
def test_a_dose_report_in_another_encoding_is_held_already(tmp_path, run_dcmtk, options):
    """The scanner pushes it, and an archive that is asked brings it as it keeps it."""
    first = make_dose_report(tmp_path / "first.dcm", "1.2.5", [Irradiation("1.2.3", 12.5)])
    again = tmp_path / "again.dcm"
    assert run_dcmtk("dcmconv", *options, first, again).returncode == 0
    spool = Spool(tmp_path / "spool", reserve_bytes=0)
    filing = Filing(spool)
    assert filing.file(request_of(first)).new
    received = filing.file(request_of(again))
    assert (received.new, received.aside) == (False, "")
    assert not list(spool.quarantined.iterdir())
    other = make_dose_report(tmp_path / "other.dcm", "1.2.5", [Irradiation("1.2.3", 99.5)])
    changed = dcmread(other)
    changed.SOPInstanceUID = changed.file_meta.MediaStorageSOPInstanceUID = dcmread(first).SOPInstanceUID
    changed.SeriesInstanceUID = dcmread(first).SeriesInstanceUID
    changed.save_as(other)
    with pytest.raises(InstanceRefused, match="other content"):
        filing.file(request_of(other))


def request_of(path: Path) -> Request:
    meta = part10.read_meta(path)
    data = path.read_bytes()[meta.data_set_at :]
    uids = meta.sop_class_uid, meta.sop_instance_uid, meta.sop_class_uid, meta.transfer_syntax_uid
    return Request(*uids, CALLER, data)


def test_other_pixels_in_another_uncompressed_syntax_are_refused(node, series, tmp_path):
    other = make_series(
        tmp_path / "again", name="series", slices=1, intercept=-1000.0, transfer_syntax=ImplicitVRLittleEndian
    )[0]
    assert sent_again(node, series[0], other, ImplicitVRLittleEndian) == 0xC010


@pytest.mark.parametrize(
    ("keyword", "value"),
    [("SeriesInstanceUID", "1.2.3.4"), ("ImagePositionPatient", ["0", "0", "7"]), ("InstanceNumber", 77)],
)
def test_the_same_uid_and_pixels_at_another_place_are_refused(node, series, tmp_path, keyword, value):
    def move(data: Dataset, index: int) -> None:
        setattr(data, keyword, value)

    moved = make_series(tmp_path / "b", name="series", slices=1, change=move)[0]
    assert sent_again(node, series[0], moved) == 0xC011


def test_a_full_disk_is_told_as_out_of_resources(start_node, series):
    node = start_node(reserve_bytes=2**62)
    sender = Sender(node)
    answer = sender.send(series[0])
    assert answer.Status == 0xA700
    assert "disk" in answer.ErrorComment
    assert node.files() == []
    assert node.received == []
    node.spool.reserve_bytes = 0
    assert sender.send(series[0]).Status == 0x0000


def test_an_instance_above_the_limit_ends_its_association_and_leaves_nothing(start_node, series):
    node = start_node(network={"max_instance_mib": 0.05})
    sender = Sender(node)
    small = make_series(series[0].parent.parent / "small", slices=1)[0]
    assert sender.send(small).Status == 0x0000
    sender.send(small, data=data_set_of(small) + bytes(3_000_000))
    assert wait_until(lambda: not sender.association.is_established)
    assert wait_until(lambda: node.ended)
    assert node.ended[0][0] == "broken"
    assert len(filed(node)) == 1
    assert Sender(node).send(small).Status == 0x0000
