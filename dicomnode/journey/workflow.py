"""The journey of a series from complete to delivered, and what happens when something goes wrong.

A job ends in one of the states of `job.Status`, each with its reason on record; until then it goes on by
itself, across stops, crashes, full disks and peers that are down. `durable` keeps the queues.
"""

import json
import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Final

from dicomnode.engines.need.engine import NeedEngine
from dicomnode.errors import (
    AlreadyEnhanced,
    DicomnodeError,
    DiskFull,
    HeldByQuality,
    SeriesRefused,
    SpoolError,
)
from dicomnode.journey.book import JobBook
from dicomnode.journey.dose_reports import DoseReports, LateReports
from dicomnode.journey.durable import Active, Durable
from dicomnode.journey.job import (
    ARRIVED,
    DestinationState,
    Job,
    Observer,
    Station,
    Status,
    begun,
    check_again,
    fresh_deliveries,
    fresh_run,
    passed,
    with_destination,
)
from dicomnode.journey.order import Order, new_orders, with_pipeline
from dicomnode.journey.recipients import Recipients
from dicomnode.journey.stations import STATIONS, Stations
from dicomnode.network.completeness import Completion
from dicomnode.settings import Settings
from dicomnode.spool import Spool, key, no_space_told

MOST_STARTS: Final = 3
"""A station that was begun this often, and neither ended nor was stopped in good order, kills the process."""
_FIRST_PAUSE_SECONDS: Final = 30.0
_LONGEST_PAUSE_SECONDS: Final = 1800.0
_MORE_CAME: Final = "more images of the series came; a later job has them all"
_KEEP_ENDED_DAYS: Final = 30

log = logging.getLogger(__name__)

Ending = Mapping[str, str | float]
"""What a step returns to its workflow when the journey does not simply go on; JSON, kept in the database."""


class Interrupted(BaseException):
    """The node is stopping. Not an `Exception`: DBOS must not record it as the outcome of the work."""


