"""X-Ray Radiation Dose SR (PS3.16 TID 10011): what a scanner says afterwards of each irradiation.

One container "CT Acquisition" (TID 10013) is one irradiation event: its mean CTDIvol, phantom, DLP, and how
it was made. Vendors nest and leave out as they like, so an event is searched for its concepts at any depth,
and what cannot be read is None with a flag; only a file that is no CT dose report at all is an error.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final, Literal

from pydicom.dataset import Dataset

from dicomnode.dicom.exposure import CURRENT_MA, MAS, ROTATION_SECONDS
from dicomnode.dicom.parsing import parse
from dicomnode.dicom.values import UNREADABLE, code_of, decimal, finite, items, text, texts
from dicomnode.errors import NotADoseReport, SeriesRefused

DOSE_REPORT_CLASSES: Final = ("1.2.840.10008.5.1.4.1.1.88.67", "1.2.840.10008.5.1.4.1.1.88.76")
"""X-Ray Radiation Dose SR, and the Enhanced one."""

LARGEST_REPORT_BYTES: Final = 32 * 2**20
MOST_ITEMS: Final = 200_000
MOST_READS: Final = 150_000
"""Of a report's file, two or three an element: some hundred events; a scan of a patient has ten."""
DEEPEST_ITEM: Final = 32

CT_ACQUISITION: Final = ("113819", "130501")
"""CT Acquisition; Irradiation Event Summary Data, in its place in the Enhanced report (TID 10042)."""
X_RAY_SOURCE: Final = "113831"
PROTOCOL: Final = "125203"
ACQUISITION_TYPE: Final = "113820"
EVENT_UID: Final = ("113769", "113853")
EVENT_LABEL: Final = "113605"
LABEL_TYPE: Final = "113606"
LABEL_IS_ACQUISITION_NUMBER: Final = "113608"
STARTED: Final = "111526"
ENDED: Final = "111527"
PHANTOM_TYPE: Final = "113835"

Kind = Literal["spiral", "sequenced", "constant-angle", "stationary", "free"]
KINDS: Final[Mapping[str, Kind]] = {
    "116152004": "spiral",
    "P5-08001": "spiral",
    "113804": "sequenced",
    "113805": "constant-angle",
    "113806": "stationary",
    "113807": "free",
}
"""CID 10013 CT Acquisition Type, SNOMED codes of both styles and DCM codes."""

PHANTOM_CODES: Final[Mapping[str, Literal[16, 32]]] = {"113690": 16, "113691": 32}
"""IEC head (16 cm) and body (32 cm) dosimetry phantom, DCM codes of CID 4052."""

LOCALIZER_WORDS: Final = re.compile(r"TOPOGRAM|SCOUT|SURVIEW|SCANO|LOCALI[ZS]ER", re.IGNORECASE)

CTDIVOL_MGY: Final = (0.05, 200.0)
KVP: Final = (60.0, 150.0)
MGY_PER_MAS: Final = (0.03, 0.35)
"""CTDIvol / mAs at 120 kV on any phantom; localizers give 0.003, accumulated rotations give more."""
KV_EXPONENT: Final = 2.6
"""CTDIvol goes with kV to this power at equal mAs, 80 to 140 kV, measured on Siemens 100 and 120 kV pairs."""
DLP_MGY_CM: Final = (0.05, 20_000.0)
LENGTH_MM: Final = (0.5, 3_000.0)
LONGEST_EXPOSURE_SECONDS: Final = 600.0
"""Philips writes milliseconds under the unit s: 11912."""
PITCH: Final = (0.01, 4.0)
"""Lower than in images: scans gated by breathing go down to 0.04."""
DLP_AGREES: Final = 3.0
"""DLP / (CTDIvol x length) is 0.9 to 1.1 in real reports, more where a short scan over-ranges; a wrong unit
makes it 10."""

