"""The Storage SCU: a series to a destination, over several associations at once, every status checked."""

import logging
import threading
import time
from collections import deque
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from dicomnode.errors import DeliveryInterrupted, NetworkError, PeerBusy, PeerRefused, PeerUnreachable
from dicomnode.network import part10, protocol
from dicomnode.network.part10 import FileMeta
from dicomnode.network.requestor import USUAL_PATIENCE, Patience, Requestor, Syntax, timed_echo
from dicomnode.settings import Destination

_log: Final = logging.getLogger(__name__)
_MOST_CONTEXTS: Final = 128
FEWEST_FOR_AN_ASSOCIATION: Final = 8


@dataclass(frozen=True)
class Delivery:
    """What became of a series at a destination: the UIDs it keeps, and those it refused for good."""

    destination: str
    sent: tuple[str, ...]
    refused: tuple[tuple[str, int], ...]
    seconds: float


@dataclass
class _Progress:
    """Shared by the associations of one delivery."""

    waiting: deque[tuple[FileMeta, Path]]
    sent: list[str] = field(default_factory=list)
    refused: list[tuple[str, int]] = field(default_factory=list)
    failures: list[NetworkError] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)

    def take(self) -> tuple[FileMeta, Path] | None:
        """Return the next file, or None when there is none or the delivery is breaking off."""
        if self.stop.is_set():
            return None
        try:
            return self.waiting.popleft()
        except IndexError:
            return None


def send_files(
    paths: Sequence[Path],
    destination: Destination,
    calling_ae: str,
    associations: int | None = None,
    patience: Patience = USUAL_PATIENCE,
) -> Delivery:
    """Send Part 10 files, in the order given, byte for byte in the transfer syntax they are in.

    To a peer that takes a class in Implicit VR Little Endian only, files in Explicit VR go in that.

    Success and warnings (0000, Bxxx) count as sent; a permanent status (0110, A9xx, Cxxx, ...) or a class
    the peer does not accept (told as 0122) as refused, without holding up the others.

    Raises PeerUnreachable when no association opens, PeerRefused when none ever will, and
    DeliveryInterrupted (a PeerBusy) when the peer asks to come back later (A7xx) or breaks off; `sent`
    of that one says what need not be sent again. NetworkError for a file that is no DICOM file,
    before anything is sent.
    """
    started = time.perf_counter()
    files = [(_read_meta(path), path) for path in paths]
    syntaxes = _syntaxes(meta for meta, _ in files)
    progress = _Progress(deque(files))
    wanted = destination.associations if associations is None else associations
    parallel = max(1, min(wanted, -(-len(files) // FEWEST_FOR_AN_ASSOCIATION)))
    if files:
        with ThreadPoolExecutor(parallel, thread_name_prefix="send") as pool:
            workers = [
                pool.submit(_work, progress, destination, calling_ae, syntaxes, patience)
                for _ in range(parallel)
            ]
        for worker in workers:
            worker.result()
    _raise_if_unfinished(progress, destination)
    return Delivery(
        destination.name, tuple(progress.sent), tuple(progress.refused), time.perf_counter() - started
    )


def echo(destination: Destination, calling_ae: str, patience: Patience = USUAL_PATIENCE) -> float:
    """Ask a destination whether it is there (C-ECHO) and return the seconds it took.

    Raises PeerUnreachable, PeerBusy, PeerRefused.
    """
    status, seconds = timed_echo(destination, calling_ae, patience)
    if status != protocol.SUCCESS:
        raise PeerRefused(f"{destination.name}: C-ECHO answered {status:04X}")
    return seconds


def _work(
    progress: _Progress,
    destination: Destination,
    calling_ae: str,
    syntaxes: Sequence[Syntax],
    patience: Patience,
) -> None:
    """One association: take files until there are none. Its failure is noted, the others go on.

    A failure to open is no reason to stop: a peer may allow fewer associations than asked for.
    """
    try:
        with Requestor(destination, calling_ae, syntaxes, patience) as association:
            while (file := progress.take()) is not None:
                _send_one(association, progress, destination, *file)
    except (PeerUnreachable, PeerRefused) as error:
        progress.failures.append(error)
    except NetworkError as error:
        progress.stop.set()
        progress.failures.append(error)


def _send_one(
    association: Requestor, progress: _Progress, destination: Destination, meta: FileMeta, path: Path
) -> None:
    uid = meta.sop_instance_uid
    try:
        status = association.store(meta, path)
    except NetworkError:
        progress.waiting.appendleft((meta, path))
        raise
    if protocol.stored(status):
        progress.sent.append(uid)
    elif protocol.come_back_later(status):
        progress.waiting.appendleft((meta, path))
        progress.failures.append(
            PeerBusy(f"{destination.name}: the peer is out of resources (status {status:04X})")
        )
        progress.stop.set()  # and release in good order
    else:
        _log.warning("%s refused instance %s: status %04X", destination.name, protocol.short(uid), status)
        progress.refused.append((uid, status))


def _raise_if_unfinished(progress: _Progress, destination: Destination) -> None:
    if not progress.waiting:
        return
    broken = [error for error in progress.failures if isinstance(error, PeerBusy)]
    if not broken and not progress.sent and not progress.refused:
        raise progress.failures[0]
    cause = (broken or progress.failures)[0]
    if not isinstance(cause, PeerBusy | PeerUnreachable | PeerRefused):
        raise cause  # a file of ours; trying again does not help
    raise DeliveryInterrupted(
        f"{cause}; {len(progress.sent)} instances are there, {len(progress.waiting)} are not",
        tuple(progress.sent),
        tuple(progress.refused),
    ) from cause


def _read_meta(path: Path) -> FileMeta:
    try:
        return part10.read_meta(path)
    except OSError as error:
        raise NetworkError(f"{path.name}: cannot be read ({error.strerror})") from error


def _syntaxes(metas: Iterable[FileMeta]) -> list[Syntax]:
    """Return the presentation contexts the files need, and no other: some archives refuse the whole list.

    The default syntax of what is in Explicit VR comes last, and only while there is room.
    """
    syntaxes = list(dict.fromkeys((meta.sop_class_uid, meta.transfer_syntax_uid) for meta in metas))
    explicit = [one for one, syntax in syntaxes if syntax == protocol.EXPLICIT_VR_LITTLE_ENDIAN]
    defaults = [(one, protocol.IMPLICIT_VR_LITTLE_ENDIAN) for one in explicit]
    if len({*syntaxes, *defaults}) <= _MOST_CONTEXTS:
        syntaxes = list(dict.fromkeys([*syntaxes, *defaults]))
    if len(syntaxes) > _MOST_CONTEXTS:
        raise NetworkError(f"the files need {len(syntaxes)} presentation contexts, an association has 128")
    return syntaxes
