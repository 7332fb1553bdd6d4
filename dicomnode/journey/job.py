"""What is known of one job: the record on disk that status, demo and recovery all read.

    work/<job id>/order.json     written once, before the job is queued: which files, which pipeline
    work/<job id>/job.json       where the job stands; replaced whole at every change of station

The records do not need the workflow database: a lost database is rebuilt from them at the next start.
UIDs stand in the records (they are in the spool, mode 0600) and never in a log line.
"""

import hashlib
import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal

from dicomnode.errors import JobError, JobUnknown, SpoolError
from dicomnode.journey.order import Order, encode_record, known, read_order, read_record, study_of
from dicomnode.journey.progress import reached
from dicomnode.spool import Spool

Status = Literal[
    "queued",  # waits for its turn
    "working",  # between assemble and write
    "waiting",  # stopped by something that may pass (disk full); goes on by itself
    "sending",  # the result is written; at least one destination has not had all of it
    "done",  # every destination has all images; `reason` says what beside them one did not take
    "undelivered",  # a destination refused or did not answer until it was given up, or none takes the result
    "refused",  # the series is kept and not enhanced: `rule` says why
    "held",  # enhanced, judged, and kept here: `reason` says why
    "failed",  # an error of ours: `reason` says which; `dicomnode retry` starts it again
    "ignored",  # our own result came back
    "superseded",  # more images of the series came before this result left
]
Station = Literal["assemble", "dose", "measure", "match", "reconstruct", "judge", "write", "deliver"]
Parcel = Literal["waiting", "sending", "delivered", "refused", "gave-up"]

FINAL: Final = frozenset({"done", "undelivered", "refused", "held", "failed", "ignored", "superseded"})
ARRIVED: Final = frozenset({"delivered", "refused", "gave-up"})
_AGAIN: Final = ("failed", "refused", "held", "undelivered")
_PROGRESS_SECONDS: Final = 1.0
_REQUESTS: Final = "requests"
_RETRY: Final = "retry-"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DestinationState:
    """How far the result has come at one destination; `sent` and `total` count all its objects.

    `delivered` says that every image is there; `reason` then tells what beside them was not taken.
    """

    name: str
    state: Parcel = "waiting"
    sent: int = 0
    total: int = 0
    attempts: int = 0
    reason: str | None = None
    first_attempt_at: str | None = None
    next_attempt_at: str | None = None

    @property
    def complete(self) -> bool:
        """Whether the destination has every object it was to have."""
        return self.state == "delivered" and self.sent == self.total


@dataclass(frozen=True)
class Job:
    """Where a job stands. `done` of `total` slices at `part` of the present station; 0 of 0: not counted.

    `progress`, 0 to 1, never falls, and is 1 only for a job that is done.
    `dose_reports` are the SOP Instance UIDs of the dose reports that were looked at for it; `dose_remark`
    says what one that came too late contradicts.
    """

    job_id: str
    status: Status = "queued"
    station: Station | None = None
    done: int = 0
    total: int = 0
    part: str | None = None
    rule: str | None = None
    reason: str | None = None
    instances: int = 0
    generation: int = 0
    run: int = 1
    source_series_uid: str = ""
    derived_series_uid: str | None = None
    verdict: str | None = None
    starts: Mapping[str, int] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    destinations: tuple[DestinationState, ...] = ()
    dose_reports: tuple[str, ...] = ()
    dose_remark: str | None = None
    queued_at: str | None = None
    progress: float = 0.0
    updated_at: str | None = None
    finished_at: str | None = None

    @property
    def final(self) -> bool:
        """Whether nothing more will happen to it by itself."""
        return self.status in FINAL

    def destination(self, name: str) -> DestinationState | None:
        """How far the result has come at one destination, or None before it was written."""
        return next((state for state in self.destinations if state.name == name), None)

    @property
    def shown_series(self) -> str:
        """The source series, as it may stand in a log: 12 digits of its hash."""
        return hashlib.sha256(self.source_series_uid.encode()).hexdigest()[:12]


Observer = Callable[[Job], None]
"""Called after every change of a job, in the thread that made it; it must be quick and not raise."""


