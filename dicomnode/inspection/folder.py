"""The files of `dicomnode inspect`: which of them are DICOM, which belong together, which are there twice."""

import hashlib
import os
import stat
import struct
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydicom.uid import UID

from dicomnode.checked import is_uid
from dicomnode.dicom.dose_report import DOSE_REPORT_CLASSES, DoseReport, read_dose_report
from dicomnode.dicom.series import read_headers
from dicomnode.dicom.stacks import Stack, sort_into_stacks
from dicomnode.dicom.values import text
from dicomnode.errors import InstanceRefused, NetworkError, NotADoseReport, SeriesRefused
from dicomnode.network import part10, protocol
from dicomnode.network.filing import read_file_header

Watch = Callable[[Sequence[Path]], Iterable[Path]]
WatchSeries = Callable[[Sequence["Series"]], Iterable["Series"]]

_BARE_GROUPS: Final = (0x0002, 0x0008)
"""With which a data set begins that was saved without preamble and prefix."""
_NO_TEXT: Final = {0xDC00 + byte: f"\\x{byte:02x}" for byte in range(0x80, 0x100)}
"""Python's stand-ins (PEP 383) for bytes of names that are no UTF-8."""
_COMMANDS: Final = {byte: f"\\x{byte:02x}" for byte in (*range(0x20), 0x7F)}
_MISSING: Final = (FileNotFoundError, NotADirectoryError)
_NO_META: Final = "no file meta information that can be read: the sender has to write it anew"


@dataclass(frozen=True)
class Series:
    """Files of one Series Instance UID that the listener treats alike; "" where it cannot be read.

    `door`: why it would not take them as they are; None where it does. `dose_report`: they are one each.
    """

    uid: str
    paths: tuple[Path, ...]
    door: str | None = None
    dose_report: bool = False


@dataclass(frozen=True)
class FoundStack:
    """A stack of a series, with what is known of the series."""

    stack: Stack
    series: Series


@dataclass(frozen=True)
class Folder:
    """What was found. `others` are files that are no DICOM (DICOMDIR is one), `copies` those that are the
    same instance as another byte for byte: the node takes it once. `unreadable`: folders not looked into, and
    what could not even be looked at."""

    series: tuple[Series, ...]
    dose_reports: tuple[Path, ...]
    others: int
    copies: int
    unreadable: tuple[str, ...]

    def stacks(self, watch: WatchSeries) -> Iterator[FoundStack]:
        """The stacks of all series, as the node sorts them."""
        for series in watch(self.series):
            for stack in sort_into_stacks(series.paths):
                yield FoundStack(stack, series)

    def remarks(self) -> Iterator[str]:
        """What is to be said beside the series."""
        if self.others:
            yield _counted(self.others, "is not DICOM", "are not DICOM")
        if self.copies:
            yield _counted(self.copies, "is a copy of another", "are copies of others")
        for name in self.unreadable:
            yield f"cannot be read: {name}"


def _counted(number: int, one: str, many: str) -> str:
    return f"{number} file {one}" if number == 1 else f"{number} files {many}"


def gather(paths: Sequence[Path], watch: Watch) -> Folder:
    """Find the DICOM files below these paths and put those of one series together."""
    unreadable: list[str] = []
    files = list(_files(paths, unreadable))
    dicom = [path for path in files if _may_be_dicom(path)]
    sorting = _Sorting()
    for path in watch(dicom):
        sorting.add(path)
    return Folder(
        sorting.series(),
        tuple(sorting.dose_reports),
        len(files) - len(dicom),
        sorting.copies,
        tuple(map(named_as_text, unreadable)),
    )


def dose_reports(paths: Iterable[Path]) -> dict[str, list[DoseReport]]:
    """What CT dose reports tell, by study."""
    reports: dict[str, list[DoseReport]] = defaultdict(list)
    for path in paths:
        try:
            report = read_dose_report(path)
        except NotADoseReport:
            continue
        reports[report.study_instance_uid].append(report)
    return reports


class _Sorting:
    """Puts files together by series and by what the listener says to them; each instance once."""

    def __init__(self) -> None:
        self.dose_reports: list[Path] = []
        self.copies = 0
        self._of_series: dict[tuple[str, str | None, bool], list[Path]] = defaultdict(list)
        self._seen = _Seen()
        self._alone: list[tuple[Path, str | None]] = []

    def add(self, path: Path) -> None:
        """A file that is no whole instance stands alone: the listener would refuse it and take the others."""
        door: str | None = None
        try:
            meta = part10.read_meta(path)
            door = _DOOR.told(meta)
            series_uid, instance_uid = _uids(path, door)
        except InstanceRefused as refusal:
            self._alone.append((path, f"the listener refuses it: {refusal}"))
            return
        except NetworkError:
            self._alone.append((path, _NO_META))
            return
        except (SeriesRefused, OSError, ValueError):
            self._alone.append((path, door))
            return
        try:
            is_copy = self._seen.before(instance_uid, path)
        except (InstanceRefused, NetworkError, OSError):  # it has gone, or changed, since it was looked at
            self._alone.append((path, door))
            return
        if is_copy:
            self.copies += 1
            return
        is_report = meta.sop_class_uid in DOSE_REPORT_CLASSES
        self.dose_reports += [path] if is_report else []
        self._of_series[series_uid, door, is_report].append(path)

    def series(self) -> tuple[Series, ...]:
        """Sorted by their first file."""
        together = [
            Series(uid, tuple(paths), door, is_report)
            for (uid, door, is_report), paths in self._of_series.items()
        ]
        alone = [Series("", (path,), door) for path, door in self._alone]
        return tuple(sorted((*together, *alone), key=lambda one: one.paths[0]))


