"""The frame of a file: what others read in it, and what is read in theirs."""

import struct

import pytest
from pydicom import dcmread

from dicomnode.errors import NetworkError
from dicomnode.network import part10, protocol
from tests.makers import make_series
from tests.network.conftest import data_set_of


def test_pydicom_and_dcmtk_read_the_frame(tmp_path, run_dcmtk):
    source = make_series(tmp_path / "one", slices=1)[0]
    data = data_set_of(source)
    path = tmp_path / "framed.dcm"
    uid = str(dcmread(source).SOPInstanceUID)
    path.write_bytes(part10.frame(protocol.CT_IMAGE, uid, protocol.EXPLICIT_VR_LITTLE_ENDIAN, "CT1") + data)
    read = dcmread(path)
    assert read.preamble == bytes(128)
    assert read.file_meta.SourceApplicationEntityTitle == "CT1"
    assert read.file_meta.ImplementationClassUID == protocol.IMPLEMENTATION_CLASS_UID
    assert read.file_meta.MediaStorageSOPInstanceUID == uid
    assert read.pixel_array.shape == (read.Rows, read.Columns)
    dump = run_dcmtk("dcmdump", path)
    assert dump.returncode == 0
    assert dump.stderr == ""
    meta = part10.read_meta(path)
    assert (meta.sop_instance_uid, path.read_bytes()[meta.data_set_at :]) == (uid, data)


def test_a_file_written_by_pydicom_is_understood(tmp_path):
    path = make_series(tmp_path / "one", slices=1)[0]
    meta = part10.read_meta(path)
    assert meta.transfer_syntax_uid == dcmread(path).file_meta.TransferSyntaxUID
    assert path.read_bytes()[meta.data_set_at :] == data_set_of(path)


@pytest.mark.parametrize("content", [b"", b"hello", bytes(128) + b"DICM", bytes(128) + b"DICM\x02\x00"])
def test_what_is_no_dicom_file_is_told(tmp_path, content):
    path = tmp_path / "x.dcm"
    path.write_bytes(content)
    with pytest.raises(NetworkError, match=r"x\.dcm"):
        part10.read_meta(path)


def test_file_meta_information_with_uids_beyond_ascii_is_refused_by_name() -> None:
    frame = part10.frame("1.2.840.10008.5.1.4.1.1.2", "2.25.1", "1.2.840.10008.1.2.1", "CT")
    head = frame + b"\x08\x00"  # the data set begins
    assert part10.parse_meta(head, "a.dcm").transfer_syntax_uid == "1.2.840.10008.1.2.1"
    with pytest.raises(NetworkError, match=r"a\.dcm: .* other signs than ASCII"):
        part10.parse_meta(head.replace(b"1.2.840.10008.1.2.1", b"1.2.840.1000\xb0.1.2.1"), "a.dcm")


@pytest.mark.parametrize("vr", [b"UR", b"OW", b"SQ", b"UC"])
def test_every_element_with_a_long_length_is_stepped_over(vr: bytes) -> None:
    """(0002,0026), from where it was sent, is a UR; what applications add is anything."""
    frame = part10.frame(protocol.CT_IMAGE, "2.25.1", protocol.EXPLICIT_VR_LITTLE_ENDIAN, "CT")
    value = b"" if vr == b"SQ" else b"dicom://somewhere "
    added = struct.pack("<HH2sHI", 2, 0x0026, vr, 0, len(value)) + value
    meta = part10.parse_meta(frame + added + b"\x08\x00", "a.dcm")
    assert (meta.sop_class_uid, meta.data_set_at) == (protocol.CT_IMAGE, len(frame + added))
