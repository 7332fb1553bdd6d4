"""What happens to one series: looked at, handed to the node, followed until its result is here.

Every step is written into the metadata of the series before the next one. Only the worker's thread is here.
"""

from __future__ import annotations

import time
from typing import Callable, Sequence

from . import record as phases
from . import routing
from .archive import Archive, Series
from .following import POLL_SECONDS, Following
from .ledger import Ledger
from .node import NodeApi, NodeTrouble
from .reach import HEALTH_SECONDS, Reach
from .record import Record
from .sending import Sending
from .settings import Settings
from .under_way import UnderWay

_CLOCK_STEP_SECONDS = 1.0


class Desk:
    """All series of interest. `tell(words)` writes into Orthanc's log; `clock` gives Unix time in seconds."""

    def __init__(
        self,
        settings: Settings,
        archive: Archive,
        ledger: Ledger,
        node: NodeApi | None,
        tell: Callable[[str], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._settings, self._archive, self._node, self._clock = settings, archive, node, clock
        self._worked_at = 0.0
        self.under_way = UnderWay(archive, ledger, tell, clock)
        self.reach = Reach(node, settings, self.under_way.note, clock)
        self._sending = Sending(settings, archive, self.under_way, node, self.reach, clock)
        self._following = Following(archive, self.under_way, node, self.reach, self._sending, clock)

    def job_ended(self, job: str, succeeded: bool) -> None:
        """Remember how a job ended. From any thread."""
        self._archive.job_ended(job, succeeded)

    # --- a series is new, changed or asked for ------------------------------------------------

    def consider(self, series_id: str, by_hand: bool = False) -> None:
        """Look at a series and decide whether it is to be sent. Raises ArchiveTrouble."""
        series = self._archive.series(series_id)
        if series is None or (series.modality != "CT" and not by_hand):
            return
        record = self.under_way.record(series_id)
        if record.seen == series.fingerprint and not by_hand:
            return
        headers = self._archive.headers(routing.sample(series.instances))
        verdict = routing.judge(headers, len(series.instances), self._settings.minimum_slices)
        record = record.but(seen=series.fingerprint, rule=verdict.rule, reason=verdict.reason)
        if verdict.own:
            self._recognise(series, headers, record)
        elif by_hand or record.by_hand:
            self._begin(series, record.but(by_hand=True), asked=by_hand)
        elif not verdict.send and record.final and not record.sent:
            self.under_way.keep(series_id, record.but(state="not-sent", words=f"not sent: {verdict.reason}"))
        elif verdict.send and self._settings.automatic:
            self._begin(series, record, asked=False)
        elif record.state == phases.UNREADABLE:
            self.under_way.keep(series_id, record.but(state="new", words=""))

    def cannot_read(self, series_id: str, trouble: str) -> None:
        """Say that a series could not be looked at. Raises ArchiveTrouble."""
        words = f"cannot be read ({trouble}); tried again"
        self.under_way.note(f"series {series_id}: {words}")
        record = self.under_way.record(series_id)
        if record.final:
            self.under_way.keep(series_id, record.but(state=phases.UNREADABLE, words=words))

    def _begin(self, series: Series, record: Record, asked: bool) -> None:
        if record.phase == phases.SENDING:
            # compared with what is there when the job has ended
            self.under_way.keep(series.orthanc_id, record)
        elif series.fingerprint != record.sent or (asked and record.final and record.left_out):
            self._sending.queue(series, record, at_once=asked or record.phase != phases.WAITING)
        elif asked and record.final:
            self._ask_again(series, record)

    def _ask_again(self, series: Series, record: Record) -> None:
        """Asked for by hand, and the node has had all of it: let it try again what did not succeed."""
        if self._node is None:
            self._sending.queue(series, record)
            return
        try:
            state, started = self._node.start_again(series.uid)
        except NodeTrouble as trouble:
            self.under_way.note(f"asking the node to try again: {trouble}")
            if not trouble.of_the_node or trouble.status not in (404, 409):
                words = f"could not be tried again: {trouble}"
                self.under_way.keep(series.orthanc_id, record.but(words=words))
                return
        else:
            self._sending.node_answers()
            if state == "unknown" or (self._settings.pulls and not started):
                self._sending.queue(series, record)  # the node looks whether this Orthanc has more of it
                return
        changes = {"phase": phases.FOLLOWING, "state": "asked", "words": "the node was asked to try again"}
        record = record.but(**changes, again=True, told=True, since=self._clock(), lost=0)
        self.under_way.keep(series.orthanc_id, record.but(had=len(record.results)))

    def _recognise(self, result: Series, headers: Sequence[routing.Header], record: Record) -> None:
        """A result: never sent, and linked with the series it was made from."""
        found = [one for uid in routing.sources_of(headers) for one in self._archive.lookup_series(uid)]
        self.under_way.keep_result(result.orthanc_id, record)
        if found:
            self._link(found[0], result.orthanc_id)

    def _link(self, source_id: str, result_id: str) -> None:
        self._archive.mark_result(result_id, source_id)
        record = self.under_way.record(source_id)
        if result_id in record.results:
            return
        record = record.with_result(result_id, self._clock(), asks=self._node is not None)
        self.under_way.keep(source_id, record)

    # --- the next step of what is under way -----------------------------------------------

    def work(self) -> float:
        """Do what is due; return after how many seconds to come again. Raises ArchiveTrouble."""
        self._mind_the_clock()
        self._sending.work()
        self._following.work()
        if self.reach.check():
            self._sending.hurry()
        if self.under_way.within(phases.SENDING) or self.under_way.within(phases.FOLLOWING):
            return POLL_SECONDS
        return min(HEALTH_SECONDS, max(0.05, min(self._sending.due_seconds(), default=HEALTH_SECONDS)))

    def _mind_the_clock(self) -> None:
        """A clock that was set back must not make anything wait until it is that late once more."""
        before, self._worked_at = self._worked_at, self._clock()
        back = before - self._worked_at
        if back <= _CLOCK_STEP_SECONDS:
            return
        self._following.forget_times()
        self.reach.forget_times()
        self.under_way.put_back(back)