CONTRADICTED: Final = frozenset({"CTDIVOL_MAS_MISMATCH", "DLP_DISAGREES"})


@dataclass(frozen=True)
class _Quantity:
    """A measured concept: its flag name, its code, what its units are in ours, its sane range."""

    name: str
    code: str
    units: Mapping[str, float]
    range: tuple[float, float]


_SECONDS: Final = {"s": 1.0, "sec": 1.0, "ms": 1e-3, "us": 1e-6, "min": 60.0}
_LENGTH: Final = {"mm": 1.0, "cm": 10.0, "m": 1e3, "um": 1e-3}
_CURRENT: Final = {"mA": 1.0, "uA": 1e-3, "A": 1e3}
_DOSE: Final = {"mGy": 1.0, "cGy": 10.0, "Gy": 1e3, "uGy": 1e-3}
_DOSE_LENGTH: Final = {
    f"{dose}{between}{length}": factor * millimetres / 10
    for dose, factor in _DOSE.items()
    for length, millimetres in _LENGTH.items()
    for between in (".", "", "*", "·", " ")
}
_RATIO: Final = {"{ratio}": 1.0, "ratio": 1.0, "1": 1.0}
_CTDIVOL: Final = _Quantity("CTDIVOL", "113830", _DOSE, CTDIVOL_MGY)
_DLP: Final = _Quantity("DLP", "113838", _DOSE_LENGTH, DLP_MGY_CM)
_SCANNING_LENGTH: Final = _Quantity("SCANNING_LENGTH", "113825", _LENGTH, LENGTH_MM)
_KVP: Final = _Quantity("KVP", "113733", {"kV": 1.0, "V": 1e-3}, KVP)
_TUBE_CURRENT: Final = _Quantity("CURRENT", "113734", _CURRENT, CURRENT_MA)
_ROTATION: Final = _Quantity("ROTATION", "113834", _SECONDS, ROTATION_SECONDS)
_PITCH_FACTOR: Final = _Quantity("PITCH", "113828", _RATIO, PITCH)
_EXPOSURE_TIME: Final = _Quantity("EXPOSURE_TIME", "113824", _SECONDS, (0.0, LONGEST_EXPOSURE_SECONDS))


@dataclass(frozen=True)
class DoseEvent:
    """One irradiation event of a CT; None or empty where the report does not tell, or tells nonsense.

    `ctdivol_mgy` is the mean over the event and belongs to `phantom_cm`; `current_ma` is the mean, both tubes
    together; times are the scanner's own clock. `flags` name what was converted, computed or dropped.
    """

    report_uid: str
    study_instance_uid: str
    event_uids: tuple[str, ...] = ()
    protocol: str = ""
    acquisition: Kind | None = None
    acquisition_number: str = ""
    kvp: float | None = None
    ctdivol_mgy: float | None = None
    phantom_cm: Literal[16, 32] | None = None
    dlp_mgy_cm: float | None = None
    scanning_length_mm: float | None = None
    current_ma: float | None = None
    rotation_seconds: float | None = None
    pitch: float | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    flags: tuple[str, ...] = ()

    @property
    def localizer(self) -> bool:
        """A topogram: by its acquisition type, or by its name where the type is not told."""
        if self.acquisition is None:
            return bool(LOCALIZER_WORDS.search(self.protocol))
        return self.acquisition == "constant-angle"

    @property
    def effective_mas(self) -> float | None:
        """Tube current x rotation time / pitch, where all of it is told; without pitch if not spiral."""
        if self.current_ma is None or self.rotation_seconds is None:
            return None
        pitch = self.pitch if self.acquisition == "spiral" else 1.0
        return None if pitch is None else self.current_ma * self.rotation_seconds / pitch

    @property
    def mgy_per_mas(self) -> float | None:
        """CTDIvol / effective mAs at 120 kV: says which phantom, and whether the two belong together."""
        mas = self.effective_mas
        if mas is None or self.ctdivol_mgy is None or self.kvp is None or not MAS[0] <= mas <= MAS[1]:
            return None
        return float(self.ctdivol_mgy / mas * (120 / self.kvp) ** KV_EXPONENT)

    @property
    def feeds_images(self) -> bool:
        """Whether its mean CTDIvol may stand for the dose of axial images.

        Not a localizer's, not one that its own mAs or DLP contradict. Where the table stood still, CTDIvol
        may be the sum over rotations (perfusion): only mAs can show that it is not.
        """
        if self.localizer or self.ctdivol_mgy is None or CONTRADICTED & set(self.flags):
            return False
        return self.acquisition != "stationary" or self.mgy_per_mas is not None


