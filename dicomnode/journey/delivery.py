"""One attempt to bring a result to one destination, and what is remembered of it.

    work/<job id>/delivery-<name>.json      what this destination has answered, instance by instance

Only what a destination has not stored is sent again, always the same bytes. What goes with the images goes
after them, and only when every image is stored: a report about images that are not there is worse than none.
Each kind travels on an association of its own, so that a destination which takes no maps, and perhaps turns
away a whole association that asks for them, still gets the rest. The images are what is delivered: a kind
that is refused is told, and delays nothing.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from dicomnode.errors import (
    DeliveryInterrupted,
    DicomnodeError,
    NetworkError,
    PeerBusy,
    PeerRefused,
    PeerUnreachable,
)
from dicomnode.journey.job import DestinationState, Parcel
from dicomnode.journey.manifest import EXTRAS, OUTGOING, File, naming_for, read_manifest
from dicomnode.network import protocol
from dicomnode.network.requestor import Patience
from dicomnode.network.send import send_files
from dicomnode.settings import Destination, Retry, Settings
from dicomnode.spool import Spool

_WITHDRAWAL: Final = "withdrawal"


@dataclass(frozen=True)
class Ledger:
    """What one destination has answered: the instances it stores, and those it refused with their status."""

    stored: tuple[str, ...] = ()
    refused: Mapping[str, int] = field(default_factory=dict)

    def with_answers(self, stored: Sequence[str], refused: Sequence[tuple[str, int]]) -> "Ledger":
        """The ledger after more answers."""
        return Ledger(tuple(dict.fromkeys((*self.stored, *stored))), {**self.refused, **dict(refused)})


def read_ledger(job_folder: Path, destination: str) -> Ledger:
    """What a destination has answered about a job so far."""
    path = _ledger_path(job_folder, destination)
    if not path.exists():
        return Ledger()
    values = json.loads(path.read_text(encoding="utf-8"))
    return Ledger(tuple(values["stored"]), values["refused"])


def _ledger_path(job_folder: Path, destination: str) -> Path:
    return job_folder / f"delivery-{destination}.json"


class Delivery:
    """The way of one result to one destination.

    `earlier_under_way`: an earlier result is still being sent there, and cannot be withdrawn yet.
    """

    def __init__(
        self,
        spool: Spool,
        job_id: str,
        destination: Destination,
        settings: Settings,
        earlier_under_way: bool = False,
    ) -> None:
        self._spool = spool
        self._destination = destination
        self._calling_ae = settings.node.ae_title
        self._patience = Patience.configured(settings.network)
        self._earlier_under_way = earlier_under_way
        folder = spool.work_folder(job_id)
        self._outgoing = folder / OUTGOING
        self._ledger_path = _ledger_path(folder, destination.name)
        manifest = read_manifest(self._outgoing)
        result = manifest.result_for(naming_for(destination, settings.identity))
        self._images = result.images
        self._extras: dict[str, tuple[File, ...]] = {}
        if destination.key_objects and destination.name in manifest.withdrawals:
            self._extras[_WITHDRAWAL] = (manifest.withdrawals[destination.name],)
        asked = [kind for kind in EXTRAS if getattr(destination, kind)]
        self._extras |= {kind: result.extras[kind] for kind in asked if kind in result.extras}
        self._not_made = [kind for kind in asked if kind not in result.extras]
        self._ledger = read_ledger(folder, destination.name)

    def attempt(self, state: DestinationState, now: datetime) -> tuple[DestinationState, float | None]:
        """Send what is missing; return the state after it, and the pause before the next attempt if any."""
        try:
            self._send(self._images)
            if self._images_are_there():
                self._send_extras()
        except DicomnodeError as error:
            state = replace(state, reason=str(error))
            if error.retry:
                return self._later(state, now)
            return self._over(state, "refused" if isinstance(error, NetworkError) else "gave-up"), None
        return self._counted(self._ended(state)), None

    def _images_are_there(self) -> bool:
        return all(self._stored(file) for file in self._images)

    def _send_extras(self) -> None:
        """Each kind by itself. What has to wait is raised when all have been tried."""
        waiting: NetworkError | None = None
        for kind, files in self._extras.items():
            try:
                if kind == _WITHDRAWAL and self._earlier_under_way:
                    raise PeerBusy(
                        "the earlier result is still being sent; it is withdrawn when that has ended"
                    )
                self._send(files)
            except PeerRefused:  # no presentation context, or no association, for these classes
                unanswered = [file.sop_instance_uid for file in files if not self._answered(file)]
                self._note((), [(uid, protocol.CLASS_NOT_SUPPORTED) for uid in unanswered])
            except (PeerBusy, PeerUnreachable) as error:
                waiting = error
        if waiting is not None:
            raise waiting

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
        """Everything is answered. The images decide; what was refused beside them is told."""
        refused = [file for file in self._images if file.sop_instance_uid in self._ledger.refused]
        if refused:
            status = self._ledger.refused[refused[0].sop_instance_uid]
            what = f"{len(refused)} of {len(self._images)} images"
            return replace(state, state="refused", reason=f"{what} refused for good (status {status:04X})")
        return replace(state, state="delivered", reason="; ".join(self._left_out()) or None)

    def _left_out(self) -> Iterator[str]:
        """What was asked for beside the images and is not there."""
        for kind, files in self._extras.items():
            statuses = [self._ledger.refused.get(file.sop_instance_uid) for file in files]
            status = next((status for status in statuses if status is not None), None)
            if status is not None:
                yield f"{kind.replace('_', ' ')} refused for good (status {status:04X})"
        for kind in self._not_made:
            yield f"no {kind.replace('_', ' ')} was made"

    def _over(self, state: DestinationState, parcel: Parcel) -> DestinationState:
        """No further attempt: the images may be there although something beside them is not."""
        return self._counted(replace(state, state="delivered" if self._images_are_there() else parcel))

    def _later(self, state: DestinationState, now: datetime) -> tuple[DestinationState, float | None]:
        retry = self._destination.retry
        first = datetime.fromisoformat(state.first_attempt_at) if state.first_attempt_at else now
        if now - first >= timedelta(days=retry.give_up_days):
            reason = f"given up after {retry.give_up_days:g} days: {state.reason}"
            return self._over(replace(state, reason=reason), "gave-up"), None
        pause_seconds = pause_before(state.attempts + 1, retry)
        next_at = (now + timedelta(seconds=pause_seconds)).isoformat(timespec="milliseconds")
        return self._counted(replace(state, state="waiting", next_attempt_at=next_at)), pause_seconds

    def _counted(self, state: DestinationState) -> DestinationState:
        files = [*self._images, *(file for extra in self._extras.values() for file in extra)]
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

    def _write_ledger(self) -> None:
        self._spool.write_durably(self._ledger_path, json.dumps(asdict(self._ledger), indent=1).encode())


def pause_before(attempt: int, retry: Retry) -> float:
    """Seconds before an attempt (the second is the first that waits): doubling up to the longest."""
    return min(retry.first_seconds * 2.0 ** min(max(attempt - 2, 0), 40), retry.longest_seconds)
