"""Makers of small, complete CT series: real Part 10 files, valid CT Image Storage, no patient.

    from tests.makers import make_series, phantom
    paths = make_series(tmp_path / "series", slices=6, vendor="ge", kernel="LUNG")

Everything is deterministic: the UIDs come from the name of the folder (or `name`) and from `seed`.
"""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.filewriter import dcmwrite
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import (
    UID,
    CTImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    generate_uid,
)

Vendor = Literal["siemens", "philips", "ge", "canon", "none"]
PerSlice = float | Sequence[float] | None

_EQUIPMENT: dict[str, tuple[str, str]] = {
    "siemens": ("SIEMENS", "SOMATOM Definition AS+"),
    "philips": ("Philips", "Ingenuity CT"),
    "ge": ("GE MEDICAL SYSTEMS", "LightSpeed VCT"),
    "canon": ("TOSHIBA", "Aquilion ONE"),
    "none": ("", ""),
}
_KERNELS = {"siemens": "B30f", "philips": "B", "ge": "STANDARD", "canon": "FC17", "none": "STANDARD"}
_ROTATION_SECONDS = 0.5
_PITCH = 0.8
_COLLIMATION_MM = 38.4


def make_uid(*parts: object) -> str:
    """A UID that depends on nothing but `parts`."""
    return str(generate_uid(prefix="1.2.826.0.1.3680043.8.498.", entropy_srcs=["|".join(map(str, parts))]))


def phantom(
    slices: int = 6, rows: int = 64, columns: int = 64, noise_hu: float = 20.0, seed: int = 0
) -> np.ndarray:
    """A textured body ellipse with two lung holes and a spine; HU float32 [slice, row, column]."""
    rng = np.random.default_rng(seed)
    y, x = np.meshgrid(np.linspace(-1, 1, rows), np.linspace(-1, 1, columns), indexing="ij")
    volume = np.full((slices, rows, columns), -1000.0, dtype=np.float32)
    for index in range(slices):
        swell = 1.0 + 0.05 * math.sin(index)
        body = (x / 0.85) ** 2 + (y / (0.65 * swell)) ** 2 < 1
        volume[index][body] = 40.0 + 8.0 * np.sin(9 * x[body] + index) * np.cos(7 * y[body])
        for side in (-0.4, 0.4):
            lung = ((x - side) / 0.24) ** 2 + ((y + 0.05) / (0.38 * swell)) ** 2 < 1
            volume[index][lung] = -850.0
        volume[index][(x / 0.1) ** 2 + ((y - 0.45) / 0.1) ** 2 < 1] = 600.0
        volume[index][(x / 0.12) ** 2 + ((y + 0.52) / 0.06) ** 2 < 1] = -90.0
    noise = rng.normal(0.0, noise_hu, volume.shape)
    return np.clip(volume + noise, -1024.0, 3000.0).astype(np.float32)