@dataclass(frozen=True)
class DoseReport:
    """A dose report: its UIDs, when its content was made (empty if untold), and its events in their order."""

    sop_instance_uid: str
    study_instance_uid: str
    content_at: str
    events: tuple[DoseEvent, ...]


def read_dose_report(path: Path) -> DoseReport:
    """Read a file that holds a Radiation Dose SR of a CT.

    :raises NotADoseReport: it cannot be read, is of another SOP class, or has no CT acquisition.
    """
    try:
        if path.stat().st_size > LARGEST_REPORT_BYTES:
            raise NotADoseReport(f"{path.name} is larger than the {LARGEST_REPORT_BYTES} bytes of a report")
        report = parse(path.read_bytes(), path.name, MOST_READS).header
    except SeriesRefused as refusal:
        raise NotADoseReport(str(refusal)) from refusal
    except UNREADABLE as error:
        raise NotADoseReport(f"{path.name} cannot be read as DICOM ({type(error).__name__})") from error
    return parse_dose_report(report, path.name)


def parse_dose_report(report: Dataset, name: str = "the data set") -> DoseReport:
    """Read a data set; `name` is for the message. Raises NotADoseReport."""
    if text(report, "SOPClassUID") not in DOSE_REPORT_CLASSES:
        raise NotADoseReport(f"{name} is not an X-Ray Radiation Dose SR")
    report_uid, study_uid = text(report, "SOPInstanceUID"), text(report, "StudyInstanceUID")
    containers = [item for item in _below(report, prune=False) if _concept(item) in CT_ACQUISITION]
    events = [_read_event(container, report_uid, study_uid) for container in containers]
    told = [event for event in events if event is not None]
    if not told:
        raise NotADoseReport(f"{name} has no CT Acquisition (113819): it is the report of another modality")
    content_at = text(report, "ContentDate") + text(report, "ContentTime")
    return DoseReport(report_uid, study_uid, content_at, tuple(told))


def merged(reports: Iterable[DoseReport]) -> tuple[DoseEvent, ...]:
    """The events of several reports, each once: scanners repeat earlier events in every later report.

    Of an event that is told twice the later report counts; an event without a UID is the same where all of
    it is the same.
    """
    found: dict[object, DoseEvent] = {}
    for report in sorted(reports, key=lambda report: (report.content_at, report.sop_instance_uid)):
        for event in report.events:
            found[event.event_uids or replace(event, report_uid="")] = event
    return tuple(found.values())


# --- one event ----------------------------------------------------------------------------------


