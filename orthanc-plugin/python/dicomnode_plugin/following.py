"""Following a series that the node has, until its result is here or the node says why there is none."""

from __future__ import annotations

from typing import Callable, Sequence

from . import record as phases
from .archive import Archive, Series
from .node import NodeApi, NodeSeries, NodeTrouble
from .reach import Reach
from .record import SENT_SHARE, Record
from .sending import BY_HAND, Sending
from .under_way import UnderWay

POLL_SECONDS = 1.0
GRACE_SECONDS = 10.0
"""How long the node may still tell what was true before the images came or a retry was asked."""

ARRIVAL_SECONDS = 60.0
"""How long a result that the node has sent is looked for in this Orthanc."""

_MOST_A_TURN = 20
_SILENCE_SECONDS = 3600.0
"""So long the node has not answered when a result ends a series of which it never told anything."""


class Following:
    """What the node says of each series."""

    def __init__(
        self,
        archive: Archive,
        under_way: UnderWay,
        node: NodeApi | None,
        reach: Reach,
        sending: Sending,
        clock: Callable[[], float],
    ) -> None:
        self._archive, self._under_way, self._node = archive, under_way, node
        self._reach, self._sending, self._clock = reach, sending, clock
        self._asked: dict[str, float] = {}

    def forget_times(self) -> None:
        """The clock was set back: ask at once."""
        self._asked.clear()

    def work(self) -> None:
        """Ask the node of those that were not asked for longest. Raises ArchiveTrouble."""
        now = self._clock()
        if self._node is None:
            self._let_go()
            return
        if now < self._reach.due:
            return
        followed = self._under_way.within(phases.FOLLOWING)
        self._asked = {one: self._asked.get(one, 0.0) for one in followed}
        for series_id in sorted(followed, key=lambda one: self._asked[one])[:_MOST_A_TURN]:
            if now - self._asked[series_id] < 0.9 * POLL_SECONDS:
                return
            series = self._archive.series(series_id)
            if series is None:
                self._under_way.forget(series_id)
                continue
            self._asked[series_id] = now
            try:
                told = self._node.series(series.uid)
            except NodeTrouble as trouble:
                self._reach.fails(trouble)
                self._troubled(series_id, trouble)
                return
            self._sending.node_answers()
            self._follow(series, self._under_way[series_id], told)

    def _troubled(self, series_id: str, trouble: NodeTrouble) -> None:
        """Tell it of the series that was asked for; after two failures in a row, of all that are followed."""
        followed = self._under_way.within(phases.FOLLOWING)
        self._unseen(series_id, followed.pop(series_id), trouble)
        if not trouble.of_one_series and self._reach.failures > 1:
            for other, record in followed.items():
                self._unseen(other, record, trouble)

    def _let_go(self) -> None:
        """Url was taken out of the settings: there is nobody to ask."""
        for series_id, record in self._under_way.within(phases.FOLLOWING).items():
            sent = record.but(phase=phases.REST, state="sent", again=False)
            ended = sent.but(words="; ".join(("no Url is given: progress cannot be seen", *record.remarks)))
            if record.has_more:
                ended = record.arrived("; no Url is given: whether it is all cannot be asked")
            self._under_way.keep(series_id, ended)

    def _unseen(self, series_id: str, record: Record, trouble: NodeTrouble) -> None:
        """The node does not say how far it is.

        Another stack may still be refused: one that has told of the series will tell. A result says enough
        only where the node's HTTP cannot be reached from here.
        """
        words = str(trouble)
        if record.has_more:
            words = f"a result has arrived; whether it is all, the node cannot be asked: {trouble}"
        silent_seconds = min(self._reach.silent_seconds, self._clock() - record.since)
        if self._sending.gives_up(series_id, record, words, silent_seconds):
            return
        if record.has_more and not record.told and silent_seconds > _SILENCE_SECONDS:
            record = record.arrived(f"; its progress was not seen: {trouble}")
        else:
            record = record.but(words=words)
        self._under_way.keep(series_id, record)

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
        record = record.but(rule=told.rule, reason=told.reason, lost=0, told=True)
        if not told.final:
            going = record.but(state=told.state, words=words, progress=progress, again=False)
            self._under_way.keep(series.orthanc_id, going)
        elif told.state == "done":
            self._done(series, record, told)
        else:
            words = "; ".join((told.reason or words, *record.remarks))
            ended = record.but(phase=phases.REST, state=told.state, words=words, again=False)
            self._under_way.note(f"series {series.orthanc_id}: {told.state}: {ended.words}")
            self._under_way.keep(series.orthanc_id, ended)

    def _done(self, series: Series, record: Record, told: NodeSeries) -> None:
        found = [self._here(uids) for uids in told.results]
        began = record.since if record.state == "done" else self._clock()
        record = record.but(state="done", since=began)
        linked = len(record.results) - record.had  # an older node does not tell the UIDs of all destinations
        if not all(found) and linked < len(found) and self._clock() - began < ARRIVAL_SECONDS:
            self._under_way.keep(series.orthanc_id, record.but(words="the result is on its way"))
            return
        arrived = [one for these in found for one in these]
        for one in arrived:
            self._under_way.keep_result(one, self._under_way.record(one))
            self._archive.mark_result(one, series.orthanc_id)
            self._archive.set_stable(one)
        results = tuple(dict.fromkeys((*record.results, *arrived)))
        here = arrived or linked > 0
        words = "the enhanced series is here" if here else "its result has not come into this Orthanc"
        words = "; ".join((words, *told.remarks, *record.remarks))
        ended = record.but(phase=phases.REST, words=words, results=results, again=False)
        self._under_way.keep(series.orthanc_id, ended.but(progress=1.0))

    def _here(self, uids: Sequence[str]) -> list[str]:
        """Orthanc's names of one result, under the UID of whichever destination this Orthanc is."""
        return [one for uid in uids for one in self._archive.lookup_series(uid)]

    def _lost(self, series: Series, record: Record) -> None:
        """It was handed over, and the node knows nothing of it: once more, unless its result has come."""
        self._under_way.note(f"series {series.orthanc_id}: the node does not know it any more")
        if record.has_more:
            more = "; the node does not know the series any more, nor whether that was all"
            self._under_way.keep(series.orthanc_id, record.arrived(more))
        elif record.lost:
            words = f"the node does not know it, though it was sent twice; {BY_HAND}"
            self._under_way.end_without(series.orthanc_id, record, words)
        else:
            self._sending.queue(series, record.but(lost=1, sent=""))
