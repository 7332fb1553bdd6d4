"""From a received data set to a durable file: check, compare with what is held, write, then say so."""

import hashlib
import mmap
import threading
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Protocol

from dicomnode.checked import is_uid
from dicomnode.errors import InstanceRefused
from dicomnode.network import part10, protocol
from dicomnode.network.completeness import Arrival
from dicomnode.network.header import RawHeader, read_header, same_values


class InstanceStore(Protocol):
    """Where files go; the spool is one. Every write is durable on return and raises DiskFull when full."""

    def find(self, sop_instance_uid: str) -> Path | None:
        """Return the file that holds an instance, or None."""
        ...

    def file(self, series_uid: str, sop_instance_uid: str, *chunks: bytes) -> Path:
        """Write a new instance."""
        ...

    def confirm(self, path: Path) -> None:
        """Force a file already in place to the disk."""
        ...

    def quarantine(self, sop_instance_uid: str, digest: str, reason: str, *chunks: bytes) -> Path:
        """Keep a copy of what must not be filed."""
        ...


@dataclass(frozen=True)
class Request:
    """One C-STORE request as it came: what it claims, and the encoded data set."""

    affected_sop_class_uid: str
    affected_sop_instance_uid: str
    context_sop_class_uid: str
    transfer_syntax_uid: str
    calling_ae: str
    data_set: bytes


@dataclass(frozen=True)
class ReceivedInstance:
    """An instance that is safe on disk. `digest` is SHA-256 of the encoded data set, in hexadecimal.

    `new` is False when the instance was held already: the very same bytes or, where `aside` says so, in
    another form, of which a copy lies in quarantine.
    """

    sop_class_uid: str
    sop_instance_uid: str
    study_instance_uid: str
    series_instance_uid: str
    transfer_syntax_uid: str
    calling_ae: str
    received_at: datetime
    path: Path
    digest: str
    new: bool
    instance_number: int | None
    position_mm: tuple[float, float, float] | None
    frames: int = 1
    part: tuple[int, int] | None = None
    aside: str = ""

    def arrival(self, at_seconds: float) -> Arrival:
        """Return what completeness needs to know of it."""
        number, position_mm = self.instance_number, self.position_mm
        return Arrival(
            self.sop_instance_uid, number, position_mm, at_seconds, self.frames, self.part, self.calling_ae
        )


class Filing:
    """Files instances, one at a time for each SOP Instance UID, from any number of associations."""

    _STRIPES: Final = 64

    def __init__(self, store: InstanceStore) -> None:
        self._store = store
        self._locks = tuple(threading.Lock() for _ in range(self._STRIPES))

    def file(self, request: Request) -> ReceivedInstance:
        """Check and file one instance. Durable when it returns.

        Raises InstanceRefused with the status to answer, DiskFull, SpoolError.
        """
        header = _checked_header(request)
        digest = hashlib.sha256(request.data_set).hexdigest()
        with self._locks[hash(header.sop_instance_uid) % self._STRIPES]:
            path, new, aside = self._place(request, header, digest)
        return ReceivedInstance(
            sop_class_uid=header.sop_class_uid,
            sop_instance_uid=header.sop_instance_uid,
            study_instance_uid=header.study_instance_uid,
            series_instance_uid=header.series_instance_uid,
            transfer_syntax_uid=request.transfer_syntax_uid,
            calling_ae=request.calling_ae,
            received_at=datetime.now(UTC),
            path=path,
            digest=digest,
            new=new,
            instance_number=header.instance_number,
            position_mm=header.position_mm,
            frames=header.frames,
            part=header.part,
            aside=aside,
        )

    def _place(self, request: Request, header: RawHeader, digest: str) -> tuple[Path, bool, str]:
        """Write a new instance, or recognise one that is held, or put a contradicting one aside."""
        held = self._store.find(header.sop_instance_uid)
        frame = part10.frame(
            header.sop_class_uid, header.sop_instance_uid, request.transfer_syntax_uid, request.calling_ae
        )
        if held is None:
            path = self._store.file(
                header.series_instance_uid, header.sop_instance_uid, frame, request.data_set
            )
            return path, True, ""
        difference = _difference(held, request, header)
        if difference:
            self._store.quarantine(header.sop_instance_uid, digest, str(difference), frame, request.data_set)
        if isinstance(difference, InstanceRefused):
            raise difference
        self._store.confirm(held)
        return held, False, difference


def _checked_header(request: Request) -> RawHeader:
    """Check the request against its presentation context and its own data set (PS3.4 B.2.3)."""
    if not is_uid(request.affected_sop_instance_uid):
        raise InstanceRefused("Affected SOP Instance UID is malformed", protocol.INVALID_INSTANCE_UID)
    if request.affected_sop_class_uid != request.context_sop_class_uid:
        raise InstanceRefused("SOP Class is not that of the context", protocol.CLASS_NOT_SUPPORTED)
    header = read_header(request.data_set, request.transfer_syntax_uid)
    if header.sop_class_uid != request.affected_sop_class_uid:
        raise InstanceRefused("data set is of another SOP Class", protocol.CLASS_MISMATCH)
    if header.sop_instance_uid != request.affected_sop_instance_uid:
        raise InstanceRefused("data set is of another SOP Instance", protocol.INSTANCE_MISMATCH)
    return header


def _difference(held: Path, request: Request, header: RawHeader) -> InstanceRefused | str:
    """Say how the held instance differs from the one that came: "" for not at all, an error if it must not.

    An archive sends what a scanner sent before with other values in the header, with other lengths or in
    another lossless syntax, all under the same UID. Refusing that would keep the rest of the series from
    coming: most senders stop at the first failure. Other pixels contradict, and so does another series,
    number or position.
    """
    content = held.read_bytes()
    meta = part10.parse_meta(content, held.name)
    if memoryview(content)[meta.data_set_at :] == request.data_set:
        return ""
    before = read_header(content, meta.transfer_syntax_uid, meta.data_set_at)
    if _place_of(before) != _place_of(header):
        return InstanceRefused("already held in another series or at another place", protocol.OTHER_PLACE)
    syntaxes = {meta.transfer_syntax_uid, request.transfer_syntax_uid}
    if len(syntaxes) > 1 and not syntaxes <= set(protocol.UNCOMPRESSED):
        return "already held in another transfer syntax"
    had, has = before.pixels, header.pixels
    came = request.data_set, request.transfer_syntax_uid, 0
    same = same_values((content, meta.transfer_syntax_uid, meta.data_set_at), came)
    if had and has and memoryview(content)[had] == memoryview(request.data_set)[has]:
        return "" if same else "already held with another header"
    if same and not had and not has:  # a report, which the scanner sends and the archive, each in its way
        return ""
    return InstanceRefused("already held with other content", protocol.OTHER_CONTENT)


def _place_of(header: RawHeader) -> tuple[object, ...]:
    uids = header.sop_class_uid, header.study_instance_uid, header.series_instance_uid
    return *uids, header.instance_number, header.position_mm, header.frames, header.part


def arrival_of(header: RawHeader, at_seconds: float) -> Arrival:
    """What completeness needs to know of an instance that lies in the spool."""
    number, position_mm = header.instance_number, header.position_mm
    return Arrival(header.sop_instance_uid, number, position_mm, at_seconds, header.frames, header.part)


def read_file_header(path: Path) -> RawHeader:
    """Read the header of one Part 10 file without reading its pixels.

    Raises NetworkError or InstanceRefused for a file that is no whole instance, OSError, and ValueError
    for an empty file.
    """
    meta = part10.read_meta(path)
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return read_header(content, meta.transfer_syntax_uid, meta.data_set_at)