class Journey:
    """Works off the jobs of one spool; one in a process.

    `observe` is told of every change of a job, in the thread that makes it.
    """

    def __init__(
        self, settings: Settings, spool: Spool, engine: NeedEngine, observe: Observer | None = None
    ) -> None:
        self._settings = settings
        self._spool = spool
        self.reports = DoseReports()
        self._stations = Stations(settings, spool, engine, self.reports)
        self.book = JobBook(spool, observe)
        self._recipients = Recipients(settings, spool, self.book)
        self.senders = self._recipients.senders
        self.late = LateReports(self.reports, self.book, self._stations)
        self._durable = Durable(settings)
        self._stopping = threading.Event()
        self._busy = 0
        self._left: Active = frozenset()
        self._guard = threading.Lock()

    # --- start and stop -------------------------------------------------------------------

    def start(self) -> None:
        """Open the database, take up what a stop or a crash left, and begin to work. Raises JobError."""
        for _ in self._placed(self.book.orders()):
            pass  # damaged records are made anew before the queues open: what is in them reads the records
        self._durable.open(self._series, self._deliver)
        self.prune()
        active = self._durable.active()
        for job in self._placed(self.book.orders()):
            self._take_up(job, active)

    def stop(self, grace_seconds: float) -> bool:
        """Let running steps end or break off, then close the database; True if nothing is left running."""
        self._stopping.set()
        deadline = time.monotonic() + grace_seconds
        while self._busy and time.monotonic() < deadline:
            time.sleep(0.05)
        self._durable.close()
        return self._busy == 0

    def prune(self) -> None:
        """Keep the database small: to be called now and then."""
        self._durable.prune(self.book.clock() - timedelta(days=_KEEP_ENDED_DAYS))

    def _series(self, job_id: str, run: int) -> None:
        self._guarded((job_id,), lambda: self._travel(job_id, run), lambda reason: self._fail(job_id, reason))

    def _deliver(self, job_id: str, name: str, attempt: int) -> None:
        self._guarded(
            (job_id, name),
            lambda: self._deliver_once(job_id, name, attempt),
            lambda reason: self._give_up(job_id, name, reason),
        )

    # --- handing in -----------------------------------------------------------------------

    def submit(self, completion: Completion) -> None:
        """Make a job of each stack of a series that counts as complete, and queue it.

        The same images are the same job. Images that came after a job was made become a job of the next
        generation, with all images of the stack so far.
        """
        known = self.book.latest(key(completion.series_uid))
        pipeline, now = self._stations.pipeline_digest, self.book.now()
        for order in new_orders(self._spool, completion, known, pipeline, now):
            job = self.book.place(order)
            self._durable.queue_series(job.job_id, job.run)
            told = f", set apart by {', '.join(order.differs_by)}" if order.differs_by else ""
            told = f"{job.instances} images, series {job.shown_series} ({order.confidence}{told})"
            log.info("job %s: %s", job.job_id, told)

    def report_came(self, study_uid: str, sop_instance_uid: str, path: Path) -> None:
        """Note a dose report that is safe on the disk; the series it may be about are looked at again."""
        self.reports.add(study_uid, sop_instance_uid, path)
        for job_id in self.book.of_study(study_uid):
            self._weigh_reports(job_id)

    def sender_came(self, series_key: str) -> None:
        """Send the results of a series also to those who take what its further senders sent; idempotent."""
        for order in self.book.latest(series_key):
            job = self._recipients.widened(order)
            if job is not None:
                self._queue_open_deliveries(job)

    def _weigh_reports(self, job_id: str) -> None:
        """Start a series again whose dose a report has made known since; idempotent."""
        try:
            job = self.late.weigh(job_id)
            if job is not None:
                self._durable.queue_series(job_id, job.run)
        except (DicomnodeError, OSError) as error:
            log.error("job %s: a dose report cannot be looked at yet (%s)", job_id, error)
            self._leave((job_id,))

    def retry(self, job_id: str) -> Job:
        """Start a job again that has ended without its result at every destination. Raises JobError."""
        job = self.book.job(job_id)
        check_again(job)
        if job.status in ("undelivered", "done"):
            return self._retry_delivery(job)
        job = self.book.update(job_id, fresh_run)
        self._durable.queue_series(job_id, job.run)
        return job

    def _retry_delivery(self, job: Job) -> Job:
        for destination in self._settings.destinations:
            self._recipients.way(job.job_id, destination).forget_refusals()
        job = self.book.update(job.job_id, fresh_deliveries)
        if not job.destinations:  # nobody took it; whether the configuration still says so is asked now
            job = self._recipients.opened(job.job_id)
        self._queue_open_deliveries(job)
        return job

    # --- taking up what was left ------------------------------------------------------------

    def _placed(self, orders: Iterable[Order]) -> Iterator[Job]:
        """The job of each order; one whose record can be neither read nor made anew keeps no other back."""
        for order in orders:
            try:
                job = self.book.place(order)
            except (SpoolError, OSError) as error:
                log.error("job %s: cannot be taken up yet (%s)", order.job_id, error)
                self._leave((order.job_id,))
            else:
                yield job

    def _take_up(self, job: Job, active: Active) -> None:
        """Queue an unfinished job that the database does not know of.

        The database takes up its own work; this is for what it cannot know: a crash between the record and
        the queue, steps of another version, a database that was lost or put back from a copy.
        """
        try:
            if job.status == "sending":
                self._queue_open_deliveries(job, active)
            elif not job.final and (job.job_id,) not in active:
                run = self._durable.unused_run(job.job_id, job.run + 1)
                job = self.book.note(job.job_id, lambda job: replace(job, run=run))
                self._durable.queue_series(job.job_id, job.run)
        except DicomnodeError as error:
            log.error("job %s: cannot be taken up yet (%s)", job.job_id, error)
            self._leave((job.job_id,))
        self._weigh_reports(job.job_id)

    def take_up_left(self) -> None:
        """Queue again what broke off and could not be recorded as ended: to be called now and then."""
        with self._guard:
            left, self._left = self._left, frozenset()
        if not left:
            return
        try:
            active = self._durable.active() - left
        except DicomnodeError as error:
            log.error("%d jobs cannot be taken up yet (%s)", len(left), error)
            self._leave(*left)
            return
        jobs = {job_id for job_id, *_ in left}
        for job in self._placed(order for order in self.book.orders() if order.job_id in jobs):
            self._take_up(job, active)

    def _leave(self, *left: tuple[str, ...]) -> None:
        with self._guard:
            self._left |= set(left)

    def _queue_open_deliveries(self, job: Job, active: Active = frozenset()) -> None:
        for state in job.destinations:
            if state.state not in ARRIVED and (job.job_id, state.name) not in active:
                attempt = self._durable.unused_attempt(job.job_id, state.name, state.attempts + 1)
                self._durable.queue_delivery(job.job_id, state.name, attempt)

    # --- the journey of a series ------------------------------------------------------------

    def _travel(self, job_id: str, run: int) -> None:
        """The whole life of a series. What a step returned before a crash is not done again."""
        try:
            for station in STATIONS:
                ending = self._durable.step(station, self._visit, job_id, station, run)
                if ending is not None:
                    self._after(job_id, ending)
                    return
        finally:
            self._stations.forget()
        for name, attempt in self._durable.step("deliver", self._open_deliveries, job_id):
            self._durable.queue_delivery(job_id, str(name), int(attempt))
        self._weigh_reports(job_id)

    def _after(self, job_id: str, ending: Ending) -> None:
        if "pause_seconds" in ending:
            self._durable.queue_series(job_id, int(ending["run"]), float(ending["pause_seconds"]))
        if "continued_as" in ending:
            self._durable.queue_series(str(ending["continued_as"]), int(ending["run"]))
        self._weigh_reports(job_id)

    def _visit(self, job_id: str, station: Station, run: int) -> Ending | None:
        """Stop at one station; None when the journey goes on. Whatever cannot be written, the job waits."""
        try:
            with no_space_told(self._spool.root):
                return self._stop_at(job_id, station, run)
        except DicomnodeError as error:
            if error.retry:
                return self._pause(job_id, error)
            return self._end(job_id, "failed", str(error))

    def _stop_at(self, job_id: str, station: Station, run: int) -> Ending | None:
        """Do what there is to do at a station. Raises DicomnodeError other than a refusal of the series."""
        order, job = self.book.order(job_id), self.book.job(job_id)
        if job.final:
            return {"status": job.status}
        if job.run > run:  # this one was taken up by the database after a crash; the newer one must not wait
            return {"status": job.status, "continued_as": job_id, "run": job.run}
        if self.book.superseded(order):
            return self._end(job_id, "superseded", _MORE_CAME)
        if not self._stations.can_continue(order):
            return self._continue_with_new_pipeline(order)
        if job.starts.get(station, 0) >= MOST_STARTS:
            return self._end(job_id, "failed", f"the process died {MOST_STARTS} times at station '{station}'")
        for fruitless in self.book.earlier_without_result(order):
            self._end(fruitless, "superseded", _MORE_CAME)
        self._begin(job_id, station)
        try:
            found = self._stations.visit(station, order, self._progress(job_id))
        except Interrupted:
            self.book.note(job_id, lambda job: replace(job, starts={}))
            raise
        except HeldByQuality as held:
            return self._end(job_id, "held", str(held), held.rule)
        except AlreadyEnhanced as own:
            return self._end(job_id, "ignored", str(own), own.rule)
        except SeriesRefused as refusal:
            if self.book.superseded(order):  # more came while it was looked at
                return self._end(job_id, "superseded", _MORE_CAME)
            self._keep_refusal(order, refusal)
            return self._end(job_id, "refused", str(refusal), refusal.rule)
        self.book.update(job_id, lambda job: passed(job, station, found), durable=False)
        return None

    def _begin(self, job_id: str, station: Station) -> None:
        if self._stopping.is_set():
            raise Interrupted
        job = self.book.update(job_id, lambda job: begun(job, station))
        log.info("job %s: %s (series %s)", job_id, station, job.shown_series)

    def _progress(self, job_id: str) -> Callable[[str, int, int], None]:
        def on_slice(part: str, done: int, total: int) -> None:
            if self._stopping.is_set():
                raise Interrupted
            self.book.update(
                job_id, lambda job: replace(job, part=part, done=done, total=total), durable=False
            )

        return on_slice

    def _end(self, job_id: str, status: Status, reason: str, rule: str | None = None) -> Ending:
        self.book.update(job_id, lambda job: replace(job, status=status, reason=reason, rule=rule, starts={}))
        log.warning("job %s: %s (%s)", job_id, status, rule or reason)
        if status == "superseded":
            self._stations.discard(job_id)
        return {"status": status}

    def _keep_refusal(self, order: Order, refusal: SeriesRefused) -> None:
        told = {"job_id": order.job_id, "rule": refusal.rule, "reason": str(refusal)}
        path = self._spool.refused_folder(order.series_uid) / f"{order.job_id}.json"
        self.book.records.write_durably(path, json.dumps(told, indent=1).encode())

    def _pause(self, job_id: str, error: DicomnodeError) -> Ending:
        """Something that may pass, such as a full disk: another run later, for as long as it takes."""
        job = self.book.note(
            job_id,
            lambda job: replace(job, status="waiting", reason=str(error), starts={}, run=job.run + 1),
        )
        pause_seconds = min(_FIRST_PAUSE_SECONDS * 2.0 ** min(job.run - 2, 10), _LONGEST_PAUSE_SECONDS)
        log.warning("job %s: waits %.0f s (%s)", job_id, pause_seconds, type(error).__name__)
        return {"pause_seconds": pause_seconds, "run": job.run}

    def _continue_with_new_pipeline(self, order: Order) -> Ending:
        """The model or the configuration was changed while the job waited; another job with other UIDs."""
        renewed = self.book.place(with_pipeline(order, self._stations.pipeline_digest))
        if renewed.final and renewed.status not in ("done", "undelivered"):
            # Changed back to what it was: the job of then is needed again.
            renewed = self.book.update(renewed.job_id, fresh_run)
        reason = f"the model or its configuration changed; continued as {renewed.job_id}"
        ending = self._end(order.job_id, "superseded", reason)
        return {**ending, "continued_as": renewed.job_id, "run": renewed.run}

    def _open_deliveries(self, job_id: str) -> list[list[str | int]]:
        """Note which destinations get the result; [[destination, attempt], ...]. Idempotent."""
        if self._stopping.is_set():
            raise Interrupted
        order = self.book.order(job_id)
        if not self.book.job(job_id).final and self.book.superseded(order):
            self._end(job_id, "superseded", _MORE_CAME)
        job = self._recipients.opened(job_id)
        return [
            [state.name, self._durable.unused_attempt(job_id, state.name, state.attempts + 1)]
            for state in job.destinations
            if state.state not in ARRIVED
        ]

    # --- delivery ---------------------------------------------------------------------------

    def _deliver_once(self, job_id: str, name: str, attempt: int) -> None:
        pause_seconds = self._durable.step("attempt", self._attempt, job_id, name, attempt)
        if pause_seconds is not None:
            self._durable.queue_delivery(job_id, name, attempt + 1, float(pause_seconds))

    def _attempt(self, job_id: str, name: str, attempt: int) -> float | None:
        """Try once; return the pause before the next attempt, or None when there is none."""
        try:
            with no_space_told(self._spool.root):
                return self._attempt_once(job_id, name, attempt)
        except DiskFull as error:
            log.warning("job %s: %s waits %.0f s (%s)", job_id, name, _FIRST_PAUSE_SECONDS, error)
            return _FIRST_PAUSE_SECONDS

    def _attempt_once(self, job_id: str, name: str, attempt: int) -> float | None:
        if self._stopping.is_set():
            raise Interrupted
        job = self.book.job(job_id)
        state = job.destination(name)
        if job.final or state is None or state.state in ARRIVED:
            return None
        untouched = all(peer.state == "waiting" and not peer.sent for peer in job.destinations)
        if untouched and self.book.superseded(self.book.order(job_id)):
            self._end(job_id, "superseded", _MORE_CAME)
            return None
        destination = self._recipients.named(name)
        if destination is None:
            self._give_up(job_id, name, "is no longer in the configuration")
            return None
        started_at = state.first_attempt_at or self.book.now()
        begun = replace(
            state, state="sending", attempts=attempt, first_attempt_at=started_at, next_attempt_at=None
        )
        self.book.update(job_id, lambda job: with_destination(job, begun))
        after, pause_seconds = self._recipients.way(job_id, destination).attempt(begun, self.book.clock())
        job = self.book.update(job_id, lambda job: with_destination(job, after))
        log.info("job %s: %s %s (%d of %d)", job_id, name, after.state, after.sent, after.total)
        if job.final:
            log.info("job %s: %s", job_id, job.status)
        return pause_seconds

    def _give_up(self, job_id: str, name: str, reason: str) -> None:
        state = self.book.job(job_id).destination(name) or DestinationState(name)
        after = replace(state, state="gave-up", reason=reason, next_attempt_at=None)
        self.book.update(job_id, lambda job: with_destination(job, after))

    def _fail(self, job_id: str, reason: str) -> None:
        if not self.book.job(job_id).final:
            self._end(job_id, "failed", reason)

    # --- the one net under everything ---------------------------------------------------------

    def _guarded(
        self, what: tuple[str, ...], body: Callable[[], None], on_error: Callable[[str], None]
    ) -> None:
        with self._guard:
            self._busy += 1
        try:
            body()
        except Exception as error:
            if self._stopping.is_set():
                raise Interrupted from error
            log.exception("job %s: an error of the program", what[0])
            self._told(what, on_error, error)
        finally:
            with self._guard:
                self._busy -= 1

    def _told(self, what: tuple[str, ...], on_error: Callable[[str], None], error: Exception) -> None:
        """Put an error on record; what cannot be recorded is tried again rather than forgotten."""
        try:
            on_error(f"{type(error).__name__}: an error of the program; the log has its traceback")
        except (DicomnodeError, OSError) as trouble:
            log.error("job %s: its end cannot be recorded (%s); it is taken up again", what[0], trouble)
            self._leave(what)
