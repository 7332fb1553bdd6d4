"""Asking the sources: for dose reports that nobody sends, and how many images a series has.

Threads of their own: an archive that hangs delays nothing. A report that is brought is filed like what is
received, and goes the same way from there.
"""

import logging
from collections.abc import Callable
from typing import Final

from dicomnode.errors import DicomnodeError, NetworkError
from dicomnode.journey.rounds import Rounds
from dicomnode.network import protocol
from dicomnode.network.filing import Filing, ReceivedInstance, Request
from dicomnode.network.query import fetch_dose_reports, series_related_instances
from dicomnode.network.requestor import Patience
from dicomnode.settings import Settings

PAUSES_SECONDS: Final = (60.0, 600.0, 3600.0, 6 * 3600.0, 24 * 3600.0)
"""After the first time, which is at once: a report may be days late, but most come within the hour."""
COUNT_PAUSE_SECONDS: Final = 30.0
"""Between one count of a series and the next: an archive may be growing itself."""

log: Final = logging.getLogger(__name__)


class Asking:
    """Asks every source for the dose reports of the studies that want them.

    `came` is called, in the thread of this, with each report that is new and safe on the disk;
    `wanted` says of a study whether it still waits for one.
    """

    def __init__(
        self,
        settings: Settings,
        filing: Filing,
        came: Callable[[ReceivedInstance], None],
        wanted: Callable[[str], bool],
    ) -> None:
        self._settings = settings
        self._filing = filing
        self._came = came
        self._wanted = wanted
        self._rounds = Rounds[str]("asking", self._ask_if_wanted, self._pause_seconds)

    def start(self) -> None:
        """Begin to ask; nothing to do where no source is configured."""
        if self._settings.sources:
            self._rounds.start()

    def stop(self, grace_seconds: float) -> bool:
        """Ask no more; whether the thread has come to rest."""
        return self._rounds.stop(grace_seconds)

    def want(self, study_uid: str) -> None:
        """Ask for the reports of a study at once, and again later."""
        if study_uid:
            self._rounds.want(study_uid)

    @staticmethod
    def _pause_seconds(asked: int) -> float | None:
        return PAUSES_SECONDS[asked] if asked < len(PAUSES_SECONDS) else None

    def _ask_if_wanted(self, study_uid: str) -> bool:
        try:
            if not self._wanted(study_uid):
                return False
        except DicomnodeError as error:
            log.error("whether a study wants a dose report cannot be read (%s)", error)
        else:
            self._ask(study_uid)
        return True

    def _ask(self, study_uid: str) -> None:
        patience = Patience.configured(self._settings.network)
        for source in self._settings.sources:
            try:
                fetch_dose_reports(source, self._settings.node.ae_title, study_uid, self._keep, patience)
            except NetworkError as error:
                log.warning("dose reports cannot be asked for: %s", error)

    def _keep(self, request: Request) -> None:
        received = self._filing.file(request)
        if received.new:
            self._came(received)


class Counting:
    """Asks every source how many images a series has, for as long as the series is waited for.

    `told` is called, in the thread of this, with the series and the largest number that a source answered;
    sources that do not know the series, or do not count, are passed over.
    """

    def __init__(self, settings: Settings, told: Callable[[str, int], None]) -> None:
        self._settings = settings
        self._told = told
        self._rounds = Rounds[tuple[str, str]]("counting", self._count, lambda _: COUNT_PAUSE_SECONDS)

    def start(self) -> None:
        """Begin to ask; nothing to do where no source is configured."""
        if self._settings.sources:
            self._rounds.start()

    def stop(self, grace_seconds: float) -> bool:
        """Ask no more; whether the thread has come to rest."""
        return self._rounds.stop(grace_seconds)

    def want(self, study_uid: str, series_uid: str) -> None:
        """Ask for the number of images of a series until it is `enough`."""
        if self._settings.sources and study_uid:
            self._rounds.want((study_uid, series_uid))

    def enough(self, study_uid: str, series_uid: str) -> None:
        """The series is waited for no more."""
        self._rounds.enough((study_uid, series_uid))

    def _count(self, subject: tuple[str, str]) -> bool:
        study_uid, series_uid = subject
        calling, patience = self._settings.node.ae_title, Patience.configured(self._settings.network)
        counts: list[int] = []
        for source in self._settings.sources:
            try:
                count = series_related_instances(source, calling, study_uid, series_uid, patience)
            except NetworkError as error:
                log.warning("the images of a series cannot be counted: %s", error)
                continue
            if count is not None:
                log.debug("%s counts %d images of %s", source.name, count, protocol.short(series_uid))
                counts.append(count)
        if counts:
            self._told(series_uid, max(counts))
        return True