def _uids(path: Path, door: str | None) -> tuple[str, str]:
    """Series and SOP Instance UID, by the listener's eyes where it would take the file."""
    try:
        header = read_file_header(path)
        return header.series_instance_uid, header.sop_instance_uid
    except InstanceRefused:
        if door is None:
            raise
    first, *_ = read_headers([path])
    return text(first, "SeriesInstanceUID"), text(first, "SOPInstanceUID")


class _Seen:
    """Which instances were there before. Contents are looked at only where a UID comes again."""

    def __init__(self) -> None:
        self._first: dict[str, Path | None] = {}
        self._contents: dict[str, set[bytes]] = defaultdict(set)

    def before(self, instance_uid: str, path: Path) -> bool:
        """Whether a file holds the same data set as an earlier one, byte for byte, in one syntax."""
        if instance_uid not in self._first:
            self._first[instance_uid] = path
            return False
        contents, first = self._contents[instance_uid], self._first[instance_uid]
        content = _content(path)
        if first is not None:
            with suppress(InstanceRefused, NetworkError, OSError):  # gone since: a copy of nothing
                contents.add(_content(first))
            self._first[instance_uid] = None
        known = content in contents
        contents.add(content)
        return known


def _content(path: Path) -> bytes:
    """SHA-256 over transfer syntax and data set; not over what an application wrote around them."""
    content = path.read_bytes()
    meta = part10.parse_meta(content, path.name)
    digest = hashlib.sha256(meta.transfer_syntax_uid.encode())
    digest.update(memoryview(content)[meta.data_set_at :])
    return digest.digest()


class _Door:
    """What the listener accepts."""

    def __init__(self) -> None:
        self._accepted: Mapping[str, frozenset[str]] = {
            str(context.abstract_syntax): frozenset(str(syntax) for syntax in context.transfer_syntax)
            for context in protocol.accepted_contexts()
        }

    def told(self, meta: part10.FileMeta) -> str | None:
        """Why a file would not be taken as it is, or None."""
        syntaxes = self._accepted.get(meta.sop_class_uid)
        if syntaxes is None:
            return "the listener does not accept this SOP class"
        if meta.transfer_syntax_uid in syntaxes:
            return None
        # Only a UID is quoted: anything may stand there.
        syntax = meta.transfer_syntax_uid
        name = UID(syntax).name if is_uid(syntax) else "its transfer syntax"
        return f"the listener does not accept {name}: the sender has to convert it on its way"


_DOOR: Final = _Door()


# --- the disk -------------------------------------------------------------------------------------


def is_missing(path: Path) -> bool:
    """Nothing is there, or a link to nothing; what cannot be looked at is there."""
    try:
        path.stat()
    except _MISSING:
        return True
    except OSError:
        return False
    return False


def legible(told: str) -> str:
    """Words in which names of files may stand; their bytes that are no text as `\\xff`."""
    return told.translate(_NO_TEXT)


def named_as_text(name: str) -> str:
    """A name of a file in one legible line, whatever bytes it holds."""
    return legible(name).translate(_COMMANDS)


def _files(paths: Sequence[Path], unreadable: list[str]) -> Iterator[Path]:
    """Every file below, sorted by folder, links followed, each file and each folder once."""
    met = _Met(unreadable)
    for path in paths:
        if not os.path.isdir(path):
            yield from met.new([path], stat.S_ISREG)
            continue
        if not list(met.new([path], stat.S_ISDIR)):
            continue
        for folder, below, names in os.walk(
            path, followlinks=True, onerror=lambda error: unreadable.append(str(error.filename))
        ):
            if not _is_open(folder):
                unreadable.append(folder)
                below.clear()
                continue
            found = met.new((Path(folder, name) for name in sorted(below)), stat.S_ISDIR)
            below[:] = [path.name for path in found]
            yield from met.new((Path(folder, name) for name in sorted(names)), stat.S_ISREG)


def _is_open(folder: str) -> bool:
    """Whether what is in it can be reached; without that right its names can still be listed."""
    try:
        os.stat(os.path.join(folder, os.curdir))
    except OSError:
        return False
    return True


class _Met:
    """Which files and folders were met before, under whatever name."""

    def __init__(self, unreadable: list[str]) -> None:
        self._unreadable = unreadable
        self._seen: set[tuple[int, int]] = set()

    def new(self, paths: Iterable[Path], is_kind: Callable[[int], bool]) -> Iterator[Path]:
        """Those of a kind that were not; what cannot be looked at is unreadable, what has gone is nothing."""
        for path in paths:
            try:
                found = path.stat()
            except _MISSING:
                continue
            except OSError:
                self._unreadable.append(str(path))
                continue
            place = found.st_dev, found.st_ino
            if is_kind(found.st_mode) and place not in self._seen:
                self._seen.add(place)
                yield path


def _may_be_dicom(path: Path) -> bool:
    """Part 10 files, data sets without its frame, and what cannot be opened, which is to be told."""
    if path.name.upper() == "DICOMDIR":
        return False
    try:
        with path.open("rb") as file:
            head = file.read(132)
    except OSError:
        return True
    return head[128:] == b"DICM" or _is_bare(head)


def _is_bare(head: bytes) -> bool:
    """A data set, or file meta information, without preamble: a first element of few bytes in its group."""
    if len(head) < 132:
        return False
    group, element = struct.unpack_from("<HH", head)
    length = struct.unpack_from("<I", head, 4)[0]
    explicit = head[4:6].isalpha() and head[4:6].isupper()
    return group in _BARE_GROUPS and element <= 0x18 and (explicit or length <= 64)
