"""Bytes on disk: where an instance, a job and a refusal live, and how a file becomes durable.

Layout under the root, every folder 0700 and every file 0600::

    incoming/<key(series)>/<key(instance)>.dcm   as received, Part 10, never changed
    work/<job id>/                               what one job makes; renamed whole or removed
    refused/<key(series)>/                       why a series was turned away
    quarantine/<key(instance)>-<digest>.dcm      what contradicts an instance already held
    requests/                                    what other processes and archives have asked for
    uid.key                                      the secret from which UIDs of derived objects are made

`key` is the first 32 hexadecimal digits of SHA-256 of the UID: no text out of a data set ever
becomes part of a path.

A file exists completely or not at all. It is written under a temporary name in its own folder,
forced to the disk, renamed, and then the folder is forced to the disk, because a rename that is
only in memory does not survive a power cut. Only after that may a sender be told "stored".
"""

import errno
import fcntl
import hashlib
import itertools
import os
import re
import secrets
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from dicomnode.checked import is_uid
from dicomnode.errors import DiskFull, SpoolError

_TEMPORARY_SUFFIX: Final = ".tmp"
_INSTANCE_SUFFIX: Final = ".dcm"
_KEY_FILE: Final = "uid.key"
_KEY_BYTES: Final = 32
_JOB_ID: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_NO_SPACE: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_temporary_number: Final = itertools.count()
_folder_making: Final = threading.Lock()


def key(uid: str) -> str:
    """Return the name under which a UID is kept: 32 hexadecimal digits of its SHA-256.

    Raises SpoolError for text that is no UID (PS3.5 section 9.1), so that nothing unchecked is filed.
    """
    if not is_uid(uid):
        raise SpoolError("not a valid UID (PS3.5 section 9.1); nothing is filed under it")
    return hashlib.sha256(uid.encode("ascii")).hexdigest()[:32]


