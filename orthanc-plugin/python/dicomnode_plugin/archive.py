"""Ask Orthanc, through its own REST API inside its process, and read the answers.

`Sdk` is the part of the module `orthanc` that is used: the entry script hands the module in.
"""

from __future__ import annotations

import calendar
import json
import re
import time
from dataclasses import dataclass
from typing import Any, Iterator, Mapping, Protocol, Sequence

from .record import Record, fingerprint, read_record, write_record
from .routing import Header

STATE_METADATA, RECORD_METADATA, SOURCE_METADATA = 4310, 4311, 4312
"""Numbers of user-defined metadata (1024 to 65535): words for people, the record, the source of a result."""

UNKNOWN_RESOURCE = 17
"""OrthancPluginErrorCode_UnknownResource."""


class Sdk(Protocol):
    """What every version of Orthanc's Python plugin has, of what is used here."""

    @property
    def OrthancException(self) -> type[Exception]: ...

    def RestApiGet(self, uri: str) -> bytes: ...
    def RestApiPost(self, uri: str, body: str) -> bytes: ...
    def RestApiPut(self, uri: str, body: str) -> bytes: ...
    def GetGlobalProperty(self, number: int, default: str) -> str: ...
    def SetGlobalProperty(self, number: int, value: str) -> None: ...


class ArchiveTrouble(Exception):
    """Orthanc refused one of its own calls."""


@dataclass(frozen=True)
class Series:
    """One series of Orthanc's. `updated` is a Unix time in seconds, of its last change."""

    orthanc_id: str
    study_id: str
    uid: str
    modality: str
    instances: tuple[str, ...]
    stable: bool
    updated: float

    @property
    def fingerprint(self) -> str:
        """Names the images it has at this moment."""
        return fingerprint(self.instances)


@dataclass(frozen=True)
class Push:
    """A job of Orthanc's that sends. `progress` is 0 to 1; `trouble` says why it failed."""

    state: str
    progress: float
    trouble: str
    cancelled: bool

    @property
    def refused(self) -> bool:
        """Did it end at an image that the other side will never take? Out of resources (A7xx) passes."""
        return self.state == "Failure" and _REFUSED.search(self.trouble) is not None

    @property
    def ended(self) -> bool:
        """Has it succeeded or failed?"""
        return self.state in ("Success", "Failure")

    @property
    def paused(self) -> bool:
        """Has somebody paused it?"""
        return self.state == "Paused"


_MOST_JOBS = 1000
_CANCELED = 37  # OrthancPluginErrorCode_CanceledJob
_REFUSED = re.compile(r"DIMSE status 0x(C0|A9|0117|0122)")
"""By PS3.4 B.2.3 and PS3.7 9.1.1: not understood, of another class, a UID or a class of no use."""


