"""The frame around a data set on disk: preamble, prefix and file meta information (PS3.10 section 7)."""

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from dicomnode.errors import NetworkError
from dicomnode.network import protocol

_PREAMBLE: Final = b"\x00" * 128 + b"DICM"
_LONGEST_META: Final = 1 << 16
LONG_VRS: Final = frozenset(
    (b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV")
)
"""With a length of four bytes (PS3.5 section 7.1.2); UR are presentation addresses (0002,0026 to 0028)."""


@dataclass(frozen=True)
class FileMeta:
    """What the frame says about the data set, and where the data set begins."""

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    data_set_at: int
    source_ae: str = ""
    """Source Application Entity Title: for what this node has filed, the calling AE title of its sender."""


def frame(sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str, source_ae: str) -> bytes:
    """Return preamble and file meta information for a data set.

    The preamble is always zero: whatever a sender put there could be a program (CVE-2019-11687).
    """
    elements = b"".join(
        (
            struct.pack("<HH2sHI2s", 2, 0x0001, b"OB", 0, 2, b"\x00\x01"),
            _element(0x0002, b"UI", sop_class_uid),
            _element(0x0003, b"UI", sop_instance_uid),
            _element(0x0010, b"UI", transfer_syntax_uid),
            _element(0x0012, b"UI", protocol.IMPLEMENTATION_CLASS_UID),
            _element(0x0013, b"SH", protocol.IMPLEMENTATION_VERSION_NAME),
            _element(0x0016, b"AE", source_ae),
        )
    )
    return _PREAMBLE + struct.pack("<HH2sHI", 2, 0x0000, b"UL", 4, len(elements)) + elements


def _element(number: int, vr: bytes, text: str) -> bytes:
    value = text.encode("ascii")
    if len(value) % 2:
        value += b"\x00" if vr == b"UI" else b" "
    return struct.pack("<HH2sH", 2, number, vr, len(value)) + value


def read_meta(path: Path) -> FileMeta:
    """Read the file meta information of a Part 10 file.

    Raises NetworkError for anything that is not one, or does not say what it holds.
    """
    with path.open("rb") as file:
        return parse_meta(file.read(_LONGEST_META), path.name)


def parse_meta(head: bytes, name: str) -> FileMeta:
    """Read the file meta information from the first bytes of a file; `name` is for the message."""
    if head[128:132] != b"DICM":
        raise NetworkError(f"{name}: not a DICOM file (no Part 10 prefix)")
    values: dict[int, str] = {}
    position = 132
    try:
        while struct.unpack_from("<H", head, position)[0] == 2:
            number, vr, length = struct.unpack_from("<2xH2sH", head, position)
            start = position + 8
            if vr in LONG_VRS:
                (length,) = struct.unpack_from("<I", head, position + 8)
                start = position + 12
            values[number] = head[start : start + length].decode("latin-1").strip("\x00 ")
            position = start + length
        uids = values[0x0002], values[0x0003], values[0x0010]
        if not all(uid.isascii() for uid in uids):
            raise NetworkError(f"{name}: its file meta information has UIDs with other signs than ASCII")
        return FileMeta(*uids, position, values.get(0x0016, ""))
    except (struct.error, KeyError) as error:
        raise NetworkError(f"{name}: its file meta information is incomplete") from error
