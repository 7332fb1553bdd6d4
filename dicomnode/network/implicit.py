"""A data set in Implicit VR Little Endian, for peers that take nothing else (PS3.5 section 10.1)."""

import struct
from io import BytesIO
from typing import Final

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

    Raises NetworkError where it cannot be read; `name` is for the message.
    """
    out = BytesIO()
    try:
        data = read_dataset(BytesIO(data_set), is_implicit_VR=False, is_little_endian=True)
        data.save_as(out, implicit_vr=True, little_endian=True, enforce_file_format=False)
    except _UNREADABLE as error:
        raise NetworkError(f"{name}: cannot be written in Implicit VR ({type(error).__name__})") from error
    return out.getvalue()
