"""Objects made by the writers themselves, for the statement to read instead of repeating what they do.

A small water cylinder goes through `read_series`, `write_derived` and `write_report`, under the identity of
the configuration; no patient, no model, no network.
"""

import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import numpy as np
from pydicom import dcmread
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.filewriter import dcmwrite
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from dicomnode.dicom.derived import write_derived
from dicomnode.dicom.dose import read_dose
from dicomnode.dicom.provenance import Identity, Provenance
from dicomnode.dicom.report import write_report
from dicomnode.dicom.series import read_series
from dicomnode.settings import Destination, Settings

_SIDE: Final = 32
_SLICES: Final = 3
_NOON: Final = datetime(2000, 1, 1, 12, tzinfo=UTC)
_UIDS: Final = "1.2.826.0.1.3680043.8.498.1"
_SOURCE: Final = {
    "PatientName": "Specimen^",
    "PatientID": "SPECIMEN",
    "PatientBirthDate": "",
    "PatientSex": "",
    "StudyDate": "20000101",
    "StudyTime": "120000",
    "StudyID": "1",
    "AccessionNumber": "",
    "ReferringPhysicianName": "",
    "StudyInstanceUID": f"{_UIDS}.1",
    "SeriesInstanceUID": f"{_UIDS}.2",
    "FrameOfReferenceUID": f"{_UIDS}.3",
    "PositionReferenceIndicator": "",
    "SOPClassUID": CTImageStorage,
    "Modality": "CT",
    "Manufacturer": "Scanner maker",
    "ManufacturerModelName": "Scanner",
    "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
    "SeriesNumber": 3,
    "SeriesDescription": "Thorax 3.0",
    "AcquisitionNumber": 1,
    "KVP": 120,
    "XRayTubeCurrent": 100,
    "ExposureTime": 500,
    "Exposure": 50,
    "CTDIvol": 3.2,
    "ConvolutionKernel": "STANDARD",
    "BodyPartExamined": "CHEST",
    "PatientPosition": "HFS",
    "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
    "PixelSpacing": [8, 8],
    "SliceThickness": 3,
    "Rows": _SIDE,
    "Columns": _SIDE,
    "SamplesPerPixel": 1,
    "PhotometricInterpretation": "MONOCHROME2",
    "BitsAllocated": 16,
    "BitsStored": 12,
    "HighBit": 11,
    "PixelRepresentation": 0,
    "RescaleSlope": 1,
    "RescaleIntercept": -1024,
}


@dataclass(frozen=True, eq=False)
class Specimen:
    """A slice of the source, the image derived from it, and the report on the series."""

    source: Dataset
    image: Dataset
    report: Dataset


def make_specimen(settings: Settings, destination: Destination | None) -> Specimen:
    """What the writers make for a destination (None: for one that asks for nothing)."""
    with tempfile.TemporaryDirectory(prefix="dicomnode-conformance-") as name:
        folder = Path(name)
        series = read_series([_write_slice(folder, index) for index in range(_SLICES)])
        identity, provenance = _identity(settings, destination), _provenance(settings, series.headers)
        images = write_derived(series, series.hounsfield, identity, provenance, folder / "derived")
        report = write_report(series, images, identity, provenance, folder / "report.dcm")
        return Specimen(series.headers[0], dcmread(images[0]), dcmread(report))


def _identity(settings: Settings, destination: Destination | None) -> Identity:
    ours = settings.identity
    return Identity(
        uid_key=bytes(32),
        ae_title=settings.node.ae_title,
        device_uid=ours.device_uid or f"{_UIDS}.4",
        uid_root=ours.uid_root,
        series_description_prefix=ours.series_description_prefix,
        series_number_offset=ours.series_number_offset,
        keep_manufacturer=ours.keep_manufacturer,
        content_qualification=ours.content_qualification,
        image_type2=destination.image_type2 if destination else "PRIMARY",
    )


def _provenance(settings: Settings, headers: tuple[Dataset, ...]) -> Provenance:
    """Every optional figure has a value, so that the report holds every item it can hold."""
    return Provenance(
        engine="need",
        model_id=settings.engine.model,
        model_version="1",
        weights_digest="0" * 64,
        configuration_digest="0" * 64,
        dose=read_dose(headers),
        photons=1e4,
        dose_fraction=0.25,
        dose_decided_by="tags",
        ssde_mgy=4.0,
        water_equivalent_diameter_mm=250.0,
        start_step=1,
        steps=2,
        seed=0,
        noise_before_hu=20.0,
        noise_after_hu=10.0,
        bias_hu={"air": 0.1, "fat": 0.1, "soft": 0.1},
        max_change_hu=50.0,
        dose_reference=settings.dose.reference.version,
        processed_at=_NOON,
    )


def _write_slice(folder: Path, index: int) -> Path:
    """One source slice: a disc of water in air."""
    data = Dataset()
    for keyword, value in _SOURCE.items():
        setattr(data, keyword, value)
    data.SOPInstanceUID = f"{_UIDS}.5.{index + 1}"
    data.InstanceNumber = index + 11
    data.ImagePositionPatient = [-128, -128, 3 * index]
    offset = np.arange(_SIDE) - _SIDE / 2
    disc = offset[:, None] ** 2 + offset[None, :] ** 2 < (_SIDE / 3) ** 2
    data.PixelData = np.where(disc, 1024, 24).astype("<u2").tobytes()
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    path = folder / f"{index}.dcm"
    file = FileDataset(str(path), data, preamble=b"\0" * 128, file_meta=meta)
    dcmwrite(path, file, implicit_vr=False, little_endian=True, enforce_file_format=True)
    return path
