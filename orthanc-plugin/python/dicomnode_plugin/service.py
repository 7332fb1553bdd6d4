"""What the routes under /dicomnode answer, as plain values: a status and an object for JSON."""

from __future__ import annotations

import re
import time
from typing import Any, Dict, Tuple

from .archive import Archive
from .desk import Desk
from .record import Record
from .settings import Settings
from .worker import Worker

Answer = Tuple[int, Dict[str, Any]]

ROUTES = r"/dicomnode/(status|series/([^/]+)|series/([^/]+)/enhance)"
ORTHANC_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{8}){4}")


class Service:
    """Answers what people and Orthanc Explorer ask; it reads, and announces to the worker."""

    def __init__(
        self, settings: Settings, archive: Archive, desk: Desk, worker: Worker, kept_in: str
    ) -> None:
        self._settings, self._archive, self._desk, self._worker = settings, archive, desk, worker
        self._kept_in = kept_in

    def answer(self, method: str, uri: str) -> Answer:
        """Answer one request. Raises ArchiveTrouble."""
        parts = uri.strip("/").split("/")[1:]
        enhance = parts[2:] == ["enhance"]
        if method != ("POST" if enhance else "GET"):
            return 405, {"error": "POST" if enhance else "GET"}
        if parts == ["status"]:
            return 200, self._status()
        series_id = parts[1]
        if not ORTHANC_ID.fullmatch(series_id) or self._archive.series(series_id) is None:
            return 404, {"error": "no such series"}
        record = self._archive.record(series_id) or Record()
        if not enhance:
            return 200, self._series(series_id, record)
        if record.state == "result":
            return 409, {"error": "this series is the result of a dicomnode; it is never sent"}
        self._worker.announce(series_id, by_hand=True)
        return 200, {**self._series(series_id, record), "asked": True}

    def _series(self, series_id: str, record: Record) -> dict[str, Any]:
        return {
            "id": series_id,
            "state": record.state,
            "final": record.final,
            "progress": record.progress,
            "words": record.words,
            "rule": record.rule,
            "reason": record.reason,
            "attempts": record.attempts,
            "results": self._results(record),
        }

    def _results(self, record: Record) -> list[dict[str, str]]:
        found = [self._archive.series(one) for one in record.results]
        return [{"id": one.orthanc_id, "series_instance_uid": one.uid} for one in found if one is not None]

    def _status(self) -> dict[str, Any]:
        sweep = self._worker.sweep
        return {
            "on": True,
            "settings": self._settings.shown(),
            "kept_in": self._kept_in,
            "series": self._desk.under_way.counts(),
            "last_error": _told(self._desk.under_way.last_error),
            "node": {"reachable": self._desk.reach.reachable, "words": self._desk.reach.words},
            "sweep": {
                "finished": sweep.finished,
                "looked_at": sweep.looked_at,
                "found": sweep.found,
                "seconds": sweep.seconds,
            },
        }


def off(reason: str, method: str, uri: str) -> Answer:
    """The answers of a plugin whose settings are wrong."""
    if uri.rstrip("/").endswith("/status") and method == "GET":
        return 200, {"on": False, "error": reason}
    return 503, {"error": f"the dicomnode plugin is off: {reason}"}


def _told(error: tuple[float, str] | None) -> dict[str, str] | None:
    if error is None:
        return None
    return {"at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(error[0])), "words": error[1]}
