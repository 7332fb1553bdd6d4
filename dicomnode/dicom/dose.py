"""How much dose the images of a series were made with, from their own headers and from dose reports.

A dose that cannot be read is `None` with source "none": never a normal dose by assumption.
"""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from dicomnode.dicom.dose_joining import Scan, join, scans_of
from dicomnode.dicom.dose_report import CTDIVOL_MGY, KV_EXPONENT, KVP, MGY_PER_MAS, PHANTOM_CODES, DoseEvent
from dicomnode.dicom.exposure import private_number, read_exposure, tube_current_ma
from dicomnode.dicom.values import code_of, number, text, texts

DoseSource = Literal["ctdivol-tag", "radiation-dose-report", "computed-from-mas", "none"]

HEAD_FROM: Final = 0.105
BODY_UP_TO: Final = 0.095
HEAD_TO_BODY_PHANTOM: Final = 0.5
"""CTDIvol on the 32 cm phantom over that on the 16 cm phantom, same output: 1/2.04 to 1/2.14."""
DIFFERS: Final = 1.5
"""Images and report that are further apart than this factor are not about the same dose."""
MISSING_SHARE: Final = 0.2
OUTLIER_MAD: Final = 3.0
OUTLIER_SHARE: Final = 0.25
ACQUISITION_JUMP: Final = 2.0

MGY_PER_MAS_AT_120_KV: Final[dict[str, tuple[float, float]]] = {
    "SIEMENS": (0.163, 0.064),
    "PHILIPS": (0.140, 0.071),
    "GE": (0.180, 0.085),
    "TOSHIBA": (0.200, 0.100),
    "CANON": (0.200, 0.100),
    "": (0.165, 0.075),
}
"""(16 cm, 32 cm) by maker. Siemens and Philips from real headers that hold both CTDIvol and mAs; the others
from published scanner evaluations, good to about 25 %, so a computed dose is always flagged."""

HEAD_WORDS: Final = frozenset({"HEAD", "BRAIN", "SKULL", "NEURO", "SINUS", "IAC", "KOPF"})

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
    phantom_cm: Literal[16, 32] | None
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
    phantom_cm: Literal[16, 32] | None
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
    mas = _mas(headers, flags)
    ctdivol = _stated_ctdivol(headers, mas, flags)
    reported = _reported(headers, mas, tuple(events), flags)
    if kvp is None and reported is not None and reported.kvp is not None and "KVP_CHANGES" not in flags:
        kvp = reported.kvp
        flags.add("KVP_FROM_REPORT")
    source: DoseSource = "none"
    phantom: Literal[16, 32] | None = None
    if ctdivol is not None:
        source, phantom = "ctdivol-tag", _phantom(headers[0], ctdivol, mas, kvp, flags)
        if reported is not None:
            phantom = _settled_phantom(ctdivol, phantom, reported, flags)
    if reported is not None and (ctdivol is None or (phantom is None and reported.phantom_cm is not None)):
        source, ctdivol, phantom = "radiation-dose-report", reported.ctdivol_mgy, reported.phantom_cm
        flags -= {"PHANTOM_UNKNOWN"} if phantom is not None else set()
        flags |= reported.spread_flags
    elif ctdivol is None and mas is not None and kvp is not None:
        source, phantom = "computed-from-mas", _phantom_by_region(headers[0])
        ctdivol = mas * _mgy_per_mas(headers[0], phantom, kvp)
        flags.add("CTDIVOL_COMPUTED")
    if headers:
        _flag_reconstruction(headers[0], flags)
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
        (len(scan.slices), event.ctdivol_mgy * _to_body(event.phantom_cm or reading.phantom_cm))
        for scan, event in joined
        if event is not None and event.ctdivol_mgy is not None
    ]
    mean_mgy = reading.mean_ctdivol_mgy
    if not told or mean_mgy is None:
        return None
    by_reports = sum(slices * mgy for slices, mgy in told) / sum(slices for slices, _ in told)
    return by_reports / (mean_mgy * _to_body(reading.phantom_cm))


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
    return _repaired([exposure.mas for exposure in exposures], "MAS", flags)