def _read_event(container: Dataset, report_uid: str, study_uid: str) -> DoseEvent | None:
    """The event of a container; None for a summary (TID 10042) of another modality."""
    content = list(_below(container))
    flags: set[str] = set()
    kind = next((KINDS.get(_code(item)) for item in _named(content, ACQUISITION_TYPE)), None)
    phantom = next((PHANTOM_CODES.get(_code(item)) for item in _named(content, PHANTOM_TYPE)), None)
    if _concept(container) != CT_ACQUISITION[0] and not any(_named(content, _CTDIVOL.code, _DLP.code)):
        return None
    started_at, ended_at = _times(container, content)
    event = DoseEvent(
        report_uid=report_uid,
        study_instance_uid=study_uid,
        event_uids=_uids(content),
        protocol=next((_text_value(item) for item in _named(content, PROTOCOL)), ""),
        acquisition=kind,
        acquisition_number=_acquisition_number(content),
        kvp=_one(content, _KVP, flags),
        ctdivol_mgy=_first(content, _CTDIVOL, flags),
        phantom_cm=phantom,
        dlp_mgy_cm=_first(content, _DLP, flags),
        scanning_length_mm=_first(content, _SCANNING_LENGTH, flags),
        current_ma=_current(content, flags),
        rotation_seconds=_one(content, _ROTATION, flags),
        pitch=_first(content, _PITCH_FACTOR, flags),
        started_at=started_at,
        ended_at=ended_at,
    )
    return _checked(event, flags)


def _checked(event: DoseEvent, flags: set[str]) -> DoseEvent:
    """CTDIvol against DLP and mAs, which it must fit; computed from DLP where it is missing."""
    length_cm, confirmed = (event.scanning_length_mm or 0.0) / 10, False
    if event.dlp_mgy_cm is not None and length_cm > 0:
        by_dlp = event.dlp_mgy_cm / length_cm
        if event.ctdivol_mgy is None:
            if CTDIVOL_MGY[0] <= by_dlp <= CTDIVOL_MGY[1]:
                # Too high by over-ranging, where that is in the DLP and not in the length.
                event = replace(event, ctdivol_mgy=by_dlp)
                flags.add("CTDIVOL_FROM_DLP")
        elif 1 / DLP_AGREES <= by_dlp / event.ctdivol_mgy <= DLP_AGREES:
            confirmed = True
        else:
            flags.add("DLP_DISAGREES")
    per_mas = event.mgy_per_mas
    if per_mas is not None and not event.localizer and not MGY_PER_MAS[0] <= per_mas <= MGY_PER_MAS[1]:
        # A tin filter takes nine tenths of the dose away: then CTDIvol is low, and DLP agrees with it.
        filtered = per_mas < MGY_PER_MAS[0] and confirmed and event.acquisition in ("spiral", "sequenced")
        flags.add("CTDIVOL_LOW_FOR_MAS" if filtered else "CTDIVOL_MAS_MISMATCH")
    return replace(event, flags=tuple(sorted(flags)))


def _uids(content: list[Dataset]) -> tuple[str, ...]:
    found = (uid.strip() for item in _named(content, *EVENT_UID) for uid in texts(item, "UID"))
    return tuple(dict.fromkeys(uid for uid in found if uid))


def _acquisition_number(content: list[Dataset]) -> str:
    """The event's label, where that is said to be the Acquisition Number."""
    for label in _named(content, EVENT_LABEL):
        kinds = [_code(item) for item in items(label, "ContentSequence") if _concept(item) == LABEL_TYPE]
        if LABEL_IS_ACQUISITION_NUMBER in kinds:
            return _text_value(label)
    return ""


def _current(content: list[Dataset], flags: set[str]) -> float | None:
    """Mean tube current; the second tube adds to the dose."""
    found = _all(content, _TUBE_CURRENT, flags)
    if len(found) > 1 and len(list(_named(content, X_RAY_SOURCE))) > 1:
        flags.add("SECOND_TUBE")
        return sum(found)
    return found[0] if found else None


def _times(container: Dataset, content: list[Dataset]) -> tuple[datetime | None, datetime | None]:
    """Start and end of an event; the end by its exposure time where it is not told."""
    told = (date_time(text(item, "DateTime")) for item in _named(content, STARTED))
    started_at = next(told, None) or date_time(text(container, "ObservationDateTime"))
    ended_at = next((date_time(text(item, "DateTime")) for item in _named(content, ENDED)), None)
    if started_at is not None and ended_at is None:
        ended_at = started_at + timedelta(seconds=_first(content, _EXPOSURE_TIME, set()) or 0.0)
    return started_at, ended_at


