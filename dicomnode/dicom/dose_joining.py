"""Which irradiation event of a dose report made which slices.

1. The Irradiation Event UID of the images is that of the event.
2. Same study, exactly one event that nothing contradicts (time, acquisition number, kVp, way of scanning),
   and it agrees in time, acquisition number or protocol. A protocol's name alone picks no event out of
   several: images often carry the name of the whole examination.
3. Never by the order of events or series.

One event feeds many series (kernels, thicknesses); a localizer's feeds none.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from pydicom.dataset import Dataset

from dicomnode.dicom.dose_report import DoseEvent, date_time
from dicomnode.dicom.exposure import is_spiral
from dicomnode.dicom.values import number, text, texts

KVP_TOLERANCE: Final = 5.0
CLOCK_SLACK: Final = timedelta(seconds=2)
"""Images carry the start of their own acquisition; seconds are cut off by many writers."""


@dataclass(frozen=True)
class Scan:
    """Slices of one series with the same Irradiation Event UIDs, and what else joins them to an event.

    `slices` are indices into the sorted series; `began_at` and `ended_at` (ISO 8601, the scanner's own clock)
    are the first and last time of acquisition; texts are empty where slices differ or say nothing.
    """

    slices: tuple[int, ...]
    study_instance_uid: str
    event_uids: tuple[str, ...] = ()
    protocol: str = ""
    acquisition_number: str = ""
    kvp: float | None = None
    spiral: bool = False
    began_at: str = ""
    ended_at: str = ""


def scans_of(headers: Sequence[Dataset]) -> tuple[Scan, ...]:
    """The scans of a series by its slices' Irradiation Event UIDs; one where there are none."""
    groups: dict[tuple[str, ...], list[int]] = {}
    for index, header in enumerate(headers):
        groups.setdefault(tuple(sorted(set(texts(header, "IrradiationEventUID")))), []).append(index)
    return tuple(_scan(uids, slices, [headers[index] for index in slices]) for uids, slices in groups.items())


def join(scan: Scan, events: Iterable[DoseEvent]) -> tuple[DoseEvent | None, str | None]:
    """The event that made a scan, or None; with it the flag that tells why, or how it was found."""
    of_study = [event for event in events if event.study_instance_uid == scan.study_instance_uid]
    named = [event for event in of_study if set(event.event_uids) & set(scan.event_uids)]
    if named:
        return _only(scan, [event for event in named if event.feeds_images])
    possible = [event for event in of_study if _may_have_made(event) and not _contradicts(scan, event)]
    if len(possible) == 1 and possible[0].feeds_images and _agrees(scan, possible[0]):
        return possible[0], "REPORT_JOINED_WITHOUT_UID"
    if len(possible) > 1:
        return None, "REPORT_AMBIGUOUS"
    return None, "REPORT_NOT_JOINED" if of_study else None


def _only(scan: Scan, named: list[DoseEvent]) -> tuple[DoseEvent | None, str | None]:
    """Of the events that the images name themselves: none but theirs, also where its dose is of no use."""
    if len(named) > 1 or (named and len(scan.event_uids) > 1):
        return None, "REPORT_AMBIGUOUS"
    return (named[0], None) if named else (None, "REPORT_NOT_JOINED")


def _may_have_made(event: DoseEvent) -> bool:
    """Whether images can be this event's, its dose usable or not; a table at rest made none of a stack."""
    return event.feeds_images or not (event.localizer or event.acquisition == "stationary")


def _agrees(scan: Scan, event: DoseEvent) -> bool:
    same_protocol = bool(scan.protocol) and scan.protocol.casefold() == event.protocol.casefold()
    return same_protocol or _same_number(scan, event) is True or _same_time(scan, event) is True


def _contradicts(scan: Scan, event: DoseEvent) -> bool:
    if scan.event_uids and event.event_uids:
        return True  # both know their event, and it is not the same
    if scan.kvp is not None and event.kvp is not None and abs(scan.kvp - event.kvp) > KVP_TOLERANCE:
        return True
    if scan.spiral and event.acquisition in ("sequenced", "stationary"):
        return True
    return _same_number(scan, event) is False or _same_time(scan, event) is False


def _same_number(scan: Scan, event: DoseEvent) -> bool | None:
    if not scan.acquisition_number or not event.acquisition_number:
        return None
    return scan.acquisition_number == event.acquisition_number


def _same_time(scan: Scan, event: DoseEvent) -> bool | None:
    if not scan.began_at or event.started_at is None or event.ended_at is None:
        return None
    began_at, ended_at = datetime.fromisoformat(scan.began_at), datetime.fromisoformat(scan.ended_at)
    return began_at <= event.ended_at + CLOCK_SLACK and event.started_at - CLOCK_SLACK <= ended_at


# --- what the slices of a scan say -----------------------------------------------------------------


def _scan(uids: tuple[str, ...], slices: list[int], headers: list[Dataset]) -> Scan:
    moments = [moment for moment in map(_acquired_at, headers) if moment is not None]
    complete = len(moments) == len(headers)
    return Scan(
        slices=tuple(slices),
        study_instance_uid=_shared(headers, "StudyInstanceUID"),
        event_uids=uids,
        protocol=_shared(headers, "ProtocolName"),
        acquisition_number=_shared(headers, "AcquisitionNumber"),
        kvp=number(headers[0], "KVP"),
        spiral=all(is_spiral(header) for header in headers),
        began_at=min(moments).isoformat() if complete else "",
        ended_at=max(moments).isoformat() if complete else "",
    )


def _shared(headers: list[Dataset], keyword: str) -> str:
    found = {text(header, keyword) for header in headers}
    return found.pop() if len(found) == 1 else ""


def _acquired_at(header: Dataset) -> datetime | None:
    together = text(header, "AcquisitionDate") + text(header, "AcquisitionTime")
    return date_time(text(header, "AcquisitionDateTime")) or date_time(together)