def _stated_ctdivol(
    headers: Sequence[Dataset], mas: NDArray[np.float64] | None, flags: set[str]
) -> NDArray[np.float64] | None:
    stated = [_ctdivol_of(header) for header in headers]
    sane = [
        value if value is not None and CTDIVOL_MGY[0] <= value <= CTDIVOL_MGY[1] else None for value in stated
    ]
    if any(value != check for value, check in zip(stated, sane, strict=True)):
        flags.add("CTDIVOL_OUT_OF_RANGE")
    ctdivol = _repaired(sane, "CTDIVOL", flags)
    if ctdivol is None or len(ctdivol) < 2 or np.ptp(ctdivol) > 1e-6:
        return ctdivol
    return ctdivol * _modulation(headers, mas, flags)


def _ctdivol_of(header: Dataset) -> float | None:
    value = number(header, "CTDIvol")
    return value if value is not None else private_number(header, 0x7005, "TOSHIBA_MEC_CT3", 0x63)


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
    header: Dataset,
    ctdivol: NDArray[np.float64],
    mas: NDArray[np.float64] | None,
    kvp: float | None,
    flags: set[str],
) -> Literal[16, 32] | None:
    per_mas = None
    if mas is not None and kvp is not None:
        per_mas = float(np.median(ctdivol / mas)) * (120 / kvp) ** KV_EXPONENT
        if not MGY_PER_MAS[0] <= per_mas <= MGY_PER_MAS[1]:
            flags.add("CTDIVOL_MAS_MISMATCH")
            per_mas = None
    value, scheme = code_of(header, "CTDIPhantomTypeCodeSequence")
    if scheme == "DCM" and value in PHANTOM_CODES:
        return PHANTOM_CODES[value]
    return _inferred_phantom(per_mas, flags)


def _inferred_phantom(per_mas: float | None, flags: set[str]) -> Literal[16, 32] | None:
    """The phantom by CTDIvol per mAs at 120 kV: the small one reads about twice as much."""
    if per_mas is None or BODY_UP_TO < per_mas < HEAD_FROM:
        flags.add("PHANTOM_UNKNOWN")
        return None
    flags.add("PHANTOM_INFERRED")
    return 16 if per_mas >= HEAD_FROM else 32


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
    ctdivol = _repaired(values, "REPORT_CTDIVOL", flags) if joined else None
    if ctdivol is None:
        return None
    phantoms = {_phantom_of(event, flags) for event in joined}
    if len(phantoms) > 1:
        flags.add("REPORT_PHANTOMS_DIFFER")
        return None
    flags |= {f"REPORT_{flag}" for event in joined for flag in event.flags}
    kvps = {event.kvp for event in joined}
    report_uids = tuple(sorted({event.report_uid for event in joined}))
    kvp = kvps.pop() if len(kvps) == 1 else None
    return _Reported(ctdivol, phantoms.pop(), kvp, report_uids, frozenset(spread_flags))


def _phantom_of(event: DoseEvent, flags: set[str]) -> Literal[16, 32] | None:
    if event.phantom_cm is not None:
        return event.phantom_cm
    inferring: set[str] = set()
    phantom_cm = _inferred_phantom(event.mgy_per_mas, inferring)
    flags |= {f"REPORT_{flag}" for flag in inferring}
    return phantom_cm


def _settled_phantom(
    ctdivol: NDArray[np.float64],
    phantom_cm: Literal[16, 32] | None,
    reported: _Reported,
    flags: set[str],
) -> Literal[16, 32] | None:
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
        ratio *= _to_body(reported.phantom_cm) / _to_body(phantom_cm)
    if differs(ratio):
        flags.add("CTDIVOL_DIFFERS_FROM_REPORT")
    return phantom_cm


def _to_body(phantom_cm: int | None) -> float:
    return HEAD_TO_BODY_PHANTOM if phantom_cm == 16 else 1.0