@contextmanager
def no_space_told(root: Path) -> Iterator[None]:
    """A full disk as DiskFull, wherever in the work on a spool it shows."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFull(f"{root}: no space left on the device; free some space") from error
        raise


class Spool:
    """The folder that holds what was received and what is being made of it.

    Making one creates the folders. The process that receives calls `claim` first; a second process
    may look (instances, series) without claiming.
    """

    def __init__(self, root: Path, reserve_bytes: int) -> None:
        self.root = root
        self.reserve_bytes = reserve_bytes
        self.incoming = root / "incoming"
        self.work = root / "work"
        self.refused = root / "refused"
        self.quarantined = root / "quarantine"
        self._lock_file: int | None = None
        self._homes: dict[str, str] | None = None
        self._homes_guard = threading.Lock()
        for folder in (root, self.incoming, self.work, self.refused, self.quarantined):
            _make_folder(folder)

    # --- owning ---------------------------------------------------------------------------

    def claim(self) -> int:
        """Own the spool until `release` or the end of the process, and remove what a crash left half-written.

        Returns how many leftovers were removed. Raises SpoolError when another process owns it: two
        receivers in one spool would each take the other's unfinished files for leftovers.
        """
        if self._lock_file is not None:
            return 0
        handle = os.open(self.root / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(handle)
            raise SpoolError(
                f"{self.root}: another dicomnode process owns this spool; stop it or set another node.spool"
            ) from error
        self._lock_file = handle
        removed = self._remove_leftovers()
        with self._homes_guard:
            self._known_homes()
        return removed

    def release(self) -> None:
        """Let another process claim the spool."""
        if self._lock_file is not None:
            os.close(self._lock_file)
            self._lock_file = None

    def _remove_leftovers(self) -> int:
        removed = 0
        left = f".*{_TEMPORARY_SUFFIX}"
        folders = (self.incoming, self.quarantined, self.refused, self.work, self.root / "requests")
        for path in (*self.root.glob(left), *(path for folder in folders for path in folder.rglob(left))):
            path.unlink(missing_ok=True)
            removed += 1
        return removed

    # --- looking --------------------------------------------------------------------------

    def free_bytes(self) -> int:
        """Return the bytes an unprivileged process may still write on the spool's file system."""
        numbers = os.statvfs(self.root)
        return numbers.f_bavail * numbers.f_frsize

    def series_folder(self, series_uid: str) -> Path:
        """Return where the instances of a series are kept, whether or not any has come."""
        return self.incoming / key(series_uid)

    def instances(self, series_uid: str) -> list[Path]:
        """Return the files held for a series, in a stable order; empty when there are none."""
        return _instances_in(self.series_folder(series_uid))

    def series(self) -> Iterator[Path]:
        """Yield every series folder that holds at least one instance: what a start-up sweep looks at."""
        for folder in sorted(self.incoming.iterdir()):
            if folder.is_dir() and _instances_in(folder):
                yield folder

    def find(self, sop_instance_uid: str) -> Path | None:
        """Return the file that holds an instance, in whatever series it came first, or None."""
        name = key(sop_instance_uid)
        with self._homes_guard:
            home = self._known_homes().get(name)
        if home is None:
            return None
        path = self.incoming / home / (name + _INSTANCE_SUFFIX)
        return path if path.exists() else None

    def _known_homes(self) -> dict[str, str]:
        """Instance key -> series key. Read from disk once, then kept up by `file`."""
        if self._homes is None:
            self._homes = {
                path.name.removesuffix(_INSTANCE_SUFFIX): folder.name
                for folder in self.incoming.iterdir()
                if folder.is_dir()
                for path in _instances_in(folder)
            }
        return self._homes

    # --- writing --------------------------------------------------------------------------

    def file(self, series_uid: str, sop_instance_uid: str, *chunks: bytes) -> Path:
        """Write one received instance durably and return its path. Raises DiskFull."""
        name = key(sop_instance_uid)
        folder = self.series_folder(series_uid)
        path = folder / (name + _INSTANCE_SUFFIX)
        with self._homes_guard:  # before the write: a file in place is then never unknown to `find`
            self._known_homes()[name] = folder.name
        self.write_durably(path, *chunks)
        return path

    def write_durably(self, path: Path, *chunks: bytes) -> None:
        """Write a file so that a power cut right after the return does not lose it.

        Missing folders between the spool's root and the file are made. Replaces a file of that name
        at once. Raises DiskFull when the file would eat into the reserve or the disk is full, SpoolError for
        any other trouble of the disk; in both cases nothing half-written is left.
        """
        size_bytes = sum(len(chunk) for chunk in chunks)
        try:
            self._require_room(size_bytes)
            _make_folder(path.parent)
            _replace(path, chunks)
        except OSError as error:
            if error.errno in _NO_SPACE:
                raise DiskFull(f"{self.root}: no space left on the device; free some space") from error
            raise SpoolError(f"{self.root}: cannot write ({error.strerror}); look at the disk") from error

    def _require_room(self, size_bytes: int) -> None:
        free_bytes = self.free_bytes()
        if free_bytes - size_bytes < self.reserve_bytes:
            raise DiskFull(
                f"{self.root}: {free_bytes / 2**30:.2f} GiB free, the reserve is"
                f" {self.reserve_bytes / 2**30:.2f} GiB; free some space or lower node.reserve_gib"
            )

    def confirm(self, path: Path) -> None:
        """Force a file that is already in place, and its folder, to the disk.

        For the instance that is sent again because its first answer was lost: that the file can be
        seen does not yet say that it is durable.
        """
        try:
            handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
            _sync_folder(path.parent)
        except OSError as error:
            raise SpoolError(f"{self.root}: cannot confirm a file ({error.strerror})") from error

    def quarantine(self, sop_instance_uid: str, digest: str, reason: str, *chunks: bytes) -> Path:
        """Keep a copy of something that must not be filed, with the reason in a text file beside it.

        The name holds the digest of the content: a sender that tries a hundred times fills one file.
        """
        path = self.quarantined / f"{key(sop_instance_uid)}-{digest[:16]}{_INSTANCE_SUFFIX}"
        if not path.exists():
            self.write_durably(path, *chunks)
            self.write_durably(path.with_suffix(".txt"), (reason + "\n").encode("utf-8"))
        return path

    # --- the secret -----------------------------------------------------------------------

    def uid_key(self) -> bytes:
        """Return the secret of this installation; made, and safe on the disk, when it is first asked for.

        For the process that has claimed the spool. It is never made anew: other UIDs would follow from it,
        and a series that is sent again would double. Raises SpoolError when the file is damaged.
        """
        path = self.root / _KEY_FILE
        try:
            key = path.read_bytes()
            if stat.S_IMODE(path.stat().st_mode) & 0o077:
                path.chmod(0o600)
        except FileNotFoundError:
            key = secrets.token_bytes(_KEY_BYTES)
            Spool(self.root, reserve_bytes=0).write_durably(path, key)
        except OSError as error:
            raise SpoolError(f"{path}: cannot be read ({error.strerror})") from error
        if len(key) != _KEY_BYTES:
            raise SpoolError(
                f"{path}: is damaged ({len(key)} bytes, not {_KEY_BYTES}); put it back from a backup, or"
                " remove it, and what is enhanced again gets other UIDs"
            )
        return key

    # --- folders of jobs and refusals, and the way out ---------------------------------------

    def work_folder(self, job_id: str) -> Path:
        """Make and return the folder of one job."""
        folder = self._work_path(job_id)
        _make_folder(folder)
        return folder

    def _work_path(self, job_id: str) -> Path:
        if not _JOB_ID.fullmatch(job_id):
            raise SpoolError("a job id holds letters, digits, '.', '_' and '-', 128 at most")
        return self.work / job_id

    def refused_folder(self, series_uid: str) -> Path:
        """Make and return the folder where the reason for turning a series away is kept."""
        folder = self.refused / key(series_uid)
        _make_folder(folder)
        return folder


def _instances_in(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.suffix == _INSTANCE_SUFFIX)


def _make_folder(folder: Path) -> None:
    """Make a folder and its missing parents, private, each durable in its parent.

    One at a time: a second writer must not see a folder that the first has not yet made durable.
    """
    with _folder_making:
        _make_folder_and_parents(folder)


def _make_folder_and_parents(folder: Path) -> None:
    if folder.is_dir():
        return
    if not folder.parent.is_dir():
        _make_folder_and_parents(folder.parent)
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
    except FileExistsError as error:
        raise SpoolError(f"{folder}: is a file, a folder is needed here") from error
    _sync_folder(folder.parent)


def _replace(path: Path, chunks: tuple[bytes, ...]) -> None:
    """Temporary name, fsync, rename, fsync of the folder; the temporary file never outlives the call."""
    temporary = path.parent / f".{path.name}.{os.getpid()}-{next(_temporary_number)}{_TEMPORARY_SUFFIX}"
    try:
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(handle, "wb", buffering=0) as file:
            for chunk in chunks:
                _write_all(file.fileno(), chunk)
            os.fsync(file.fileno())
        temporary.rename(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def _write_all(handle: int, chunk: bytes) -> None:
    """One write call may take less than it is given (2 GiB at most on Linux)."""
    rest = memoryview(chunk)
    while rest:
        rest = rest[os.write(handle, rest) :]


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