class Archive:
    """Orthanc as seen by its plugin. Every method raises ArchiveTrouble where Orthanc refuses."""

    def __init__(self, sdk: Sdk) -> None:
        self._sdk = sdk
        self._ended_jobs: dict[str, bool] = {}

    def series(self, orthanc_id: str) -> Series | None:
        """A series, or None where there is none."""
        told = self._get(f"/series/{orthanc_id}")
        return None if told is None else _read_series(told)

    def page_of_series(self, since: int, limit: int) -> list[Series]:
        """Up to `limit` series from the one numbered `since`, none at the end."""
        told = self._get(f"/series?expand&since={since}&limit={limit}")
        return [_read_series(one) for one in told or []]

    def count_series(self) -> int:
        """How many series there are."""
        return int((self._get("/statistics") or {}).get("CountSeries", 0))

    def study_uid(self, series: Series) -> str:
        """StudyInstanceUID of a series."""
        study = self._get(f"/studies/{series.study_id}") or {}
        return str(study.get("MainDicomTags", {}).get("StudyInstanceUID", ""))

    def headers(self, instances: Sequence[str]) -> list[Header]:
        """The headers of images; those deleted meanwhile are left out."""
        found = [self._get(f"/instances/{one}/tags?short") for one in instances]
        return [header for header in found if isinstance(header, dict)]

    def lookup_series(self, uid: str) -> list[str]:
        """Orthanc's names of the series with this SeriesInstanceUID."""
        found = json.loads(self._call("RestApiPost", "/tools/lookup", uid) or b"[]")
        return [str(one["ID"]) for one in found if one.get("Type") == "Series"]

    def record(self, orthanc_id: str) -> Record | None:
        """What is kept of a series, or None."""
        kept = self._call("RestApiGet", f"/series/{orthanc_id}/metadata/{RECORD_METADATA}")
        return None if kept is None else read_record(kept.decode("utf-8", "replace"))

    def keep(self, orthanc_id: str, record: Record, before: Record | None) -> bool:
        """Write a record, the line for people only where it reads otherwise; False: the series is gone."""
        line, read = record.line(), None if before is None else before.line()
        if line != read and self._put(orthanc_id, STATE_METADATA, line) is None:
            return False
        return self._put(orthanc_id, RECORD_METADATA, write_record(record)) is not None

    def mark_result(self, result_id: str, source_id: str) -> None:
        """Say in the metadata of a result which series of Orthanc's it was made from."""
        self._put(result_id, SOURCE_METADATA, source_id)

    def set_stable(self, orthanc_id: str) -> None:
        """Count a series as stable at once, where this Orthanc can (1.12.9 or later)."""
        sdk: Any = self._sdk
        if hasattr(sdk, "SetStableStatus"):
            try:
                sdk.SetStableStatus(orthanc_id, sdk.StableStatus.STABLE)
            except (TypeError, self._sdk.OrthancException) as error:
                raise ArchiveTrouble(f"Orthanc: {error}") from None

    def send(self, resources: Sequence[str], modality: str) -> str:
        """Start a job that sends series or images, in this order; the name of the job."""
        body = json.dumps({"Resources": list(resources), "Synchronous": False})
        answer = self._call("RestApiPost", f"/modalities/{modality}/store", body)
        if answer is None:
            raise ArchiveTrouble(f'Orthanc knows no modality "{modality}", or the series is gone')
        return str(json.loads(answer)["ID"])

    def job(self, name: str) -> Push | None:
        """How far a job is; None where Orthanc has forgotten it, and no event told how it ended."""
        told = self._get(f"/jobs/{name}")
        if told is None:
            succeeded = self._ended_jobs.get(name)
            if succeeded is None:
                return None
            told = {"State": "Success" if succeeded else "Failure", "ErrorDetails": "Orthanc's log says why"}
        trouble = str(told.get("ErrorDetails") or told.get("ErrorDescription") or "")
        return Push(
            state=str(told.get("State", "")),
            progress=float(told.get("Progress", 0)) / 100.0,
            trouble=" ".join(trouble.split())[:300],
            cancelled=told.get("ErrorCode") == _CANCELED,
        )

    def job_ended(self, name: str, succeeded: bool) -> None:
        """Remember how a job ended: Orthanc keeps the last few only, or none. From any thread."""
        self._ended_jobs[name] = succeeded
        while len(self._ended_jobs) > _MOST_JOBS:
            self._ended_jobs.pop(next(iter(self._ended_jobs)), None)

    def _put(self, orthanc_id: str, number: int, value: str) -> bytes | None:
        return self._call("RestApiPut", f"/series/{orthanc_id}/metadata/{number}", value)

    def _get(self, uri: str) -> Any:
        answer = self._call("RestApiGet", uri)
        return None if answer is None else json.loads(answer)

    def _call(self, verb: str, *arguments: str) -> bytes | None:
        """What Orthanc answers; None where it knows no such thing."""
        try:
            answer = getattr(self._sdk, verb)(*arguments)
        except self._sdk.OrthancException as error:
            if error.args and error.args[0] == UNKNOWN_RESOURCE:
                return None
            told = error.args[-1] if error.args else type(error).__name__
            raise ArchiveTrouble(f"Orthanc: {told}") from None
        return answer if isinstance(answer, bytes) else b""


def pages(archive: Archive, size: int) -> Iterator[list[Series]]:
    """All series, page by page; what comes meanwhile may be among them or not."""
    since = 0
    while True:
        page = archive.page_of_series(since, size)
        if not page:
            return
        yield page
        since += len(page)


def _read_series(told: Mapping[str, Any]) -> Series:
    tags: dict[str, Any] = told.get("MainDicomTags") or {}
    return Series(
        orthanc_id=str(told["ID"]),
        study_id=str(told.get("ParentStudy", "")),
        uid=str(tags.get("SeriesInstanceUID", "")),
        modality=str(tags.get("Modality", "")).strip(),
        instances=tuple(told.get("Instances") or ()),
        stable=bool(told.get("IsStable")),
        updated=_seconds(str(told.get("LastUpdate", ""))),
    )


def _seconds(stamp: str) -> float:
    """`20260131T120000`, which Orthanc writes in UTC, as a Unix time; 0 where it cannot be read."""
    try:
        return float(calendar.timegm(time.strptime(stamp[:15], "%Y%m%dT%H%M%S")))
    except ValueError:
        return 0.0