def _phantom_by_region(header: Dataset) -> Literal[16, 32]:
    # A protocol such as "Head to thigh" speaks only where BodyPartExamined is silent.
    where = text(header, "BodyPartExamined") or text(header, "ProtocolName")
    return 16 if set(re.split(r"[^A-Z]+", where.upper())) & HEAD_WORDS else 32


def _mgy_per_mas(header: Dataset, phantom_cm: Literal[16, 32], kvp: float) -> float:
    maker = text(header, "Manufacturer").upper()
    name = next((name for name in MGY_PER_MAS_AT_120_KV if name and maker.startswith(name)), "")
    head, body = MGY_PER_MAS_AT_120_KV[name]
    return float((head if phantom_cm == 16 else body) * (kvp / 120) ** KV_EXPONENT)


def _repaired(values: Sequence[float | None], name: str, flags: set[str]) -> NDArray[np.float64] | None:
    """The vector over z with few gaps filled and single outliers replaced; None if too little is known."""
    vector = np.array([math.nan if value is None else value for value in values], dtype=np.float64)
    known = np.isfinite(vector)
    if not known.any():
        return None
    if not known.all():
        if (~known).mean() > MISSING_SHARE:
            flags.add(f"{name}_INCOMPLETE")
            return None
        flags.add(f"{name}_INTERPOLATED")
        vector = np.interp(np.arange(len(vector)), np.flatnonzero(known), vector[known])
    outliers = _isolated_outliers(vector)
    if outliers.any():
        flags.add(f"{name}_OUTLIER_REPLACED")
        vector = np.interp(np.arange(len(vector)), np.flatnonzero(~outliers), vector[~outliers])
    return vector


def _isolated_outliers(vector: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Single slices far from both neighbours: modulation is smooth, typing errors are not."""
    found = np.zeros(len(vector), dtype=np.bool_)
    if len(vector) < 5:
        return found
    padded = np.pad(vector, 2, mode="reflect")
    windows = np.lib.stride_tricks.sliding_window_view(padded, 5)
    middle = np.median(np.delete(windows, 2, axis=1), axis=1)
    distance = np.abs(vector - middle)
    spread = 1.4826 * float(np.median(distance))
    found = (distance > OUTLIER_MAD * spread) & (distance > OUTLIER_SHARE * np.abs(middle))
    # Two in a row are a step, not an outlier.
    beside = np.roll(found, 1) | np.roll(found, -1)
    return np.asarray(found & ~beside, dtype=np.bool_)


def _flag_reconstruction(header: Dataset, flags: set[str]) -> None:
    """Iterative and deep-learning reconstruction break the 1/sqrt(dose) law of noise."""
    kernels = texts(header, "ConvolutionKernel")
    siemens = text(header, "Manufacturer").upper().startswith("SIEMENS")
    iterative = siemens and (
        len(kernels) > 1 or any(re.match(r"(I|J|Br|Bv|Bl|Hr|Hv|Qr)\d", k) for k in kernels)
    )
    levels = (
        private_number(header, 0x0053, "GEHC_CT_ADVAPP_001", 0x43),
        private_number(header, 0x01F7, "ELSCINT1", 0x9B),
    )
    if iterative or any(level is not None and level > 0 for level in levels):
        flags.add("ITERATIVE_RECONSTRUCTION")


def _flag_jump(headers: Sequence[Dataset], ctdivol: NDArray[np.float64] | None, flags: set[str]) -> None:
    if ctdivol is None:
        return
    for at in range(1, len(headers)):
        changed = text(headers[at], "AcquisitionNumber") != text(headers[at - 1], "AcquisitionNumber")
        ratio = ctdivol[at] / ctdivol[at - 1]
        if changed and max(ratio, 1 / ratio) > ACQUISITION_JUMP:
            flags.add("ACQUISITIONS_DIFFER")


def _tuple(vector: NDArray[np.float64] | None, headers: Sequence[Dataset]) -> tuple[float | None, ...]:
    return (None,) * len(headers) if vector is None else tuple(float(value) for value in vector)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
