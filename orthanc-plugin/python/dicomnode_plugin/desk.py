"""What happens to one series: looked at, handed to the node, followed until its result is here.

Every step is written into the metadata of the series before the next one. Only the worker's thread is here.
"""

from __future__ import annotations

import time
from typing import Callable, Sequence

from . import record as phases
from . import routing
from .archive import Archive, ArchiveTrouble, Push, Series
from .ledger import Ledger
from .node import NodeApi, NodeSeries, NodeTrouble, NotTheNode
from .reach import HEALTH_SECONDS, Reach
from .record import SENT_SHARE, Record
from .settings import Settings

POLL_SECONDS = 1.0
GRACE_SECONDS = 10.0
"""How long the node may still tell what was true before the images came or a retry was asked."""

ARRIVAL_SECONDS = 60.0
"""How long a result that the node has sent is looked for in this Orthanc."""

_MOST_SENDING = 1
"""Orthanc's two threads for jobs are not ours alone."""
_MOST_A_TURN = 20
_SILENCES = 3
"""So often in a row the node's HTTP has not answered when a result ends what is followed."""
_BY_HAND = "it can be asked for again by hand"
_CLOCK_STEP_SECONDS = 1.0
_EVENT_SECONDS = 5.0
"""How long after its end a job may be forgotten before its event has come."""


