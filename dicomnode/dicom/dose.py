"""How much dose the images of a series were made with, from their own headers and from dose reports.

A dose that cannot be read is `None` with source "none": never a normal dose by assumption.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from dicomnode.dicom.dose_joining import Scan, join, scans_of
from dicomnode.dicom.dose_phantom import (
    Phantom,
    inferred_phantom,
    mgy_per_mas,
    phantom_by_region,
    stated_phantoms,
    to_body,
)
from dicomnode.dicom.dose_report import CTDIVOL_MGY, KV_EXPONENT, KVP, MGY_PER_MAS, DoseEvent
from dicomnode.dicom.dose_vector import repaired
from dicomnode.dicom.exposure import has_tin_filter, read_exposure, tube_current_ma
from dicomnode.dicom.private_elements import PrivateElement, private_number
from dicomnode.dicom.reconstruction import is_iterative
from dicomnode.dicom.series import ACQUISITION_KEYS
from dicomnode.dicom.values import number, text

DoseSource = Literal["ctdivol-tag", "radiation-dose-report", "computed-from-mas", "none"]

DIFFERS: Final = 1.5
"""Images and report that are further apart than this factor are not about the same dose."""
DOSE_JUMP: Final = 2.0
"""Between neighbours of two acquisitions; exposure control does not jump like that."""
SCAN_KEYS: Final = (*ACQUISITION_KEYS, "AcquisitionDateTime")

SSDE_BODY: Final = (3.704369, 0.03671937)
SSDE_HEAD: Final = (1.874799, 0.03871313)
"""f = a exp(-b Dw[cm]): AAPM Report 204, tables for the 32 cm and 16 cm phantom."""
SSDE_DIAMETER_MM: Final = (80.0, 450.0)


@dataclass(frozen=True)
class DoseReading:
    """The dose of a series, one value a slice where the vectors are concerned (None: not known).

    `mas` is effective mAs; `ctdivol_mgy` belongs to `phantom_cm` and must not be compared across phantoms
    (16 cm reads about twice as much as 32 cm). `flags` name everything that was repaired, inferred or odd.
    `report_uids` are the SOP Instance UIDs of the dose reports whose events were joined to the series.
    """

    kvp: float | None
    mas: tuple[float | None, ...]
    ctdivol_mgy: tuple[float | None, ...]
    phantom_cm: Phantom | None
    source: DoseSource
    flags: tuple[str, ...]
    report_uids: tuple[str, ...] = ()

    @property
    def mean_ctdivol_mgy(self) -> float | None:
        """Mean over the slices, or None."""
        return _mean(self.ctdivol_mgy)

    @property
    def mean_mas(self) -> float | None:
        """Mean over the slices, or None."""
        return _mean(self.mas)


@dataclass(frozen=True)
class _Reported:
    """What the events joined to a series tell of it; `spread_flags` hold if its CTDIvol is used."""

    ctdivol_mgy: NDArray[np.float64]
    phantom_cm: Phantom | None
    kvp: float | None
    report_uids: tuple[str, ...]
    spread_flags: frozenset[str]


def read_dose(headers: Sequence[Dataset], events: Iterable[DoseEvent] = ()) -> DoseReading:
    """Read kVp, mAs and CTDIvol of every slice; `headers` sorted along the patient.

    Precedence: CTDIvol of the images with its phantom known; the mean of the event in a dose report, spread
    over the slices by tube current; CTDIvol computed from mAs; none. `events` are those of the study's dose
    reports (`dose_report.merged`); which of them belong to these images is found here.
    """
    flags: set[str] = set()
    kvp = _kvp(headers, flags)
    flags |= {"TIN_FILTER"} if any(map(has_tin_filter, headers)) else set()
    mas = _mas(headers, flags)
    ctdivol = _stated_ctdivol(headers, mas, flags)
    reported = _reported(headers, mas, tuple(events), flags)
    if kvp is None and reported is not None and reported.kvp is not None and "KVP_CHANGES" not in flags:
        kvp = reported.kvp
        flags.add("KVP_FROM_REPORT")
    source: DoseSource = "none"
    phantom: Phantom | None = None
    if ctdivol is not None:
        source, phantom = "ctdivol-tag", _phantom(headers, ctdivol, mas, kvp, flags)
        if reported is not None:
            phantom = _settled_phantom(ctdivol, phantom, reported, flags)
    if reported is not None and (ctdivol is None or (phantom is None and reported.phantom_cm is not None)):
        source, ctdivol, phantom = "radiation-dose-report", reported.ctdivol_mgy, reported.phantom_cm
        flags -= {"PHANTOM_UNKNOWN"} if phantom is not None else set()
        flags |= reported.spread_flags
    elif ctdivol is None and mas is not None and kvp is not None and "TIN_FILTER" not in flags:
        source, phantom = "computed-from-mas", phantom_by_region(headers[0])
        ctdivol = mas * mgy_per_mas(headers[0], phantom, kvp)
        flags.add("CTDIVOL_COMPUTED")
    if headers:
        flags |= {"ITERATIVE_RECONSTRUCTION"} if is_iterative(headers[0]) else set()
        _flag_jump(headers, ctdivol, flags)
    return DoseReading(
        kvp,
        _tuple(mas, headers),
        _tuple(ctdivol, headers),
        phantom,
        source,
        tuple(sorted(flags)),
        reported.report_uids if reported is not None else (),
    )


def report_over_reading(
    reading: DoseReading, scans: Sequence[Scan], events: Sequence[DoseEvent]
) -> float | None:
    """CTDIvol by the dose reports over that of a reading, on the same phantom; None where they cannot tell.

    For a report that came after the reading was made: `scans` are the series' own (`scans_of`).
    """
    joined = [(scan, join(scan, events)[0]) for scan in scans]
    told = [
        (len(scan.slices), event.ctdivol_mgy * to_body(event.phantom_cm or reading.phantom_cm))
        for scan, event in joined
        if event is not None and event.ctdivol_mgy is not None
    ]
    mean_mgy = reading.mean_ctdivol_mgy
    if not told or mean_mgy is None:
        return None
    by_reports = sum(slices * mgy for slices, mgy in told) / sum(slices for slices, _ in told)
    return by_reports / (mean_mgy * to_body(reading.phantom_cm))


def differs(ratio: float) -> bool:
    """Whether two doses are too far apart to be the same."""
    return not 1 / DIFFERS <= ratio <= DIFFERS


def ssde_mgy(
    ctdivol_mgy: float | None, phantom_cm: int | None, water_equivalent_diameter_mm: float | None
) -> float | None:
    """Size-specific dose estimate: CTDIvol x f(Dw), f of the phantom that CTDIvol was reported for.

    Source: AAPM Reports 204 and 220. None where an input is unknown or the diameter is outside 80..450 mm,
    for which there are no data.
    """
    if ctdivol_mgy is None or water_equivalent_diameter_mm is None or phantom_cm not in (16, 32):
        return None
    if not SSDE_DIAMETER_MM[0] <= water_equivalent_diameter_mm <= SSDE_DIAMETER_MM[1]:
        return None
    scale, decay = SSDE_BODY if phantom_cm == 32 else SSDE_HEAD
    return ctdivol_mgy * scale * math.exp(-decay * water_equivalent_diameter_mm / 10)


def _kvp(headers: Sequence[Dataset], flags: set[str]) -> float | None:
    if any(text(header, "KVP") and number(header, "KVP") is None for header in headers):
        flags.add("KVP_UNREADABLE")
    values = {value for value in (number(header, "KVP") for header in headers) if value}
    if len(values) > 1:
        flags.add("KVP_CHANGES")
        return None
    kvp = values.pop() if values else None
    if kvp is not None and not KVP[0] <= kvp <= KVP[1]:
        flags.add("KVP_OUT_OF_RANGE")
        return None
    return kvp


def _mas(headers: Sequence[Dataset], flags: set[str]) -> NDArray[np.float64] | None:
    exposures = [read_exposure(header) for header in headers]
    for exposure in exposures:
        flags |= exposure.flags
    return repaired([exposure.mas for exposure in exposures], "MAS", flags)


def _stated_ctdivol(
    headers: Sequence[Dataset], mas: NDArray[np.float64] | None, flags: set[str]
) -> NDArray[np.float64] | None:
    stated = [_ctdivol_of(header) for header in headers]
    sane = [
        value if value is not None and CTDIVOL_MGY[0] <= value <= CTDIVOL_MGY[1] else None for value in stated
    ]
    if any(value != check for value, check in zip(stated, sane, strict=True)):
        flags.add("CTDIVOL_OUT_OF_RANGE")
    if any(text(header, "CTDIvol") and number(header, "CTDIvol") is None for header in headers):
        flags.add("CTDIVOL_UNREADABLE")
    ctdivol = repaired(_on_one_phantom(headers, sane, flags), "CTDIVOL", flags)
    if ctdivol is None or len(ctdivol) < 2 or np.ptp(ctdivol) > 1e-6:
        return ctdivol
    return ctdivol * _modulation(headers, mas, flags)


def _on_one_phantom(
    headers: Sequence[Dataset], ctdivol: Sequence[float | None], flags: set[str]
) -> Sequence[float | None]:
    """On the 32 cm phantom where slices state different ones (head and trunk in one go), else as they are."""
    phantoms = stated_phantoms(headers)
    if len(set(phantoms)) < 2:
        return ctdivol
    flags.add("PHANTOMS_DIFFER")
    return [
        None if value is None else value * to_body(phantom)
        for value, phantom in zip(ctdivol, phantoms, strict=True)
    ]


def _ctdivol_of(header: Dataset) -> float | None:
    value = number(header, "CTDIvol")
    return value if value is not None else private_number(header, PrivateElement.CANON_CTDIVOL)


def _modulation(
    headers: Sequence[Dataset], mas: NDArray[np.float64] | None, flags: set[str]
) -> NDArray[np.float64]:
    """A constant CTDIvol is the mean of the series: tube current says how it was spread over z."""
    profile = mas
    if profile is None:
        currents = [tube_current_ma(header) for header in headers]
        known = [current for current in currents if current is not None]
        profile = np.array(known) if len(known) == len(headers) else None
    if profile is None or np.ptp(profile) <= 0.01 * profile.mean():
        return np.ones(len(headers))
    flags.add("CTDIVOL_SPREAD_BY_CURRENT")
    return np.asarray(profile / profile.mean(), dtype=np.float64)


def _phantom(
    headers: Sequence[Dataset],
    ctdivol: NDArray[np.float64],
    mas: NDArray[np.float64] | None,
    kvp: float | None,
    flags: set[str],
) -> Phantom | None:
    per_mas = None
    if mas is not None and kvp is not None and "TIN_FILTER" not in flags:
        per_mas = float(np.median(ctdivol / mas)) * (120 / kvp) ** KV_EXPONENT
        if not MGY_PER_MAS[0] <= per_mas <= MGY_PER_MAS[1]:
            flags.add("CTDIVOL_MAS_MISMATCH")
    if "PHANTOMS_DIFFER" in flags:
        return 32
    stated = stated_phantoms(headers)
    return stated[0] if stated else _inferred(headers[0], per_mas, flags)


def _inferred(header: Dataset, per_mas: float | None, flags: set[str]) -> Phantom | None:
    phantom_cm = inferred_phantom(header, per_mas)
    flags.add("PHANTOM_UNKNOWN" if phantom_cm is None else "PHANTOM_INFERRED")
    return phantom_cm


# --- what dose reports tell ----------------------------------------------------------------------


def _reported(
    headers: Sequence[Dataset],
    mas: NDArray[np.float64] | None,
    events: tuple[DoseEvent, ...],
    flags: set[str],
) -> _Reported | None:
    """The joined events' means, spread over the slices; None where too little is joined."""
    values: list[float | None] = [None] * len(headers)
    joined: list[DoseEvent] = []
    spread_flags: set[str] = set()
    for scan in scans_of(headers) if events else ():
        event, flag = join(scan, events)
        flags |= {flag} if flag else set()
        if event is None or event.ctdivol_mgy is None:
            continue
        joined.append(event)
        slices = list(scan.slices)
        of_scan = None if mas is None else mas[slices]
        spread = event.ctdivol_mgy * _modulation([headers[index] for index in slices], of_scan, spread_flags)
        for index, value in zip(slices, spread, strict=True):
            values[index] = float(value)
    ctdivol = repaired(values, "REPORT_CTDIVOL", flags) if joined else None
    if ctdivol is None:
        return None
    phantoms = {_phantom_of(event, headers[0], flags) for event in joined}
    if len(phantoms) > 1:
        flags.add("REPORT_PHANTOMS_DIFFER")
        return None
    flags |= {f"REPORT_{flag}" for event in joined for flag in event.flags}
    kvps = {event.kvp for event in joined}
    report_uids = tuple(sorted({event.report_uid for event in joined}))
    kvp = kvps.pop() if len(kvps) == 1 else None
    return _Reported(ctdivol, phantoms.pop(), kvp, report_uids, frozenset(spread_flags))