def date_time(value: str) -> datetime | None:
    """A DICOM DT, or DA and TM in one, by the clock on the scanner's wall: an offset is left out."""
    digits = re.match(r"(\d{14})(\.\d{1,6})?", value.strip())
    if digits is None:
        return None
    try:
        moment = datetime.strptime(digits[1], "%Y%m%d%H%M%S")
    except ValueError:
        return None
    return moment + timedelta(seconds=float(digits[2] or 0))


# --- measured values ----------------------------------------------------------------------------


def _all(content: list[Dataset], quantity: _Quantity, flags: set[str]) -> list[float]:
    values = (_measured(item, quantity, flags) for item in _named(content, quantity.code))
    return [value for value in values if value is not None]


def _first(content: list[Dataset], quantity: _Quantity, flags: set[str]) -> float | None:
    return next(iter(_all(content, quantity, flags)), None)


def _one(content: list[Dataset], quantity: _Quantity, flags: set[str]) -> float | None:
    """The value that all sources share; None where they differ."""
    found = set(_all(content, quantity, flags))
    if len(found) > 1:
        flags.add(f"{quantity.name}_DIFFERS")
        return None
    return found.pop() if found else None


def _measured(item: Dataset, quantity: _Quantity, flags: set[str]) -> float | None:
    """A number in our unit, in its sane range; None with a flag where it is not."""
    value, unit = _number_and_unit(item)
    if value is None:
        return None
    factor = quantity.units.get(unit)
    if not unit:
        flags.add(f"{quantity.name}_UNIT_MISSING")
        factor = 1.0
    elif factor is None:
        flags.add(f"{quantity.name}_UNIT_UNKNOWN")
        return None
    elif factor != 1.0:
        flags.add(f"{quantity.name}_UNIT_CONVERTED")
    low, high = quantity.range
    if not low <= value * factor <= high:
        flags.add(f"{quantity.name}_OUT_OF_RANGE")
        return None
    return value * factor


def _number_and_unit(item: Dataset) -> tuple[float | None, str]:
    """The value and unit of a NUM item, or of a text such as `12,7 mGy`."""
    for measured in items(item, "MeasuredValueSequence"):
        value = decimal(_first_value(text(measured, "NumericValue")))
        if value is None:
            value = finite(text(measured, "FloatingPointValue"))
        return value, code_of(measured, "MeasurementUnitsCodeSequence")[0]
    number, _, unit = _text_value(item).partition(" ")
    return decimal(_first_value(number)), unit.strip()


def _first_value(value: str) -> str:
    return value.partition("\\")[0].strip()


# --- the tree -----------------------------------------------------------------------------------


def _below(root: Dataset, prune: bool = True) -> Iterator[Dataset]:
    """Every content item below one, breadth first, within limits; not into other events if `prune`."""
    level, seen = list(items(root, "ContentSequence")), 0
    for _ in range(DEEPEST_ITEM):
        deeper: list[Dataset] = []
        for item in level:
            seen += 1
            if seen > MOST_ITEMS:
                return
            if prune and _concept(item) in CT_ACQUISITION:
                continue
            yield item
            deeper += items(item, "ContentSequence")
        level = deeper


def _named(content: Iterable[Dataset], *codes: str) -> Iterator[Dataset]:
    return (item for item in content if _concept(item) in codes)


def _concept(item: Dataset) -> str:
    """The DCM code that an item is named by; empty for another scheme's, but a missing scheme is forgiven."""
    value, scheme = code_of(item, "ConceptNameCodeSequence")
    return value if scheme in ("DCM", "") else ""


def _code(item: Dataset) -> str:
    return code_of(item, "ConceptCodeSequence")[0]


def _text_value(item: Dataset) -> str:
    return text(item, "TextValue")
