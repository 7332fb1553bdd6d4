"""The one thread that does the work. Orthanc's own threads only announce, and wake it."""

from __future__ import annotations

import threading
import time
import traceback
from dataclasses import dataclass
from typing import Any, Callable, Iterator

from .archive import Archive, ArchiveTrouble, Sdk, Series, pages
from .desk import Desk
from .ledger import INSTALLED_PROPERTY, Ledger
from .settings import DAY_SECONDS, Settings

BY_HAND = "by-hand "
"""Before the name of a series in an announcement: somebody asked for it."""

_PAGE = 100
_MOST_A_TURN = 20


@dataclass(frozen=True)
class Later:
    """An announcement to look at: not before `due` (monotonic, seconds), after that many failures."""

    due: float = 0.0
    ticket: Any = None
    failures: int = 0


@dataclass
class Sweep:
    """The look over all series at start, for what no event told of."""

    looked_at: int = 0
    found: int = 0
    seconds: float = 0.0
    finished: bool = False


class Worker:
    """Works until `stop`; `stable_age_seconds` is after how long Orthanc calls a series stable."""

    def __init__(
        self,
        settings: Settings,
        sdk: Sdk,
        desk: Desk,
        ledger: Ledger,
        stable_age_seconds: float,
        tell: Callable[[str], None],
    ) -> None:
        self._settings, self._sdk, self._desk, self._ledger = settings, sdk, desk, ledger
        self._archive = Archive(sdk)
        self._stable_age_seconds, self._tell = stable_age_seconds, tell
        self._later: dict[str, Later] = {}
        self._sweeping: Iterator[None] | None = None
        self._wake, self._stopping = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="dicomnode", daemon=True)
        self.sweep = Sweep()

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def announce(self, series_id: str, by_hand: bool = False) -> None:
        """A series is stable, or was asked for. Durable when this returns; quick, from any thread."""
        self._ledger.announce(BY_HAND + series_id if by_hand else series_id)
        self._wake.set()

    def job_ended(self, job: str, succeeded: bool) -> None:
        """A job of Orthanc's has ended, which Orthanc may forget at once; quick, from any thread."""
        self._desk.job_ended(job, succeeded)
        self._wake.set()

    def stop(self, seconds: float = 10.0) -> None:
        """End at the next opportunity, and wait that long for it."""
        self._stopping.set()
        self._wake.set()
        self._thread.join(seconds)

    def _run(self) -> None:
        restored = False
        while not self._stopping.is_set():
            self._wake.clear()
            pause = self._settings.retry_seconds
            try:
                if not restored:
                    self._later.update(dict.fromkeys(self._desk.under_way.restore(), Later()))
                    restored = True
                pause = self._turn()
            except ArchiveTrouble as trouble:
                self._tell(f"dicomnode: {trouble}; again in {pause:g} s")
            except Exception:  # noqa: BLE001  # the thread must outlive a mistake in it; the log has it whole
                self._tell(
                    f"dicomnode: an error of the plugin; again in {pause:g} s\n{traceback.format_exc()}"
                )
            self._wake.wait(pause)

    def _turn(self) -> float:
        """One round of work; after how many seconds the next is due."""
        self._take_announced()
        self._take_later()
        if not self.sweep.finished:
            self._sweep_on()
        pause = self._desk.work()
        if not self.sweep.finished:
            return 0.0
        now = time.monotonic()
        return min([pause, *(max(0.05, later.due - now) for later in self._later.values())])

    def _take_announced(self) -> None:
        for _ in range(_MOST_A_TURN):
            taken = self._ledger.take()
            if taken is None:
                return
            text, ticket = taken
            self._consider(text, Later(ticket=ticket))
        self._wake.set()

    def _take_later(self) -> None:
        now = time.monotonic()
        due = [text for text, later in self._later.items() if later.due <= now]
        for text in due[:_MOST_A_TURN]:
            self._consider(text, self._later[text])

    def _consider(self, text: str, later: Later) -> None:
        """Look at a series. One that cannot be read waits for another try, and keeps no other waiting."""
        by_hand = text.startswith(BY_HAND)
        series_id = text[len(BY_HAND) :] if by_hand else text
        self._later.pop(text, None)
        try:
            self._desk.consider(series_id, by_hand)
        except ArchiveTrouble as trouble:
            failures = later.failures + 1
            pause = self._settings.pause_seconds(failures)
            self._later[text] = Later(time.monotonic() + pause, later.ticket, failures)
            self._desk.cannot_read(series_id, str(trouble))
            return  # not acknowledged: after a restart it comes again
        except Exception:
            self._acknowledge(later)
            raise
        self._acknowledge(later)

    def _acknowledge(self, later: Later) -> None:
        if later.ticket is not None:
            self._ledger.acknowledge(later.ticket)

    # --- the sweep ------------------------------------------------------------------------

    def _sweep_on(self) -> None:
        """One page more; an error leaves nothing behind, and it begins anew."""
        sweeping, self._sweeping = self._sweeping or self._swept(), None
        next(sweeping, None)
        self._sweeping = sweeping

    def _swept(self) -> Iterator[None]:
        """Look at all series, a page each time: an event that was never fired is found here."""
        began, cutoff = time.monotonic(), self._cutoff()
        self.sweep.looked_at = self.sweep.found = 0
        for page in pages(self._archive, _PAGE):
            for series in page:
                self._look(series, cutoff)
            self.sweep.looked_at += len(page)
            self.sweep.seconds = round(time.monotonic() - began, 3)
            yield
        self.sweep.finished = True

    def _look(self, series: Series, cutoff: float) -> None:
        if series.modality != "CT" or series.updated < cutoff or series.orthanc_id in self._desk.under_way:
            return
        record = self._archive.record(series.orthanc_id)
        if record is not None and not record.final:
            self.sweep.found += 1
            self._desk.under_way.adopt(series.orthanc_id)
        elif series.stable and (record is None or record.is_behind(series.instances, series.updated)):
            self.sweep.found += 1
            left = series.updated + self._stable_age_seconds - time.time()
            due = time.monotonic() + min(max(left, 0.0), self._stable_age_seconds)
            self._later.setdefault(series.orthanc_id, Later(due))

    def _cutoff(self) -> float:
        """Unix time in seconds: nothing older is swept, nor what was there before the plugin was."""
        installed = _number(self._sdk.GetGlobalProperty(INSTALLED_PROPERTY, ""))
        if installed is None:
            installed = time.time()
            self._sdk.SetGlobalProperty(INSTALLED_PROPERTY, str(int(installed)))
        return max(
            installed - self._stable_age_seconds, time.time() - self._settings.sweep_days * DAY_SECONDS
        )


def _number(text: Any) -> float | None:
    try:
        return float(text)
    except (TypeError, ValueError):
        return None
