"""What happens to one series: looked at, handed to the node, followed until its result is here.

Every step is written into the metadata of the series before the next one. Only the worker's thread is here.
"""

from __future__ import annotations

import time
from typing import Callable, Sequence

from . import record as phases
from . import routing
from .archive import Archive, ArchiveTrouble, Series
from .ledger import Ledger
from .node import NodeApi, NodeSeries, NodeTrouble
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
_HEALTH_SECONDS = 30.0
_SILENCES = 3
"""So often in a row the node's HTTP has not answered when a result ends what is followed."""
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
        self._node_failures, self._node_due, self._health_due = 0, 0.0, 0.0
        self._worked_at = 0.0
        self.last_error: tuple[float, str] | None = None
        self.node_words = "" if node else "no Url is given: progress cannot be seen"
        self.node_reachable: bool | None = None

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
        elif series.fingerprint != record.sent:
            self._queue(series, record, at_once=asked or record.phase != phases.WAITING)
        elif asked and record.final:
            self._ask_again(series, record)

    def _queue(self, series: Series, record: Record, at_once: bool = True) -> None:
        same = record.sending == series.fingerprint and not record.final
        record = record.but(
            phase=phases.WAITING,
            state="waiting",
            words="waits to be sent" if at_once else record.words,
            progress=record.progress if same else 0.0,
            sending=series.fingerprint,
            due=self._clock() if at_once else record.due,
            attempts=0 if at_once else record.attempts,
            again=bool(record.sent),
        )
        self._keep(series.orthanc_id, record)

    def _ask_again(self, series: Series, record: Record) -> None:
        """Asked for by hand, and the node has had all of it: let it try again what did not succeed."""
        if self._node is None:
            self._queue(series, record)
            return
        try:
            told = self._node.series(series.uid)
            for job_id in told.again:
                self._node.retry(job_id)
        except NodeTrouble as trouble:
            self._note(f"asking the node to try again: {trouble}")
            if trouble.status not in (404, 409):
                self._keep(series.orthanc_id, record.but(words=f"could not be tried again: {trouble}"))
                return
        else:
            if told.state == "unknown" or (self._settings.pulls and not told.again):
                self._queue(series, record)  # the node looks whether this Orthanc has more of it
                return
        changes = {"phase": phases.FOLLOWING, "state": "asked", "words": "the node was asked to try again"}
        self._keep(series.orthanc_id, record.but(**changes, again=True, since=self._clock(), lost=0))

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
        record = record.but(results=(*record.results, result_id))
        if record.final and record.state in ("new", "sent"):
            words = "the enhanced series has arrived"
            record = record.but(phase=phases.REST, state="done", words=words, progress=1.0)
        self._keep(source_id, record)

    # --- the next step of what is under way -----------------------------------------------

    def work(self) -> float:
        """Do what is due; return after how many seconds to come again. Raises ArchiveTrouble."""
        self._mind_the_clock()
        for series_id in self._in(phases.SENDING):
            self._look(series_id, self._open[series_id])
        self._hand_over_due()
        self._follow_due()
        self._check_health()
        if self._in(phases.SENDING) or self._in(phases.FOLLOWING):
            return POLL_SECONDS
        now = self._clock()
        waiting = [self._open[one].due - now for one in self._in(phases.WAITING)]
        return min(_HEALTH_SECONDS, max(0.05, min(waiting, default=_HEALTH_SECONDS)))

    def _mind_the_clock(self) -> None:
        """A clock that was set back must not make anything wait until it is that late once more."""
        before, self._worked_at = self._worked_at, self._clock()
        back = before - self._worked_at
        if back <= _CLOCK_STEP_SECONDS:
            return
        self._asked.clear()
        self._node_due = self._health_due = 0.0
        for series_id, record in tuple(self._open.items()):
            shifted = record.but(due=max(0.0, record.due - back), since=max(0.0, record.since - back))
            self._keep(series_id, shifted)

    def _in(self, phase: str) -> list[str]:
        return [series_id for series_id, record in self._open.items() if record.phase == phase]

    def _hand_over_due(self) -> None:
        now = self._clock()
        waiting = sorted(self._in(phases.WAITING), key=lambda one: self._open[one].due)
        for series_id in waiting[:_MOST_A_TURN]:
            full = not self._settings.pulls and len(self._in(phases.SENDING)) >= _MOST_SENDING
            if full or self._open[series_id].due > now:
                return
            series = self._archive.series(series_id)
            if series is None:
                self._forget(series_id)
            elif self._settings.pulls:
                self._ask_to_fetch(series, self._open[series_id])
            else:
                self._send(series, self._open[series_id])

    def _send(self, series: Series, record: Record) -> None:
        record = record.but(sending=series.fingerprint, instances=len(series.instances))
        try:
            job = self._archive.send(series.orthanc_id, self._settings.modality)
        except ArchiveTrouble as trouble:
            self._failed(series.orthanc_id, record, str(trouble))
            return
        words = f"sending {record.instances} images to the node"
        changes = {"phase": phases.SENDING, "state": "sending", "words": words, "since": self._clock()}
        self._keep(series.orthanc_id, record.but(**changes, job=job))

    def _ask_to_fetch(self, series: Series, record: Record) -> None:
        assert self._node is not None  # settings: pull needs Url
        record = record.but(sending=series.fingerprint, instances=len(series.instances))
        try:
            self._node.fetch(self._settings.source, self._archive.study_uid(series), series.uid)
        except NodeTrouble as trouble:
            words = str(trouble)
            if trouble.status == 404:
                words = f"DicomNode.Source is {self._settings.source}, the node answers: {trouble}"
            if trouble.status == 422:  # malformed UIDs do not get better
                ended = record.but(phase=phases.REST, state="failed", words=words)
                self._keep(series.orthanc_id, ended)
            else:
                self._failed(series.orthanc_id, record, words, trouble.retry_after_seconds)
            return
        self._node_answers()
        words = "the node was asked to fetch the images"
        self._handed_over(series.orthanc_id, record, "asked", words)

    def _look(self, series_id: str, record: Record) -> None:
        """How far is the job that sends?"""
        job = self._archive.job(record.job)
        if job is None:
            if not 0.0 <= self._clock() - record.since < _EVENT_SECONDS:
                self._broken_off(series_id, record)
        elif job.state == "Success":
            self._handed_over(series_id, record, "sent", f"{record.instances} images are at the node")
            self._hurry()
        elif job.cancelled:
            words = "the transfer was cancelled in Orthanc; it can be asked for again by hand"
            self._keep(series_id, record.but(phase=phases.REST, state="failed", words=words))
        elif job.ended:
            self._failed(series_id, record.but(untouched=job.progress <= 0.0), job.trouble)
        else:
            self._keep(series_id, record.but(progress=round(SENT_SHARE * job.progress, 2)))

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
        handed = record.but(
            phase=phase,
            state=state,
            words=words,
            sent=record.sending,
            progress=SENT_SHARE,
            attempts=0,
            since=self._clock(),
            had=len(record.results),
        )
        self._keep(series_id, handed)
        series = self._archive.series(series_id)
        if series is not None and series.fingerprint != handed.sent and handed.seen == series.fingerprint:
            self._queue(series, handed)  # images came while it was under way, and were looked at already

    def _failed(self, series_id: str, record: Record, trouble: str, at_least_seconds: float = 0.0) -> None:
        attempts = record.attempts + 1
        pause = max(self._settings.pause_seconds(attempts), at_least_seconds)
        due = self._clock() + pause
        moment = time.strftime("%H:%M:%S UTC", time.gmtime(due))
        words = f"attempt {attempts} failed ({trouble}); again at {moment}"
        self._note(f"series {series_id}: {words}")
        changes = {"phase": phases.WAITING, "state": "waiting", "words": words}
        self._keep(series_id, record.but(**changes, attempts=attempts, due=due))

    def _hurry(self) -> None:
        """The node takes images again: whatever could not even begin is tried now, not after its pause."""
        for series_id in self._in(phases.WAITING):
            record = self._open[series_id]
            if record.attempts and (record.untouched or self._settings.pulls):
                self._keep(series_id, record.but(due=self._clock(), untouched=False))

    # --- what the node says ---------------------------------------------------------------

    def _follow_due(self) -> None:
        now = self._clock()
        if self._node is None or now < self._node_due:
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
                self._node_fails(trouble)
                self._unseen(series_id, self._open[series_id], trouble)
                return
            self._node_answers()
            self._follow(series, self._open[series_id], told)

    def _unseen(self, series_id: str, record: Record, trouble: NodeTrouble) -> None:
        """The node does not say how far it is. That a result has come says enough."""
        if self._node_failures < _SILENCES or len(record.results) <= record.had:
            self._keep(series_id, record.but(words=str(trouble)))
            return
        words = f"the enhanced series has arrived; its progress was not seen: {trouble}"
        changes = {"phase": phases.REST, "state": "done", "words": words, "again": False}
        self._keep(series_id, record.but(**changes, progress=1.0))

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
            ended = record.but(phase=phases.REST, state=told.state, words=told.reason or words, again=False)
            self._note(f"series {series.orthanc_id}: {told.state}: {ended.words}")
            self._keep(series.orthanc_id, ended)

    def _done(self, series: Series, record: Record, told: NodeSeries) -> None:
        found = [one for uid in told.results for one in self._archive.lookup_series(uid)]
        began = record.since if record.state == "done" else self._clock()
        record = record.but(state="done", since=began)
        if len(found) < len(told.results) and self._clock() - began < ARRIVAL_SECONDS:
            self._keep(series.orthanc_id, record.but(words="the result is on its way"))
            return
        for one in found:
            self._mark(one, self._record(one))
            self._archive.mark_result(one, series.orthanc_id)
            self._archive.set_stable(one)
        words = "the enhanced series is here" if found else "its result has not come into this Orthanc"
        results = tuple(dict.fromkeys((*record.results, *found)))
        ended = record.but(phase=phases.REST, words=words, results=results, again=False)
        self._keep(series.orthanc_id, ended.but(progress=1.0))

    def _lost(self, series: Series, record: Record) -> None:
        """It was handed over, and the node knows nothing of it: once more, and no more than that."""
        self._note(f"series {series.orthanc_id}: the node does not know it any more")
        if record.lost:
            words = "the node does not know it, though it was sent twice; it can be asked for again by hand"
            self._keep(series.orthanc_id, record.but(phase=phases.REST, state="failed", words=words))
        else:
            self._queue(series, record.but(lost=1, sent=""))

    def _check_health(self) -> None:
        now = self._clock()
        if self._node is None or now < max(self._node_due, self._health_due):
            return
        self._health_due = now + _HEALTH_SECONDS
        try:
            self._node.health()
        except NodeTrouble as trouble:
            self._node_fails(trouble)
        else:
            self._node_answers()

    def _node_answers(self) -> None:
        back = self._node_failures > 0
        self.node_reachable, self.node_words, self._node_failures = True, "", 0
        if back:
            self._hurry()

    def _node_fails(self, trouble: NodeTrouble) -> None:
        self._node_failures += 1
        pause = min(_HEALTH_SECONDS, self._settings.pause_seconds(self._node_failures))
        self._node_due, self._health_due = self._clock() + pause, 0.0
        self.node_reachable, self.node_words = trouble.status != 0, str(trouble)
        self._note(str(trouble))

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
