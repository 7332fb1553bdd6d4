"""The frame of a file: what others read in it, and what is read in theirs."""

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
