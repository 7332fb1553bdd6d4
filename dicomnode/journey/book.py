"""The book of the jobs of one spool: what each is about, where it stands, which stands for which stack."""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Final

from dicomnode.errors import JobUnknown, SpoolError
from dicomnode.journey.job import Job, Observer, read_job, read_jobs
from dicomnode.journey.order import Order, encode_record, read_order, study_of
from dicomnode.journey.progress import reached
from dicomnode.spool import Spool

_PROGRESS_SECONDS: Final = 1.0

log = logging.getLogger(__name__)


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
            return live or read_job(path)

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
