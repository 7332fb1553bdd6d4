"""Irradiation events as a dose report tells them, and the headers of images they may belong to."""

from dataclasses import replace
from pathlib import Path

from pydicom.dataset import Dataset

from dicomnode.dicom.dose_report import DoseEvent, read_dose_report
from tests.report_makers import Irradiation, make_dose_report

STUDY = "1.2.3.4"
EVENT, OTHER, TOPOGRAM = "1.2.3.4.1", "1.2.3.4.2", "1.2.3.4.3"


def events_of(folder: Path, *events: Irradiation, **options) -> tuple[DoseEvent, ...]:
    return read_dose_report(make_dose_report(folder / "dose.dcm", STUDY, events, **options)).events


def image(**values: object) -> Dataset:
    data = Dataset()
    data.StudyInstanceUID, data.KVP = STUDY, "120"
    for keyword, value in values.items():
        if value is not None:
            setattr(data, keyword, value)
    return data


def spiral(event_uid: str, ctdivol_mgy: float = 8.0, **values) -> DoseEvent:
    made = DoseEvent("9.1", STUDY, (event_uid,) if event_uid else (), acquisition="spiral")
    return replace(made, ctdivol_mgy=ctdivol_mgy, phantom_cm=values.pop("phantom_cm", 32), **values)