def read_jobs(spool_root: Path) -> list[Job]:
    """Return every job in a spool, oldest first, without owning the spool; unreadable ones are logged."""
    jobs = []
    for path in (spool_root / "work").glob("*/job.json"):
        try:
            jobs.append(_read_job(path))
        except SpoolError as error:
            log.error("a job is left out: %s", error)
    return sorted(jobs, key=lambda job: (job.queued_at or "", job.job_id))


# --- asking from beside -------------------------------------------------------------------


def request_retry(spool_root: Path, job_id: str) -> None:
    """Ask the node of a spool, running or not yet, to start a job again. Raises JobError, SpoolError."""
    job = next((job for job in read_jobs(spool_root) if job.job_id == job_id), None)
    if job is None:
        raise JobUnknown(f"there is no job {job_id} in {spool_root}; `dicomnode status` lists them")
    check_again(job)
    Spool(spool_root, reserve_bytes=0).write_durably(spool_root / _REQUESTS / f"{_RETRY}{job_id}")


def check_again(job: Job) -> None:
    """Raise JobError for a job that cannot be started again: it has its result, or has not ended."""
    left_out = job.status == "done" and not all(state.complete for state in job.destinations)
    if job.status not in _AGAIN and not left_out:
        raise JobError(f"job {job.job_id} is {job.status}; only {', '.join(_AGAIN)} ones start again")


def retry_requests(spool_root: Path) -> list[tuple[Path, str]]:
    """(file, job id) of each request; whoever has answered one removes its file."""
    files = sorted((spool_root / _REQUESTS).glob(f"{_RETRY}*"))
    return [(path, path.name.removeprefix(_RETRY)) for path in files]


# --- how a record changes -----------------------------------------------------------------


def begun(job: Job, station: Station) -> Job:
    """At a station, nothing of it done yet; `starts` counts the begins that had no end in good order."""
    return replace(
        job,
        status="working",
        station=station,
        part=None,
        done=0,
        total=0,
        reason=None,
        starts={station: job.starts.get(station, 0) + 1},
    )


def passed(job: Job, station: Station, found: Mapping[str, Any]) -> Job:
    """After a station: how long it took, and what of its findings people ask for first."""
    return replace(
        job,
        starts={},
        seconds={**job.seconds, station: found["seconds"]},
        verdict=found.get("verdict", job.verdict),
        derived_series_uid=found.get("derived_series_uid", job.derived_series_uid),
        dose_reports=tuple(found.get("reports_considered", job.dose_reports)),
    )


def fresh_run(job: Job) -> Job:
    """A job that starts again: an operator asked for it, or its dose has become known."""
    return replace(
        job,
        status="queued",
        station=None,
        rule=None,
        reason=None,
        starts={},
        run=job.run + 1,
        finished_at=None,
    )


def fresh_deliveries(job: Job) -> Job:
    """A written result that is offered again where it has not arrived."""
    states = tuple(
        state
        if state.complete
        else replace(state, state="waiting", reason=None, first_attempt_at=None, next_attempt_at=None)
        for state in job.destinations
    )
    return replace(job, status="sending", reason=None, destinations=states, finished_at=None)


def sending(job: Job, names: Iterable[str], nobody: str = "") -> Job:
    """A job whose result is written, with the destinations that get it; ended at once if there are none.

    `nobody`: why that is, where it is not meant so.
    """
    if job.final:
        return job
    states = tuple(job.destination(name) or DestinationState(name) for name in names)
    job = replace(job, status="sending", station="deliver", part=None, done=0, total=0, destinations=states)
    if not states and nobody:
        return replace(job, status="undelivered", reason=nobody)
    return _settled(job)


def with_destination(job: Job, state: DestinationState) -> Job:
    """A job after something happened at one destination."""
    states = tuple(state if known.name == state.name else known for known in job.destinations)
    return _settled(replace(job, destinations=states))


def _settled(job: Job) -> Job:
    """A job has ended when nothing more will happen at any destination."""
    if any(state.state not in ARRIVED for state in job.destinations):
        return job
    lost = [f"{state.name}: {state.reason}" for state in job.destinations if state.state != "delivered"]
    if lost:
        return replace(job, status="undelivered", reason="; ".join(lost))
    left_out = [f"{state.name}: {state.reason}" for state in job.destinations if state.reason]
    return replace(job, status="done", reason="; ".join(left_out) or None)


