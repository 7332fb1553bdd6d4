"""The dose reports that have come, by study. Rebuilt from the filed instances at every start, nothing else.

A report usually comes after the images it is about, so whoever asks must be ready to ask again.
"""

import logging
import threading
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from dicomnode.dicom.dose import differs, report_over_reading
from dicomnode.dicom.dose_report import DoseEvent, DoseReport, merged, read_dose_report
from dicomnode.errors import DoseUnknown, NotADoseReport
from dicomnode.journey.book import JobBook
from dicomnode.journey.job import Job, fresh_run

if TYPE_CHECKING:
    from dicomnode.journey.stations import Stations

MADE: Final = frozenset({"sending", "done", "undelivered", "held"})
"""A result is there, made with the dose that was read then."""

log: Final = logging.getLogger(__name__)


class DoseReports:
    """Where the dose reports of each study lie. For several threads."""

    def __init__(self) -> None:
        self._of_study: dict[str, dict[str, Path]] = {}
        self._guard = threading.Lock()

    def add(self, study_uid: str, sop_instance_uid: str, path: Path) -> None:
        """Note a report that is safe on the disk; again is the same."""
        with self._guard:
            self._of_study.setdefault(study_uid, {})[sop_instance_uid] = path

    def known(self, study_uid: str) -> frozenset[str]:
        """SOP Instance UIDs of the reports of a study."""
        with self._guard:
            return frozenset(self._of_study.get(study_uid, ()))

    def events(self, study_uid: str) -> tuple[tuple[DoseEvent, ...], frozenset[str]]:
        """The irradiation events of a study, each once, and the SOP Instance UIDs of all reports looked at.

        A report that cannot be read, or is another modality's, tells no events and is logged.
        """
        with self._guard:
            paths = dict(self._of_study.get(study_uid, ()))
        reports: list[DoseReport] = []
        for path in paths.values():
            try:
                reports.append(read_dose_report(path))
            except NotADoseReport as error:
                log.warning("a dose report tells nothing: %s", error)
        return merged(reports), frozenset(paths)


class LateReports:
    """What a dose report means for a job that had looked for its dose before the report came.

    A job knows which reports were looked at for it (`Job.dose_reports`, from its dose.json); whatever is new
    is weighed once. Nothing else is remembered, so a crash between any two lines leads to the same end.
    """

    def __init__(self, reports: DoseReports, book: JobBook, stations: "Stations") -> None:
        self._reports = reports
        self._book = book
        self._stations = stations
        self._guard = threading.Lock()

    def weigh(self, job_id: str) -> Job | None:
        """Return a job that starts again, to be queued: it was refused for want of a dose, and a report came.

        For a result that is made already, only note what the report contradicts. Raises SpoolError, OSError.
        """
        with self._guard:
            known = self._reports.known(self._book.study(job_id))
            if not known:
                return None
            job = self._book.job(job_id)
            if known <= set(job.dose_reports) or self._book.superseded(self._book.order(job_id)):
                return None
            if (job.status, job.rule) == ("refused", DoseUnknown.rule):
                return self._again(job)
            if job.status in MADE:
                self._note(job)
            return None

    def wanted(self, study_uid: str) -> bool:
        """Whether a series of a study has been refused for want of a dose."""
        jobs = (self._book.job(job_id) for job_id in self._book.of_study(study_uid))
        return any((job.status, job.rule) == ("refused", DoseUnknown.rule) for job in jobs)

    def _again(self, job: Job) -> Job:
        """First the stations are taken back, then the record says so: a crash between is weighed again."""
        self._stations.forget_dose(job.job_id)
        log.info("job %s: starts again, a dose report came", job.job_id)
        return self._book.update(job.job_id, fresh_run)

    def _note(self, job: Job) -> None:
        """What has been made, and sent perhaps, is not changed any more."""
        events, looked_at = self._reports.events(self._book.study(job.job_id))
        found = self._stations.dose_found(job.job_id)
        ratio = report_over_reading(*found, events) if found is not None else None
        remark = job.dose_remark
        if ratio is not None and differs(ratio):
            remark = f"a dose report that came later tells {ratio:.3g} times the CTDIvol it was made with"
            log.warning("job %s: %s", job.job_id, remark)

        def noted(job: Job) -> Job:
            return replace(job, dose_reports=tuple(sorted(looked_at)), dose_remark=remark)

        self._book.update(job.job_id, noted)