def _phantom_of(event: DoseEvent, header: Dataset, flags: set[str]) -> Phantom | None:
    if event.phantom_cm is not None:
        return event.phantom_cm
    inferring: set[str] = set()
    phantom_cm = _inferred(header, event.mgy_per_mas, inferring)
    flags |= {f"REPORT_{flag}" for flag in inferring}
    return phantom_cm


def _settled_phantom(
    ctdivol: NDArray[np.float64],
    phantom_cm: Phantom | None,
    reported: _Reported,
    flags: set[str],
) -> Phantom | None:
    """The phantom of the images' CTDIvol once a report is there: stated, or the report's where doses agree.

    The numbers themselves tell whether the report's phantom is theirs too: on another they would be half or
    twice as large.
    """
    inferred = bool({"PHANTOM_INFERRED", "PHANTOM_UNKNOWN"} & flags)
    ratio = float(np.mean(reported.ctdivol_mgy) / np.mean(ctdivol))
    if inferred and reported.phantom_cm is not None and not differs(ratio):
        flags -= {"PHANTOM_INFERRED", "PHANTOM_UNKNOWN"}
        flags.add("PHANTOM_FROM_REPORT")
        return reported.phantom_cm
    if phantom_cm is not None and reported.phantom_cm is not None:
        ratio *= to_body(reported.phantom_cm) / to_body(phantom_cm)
    if differs(ratio):
        flags.add("CTDIVOL_DIFFERS_FROM_REPORT")
    return phantom_cm


def _flag_jump(headers: Sequence[Dataset], ctdivol: NDArray[np.float64] | None, flags: set[str]) -> None:
    """A dose that changes at once where the acquisition does."""
    if ctdivol is None:
        return
    for keyword in SCAN_KEYS:
        told = [text(header, keyword) for header in headers]
        for at in range(1, len(headers)):
            ratio = ctdivol[at] / ctdivol[at - 1]
            if _begins(told, at, keyword) and max(ratio, 1 / ratio) > DOSE_JUMP:
                flags.add("ACQUISITIONS_DIFFER")


def _begins(told: Sequence[str], at: int, keyword: str) -> bool:
    """Another acquisition; by its time only where it is not each slice that has a time of its own."""
    alone = len(set(told[at : at + 2])) > 1 or len(set(told[max(at - 2, 0) : at])) > 1
    return told[at] != told[at - 1] and not (alone and keyword == "AcquisitionDateTime")


def _tuple(vector: NDArray[np.float64] | None, headers: Sequence[Dataset]) -> tuple[float | None, ...]:
    return (None,) * len(headers) if vector is None else tuple(float(value) for value in vector)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
