"""Handing a series over: images sent by a job of Orthanc's, or the node asked to fetch them."""

from __future__ import annotations

from typing import Callable

from . import record as phases
from .archive import Archive, ArchiveTrouble, Push, Series
from .node import NodeApi, NodeTrouble
from .reach import Reach
from .record import Record
from .settings import Settings
from .under_way import UnderWay

BY_HAND = "it can be asked for again by hand"

_MOST_SENDING = 1
"""Orthanc's two threads for jobs are not ours alone."""
_MOST_A_TURN = 20
_EVENT_SECONDS = 5.0
"""How long after its end a job may be forgotten before its event has come."""


class Sending:
    """The way of each series to the node."""

    def __init__(
        self,
        settings: Settings,
        archive: Archive,
        under_way: UnderWay,
        node: NodeApi | None,
        reach: Reach,
        clock: Callable[[], float],
    ) -> None:
        self._settings, self._archive, self._under_way = settings, archive, under_way
        self._node, self._reach, self._clock = node, reach, clock

    def queue(self, series: Series, record: Record, at_once: bool = True) -> None:
        """It is to be handed over with the images that it has now."""
        record = record.queued(series.fingerprint)
        if at_once:
            now = self._clock()
            record = record.but(words="waits to be sent", due=now, since=now, attempts=0, paused_seconds=0.0)
        self._under_way.keep(series.orthanc_id, record)

    def work(self) -> None:
        """Look how far the jobs are, and hand over what is due. Raises ArchiveTrouble."""
        for series_id, record in self._under_way.within(phases.SENDING).items():
            self._look(series_id, record)
        self._hand_over_due()

    def due_seconds(self) -> list[float]:
        """In how many seconds each of those that wait is due."""
        now = self._clock()
        return [record.due - now for record in self._under_way.within(phases.WAITING).values()]

    def node_answers(self) -> None:
        """The node has answered over HTTP."""
        if self._reach.answers():
            self.hurry()

    def hurry(self) -> None:
        """The node takes images again: whatever could not even begin is tried now, not after its pause."""
        for series_id, record in self._under_way.within(phases.WAITING).items():
            if record.attempts and (record.untouched or self._settings.pulls):
                self._under_way.keep(series_id, record.hurried(self._clock()))

    def gives_up(self, series_id: str, record: Record, trouble: str, seconds: float) -> bool:
        """End it where it has been in trouble for too long; whether it is ended."""
        if not self._settings.is_over(seconds):
            return False
        given_up = f"given up after {self._settings.give_up_days:g} days ({trouble})"
        words = "; ".join((given_up, *record.remarks, BY_HAND))
        self._under_way.end_without(series_id, record.but(attempts=0, paused_seconds=0.0), words)
        return True

    def _hand_over_due(self) -> None:
        now = self._clock()
        waiting = self._under_way.within(phases.WAITING).items()
        due = [(record.turn, series_id) for series_id, record in waiting if record.due <= now]
        for _, series_id in sorted(due, key=lambda one: one[0])[:_MOST_A_TURN]:
            if self._is_full():
                return
            listed = self._clock()  # before Orthanc lists them: what comes after that is seen to be later
            series = self._archive.series(series_id)
            if series is None:
                self._under_way.forget(series_id)
                continue
            record = self._under_way[series_id]
            if not self._settings.pulls:
                self._send(series, record, listed)
            elif not self._ask_to_fetch(series, record.from_the_first(), listed):
                return

    def _is_full(self) -> bool:
        """Are as many transfers running as may? A paused one takes none of Orthanc's threads."""
        sending = self._under_way.within(phases.SENDING).values()
        going = sum(record.state != "paused" for record in sending)
        return not self._settings.pulls and going >= _MOST_SENDING

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
        self._under_way.keep(series.orthanc_id, record.on_the_way(0.0, paused=False))

    def _ask_to_fetch(self, series: Series, record: Record, listed: float) -> bool:
        """False: no answer of the node. The others would get none either, and people wait for the plugin."""
        assert self._node is not None  # settings: pull needs Url
        record = record.listing(series.fingerprint, len(series.instances), listed)
        try:
            self._node.fetch(self._settings.source, self._archive.study_uid(series), series.uid)
        except NodeTrouble as trouble:
            words = str(trouble)
            if trouble.of_the_node and trouble.status == 404:
                words = f"DicomNode.Source is {self._settings.source}, the node answers: {trouble}"
            if trouble.of_the_node and trouble.status == 422:  # malformed UIDs do not get better
                self._under_way.end_without(series.orthanc_id, record, words)
            else:
                self._failed(series.orthanc_id, record, words, trouble.retry_after_seconds)
            return trouble.of_the_node
        self.node_answers()
        words = "the node was asked to fetch the images"
        self._handed_over(series.orthanc_id, record.but(told=True), "asked", words)
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
            words = f"the transfer was cancelled in Orthanc; {BY_HAND}"
            self._under_way.end_without(series_id, record, words)
        elif job.refused:
            self._refused(series_id, record, job)
        elif job.ended:
            self._failed(series_id, record.but(untouched=job.progress <= 0.0), job.trouble)
        else:
            self._under_way.keep(series_id, record.on_the_way(job.progress, job.paused))

    def _sent(self, series_id: str, record: Record) -> None:
        """All that was given to the job is at the node, or refused by it."""
        if record.unfinished:
            changes = {"phase": phases.WAITING, "due": self._clock(), "attempts": 0}
            self._under_way.keep(series_id, record.but(**changes, paused_seconds=0.0))
            return
        taken = record.instances - record.left_out
        words = "; ".join((f"{taken} images are at the node", *record.remarks))
        self._handed_over(series_id, record, "sent", words)
        self.hurry()

    def _refused(self, series_id: str, record: Record, job: Push) -> None:
        """The node will never take one of the images. It keeps back no other: which one is it?"""
        if not record.in_stretches:
            self._sent(series_id, record.but(in_stretches=True))
            return
        record = record.past_the_refused(job.progress)
        if record.hopeless:
            words = f"the node refused {record.left_out} of {record.instances} images, one after another"
            self._under_way.end_without(series_id, record, f"{words} ({job.trouble}); {BY_HAND}")
        else:
            self._sent(series_id, record)

    def _broken_off(self, series_id: str, record: Record) -> None:
        """Orthanc was killed before it had saved its jobs: at once again, but not for ever at once."""
        if record.attempts:
            self._failed(series_id, record, "the transfer was broken off, and Orthanc does not know its job")
            return
        words = "the transfer was broken off by a restart; sending again"
        changes = {"phase": phases.WAITING, "words": words, "due": self._clock(), "attempts": 1}
        self._under_way.keep(series_id, record.but(**changes))

    def _handed_over(self, series_id: str, record: Record, state: str, words: str) -> None:
        phase = phases.FOLLOWING if self._node else phases.REST
        handed = record.but(phase=phase, state=state, words=words).at_the_node(self._clock())
        self._under_way.keep(series_id, handed)
        series = self._archive.series(series_id)
        if series is not None and series.fingerprint != handed.sent and handed.seen == series.fingerprint:
            self.queue(series, handed)  # images came while it was under way, and were looked at already

    def _failed(self, series_id: str, record: Record, trouble: str, at_least_seconds: float = 0.0) -> None:
        asked = min(at_least_seconds, self._settings.longest_retry_seconds)
        pause = max(self._settings.pause_seconds(record.attempts + 1), asked)
        failed = record.failed(trouble, self._clock(), pause)
        if self.gives_up(series_id, record, trouble, failed.paused_seconds):
            return
        self._under_way.note(f"series {series_id}: {failed.words}")
        self._under_way.keep(series_id, failed)
