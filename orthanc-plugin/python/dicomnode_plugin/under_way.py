"""The series under way: what stands in memory of them is in their metadata and in the ledger before.

Only the worker's thread changes it.
"""

from __future__ import annotations

from typing import Callable

from . import record as phases
from .archive import Archive
from .ledger import Ledger
from .record import Record


class UnderWay:
    """Their records, and how they are kept. `tell(words)` writes into Orthanc's log."""

    def __init__(
        self, archive: Archive, ledger: Ledger, tell: Callable[[str], None], clock: Callable[[], float]
    ) -> None:
        self._archive, self._ledger, self._tell, self._clock = archive, ledger, tell, clock
        self._open: dict[str, Record] = {}
        self.last_error: tuple[float, str] | None = None

    def restore(self) -> list[str]:
        """Take up what was under way before the last stop; the series that are still to be looked at."""
        return [series_id for series_id in self._ledger.opened() if not self.adopt(series_id)]

    def adopt(self, series_id: str) -> bool:
        """Go on with a series where its record says it is; whether it says so."""
        record = self._archive.record(series_id)
        if record is None or record.final:
            self._ledger.close(series_id)
            return False
        self._ledger.open(series_id)
        self._open[series_id] = record.not_after(self._clock())
        return True

    def counts(self) -> dict[str, int]:
        """How many series are in each phase."""
        standing = [record.phase for record in tuple(self._open.values())]
        return {phase: standing.count(phase) for phase in (phases.WAITING, phases.SENDING, phases.FOLLOWING)}

    def __contains__(self, series_id: str) -> bool:
        return series_id in self._open

    def __getitem__(self, series_id: str) -> Record:
        return self._open[series_id]

    def within(self, phase: str) -> dict[str, Record]:
        """Those in a phase, as they stand at this moment."""
        return {series_id: record for series_id, record in self._open.items() if record.phase == phase}

    def record(self, series_id: str) -> Record:
        """Where a series stands, under way or not."""
        return self._open.get(series_id) or self._archive.record(series_id) or Record()

    def keep(self, series_id: str, record: Record) -> None:
        """Write what has changed; what is under way stands in the ledger before its record says so."""
        before = self._open.get(series_id)
        if record == before:
            return
        if not record.final:
            self._ledger.open(series_id)
        if not self._archive.keep(series_id, record, before) or record.final:
            self.forget(series_id)
        else:
            self._open[series_id] = record

    def forget(self, series_id: str) -> None:
        """Nothing more will happen to it by itself, or it is gone."""
        self._open.pop(series_id, None)
        self._ledger.close(series_id)

    def keep_result(self, series_id: str, record: Record) -> None:
        """It was made by a dicomnode: nothing is to be done with it."""
        words = "made by a dicomnode; never sent"
        self.keep(series_id, record.but(phase=phases.REST, state="result", words=words))

    def put_back(self, seconds: float) -> None:
        """The clock was set back: as if all had been so many seconds earlier."""
        for series_id, record in tuple(self._open.items()):
            self.keep(series_id, record.earlier(seconds))

    def end_without(self, series_id: str, record: Record, words: str) -> None:
        """It will have no result by itself, for the reason that these words tell."""
        self.note(f"series {series_id}: {words}")
        self.keep(series_id, record.but(phase=phases.REST, state="failed", words=words))

    def note(self, words: str) -> None:
        """Say it in Orthanc's log, once as long as nothing else is to be said."""
        if self.last_error is None or self.last_error[1] != words:
            self._tell(f"dicomnode: {words}")
        self.last_error = (self._clock(), words)
