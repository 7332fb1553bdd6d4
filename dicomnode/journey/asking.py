"""Asking the sources for dose reports that nobody sends: for series refused because their dose is unknown.

A thread of its own: an archive that hangs delays nothing. What is brought is filed like what is received,
and goes the same way from there. When to ask again is in memory only: after a restart it begins anew.
"""

import logging
import threading
import time
from collections.abc import Callable
from typing import Final

from dicomnode.errors import DicomnodeError, NetworkError
from dicomnode.network.filing import Filing, ReceivedInstance, Request
from dicomnode.network.query import fetch_dose_reports
from dicomnode.network.requestor import Patience
from dicomnode.settings import Settings

PAUSES_SECONDS: Final = (60.0, 600.0, 3600.0, 6 * 3600.0, 24 * 3600.0)
"""After the first time, which is at once: a report may be days late, but most come within the hour."""
_TICK_SECONDS: Final = 0.5

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
        self._due: dict[str, tuple[float, int]] = {}
        self._guard = threading.Lock()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="asking", daemon=True)

    def start(self) -> None:
        """Begin to ask; nothing to do where no source is configured."""
        if self._settings.sources:
            self._thread.start()

    def stop(self, grace_seconds: float) -> bool:
        """Ask no more; whether the thread has come to rest."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(timeout=grace_seconds)
        return not self._thread.is_alive()

    def want(self, study_uid: str) -> None:
        """Ask for the reports of a study at once, and again later; one that is asked for already stays so."""
        with self._guard:
            if study_uid:
                self._due.setdefault(study_uid, (time.monotonic(), 0))

    def _run(self) -> None:
        while not self._stopping.wait(_TICK_SECONDS):
            now = time.monotonic()
            with self._guard:
                due = [study_uid for study_uid, (due_at, _) in self._due.items() if due_at <= now]
            for study_uid in due:
                if self._stopping.is_set():
                    return
                self._next(study_uid, self._ask_if_wanted(study_uid))

    def _next(self, study_uid: str, wanted: bool) -> None:
        with self._guard:
            _, asked = self._due.pop(study_uid)
            if wanted and asked < len(PAUSES_SECONDS):
                self._due[study_uid] = (time.monotonic() + PAUSES_SECONDS[asked], asked + 1)

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