def make_series(
    folder: Path,
    hounsfield: np.ndarray | None = None,
    slices: int = 6,
    *,
    name: str | None = None,
    seed: int = 0,
    vendor: Vendor = "siemens",
    kernel: str | Sequence[str] | None = None,
    kvp: float = 120.0,
    effective_mas: PerSlice = 150.0,
    ctdivol_mgy: PerSlice = 10.0,
    pixel_spacing_mm: tuple[float, float] = (0.75, 0.75),
    slice_spacing_mm: float = 3.0,
    slice_thickness_mm: float = 3.0,
    origin_mm: tuple[float, float, float] = (-24.0, -150.0, -300.0),
    orientation: Sequence[float] = (1, 0, 0, 0, 1, 0),
    slope: float = 1.0,
    intercept: float = -1024.0,
    signed: bool = False,
    bits_stored: int = 12,
    padding: int | None = None,
    transfer_syntax: str = ExplicitVRLittleEndian,
    study_uid: str | None = None,
    series_uid: str | None = None,
    series_number: int = 3,
    image_type: Sequence[str] = ("ORIGINAL", "PRIMARY", "AXIAL"),
    change: Callable[[Dataset, int], None] | None = None,
) -> list[Path]:
    """Write one CT series into `folder` (made if missing) and return its files, one a slice, feet first.

    * `hounsfield` [slice, row, column] decides the number of slices; default `phantom(slices, seed=seed)`.
    * `vendor` decides how dose is written: siemens (CTDIvol + 32 cm phantom, effective mAs), philips (CTDIvol
      without phantom, mAs a slice), ge (no CTDIvol, slice-scaled Exposure), canon (CTDIvol + phantom), none.
    * `padding`, a stored value, fills the corners outside the inscribed circle.
    * `change(dataset, index)` edits a data set just before it is encoded and written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    volume = phantom(slices, seed=seed) if hounsfield is None else np.asarray(hounsfield, dtype=np.float32)
    key = (name or folder.name, seed)
    study = study_uid or make_uid("study", *key)
    series = series_uid or make_uid("series", *key)
    paths = []
    for index, image in enumerate(volume):
        data = _blank(study, series, make_uid("instance", *key, series, index), series_number, index)
        data.FrameOfReferenceUID = make_uid("frame", *key)
        data.ImageType = list(image_type)
        _write_place(data, origin_mm, orientation, index * slice_spacing_mm)
        data.PixelSpacing = [_ds(value) for value in pixel_spacing_mm]
        data.SliceThickness = _ds(slice_thickness_mm)
        data.Manufacturer, data.ManufacturerModelName = _EQUIPMENT[vendor]
        data.ConvolutionKernel = kernel if isinstance(kernel, str) else list(kernel or [_KERNELS[vendor]])
        _write_dose(data, vendor, kvp, _at(effective_mas, index), _at(ctdivol_mgy, index), slice_thickness_mm)
        _write_pixels(data, image, slope, intercept, signed, bits_stored, padding)
        path = folder / f"{index + 1:04d}.dcm"
        _save(data, path, transfer_syntax, change, index)
        paths.append(path)
    return paths


def _ds(value: float) -> str:
    return f"{float(value):.8g}"


def _at(value: PerSlice, index: int) -> float | None:
    return value[index] if isinstance(value, Sequence) else value


def _blank(study: str, series: str, instance: str, series_number: int, index: int) -> Dataset:
    data = Dataset()
    data.SpecificCharacterSet = "ISO_IR 100"
    data.SOPClassUID = CTImageStorage
    data.SOPInstanceUID = instance
    data.StudyInstanceUID = study
    data.SeriesInstanceUID = series
    data.PatientName = "Phantom^Textured"
    data.PatientID = "PHANTOM-1"
    data.PatientBirthDate = ""
    data.PatientSex = "O"
    data.StudyID = "1"
    data.AccessionNumber = "A1"
    data.ReferringPhysicianName = ""
    data.StudyDate = data.SeriesDate = data.AcquisitionDate = data.ContentDate = "20240102"
    data.StudyTime = data.SeriesTime = data.AcquisitionTime = data.ContentTime = "101500"
    data.Modality = "CT"
    data.SeriesNumber = series_number
    data.SeriesDescription = "Thorax 3.0"
    data.BodyPartExamined = "CHEST"
    data.PatientPosition = "HFS"
    data.PositionReferenceIndicator = ""
    data.AcquisitionNumber = 1
    data.InstanceNumber = index + 1
    data.BurnedInAnnotation = "NO"
    return data


def _write_place(
    data: Dataset, origin_mm: Sequence[float], orientation: Sequence[float], along_normal_mm: float
) -> None:
    normal = np.cross(np.array(orientation[:3], float), np.array(orientation[3:], float))
    position = np.array(origin_mm) + along_normal_mm * normal
    data.ImagePositionPatient = [_ds(value) for value in position]
    data.ImageOrientationPatient = [_ds(value) for value in orientation]
    data.SliceLocation = _ds(float(position @ normal))


def _write_dose(
    data: Dataset, vendor: Vendor, kvp: float, mas: float | None, ctdivol: float | None, thickness_mm: float
) -> None:
    data.KVP = _ds(kvp)
    if vendor == "none" or mas is None:
        return
    current = mas * _PITCH / _ROTATION_SECONDS
    data.XRayTubeCurrent = round(current)
    data.SpiralPitchFactor = _PITCH
    data.TotalCollimationWidth = _COLLIMATION_MM
    data.ExposureTime = round(1000 * _ROTATION_SECONDS)
    data.Exposure = round(mas)
    if vendor in ("ge", "canon"):
        data.RevolutionTime = _ROTATION_SECONDS
    if vendor == "philips":
        data.ExposureTime = round(1000 * _ROTATION_SECONDS / _PITCH)
    if vendor == "ge":
        data.ExposureTime = 1200
        data.Exposure = int(mas * thickness_mm / _COLLIMATION_MM)
        return
    if ctdivol is not None:
        data.CTDIvol = float(ctdivol)
        if vendor != "philips":
            data.CTDIPhantomTypeCodeSequence = DicomSequence([_phantom_code()])


def _phantom_code() -> Dataset:
    code = Dataset()
    code.CodeValue = "113691"
    code.CodingSchemeDesignator = "DCM"
    code.CodeMeaning = "IEC Body Dosimetry Phantom"
    return code


def _write_pixels(
    data: Dataset,
    image: np.ndarray,
    slope: float,
    intercept: float,
    signed: bool,
    bits_stored: int,
    padding: int | None,
) -> None:
    low, high = (-(2 ** (bits_stored - 1)), 2 ** (bits_stored - 1) - 1) if signed else (0, 2**bits_stored - 1)
    stored = np.clip(np.rint((image - intercept) / slope), low, high).astype("<i2" if signed else "<u2")
    if padding is not None:
        stored[stored == padding] += 1
        stored[outside_circle(*stored.shape)] = padding
        data.add_new("PixelPaddingValue", "SS" if signed else "US", padding)
    data.SamplesPerPixel = 1
    data.PhotometricInterpretation = "MONOCHROME2"
    data.Rows, data.Columns = stored.shape
    data.BitsAllocated = 16
    data.BitsStored = bits_stored
    data.HighBit = bits_stored - 1
    data.PixelRepresentation = int(signed)
    data.RescaleSlope = _ds(slope)
    data.RescaleIntercept = _ds(intercept)
    data.RescaleType = "HU"
    data.WindowCenter = "40"
    data.WindowWidth = "400"
    data.add_new("PixelData", "OW", stored.tobytes())


def outside_circle(rows: int, columns: int) -> np.ndarray:
    """Where a round reconstruction field leaves padding; bool [row, column]."""
    y, x = np.meshgrid(np.linspace(-1, 1, rows), np.linspace(-1, 1, columns), indexing="ij")
    return x**2 + y**2 > 1.0


def _save(
    data: Dataset, path: Path, transfer_syntax: str, change: Callable[[Dataset, int], None] | None, index: int
) -> None:
    syntax = UID(transfer_syntax)
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = data.SOPClassUID
    meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian if syntax.is_compressed else syntax
    file = FileDataset(str(path), data, preamble=b"\0" * 128, file_meta=meta)
    if change is not None:
        change(file, index)
        meta.MediaStorageSOPInstanceUID = file.SOPInstanceUID
        meta.MediaStorageSOPClassUID = file.SOPClassUID
    if syntax == ExplicitVRBigEndian:
        file["PixelData"].value = np.frombuffer(file.PixelData, "<u2").astype(">u2").tobytes()
    elif syntax.is_compressed:
        file.compress(syntax, generate_instance_uid=False)
    dcmwrite(
        path,
        file,
        implicit_vr=syntax == ImplicitVRLittleEndian,
        little_endian=syntax != ExplicitVRBigEndian,
        enforce_file_format=True,
    )
