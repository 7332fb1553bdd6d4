"""Makers of Radiation Dose SRs: real Part 10 files after PS3.16 TID 10011, no patient.

    from tests.report_makers import Irradiation, make_dose_report
    path = make_dose_report(tmp_path / "dose.dcm", study_uid, [Irradiation(uid, ctdivol_mgy=1.2)])

An `Irradiation` is written as it is given: wrong units, text for numbers and odd nesting are on purpose.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.filewriter import dcmwrite
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import ExplicitVRLittleEndian, XRayRadiationDoseSRStorage

from tests.makers import make_uid

SPIRAL = ("116152004", "SCT", "Spiral Acquisition")
SEQUENCED = ("113804", "DCM", "Sequenced Acquisition")
LOCALIZER = ("113805", "DCM", "Constant Angle Acquisition")
STATIONARY = ("113806", "DCM", "Stationary Acquisition")

PHANTOMS = {
    16: ("113690", "DCM", "IEC Head Dosimetry Phantom"),
    32: ("113691", "DCM", "IEC Body Dosimetry Phantom"),
}
Code = tuple[str, str, str]


@dataclass(frozen=True)
class Irradiation:
    """One event to write; None leaves a value out. `units` replaces the unit of a concept by its code."""

    event_uid: str | None
    ctdivol_mgy: float | str | None = 10.0
    phantom_cm: int | None = 32
    dlp_mgy_cm: float | str | None = None
    scanning_length_mm: float | None = None
    acquisition: Code | None = SPIRAL
    protocol: str | None = "Thorax"
    kvp: float | None = 120.0
    current_ma: float | None = None
    rotation_seconds: float | None = None
    pitch: float | None = None
    started: str | None = None
    ended: str | None = None
    acquisition_number: str | None = None
    units: dict[str, str | None] = field(default_factory=dict)


def make_dose_report(
    path: Path,
    study_uid: str,
    events: Sequence[Irradiation],
    *,
    sop_class_uid: str = XRayRadiationDoseSRStorage,
    content_time: str = "103000",
    nested: int = 0,
    name: str = "",
    change: Callable[[Dataset], None] | None = None,
) -> Path:
    """Write one report of `events`; `nested` wraps every event in that many containers of no meaning."""
    report = dose_report_data(
        study_uid, events, content_time=content_time, nested=nested, name=name or path.name
    )
    report.SOPClassUID = sop_class_uid
    if change is not None:
        change(report)
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = report.SOPClassUID
    meta.MediaStorageSOPInstanceUID = report.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    path.parent.mkdir(parents=True, exist_ok=True)
    file = FileDataset(str(path), report, preamble=b"\0" * 128, file_meta=meta)
    dcmwrite(path, file, implicit_vr=False, little_endian=True, enforce_file_format=True)
    return path


def dose_report_data(
    study_uid: str,
    events: Sequence[Irradiation],
    *,
    content_time: str = "103000",
    nested: int = 0,
    name: str = "",
) -> Dataset:
    """The data set of `make_dose_report`."""
    report = Dataset()
    report.SpecificCharacterSet = "ISO_IR 100"
    report.SOPClassUID = XRayRadiationDoseSRStorage
    report.SOPInstanceUID = make_uid("dose report", study_uid, name)
    report.StudyInstanceUID = study_uid
    report.SeriesInstanceUID = make_uid("dose report series", study_uid)
    report.PatientName, report.PatientID = "Phantom^Textured", "PHANTOM-1"
    report.PatientBirthDate, report.PatientSex = "", "O"
    report.StudyID, report.AccessionNumber, report.ReferringPhysicianName = "1", "A1", ""
    report.StudyDate = report.ContentDate = "20240102"
    report.StudyTime, report.ContentTime = "101500", content_time
    report.Modality, report.SeriesNumber, report.InstanceNumber = "SR", 501, 1
    report.ReferencedPerformedProcedureStepSequence = DicomSequence()
    report.PerformedProcedureCodeSequence = DicomSequence()
    report.Manufacturer, report.ManufacturerModelName = "SIEMENS", "SOMATOM Definition AS+"
    report.DeviceSerialNumber, report.SoftwareVersions = "1", "1"
    report.CompletionFlag, report.VerificationFlag = "COMPLETE", "UNVERIFIED"
    report.ValueType, report.ContinuityOfContent = "CONTAINER", "SEPARATE"
    report.ConceptNameCodeSequence = _codes(("113701", "DCM", "X-Ray Radiation Dose Report"))
    report.ContentSequence = DicomSequence(_content(study_uid, events, nested))
    return report


def _content(study_uid: str, events: Sequence[Irradiation], nested: int) -> list[Dataset]:
    procedure = _item(
        "HAS CONCEPT MOD", "CODE", ("121058", "DCM", "Procedure reported"), ("77477000", "SCT", "CT")
    )
    observer = _item(
        "HAS OBS CONTEXT", "CODE", ("121005", "DCM", "Observer Type"), ("121007", "DCM", "Device")
    )
    scope = _item(
        "HAS OBS CONTEXT", "CODE", ("113705", "DCM", "Scope of Accumulation"), ("113014", "DCM", "Study")
    )
    study = _item("HAS PROPERTIES", "UIDREF", ("110180", "DCM", "Study Instance UID"))
    study.UID = study_uid
    scope.ContentSequence = DicomSequence([study])
    total = _container(
        ("113811", "DCM", "CT Accumulated Dose Data"),
        [_number(("113812", "DCM", "Total Number of Irradiation Events"), len(events), "{events}")],
    )
    containers = [_event(event) for event in events]
    for _ in range(nested):
        containers = [_container(("121070", "DCM", "Findings"), [one]) for one in containers]
    source = _item(
        "CONTAINS",
        "CODE",
        ("113854", "DCM", "Source of Dose Information"),
        ("113856", "DCM", "Automated Data Collection"),
    )
    return [procedure, observer, scope, total, *containers, source]


def _event(event: Irradiation) -> Dataset:
    found: list[Dataset | None] = [
        _text(("125203", "DCM", "Acquisition Protocol"), event.protocol),
        _moment(("111526", "DCM", "DateTime Started"), event.started),
        _moment(("111527", "DCM", "DateTime Ended"), event.ended),
        _label(event.acquisition_number),
    ]
    if event.acquisition is not None:
        found.append(_item("CONTAINS", "CODE", ("113820", "DCM", "CT Acquisition Type"), event.acquisition))
    if event.event_uid is not None:
        found.append(_item("CONTAINS", "UIDREF", ("113769", "DCM", "Irradiation Event UID")))
        found[-1].UID = event.event_uid
    source = _container(
        ("113831", "DCM", "CT X-Ray Source Parameters"),
        _known(
            _measured(event, ("113733", "DCM", "KVP"), event.kvp, "kV"),
            _measured(event, ("113734", "DCM", "X-Ray Tube Current"), event.current_ma, "mA"),
            _measured(event, ("113834", "DCM", "Exposure Time per Rotation"), event.rotation_seconds, "s"),
        ),
    )
    parameters = _known(
        _measured(event, ("113825", "DCM", "Scanning Length"), event.scanning_length_mm, "mm"),
        _measured(event, ("113828", "DCM", "Pitch Factor"), event.pitch, "{ratio}"),
        source,
    )
    dose = _known(
        _measured(event, ("113830", "DCM", "Mean CTDIvol"), event.ctdivol_mgy, "mGy"),
        _measured(event, ("113838", "DCM", "DLP"), event.dlp_mgy_cm, "mGy.cm"),
    )
    if event.phantom_cm is not None:
        concept = ("113835", "DCM", "CTDIw Phantom Type")
        dose.append(_item("CONTAINS", "CODE", concept, PHANTOMS[event.phantom_cm]))
    found += [
        _container(("113822", "DCM", "CT Acquisition Parameters"), parameters),
        _container(("113829", "DCM", "CT Dose"), dose),
    ]
    return _container(("113819", "DCM", "CT Acquisition"), _known(*found))


def _known(*found: Dataset | None) -> list[Dataset]:
    return [one for one in found if one is not None]


def _codes(code: Code) -> DicomSequence:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = code
    return DicomSequence([item])


def _item(relationship: str, value_type: str, concept: Code, value: Code | None = None) -> Dataset:
    item = Dataset()
    item.RelationshipType, item.ValueType = relationship, value_type
    item.ConceptNameCodeSequence = _codes(concept)
    if value is not None:
        item.ConceptCodeSequence = _codes(value)
    return item


def _container(concept: Code, content: Iterable[Dataset]) -> Dataset:
    item = _item("CONTAINS", "CONTAINER", concept)
    item.ContinuityOfContent = "SEPARATE"
    item.ContentSequence = DicomSequence(list(content))
    return item


def _text(concept: Code, value: str | None) -> Dataset | None:
    if value is None:
        return None
    item = _item("CONTAINS", "TEXT", concept)
    item.TextValue = value
    return item


def _moment(concept: Code, value: str | None) -> Dataset | None:
    if value is None:
        return None
    item = _item("CONTAINS", "DATETIME", concept)
    item.DateTime = value
    return item


def _label(acquisition_number: str | None) -> Dataset | None:
    label = _text(("113605", "DCM", "Irradiation Event Label"), acquisition_number)
    if label is not None:
        kind = ("113608", "DCM", "Acquisition Number")
        label.ContentSequence = DicomSequence(
            [_item("HAS CONCEPT MOD", "CODE", ("113606", "DCM", "Label Type"), kind)]
        )
    return label


def _measured(event: Irradiation, concept: Code, value: float | str | None, unit: str) -> Dataset | None:
    if value is None:
        return None
    return _number(concept, value, event.units.get(concept[0], unit))


def _number(concept: Code, value: float | str, unit: str | None) -> Dataset:
    item = _item("CONTAINS", "NUM", concept)
    measured = Dataset()
    if isinstance(value, str):
        measured.add_new("NumericValue", "LO", value)  # what a DS would not let pass
    else:
        measured.NumericValue = f"{value:.10g}"
    if unit is not None:
        measured.MeasurementUnitsCodeSequence = _codes((unit, "UCUM", unit))
    item.MeasuredValueSequence = DicomSequence([measured])
    return item
