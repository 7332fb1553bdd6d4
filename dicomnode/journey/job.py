"""What is known of one job: the record on disk that status, demo and recovery all read.

    work/<job id>/order.json     written once, before the job is queued: which files, which pipeline
    work/<job id>/job.json       where the job stands; replaced whole at every change of station

The records do not need the workflow database: a lost database is rebuilt from them at the next start.
UIDs stand in the records (they are in the spool, mode 0600) and never in a log line.
"""

import hashlib
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Literal

from dicomnode.errors import JobError, JobUnknown, SpoolError
from dicomnode.journey.order import known, read_record
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

    `progress`, 0 to 1, never falls, and is 1 only for a job that is done. `derived_series_uid` is the result
    for the first destination, `other_series_uids` are the same for those that want it named otherwise.
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
    other_series_uids: tuple[str, ...] = ()
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


def read_job(path: Path) -> Job:
    """Read one record. Raises SpoolError."""
    values = read_record(path)
    try:
        told = values.pop("destinations")
        states = tuple(DestinationState(**known(state, DestinationState)) for state in told)
        reports = tuple(values.pop("dose_reports", ()))
        others = tuple(values.pop("other_series_uids", ()))
        job = Job(**known(values, Job))
        return replace(job, destinations=states, dose_reports=reports, other_series_uids=others)
    except (AttributeError, KeyError, TypeError) as error:
        raise SpoolError(f"{path}: is not the record of a job ({error}); move it out of the spool") from error


def read_jobs(spool_root: Path) -> list[Job]:
    """Return every job in a spool, oldest first, without owning the spool; unreadable ones are logged."""
    jobs = []
    for path in (spool_root / "work").glob("*/job.json"):
        try:
            jobs.append(read_job(path))
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
        other_series_uids=tuple(found.get("other_series_uids", job.other_series_uids)),
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
