"""One attempt to bring a result to one destination, and what is remembered of it.

    work/<job id>/outgoing/manifest.json    what there is to send: written with the files, never changed
    work/<job id>/delivery-<name>.json      what this destination has answered, instance by instance

Only what a destination has not stored is sent again, always the same bytes. The report goes last, and only
when every image is stored: a report about images that are not there is worse than none.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from dicomnode.errors import DeliveryInterrupted, DicomnodeError, NetworkError
from dicomnode.journey.job import DestinationState, Parcel
from dicomnode.network.requestor import Patience
from dicomnode.network.send import send_files
from dicomnode.settings import Destination, Retry, Settings
from dicomnode.spool import Spool

OUTGOING: Final = "outgoing"
MANIFEST: Final = "manifest.json"


@dataclass(frozen=True)
class File:
    """One file to send: its path inside the outgoing folder and its SOP Instance UID."""

    path: str
    sop_instance_uid: str


@dataclass(frozen=True)
class Manifest:
    """What there is to send, for each second value of Image Type that a destination asks for."""

    series_instance_uid: str
    images: Mapping[str, tuple[File, ...]]
    reports: Mapping[str, File]


@dataclass(frozen=True)
class Ledger:
    """What one destination has answered: the instances it stores, and those it refused with their status."""

    stored: tuple[str, ...] = ()
    refused: Mapping[str, int] = field(default_factory=dict)

    def with_answers(self, stored: Sequence[str], refused: Sequence[tuple[str, int]]) -> "Ledger":
        """The ledger after more answers."""
        return Ledger(tuple(dict.fromkeys((*self.stored, *stored))), {**self.refused, **dict(refused)})


def read_manifest(outgoing: Path) -> Manifest:
    """Read what the station `write` left."""
    values = json.loads((outgoing / MANIFEST).read_text(encoding="utf-8"))
    images = {kind: tuple(File(**one) for one in told) for kind, told in values["images"].items()}
    reports = {kind: File(**one) for kind, one in values["reports"].items()}
    return Manifest(values["series_instance_uid"], images, reports)


class Delivery:
    """The way of one result to one destination."""

    def __init__(self, spool: Spool, job_id: str, destination: Destination, settings: Settings) -> None:
        self._spool = spool
        self._destination = destination
        self._calling_ae = settings.node.ae_title
        self._patience = Patience.configured(settings.network)
        folder = spool.work_folder(job_id)
        self._outgoing = folder / OUTGOING
        self._ledger_path = folder / f"delivery-{destination.name}.json"
        manifest = read_manifest(self._outgoing)
        # The destination may have been given another Image Type since; it gets what there is.
        kind = destination.image_type2 if destination.image_type2 in manifest.images else min(manifest.images)
        self._images = manifest.images[kind]
        self._report = manifest.reports[kind] if destination.report else None
        self._ledger = self._read_ledger()

    def attempt(self, state: DestinationState, now: datetime) -> tuple[DestinationState, float | None]:
        """Send what is missing; return the state after it, and the pause before the next attempt if any."""
        try:
            self._send(self._images)
            if self._report is not None and all(self._stored(file) for file in self._images):
                self._send((self._report,))
        except DicomnodeError as error:
            state = replace(state, reason=str(error))
            if error.retry:
                return self._later(state, now)
            ended: Parcel = "refused" if isinstance(error, NetworkError) else "gave-up"
            return self._counted(replace(state, state=ended)), None
        return self._counted(self._ended(state)), None

    def _send(self, files: Sequence[File]) -> None:
        """Send what has no answer yet, and write the answers down whether or not all came."""
        unanswered = [file for file in files if not self._answered(file)]
        if not unanswered:
            return
        try:
            delivery = send_files(
                [self._outgoing / file.path for file in unanswered],
                self._destination,
                self._calling_ae,
                patience=self._patience,
            )
        except DeliveryInterrupted as interruption:
            self._note(interruption.sent, interruption.refused)
            raise
        self._note(delivery.sent, delivery.refused)

    def _ended(self, state: DestinationState) -> DestinationState:
        refused = self._ledger.refused
        if not refused:
            return replace(state, state="delivered", reason=None)
        status = next(iter(refused.values()))
        report = self._report is not None and self._report.sop_instance_uid in refused
        what = "the report" if report else f"{len(refused)} of {len(self._images)} images"
        return replace(state, state="refused", reason=f"{what} refused for good (status {status:04X})")

    def _later(self, state: DestinationState, now: datetime) -> tuple[DestinationState, float | None]:
        retry = self._destination.retry
        first = datetime.fromisoformat(state.first_attempt_at) if state.first_attempt_at else now
        if now - first >= timedelta(days=retry.give_up_days):
            reason = f"given up after {retry.give_up_days:g} days: {state.reason}"
            return self._counted(replace(state, state="gave-up", reason=reason)), None
        pause_seconds = pause_before(state.attempts + 1, retry)
        next_at = (now + timedelta(seconds=pause_seconds)).isoformat(timespec="milliseconds")
        return self._counted(replace(state, state="waiting", next_attempt_at=next_at)), pause_seconds

    def _counted(self, state: DestinationState) -> DestinationState:
        files = (*self._images, *([self._report] if self._report else []))
        return replace(state, sent=sum(self._stored(file) for file in files), total=len(files))

    # --- the ledger ---------------------------------------------------------------------------

    def _stored(self, file: File) -> bool:
        return file.sop_instance_uid in self._ledger.stored

    def _answered(self, file: File) -> bool:
        return self._stored(file) or file.sop_instance_uid in self._ledger.refused

    def _note(self, stored: Sequence[str], refused: Sequence[tuple[str, int]]) -> None:
        self._ledger = self._ledger.with_answers(stored, refused)
        self._write_ledger()

    def forget_refusals(self) -> None:
        """Ask again for what was refused: an operator says that its cause is gone."""
        self._ledger = Ledger(self._ledger.stored)
        self._write_ledger()

    def _read_ledger(self) -> Ledger:
        if not self._ledger_path.exists():
            return Ledger()
        values = json.loads(self._ledger_path.read_text(encoding="utf-8"))
        return Ledger(tuple(values["stored"]), values["refused"])

    def _write_ledger(self) -> None:
        self._spool.write_durably(self._ledger_path, json.dumps(asdict(self._ledger), indent=1).encode())


def pause_before(attempt: int, retry: Retry) -> float:
    """Seconds before an attempt (the second is the first that waits): doubling up to the longest."""
    return min(retry.first_seconds * 2.0 ** min(max(attempt - 2, 0), 40), retry.longest_seconds)
