"""Where a series stands: out of its requests, its images and its jobs, one answer."""

import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Protocol

from pydantic import BaseModel

from dicomnode.errors import NetworkError
from dicomnode.journey.job import FINAL, Job
from dicomnode.journey.progress import ARRIVED
from dicomnode.journey.pulling import Pull
from dicomnode.network import part10, protocol
from dicomnode.web.words import job_words

_NOT_QUITE: Final = 0.99
_REMEMBERED: Final = 256
_BY_PROGRESS: Final = ("waiting", "queued", "working", "sending")
_BY_BADNESS: Final = (
    "failed",
    "undelivered",
    "held",
    "refused",
    "superseded",
    "ignored",
    "done",
)
"""Of several stacks the first of these that one of them is in stands for the series."""


class House(Protocol):
    """What the interface sees of a node. Every method may be called from any thread."""

    @property
    def ae_title(self) -> str:
        """The name of the node."""
        ...

    def jobs_of(self, series_uid: str) -> Sequence[Job]:
        """The newest job of each stack of a series."""
        ...

    def instances_of(self, series_uid: str) -> Sequence[Path]:
        """Every file held for a series."""
        ...

    def is_receiving(self, series_uid: str) -> bool:
        """Whether more images of a series are waited for."""
        ...

    def pulls_of(self, series_uid: str) -> Sequence[Pull]:
        """The requests to fetch a series."""
        ...

    def fetch(self, source: str, study_uid: str, series_uid: str) -> None:
        """Ask for a series; durable when it returns. Raises SourceUnknown, DiskFull, SpoolError."""
        ...

    def retry(self, job_id: str) -> Job:
        """Start a job again. Raises JobUnknown, JobError."""
        ...


class JobTold(BaseModel):
    """A job, as it is told."""

    job_id: str
    status: str
    station: str | None
    part: str | None
    done: int
    total: int
    generation: int
    progress: float
    images: int
    rule: str | None
    reason: str | None
    result: str | None
    results: list[str]
    words: str


class SeriesTold(BaseModel):
    """A series, as it is told. `progress` 0 to 1 never falls for one generation; 1 only for `done`.

    `remarks` tell what is not as asked though the series has its result: images that could not be fetched,
    objects beside the images that a destination did not take.
    """

    series_instance_uid: str
    state: str
    final: bool
    progress: float
    words: str
    images: int
    generation: int
    rule: str | None
    reason: str | None
    results: list[str]
    remarks: list[str]
    jobs: list[JobTold]


def told(job: Job) -> JobTold:
    """A job, as it is told."""
    return JobTold(
        job_id=job.job_id,
        status=job.status,
        station=job.station,
        part=job.part,
        done=job.done,
        total=job.total,
        generation=job.generation,
        progress=job.progress,
        images=job.instances,
        rule=job.rule,
        reason=job.reason,
        result=job.derived_series_uid,
        results=[uid for uid in (job.derived_series_uid, *job.other_series_uids) if uid],
        words=job_words(job),
    )


class Standing:
    """Says of a series where it stands."""

    def __init__(self, house: House) -> None:
        self._house = house
        self._images: OrderedDict[str, dict[str, bool]] = OrderedDict()
        self._guard = threading.Lock()

    def of(self, series_uid: str) -> SeriesTold:
        """Where a series stands now."""
        pulls = self._house.pulls_of(series_uid)
        # In this order: what moves on meanwhile from one to the next is then told twice, and never missed.
        receiving = self._house.is_receiving(series_uid)
        images = self._count(series_uid)
        jobs = self._house.jobs_of(series_uid)
        speaks = _speaks(jobs)
        state, progress, words = _state(pulls, receiving, images, jobs)
        moved_on = state in ("fetching", "receiving") or speaks is None
        return SeriesTold(
            series_instance_uid=series_uid,
            state=state,
            final=state in FINAL,
            progress=round(progress, 4),
            words=words,
            images=images,
            generation=max((job.generation for job in jobs), default=0),
            rule=None if moved_on or speaks is None else speaks.rule,
            reason=(words if state == "failed" else None) if moved_on or speaks is None else speaks.reason,
            results=[job.derived_series_uid for job in jobs if job.derived_series_uid],
            remarks=[*_ended(pulls), *(job.reason for job in jobs if job.status == "done" and job.reason)],
            jobs=[told(job) for job in jobs],
        )

    def _count(self, series_uid: str) -> int:
        """How many of the files of a series are CT images; a file is looked into once."""
        paths = self._house.instances_of(series_uid)
        with self._guard:
            known = self._images.setdefault(series_uid, {})
            self._images.move_to_end(series_uid)
            while len(self._images) > _REMEMBERED:
                self._images.popitem(last=False)
        for path in paths:
            if path.name not in known:
                known[path.name] = _is_image(path)
        return sum(known[path.name] for path in paths)


def _is_image(path: Path) -> bool:
    try:
        return part10.read_meta(path).sop_class_uid in protocol.IMAGE_CLASSES
    except (NetworkError, OSError):
        return False


def _state(
    pulls: Sequence[Pull], receiving: bool, images: int, jobs: Sequence[Job]
) -> tuple[str, float, str]:
    """(state, progress, words) of a series."""
    fetching = [pull for pull in pulls if pull.under_way]
    ended = _ended(pulls)
    missing = any(pull.missing for pull in fetching)
    if fetching and (missing or not jobs or all(job.final for job in jobs)):
        pull = max(fetching, key=lambda pull: pull.missing)
        looking = bool(jobs) and not missing
        return "fetching", min(_mean(jobs), _NOT_QUITE) if looking else pull.reached, _fetching(pull, looking)
    if receiving or (images and not jobs):
        return "receiving", ARRIVED, "; ".join([f"{images} images are here, waiting for more", *ended])
    speaks = _speaks(jobs)
    if speaks is not None:
        words = f"{job_words(speaks)}" + (f" (1 of {len(jobs)} stacks)" if len(jobs) > 1 else "")
        done = speaks.status == "done"
        return speaks.status, 1.0 if done else min(_mean(jobs), _NOT_QUITE), "; ".join([words, *ended])
    if ended:
        return "failed", max(pull.reached for pull in pulls), "; ".join(ended)
    return "unknown", 0.0, "no image of this series is here"


def _ended(pulls: Sequence[Pull]) -> list[str]:
    """Why requests that have ended are no success."""
    return [pull.words for pull in pulls if not pull.under_way and pull.words]


def _fetching(pull: Pull, looking: bool) -> str:
    if pull.words:
        return f"waiting for {pull.source}: {pull.words}"
    if looking or not pull.looked:
        return f"asking {pull.source} for its images"
    return f"fetching images from {pull.source}, {pull.here} of {pull.listed}"


def _speaks(jobs: Sequence[Job]) -> Job | None:
    """The job that stands for a series: the least advanced one that has not ended, else the worst."""
    going = [job for job in jobs if not job.final]
    if going:
        return min(going, key=lambda job: (job.progress, _BY_PROGRESS.index(job.status)))
    return min(jobs, key=lambda job: _BY_BADNESS.index(job.status), default=None)


def _mean(jobs: Sequence[Job]) -> float:
    """The progress of several stacks, each by its images."""
    images = sum(max(job.instances, 1) for job in jobs)
    return sum(max(job.progress, ARRIVED) * max(job.instances, 1) for job in jobs) / images