# --- the book ------------------------------------------------------------------------------


class JobBook:
    """The jobs of one spool, written by one process."""

    def __init__(
        self,
        spool: Spool,
        observe: Observer | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._spool = spool
        # Records are small and tell what is wrong: they may use the reserve that keeps images out.
        self.records = Spool(spool.root, reserve_bytes=0)
        self._observe = observe
        self.clock = clock
        self._guard = threading.RLock()
        self._live: dict[str, Job] = {}
        self._saved_at: dict[str, float] = {}
        self._of_stack: dict[str, dict[str, dict[str, int]]] = {}
        self._study_of: dict[str, str] = {}
        for order in self.orders():
            self._index(order)

    # --- orders ---------------------------------------------------------------------------

    def orders(self) -> Iterator[Order]:
        """Yield the order of every job; a broken one is logged and keeps no other from going on."""
        for folder in sorted(self._spool.work.iterdir()):
            if (folder / "order.json").exists():
                try:
                    yield read_order(folder)
                except SpoolError as error:
                    log.error("a job is left out: %s", error)

    def place(self, order: Order) -> Job:
        """Record a job durably: first what it is about, then where it stands. A known one stays as it is.

        A damaged record is made anew, for a job that is queued: what its stations and destinations left in
        its folder is not done again, so it soon stands where it stood.
        """
        folder = self._spool.work_folder(order.job_id)
        with self._guard:
            if not (folder / "order.json").exists():
                self.records.write_durably(folder / "order.json", encode_record(order))
            self._index(order)
            if (folder / "job.json").exists():
                try:
                    return self.job(order.job_id)
                except SpoolError as error:
                    log.error("job %s: its record is made anew (%s)", order.job_id, error)
            job = Job(
                job_id=order.job_id,
                instances=len(order.files),
                generation=order.generation,
                source_series_uid=order.series_uid,
                queued_at=self.now(),
            )
            return self._store(job, durable=True)

    def latest(self, series_key: str) -> tuple[Order, ...]:
        """Return the orders of the newest generation of each stack of a series, first stack first."""
        with self._guard:
            stacks = [dict(jobs) for jobs in self._of_stack.get(series_key, {}).values()]
        found = [order for order in map(self._newest, stacks) if order is not None]
        return tuple(sorted(found, key=lambda order: order.stack_number))

    def _newest(self, jobs: Mapping[str, int]) -> Order | None:
        for job_id in sorted(jobs, key=lambda job_id: (jobs[job_id], job_id), reverse=True):
            try:
                return self.order(job_id)
            except SpoolError as error:
                log.error("a job is left out: %s", error)
        return None

    def of_series(self, series_key: str) -> list[Job]:
        """The newest job of each stack of a series, first stack first, without superseded ones."""
        with self._guard:
            stacks = [dict(jobs) for jobs in self._of_stack.get(series_key, {}).values()]
        found = []
        for numbers in stacks:
            newest = [job_id for job_id, number in numbers.items() if number == max(numbers.values())]
            jobs = sorted(map(self.job, newest), key=lambda job: (job.status != "superseded", job.queued_at))
            found.append(jobs[-1])
        return sorted(found, key=lambda job: self.order(job.job_id).stack_number)

    def superseded(self, order: Order) -> bool:
        """Whether a later generation of the same stack has been ordered."""
        with self._guard:
            jobs = self._of_stack[order.series_key][order.stack]
            return any(number > order.generation for number in jobs.values())

    def earlier(self, order: Order) -> list[str]:
        """The jobs of the earlier generations of the same stack."""
        with self._guard:
            jobs = self._of_stack[order.series_key][order.stack]
            return [job_id for job_id, number in jobs.items() if number < order.generation]

    def earlier_without_result(self, order: Order) -> list[str]:
        """Those of them that ended without one: the new job stands for them in every list."""
        return [one for one in self.earlier(order) if self.job(one).status in ("refused", "held", "failed")]

    def order(self, job_id: str) -> Order:
        """Return what a job is about."""
        return read_order(self._spool.work / job_id)

    def study(self, job_id: str) -> str:
        """The Study Instance UID of a job's images; empty where it is not known."""
        with self._guard:
            return self._study_of.get(job_id, "")

    def of_study(self, study_uid: str) -> list[str]:
        """The ids of the jobs of a study."""
        with self._guard:
            return sorted(job_id for job_id, study in self._study_of.items() if study == study_uid)

    def _index(self, order: Order) -> None:
        stacks = self._of_stack.setdefault(order.series_key, {})
        stacks.setdefault(order.stack, {})[order.job_id] = order.generation
        if order.job_id not in self._study_of:
            # Orders of earlier versions do not name their study.
            folder = self._spool.incoming / order.series_key
            self._study_of[order.job_id] = order.study_uid or study_of(folder, order.files)

    # --- where they stand -----------------------------------------------------------------

    def job(self, job_id: str) -> Job:
        """Return where a job stands. Raises JobError when there is no such job."""
        with self._guard:
            live = self._live.get(job_id)
            path = self._spool.work / job_id / "job.json"
            if live is None and not path.exists():
                raise JobUnknown(f"there is no job {job_id}; `dicomnode status` lists them")
            return live or _read_job(path)

    def jobs(self) -> list[Job]:
        """Return every job, oldest first; the live ones with their latest progress."""
        with self._guard:
            return [self._live.get(job.job_id, job) for job in read_jobs(self._spool.root)]

    def now(self) -> str:
        """The time as it is recorded: ISO 8601, UTC."""
        return self.clock().isoformat(timespec="milliseconds")

    def update(self, job_id: str, change: Callable[[Job], Job], durable: bool = True) -> Job:
        """Change a record and return it; on the disk at once if `durable`, else once a second."""
        with self._guard:
            before = self.job(job_id)
            after = change(before)
            if after.final and not before.final:
                after = replace(after, finished_at=self.now())
            return self._store(after, durable or after.final)

    def note(self, job_id: str, change: Callable[[Job], Job]) -> Job:
        """Like `update`; in memory alone while the disk takes no records. For a job that has not ended."""
        try:
            return self.update(job_id, change)
        except (SpoolError, OSError):
            return self.update(job_id, change, durable=False)

    def _store(self, job: Job, durable: bool) -> Job:
        job = replace(job, updated_at=self.now(), progress=max(job.progress, _reached(job)))
        due = time.monotonic() - self._saved_at.get(job.job_id, 0.0) >= _PROGRESS_SECONDS
        if durable or due:
            self._save(job, durable)
        if job.final:
            self._live.pop(job.job_id, None)
            self._saved_at.pop(job.job_id, None)
        else:
            self._live[job.job_id] = job
        if self._observe is not None:
            self._observe(job)
        return job

    def _save(self, job: Job, durable: bool) -> None:
        """Write a record. Raises SpoolError if `durable`; progress can wait for a disk that takes it."""
        self._saved_at[job.job_id] = time.monotonic()
        try:
            self.records.write_durably(self._spool.work_folder(job.job_id) / "job.json", encode_record(job))
        except (SpoolError, OSError) as error:
            if durable:
                raise
            log.warning("job %s: where it stands cannot be written (%s)", job.job_id, error)


def _reached(job: Job) -> float:
    if job.status == "done":
        return 1.0
    sent, total = (sum(getattr(peer, name) for peer in job.destinations) for name in ("sent", "total"))
    if job.station == "deliver":
        return reached("deliver", "", sent, total)
    return reached(job.station, job.part or "", job.done, job.total)


def _read_job(path: Path) -> Job:
    values = read_record(path)
    try:
        told = values.pop("destinations")
        states = tuple(DestinationState(**known(state, DestinationState)) for state in told)
        reports = tuple(values.pop("dose_reports", ()))
        return Job(**known(values, Job), destinations=states, dose_reports=reports)
    except (AttributeError, KeyError, TypeError) as error:
        raise SpoolError(f"{path}: is not the record of a job ({error}); move it out of the spool") from error
