"""The desk at the door: where arriving instances become series, and complete series become jobs."""

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from dicomnode.errors import DicomnodeError, InstanceRefused, NetworkError
from dicomnode.journey.asking import Counting
from dicomnode.journey.workflow import Journey
from dicomnode.network import protocol
from dicomnode.network.completeness import Arrival, Completion, SeriesWatch
from dicomnode.network.filing import arrival_of, read_file_header
from dicomnode.network.receive import AssociationOutcome, ReceivedInstance
from dicomnode.settings import Settings
from dicomnode.spool import Spool, key

log: Final = logging.getLogger(__name__)


@dataclass(frozen=True)
class End:
    """An association that carried these series has ended."""

    outcome: AssociationOutcome
    series_uids: frozenset[str]


@dataclass(frozen=True)
class Count:
    """So many images of a series are known to a source."""

    series_uid: str
    images: int


@dataclass(frozen=True)
class Awaited:
    """A series is not complete with fewer images than these, because they are being fetched; 0: no more."""

    series_uid: str
    images: int


@dataclass(frozen=True)
class FurtherSender:
    """A series has a further sender."""

    series_key: str


News = ReceivedInstance | End | Count | Awaited | FurtherSender


class Desk:
    """Where arriving instances become series, and complete series become jobs. For one thread."""

    def __init__(
        self, settings: Settings, spool: Spool, journey: Journey, counting: Counting, again_seconds: float
    ) -> None:
        self._spool = spool
        self.journey = journey
        self._counting = counting
        self._again_seconds = again_seconds
        self._count_after_seconds = settings.completeness.closed_seconds / 2
        self._watch = SeriesWatch(settings.completeness)
        self._watched: dict[str, str] = {}
        self._again: list[tuple[float, Completion]] = []

    def sweep(self, now: float) -> None:
        """Find dose reports, and the images that no job has: their series was not complete at the stop."""
        for folder in self._spool.series():
            taken = {name for order in self.journey.book.latest(folder.name) for name in order.files}
            left = [path for path in sorted(folder.glob("*.dcm")) if path.name not in taken]
            found = list(self._read(left, now))
            for study_uid, series_uid, arrival in found:
                self._open(series_uid, study_uid)
                self._watch.restored(series_uid, [arrival])
            if found:
                log.info("series %s: %d images wait in the spool", protocol.short(found[0][1]), len(found))

    def hear(self, news: News, now: float) -> None:
        """Take note of what the other threads handed over."""
        match news:
            case ReceivedInstance():
                self._arrived(news, now)
            case End(outcome, series_uids):
                self._watch.association_ended(series_uids, now, released=outcome == "released")
            case Count(series_uid, images):
                self._watch.told(series_uid, images - self._beside(series_uid))
            case Awaited(series_uid, images):
                self._watch.awaits(series_uid, images - self._beside(series_uid))
            case FurtherSender(series_key):
                self._widen(series_key)

    def _widen(self, series_key: str) -> None:
        try:
            self.journey.sender_came(series_key)
        except (DicomnodeError, OSError) as error:
            log.error("a further sender of a series cannot be looked at (%s)", type(error).__name__)

    def is_watching(self, series_uid: str) -> bool:
        """Whether a series is waited for; may be asked from any thread."""
        return series_uid in self._watched

    def _arrived(self, received: ReceivedInstance, now: float) -> None:
        """Note an instance that is safe on the disk."""
        series_uid = received.series_instance_uid
        if received.sop_class_uid in protocol.DOSE_REPORT_CLASSES:
            log.info("a dose report was stored (series %s)", protocol.short(series_uid))
            study_uid = received.study_instance_uid
            self.journey.report_came(study_uid, received.sop_instance_uid, received.path)
            return
        if received.sop_class_uid not in protocol.IMAGE_CLASSES:
            log.debug("kept beside the images, no CT: an object of series %s", protocol.short(series_uid))
            return
        if series_uid not in self._watched:
            if not received.new and self._taken(series_uid, received.path.name):
                return
            self._open(series_uid, received.study_instance_uid)
        self._watch.arrived(series_uid, received.arrival(now))

    def _beside(self, series_uid: str) -> int:
        """How many objects of a series are kept beside its images: an archive counts them, too."""
        held = self._watch.open_series().get(series_uid)
        if held is None:  # not waited for at the moment: its images are those that its jobs have
            orders = self.journey.book.latest(key(series_uid))
            held = len({name for order in orders for name in order.files})
        return max(len(self._spool.instances(series_uid)) - held, 0)

    def hand_in(self, now: float) -> None:
        """Make jobs of the series that are complete by now."""
        again = [completion for due_at, completion in self._again if due_at <= now]
        self._again = [(due_at, completion) for due_at, completion in self._again if due_at > now]
        for completion in (*again, *self._watch.due(now)):
            try:
                self.journey.submit(completion)
            except (DicomnodeError, OSError) as error:
                shown = protocol.short(completion.series_uid)
                log.error("series %s: cannot be made a job yet (%s)", shown, error)
                self._again.append((now + self._again_seconds, completion))
            # Whatever comes later is put together with what the job has, from the spool.
            self._watch.forget(completion.series_uid)
            self._counting.enough(self._watched.pop(completion.series_uid, ""), completion.series_uid)
        for series_uid in self._watch.silent(now, self._count_after_seconds):
            self._counting.want(self._watched.get(series_uid, ""), series_uid)

    def _open(self, series_uid: str, study_uid: str) -> None:
        """Watch a series; the images that a job of it has already count as a revision that was passed on."""
        if series_uid in self._watched:
            return
        self._watched[series_uid] = study_uid
        latest = self.journey.book.latest(key(series_uid))
        if latest:
            folder = self._spool.series_folder(series_uid)
            held = self._read([folder / name for order in latest for name in order.files], 0.0)
            revision = max(order.generation for order in latest)
            self._watch.restored(series_uid, [arrival for _, _, arrival in held], revision, completed=True)

    def _taken(self, series_uid: str, name: str) -> bool:
        return any(name in order.files for order in self.journey.book.latest(key(series_uid)))

    def _read(self, paths: Iterable[Path], at_seconds: float) -> Iterator[tuple[str, str, Arrival]]:
        """(study UID, series UID, arrival) of each CT image that can be read; dose reports are noted."""
        for path in paths:
            try:
                header = read_file_header(path)
            except (OSError, NetworkError, InstanceRefused, ValueError) as error:
                log.error("an image in the spool cannot be read (%s)", type(error).__name__)
                continue
            if header.sop_class_uid in protocol.DOSE_REPORT_CLASSES:
                self.journey.reports.add(header.study_instance_uid, header.sop_instance_uid, path)
            elif header.sop_class_uid in protocol.IMAGE_CLASSES:
                arrival = arrival_of(header, at_seconds)
                yield header.study_instance_uid, header.series_instance_uid, arrival
