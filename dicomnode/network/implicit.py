"""A data set in Implicit VR Little Endian, for peers that take nothing else (PS3.5 section 10.1)."""

import struct
from io import BytesIO
from typing import Final

from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.filereader import read_dataset

from dicomnode.errors import NetworkError

Buffer = bytes | memoryview

_UNREADABLE: Final = (
    ArithmeticError,
    AttributeError,
    BytesLengthException,
    InvalidDicomError,
    LookupError,
    NotImplementedError,
    OSError,
    RecursionError,
    TypeError,
    ValueError,
    struct.error,
)


def as_implicit(data_set: Buffer, name: str) -> bytes:
    """A data set in Explicit VR Little Endian without its VRs; the same bytes for the same data set.

    Values stay as they are encoded, also names that their Specific Character Set cannot read.
    Raises NetworkError where it cannot be read; `name` is for the message.
    """
    out = BytesIO()
    try:
        data = read_dataset(BytesIO(data_set), is_implicit_VR=False, is_little_endian=True)
        _keep_values(data)
        data.save_as(out, implicit_vr=True, little_endian=True, enforce_file_format=False)
    except _UNREADABLE as error:
        raise NetworkError(f"{name}: cannot be written in Implicit VR ({type(error).__name__})") from error
    return out.getvalue()


def _keep_values(data: Dataset) -> None:
    """Have every value written as the bytes that were read, which both encodings share; only sequences are
    encoded anew, item by item."""
    for tag in tuple(data.keys()):
        raw = data.get_item(tag)
        if isinstance(raw, RawDataElement) and raw.VR != "SQ" and raw.value is not None:
            data[tag] = raw._replace(is_implicit_VR=True)
        elif data[tag].VR == "SQ":
            for item in data[tag].value:
                _keep_values(item)
    # pydicom writes what it has not converted as it is where the data set claims to be in this encoding.
    data.set_original_encoding(True, True, data.original_character_set)