class Desk:
    """All series under way. `tell(words)` writes into Orthanc's log; `clock` gives Unix time in seconds."""

    def __init__(
        self,
        settings: Settings,
        archive: Archive,
        ledger: Ledger,
        node: NodeApi | None,
        tell: Callable[[str], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._settings, self._archive, self._ledger, self._node = settings, archive, ledger, node
        self._tell, self._clock = tell, clock
        self._open: dict[str, Record] = {}
        self._asked: dict[str, float] = {}
        self._worked_at = 0.0
        self.last_error: tuple[float, str] | None = None
        self.reach = Reach(node, settings, self._note, clock)

    # --- what is under way ----------------------------------------------------------------

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
        self._open[series_id] = record
        return True

    def counts(self) -> dict[str, int]:
        """How many series are in each phase."""
        standing = [record.phase for record in tuple(self._open.values())]
        return {phase: standing.count(phase) for phase in (phases.WAITING, phases.SENDING, phases.FOLLOWING)}

    def job_ended(self, job: str, succeeded: bool) -> None:
        """Remember how a job ended. From any thread."""
        self._archive.job_ended(job, succeeded)

    def is_open(self, series_id: str) -> bool:
        """Is this series under way?"""
        return series_id in self._open

    # --- a series is new, changed or asked for ------------------------------------------------

    def consider(self, series_id: str, by_hand: bool = False) -> None:
        """Look at a series and decide whether it is to be sent. Raises ArchiveTrouble."""
        series = self._archive.series(series_id)
        if series is None or (series.modality != "CT" and not by_hand):
            return
        record = self._record(series_id)
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
            self._keep(series_id, record.but(state="not-sent", words=f"not sent: {verdict.reason}"))
        elif verdict.send and self._settings.automatic:
            self._begin(series, record, asked=False)
        elif record.state == phases.UNREADABLE:
            self._keep(series_id, record.but(state="new", words=""))

    def cannot_read(self, series_id: str, trouble: str) -> None:
        """Say that a series could not be looked at. Raises ArchiveTrouble."""
        words = f"cannot be read ({trouble}); tried again"
        self._note(f"series {series_id}: {words}")
        record = self._record(series_id)
        if record.final:
            self._keep(series_id, record.but(state=phases.UNREADABLE, words=words))

    def _begin(self, series: Series, record: Record, asked: bool) -> None:
        if record.phase == phases.SENDING:
            self._keep(series.orthanc_id, record)  # compared with what is there when the job has ended
        elif series.fingerprint != record.sent or (asked and record.final and record.left_out):
            self._queue(series, record, at_once=asked or record.phase != phases.WAITING)
        elif asked and record.final:
            self._ask_again(series, record)

    def _queue(self, series: Series, record: Record, at_once: bool = True) -> None:
        record = record.queued(series.fingerprint)
        if at_once:
            record = record.but(words="waits to be sent", due=self._clock(), attempts=0, paused_seconds=0.0)
        self._keep(series.orthanc_id, record)

    def _ask_again(self, series: Series, record: Record) -> None:
        """Asked for by hand, and the node has had all of it: let it try again what did not succeed."""
        if self._node is None:
            self._queue(series, record)
            return
        try:
            state, started = self._node.start_again(series.uid)
        except NodeTrouble as trouble:
            self._note(f"asking the node to try again: {trouble}")
            if isinstance(trouble, NotTheNode) or trouble.status not in (404, 409):
                self._keep(series.orthanc_id, record.but(words=f"could not be tried again: {trouble}"))
                return
        else:
            if state == "unknown" or (self._settings.pulls and not started):
                self._queue(series, record)  # the node looks whether this Orthanc has more of it
                return
        changes = {"phase": phases.FOLLOWING, "state": "asked", "words": "the node was asked to try again"}
        record = record.but(**changes, again=True, since=self._clock(), lost=0)
        self._keep(series.orthanc_id, record.but(had=len(record.results)))

    def _recognise(self, result: Series, headers: Sequence[routing.Header], record: Record) -> None:
        """A result: never sent, and linked with the series it was made from."""
        found = [one for uid in routing.sources_of(headers) for one in self._archive.lookup_series(uid)]
        self._mark(result.orthanc_id, record)
        if found:
            self._link(found[0], result.orthanc_id)

    def _mark(self, result_id: str, record: Record) -> None:
        words = "made by a dicomnode; never sent"
        self._keep(result_id, record.but(phase=phases.REST, state="result", words=words))

    def _link(self, source_id: str, result_id: str) -> None:
        self._archive.mark_result(result_id, source_id)
        record = self._record(source_id)
        if result_id in record.results:
            return
        self._keep(source_id, record.with_result(result_id, self._clock(), asks=self._node is not None))

    # --- the next step of what is under way -----------------------------------------------

    def work(self) -> float:
        """Do what is due; return after how many seconds to come again. Raises ArchiveTrouble."""
        self._mind_the_clock()
        for series_id in self._in(phases.SENDING):
            self._look(series_id, self._open[series_id])
        self._hand_over_due()
        self._follow_due()
        if self.reach.check():
            self._hurry()
        if self._in(phases.SENDING) or self._in(phases.FOLLOWING):
            return POLL_SECONDS
        now = self._clock()
        waiting = [self._open[one].due - now for one in self._in(phases.WAITING)]
        return min(HEALTH_SECONDS, max(0.05, min(waiting, default=HEALTH_SECONDS)))

    def _mind_the_clock(self) -> None:
        """A clock that was set back must not make anything wait until it is that late once more."""
        before, self._worked_at = self._worked_at, self._clock()
        back = before - self._worked_at
        if back <= _CLOCK_STEP_SECONDS:
            return
        self._asked.clear()
        self.reach.forget_times()
        for series_id, record in tuple(self._open.items()):
            self._keep(series_id, record.earlier(back))

    def _in(self, phase: str) -> list[str]:
        return [series_id for series_id, record in self._open.items() if record.phase == phase]

    def _hand_over_due(self) -> None:
        now = self._clock()
        due = [series_id for series_id in self._in(phases.WAITING) if self._open[series_id].due <= now]
        for series_id in sorted(due, key=lambda one: self._open[one].turn)[:_MOST_A_TURN]:
            if self._is_full():
                return
            listed = self._clock()  # before Orthanc lists them: what comes after that is seen to be later
            series = self._archive.series(series_id)
            if series is None:
                self._forget(series_id)
                continue
            record = self._open[series_id]
            if not self._settings.pulls:
                self._send(series, record, listed)
            elif not self._ask_to_fetch(series, record.from_the_first(), listed):
                return

    def _is_full(self) -> bool:
        """Are as many transfers running as may? A paused one takes none of Orthanc's threads."""
        going = [one for one in self._in(phases.SENDING) if self._open[one].state != "paused"]
        return not self._settings.pulls and len(going) >= _MOST_SENDING

    def _send(self, series: Series, record: Record, listed: float) -> None:
        if record.sending != series.fingerprint or not record.in_stretches:
            record = record.from_the_first()
        record = record.listing(series.fingerprint, len(series.instances), listed)
        try:
            resources = record.stretch(series.instances) or (series.orthanc_id,)
            job = self._archive.send(resources, self._settings.modality)
        except ArchiveTrouble as trouble:
            self._failed(series.orthanc_id, record, str(trouble))
            return
        record = record.but(phase=phases.SENDING, since=self._clock(), job=job)
        self._keep(series.orthanc_id, record.on_the_way(0.0, paused=False))

    def _ask_to_fetch(self, series: Series, record: Record, listed: float) -> bool:
        """False: no answer. The others would wait for theirs as long, and people for the plugin meanwhile."""
        assert self._node is not None  # settings: pull needs Url
        record = record.listing(series.fingerprint, len(series.instances), listed)
        try:
            self._node.fetch(self._settings.source, self._archive.study_uid(series), series.uid)
        except NodeTrouble as trouble:
            words = str(trouble)
            if trouble.status == 404 and not isinstance(trouble, NotTheNode):
                words = f"DicomNode.Source is {self._settings.source}, the node answers: {trouble}"
            if trouble.status == 422:  # malformed UIDs do not get better
                self._end_without(series.orthanc_id, record, words)
            else:
                self._failed(series.orthanc_id, record, words, trouble.retry_after_seconds)
            return trouble.status != 0
        self._node_answers()
        self._handed_over(series.orthanc_id, record, "asked", "the node was asked to fetch the images")
        return True

    def _look(self, series_id: str, record: Record) -> None:
        """How far is the job that sends?"""
        job = self._archive.job(record.job)
        if job is None:
            if not 0.0 <= self._clock() - record.since < _EVENT_SECONDS:
                self._broken_off(series_id, record)
        elif job.state == "Success":
            self._sent(series_id, record.past_the_stretch())
        elif job.cancelled:
            self._end_without(series_id, record, f"the transfer was cancelled in Orthanc; {_BY_HAND}")
        elif job.refused:
            self._refused(series_id, record, job)
        elif job.ended:
            self._failed(series_id, record.but(untouched=job.progress <= 0.0), job.trouble)
        else:
            self._keep(series_id, record.on_the_way(job.progress, job.paused))

    def _sent(self, series_id: str, record: Record) -> None:
        """All that was given to the job is at the node, or refused by it."""
        if record.unfinished:
            changes = {"phase": phases.WAITING, "due": self._clock(), "attempts": 0}
            self._keep(series_id, record.but(**changes, paused_seconds=0.0))
            return
        taken = record.instances - record.left_out
        words = "; ".join((f"{taken} images are at the node", *record.remarks))
        self._handed_over(series_id, record, "sent", words)
        self._hurry()

    def _refused(self, series_id: str, record: Record, job: Push) -> None:
        """The node will never take one of the images. It keeps back no other: which one is it?"""
        if not record.in_stretches:
            self._sent(series_id, record.but(in_stretches=True))
            return
        record = record.past_the_refused(job.progress)
        if record.hopeless:
            words = f"the node refused {record.left_out} of {record.instances} images, one after another"
            self._end_without(series_id, record, f"{words} ({job.trouble}); {_BY_HAND}")
        else:
            self._sent(series_id, record)

    def _broken_off(self, series_id: str, record: Record) -> None:
        """Orthanc was killed before it had saved its jobs: at once again, but not for ever at once."""
        if record.attempts:
            self._failed(series_id, record, "the transfer was broken off, and Orthanc does not know its job")
            return
        words = "the transfer was broken off by a restart; sending again"
        changes = {"phase": phases.WAITING, "words": words, "due": self._clock(), "attempts": 1}
        self._keep(series_id, record.but(**changes))

    def _handed_over(self, series_id: str, record: Record, state: str, words: str) -> None:
        phase = phases.FOLLOWING if self._node else phases.REST
        handed = record.but(phase=phase, state=state, words=words).at_the_node(self._clock())
        self._keep(series_id, handed)
        series = self._archive.series(series_id)
        if series is not None and series.fingerprint != handed.sent and handed.seen == series.fingerprint:
            self._queue(series, handed)  # images came while it was under way, and were looked at already

    def _failed(self, series_id: str, record: Record, trouble: str, at_least_seconds: float = 0.0) -> None:
        pause = max(self._settings.pause_seconds(record.attempts + 1), at_least_seconds)
        failed = record.failed(trouble, self._clock(), pause)
        if self._settings.is_over(failed.paused_seconds):
            words = f"given up after {self._settings.give_up_days:g} days ({trouble}); {_BY_HAND}"
            self._end_without(series_id, record.but(attempts=0, paused_seconds=0.0), words)
            return
        self._note(f"series {series_id}: {failed.words}")
        self._keep(series_id, failed)

    def _end_without(self, series_id: str, record: Record, words: str) -> None:
        self._note(f"series {series_id}: {words}")
        self._keep(series_id, record.but(phase=phases.REST, state="failed", words=words))

    def _hurry(self) -> None:
        """The node takes images again: whatever could not even begin is tried now, not after its pause."""
        for series_id in self._in(phases.WAITING):
            record = self._open[series_id]
            if record.attempts and (record.untouched or self._settings.pulls):
                self._keep(series_id, record.hurried(self._clock()))

    # --- what the node says ---------------------------------------------------------------

    def _follow_due(self) -> None:
        now = self._clock()
        if self._node is None or now < self.reach.due:
            return
        following = sorted(self._in(phases.FOLLOWING), key=lambda one: self._asked.get(one, 0.0))
        for series_id in following[:_MOST_A_TURN]:
            if now - self._asked.get(series_id, 0.0) < 0.9 * POLL_SECONDS:
                return
            series = self._archive.series(series_id)
            if series is None:
                self._forget(series_id)
                continue
            self._asked[series_id] = now
            try:
                told = self._node.series(series.uid)
            except NodeTrouble as trouble:
                self.reach.fails(trouble)
                self._unseen(series_id, self._open[series_id], trouble)
                return
            self._node_answers()
            self._follow(series, self._open[series_id], told)

    def _unseen(self, series_id: str, record: Record, trouble: NodeTrouble) -> None:
        """The node does not say how far it is. That a result has come says enough."""
        if self.reach.failures < _SILENCES or len(record.results) <= record.had:
            self._keep(series_id, record.but(words=str(trouble)))
            return
        self._keep(series_id, record.arrived(f"; its progress was not seen: {trouble}"))

    def _follow(self, series: Series, record: Record, told: NodeSeries) -> None:
        fresh = self._clock() - record.since < GRACE_SECONDS
        if told.state == "unknown":
            if not fresh:
                self._lost(series, record)
            return
        if told.final and fresh and record.again:
            return
        progress = round(SENT_SHARE + (1.0 - SENT_SHARE) * told.progress, 2)
        words = told.words or told.reason or ""
        record = record.but(rule=told.rule, reason=told.reason, lost=0)
        if not told.final:
            going = record.but(state=told.state, words=words, progress=progress, again=False)
            self._keep(series.orthanc_id, going)
        elif told.state == "done":
            self._done(series, record, told)
        else:
            words = "; ".join((told.reason or words, *record.remarks))
            ended = record.but(phase=phases.REST, state=told.state, words=words, again=False)
            self._note(f"series {series.orthanc_id}: {told.state}: {ended.words}")
            self._keep(series.orthanc_id, ended)

    def _done(self, series: Series, record: Record, told: NodeSeries) -> None:
        found = [self._here(uids) for uids in told.results]
        began = record.since if record.state == "done" else self._clock()
        record = record.but(state="done", since=began)
        if not all(found) and self._clock() - began < ARRIVAL_SECONDS:
            self._keep(series.orthanc_id, record.but(words="the result is on its way"))
            return
        arrived = [one for these in found for one in these]
        for one in arrived:
            self._mark(one, self._record(one))
            self._archive.mark_result(one, series.orthanc_id)
            self._archive.set_stable(one)
        results = tuple(dict.fromkeys((*record.results, *arrived)))
        words = "the enhanced series is here" if arrived else "its result has not come into this Orthanc"
        words = "; ".join((words, *told.remarks, *record.remarks))
        ended = record.but(phase=phases.REST, words=words, results=results, again=False)
        self._keep(series.orthanc_id, ended.but(progress=1.0))

    def _here(self, uids: Sequence[str]) -> list[str]:
        """Orthanc's names of one result, under the UID of whichever destination this Orthanc is."""
        return [one for uid in uids for one in self._archive.lookup_series(uid)]

    def _lost(self, series: Series, record: Record) -> None:
        """It was handed over, and the node knows nothing of it: once more, unless its result has come."""
        self._note(f"series {series.orthanc_id}: the node does not know it any more")
        if len(record.results) > record.had:
            self._keep(series.orthanc_id, record.arrived("; the node does not know it any more"))
        elif record.lost:
            words = f"the node does not know it, though it was sent twice; {_BY_HAND}"
            self._end_without(series.orthanc_id, record, words)
        else:
            self._queue(series, record.but(lost=1, sent=""))

    def _node_answers(self) -> None:
        if self.reach.answers():
            self._hurry()

    # --- keeping --------------------------------------------------------------------------

    def _record(self, series_id: str) -> Record:
        return self._open.get(series_id) or self._archive.record(series_id) or Record()

    def _keep(self, series_id: str, record: Record) -> None:
        """Write what has changed; what is under way stands in the ledger before its record says so."""
        before = self._open.get(series_id)
        if record == before:
            return
        if not record.final:
            self._ledger.open(series_id)
        if not self._archive.keep(series_id, record, before) or record.final:
            self._forget(series_id)
        else:
            self._open[series_id] = record

    def _forget(self, series_id: str) -> None:
        self._open.pop(series_id, None)
        self._asked.pop(series_id, None)
        self._ledger.close(series_id)

    def _note(self, words: str) -> None:
        if self.last_error is None or self.last_error[1] != words:
            self._tell(f"dicomnode: {words}")
        self.last_error = (self._clock(), words)
