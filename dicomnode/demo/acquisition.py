"""The same patient scanned with less (`physics.lower_dose`), with the header as a scanner writes it."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.filewriter import dcmwrite
from pydicom.sequence import Sequence as DicomSequence
from pydicom.sr.codedict import codes
from pydicom.tag import BaseTag
from pydicom.uid import ExplicitVRLittleEndian, generate_uid
from pydicom.valuerep import DSfloat

from dicomnode.dicom.dose import read_dose
from dicomnode.dicom.pixels import restore, to_stored
from dicomnode.dicom.series import CtSeries
from dicomnode.dicom.values import items, number
from dicomnode.dicom.verbatim import copy_elements, decode_header
from dicomnode.dose_reference import DoseReference
from dicomnode.journey.normal_dose import reference_of, set_plain_exposure, told_dose
from dicomnode.physics.lower_dose import Observer, Scanner, lower_dose

Volume = NDArray[np.float32]

TUBE_CURRENT = (
    *("XRayTubeCurrent", "XRayTubeCurrentInuA", "XRayTubeCurrentInmA", "ExposureInuAs", "ExposureInmAs"),
)


@dataclass(frozen=True, eq=False)
class LowDoseScan:
    """The files written, and what is in them: HU [slice, row, column], sorted as the source.

    `reference` is a table of normal doses in which the original scan is the normal one.
    """

    paths: tuple[Path, ...]
    reference: DoseReference
    hounsfield: Volume
    series_instance_uid: str


def scan_again(
    series: CtSeries, scanner: Scanner, folder: Path, seed: int, on_slice: Observer | None = None
) -> LowDoseScan:
    """Simulate the series at the lower dose and write it as a new ORIGINAL series of the study."""
    pixel_mm, fraction = series.pixel_spacing_mm[0], scanner.fraction
    noisy = lower_dose(series.hounsfield, pixel_mm, scanner, seed, on_slice)
    folder.mkdir(parents=True, exist_ok=True)
    uid = generate_uid(
        entropy_srcs=["low-dose scan", series.series_instance_uid, f"{fraction:.6f}", str(seed)]
    )
    paths = tuple(_write(series, k, noisy[k], fraction, uid, folder) for k in range(len(noisy)))
    dose = read_dose([dcmread(path, stop_before_pixels=True) for path in paths])
    reference = reference_of(series, dose, fraction)
    return LowDoseScan(paths, reference, without_padding(series, noisy), uid)


def without_padding(series: CtSeries, hounsfield: Volume) -> Volume:
    """HU [slice, row, column] with air where the series has padding: there nothing was measured."""
    air = np.float32(-1000.0)
    return hounsfield if series.padding is None else np.where(series.padding, air, hounsfield)


# --- files -------------------------------------------------------------------------------------------


def _write(
    series: CtSeries, k: int, hounsfield: NDArray[np.float32], fraction: float, series_uid: str, folder: Path
) -> Path:
    dataset = copy_elements(decode_header(series.encoded_headers[k]), _is_plain)
    dataset.SeriesInstanceUID = series_uid
    dataset.SOPInstanceUID = generate_uid(entropy_srcs=[series_uid, series.image_name(k)])
    dataset.SeriesNumber = int(dataset.get("SeriesNumber") or 0) + 1
    dataset.SeriesDescription = f"Simulated, {100 * fraction:g} % dose"
    _write_dose(dataset, series.headers[k], fraction)
    padding = None if series.padding is None else series.padding[k]
    header = series.headers[k]
    stored = restore(header, to_stored(header, hounsfield), series.stored[k], padding)
    dataset.add_new("PixelData", "OW", stored.astype(stored.dtype.newbyteorder("<")).tobytes())
    path = folder / f"{k:04d}.dcm"
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    file = FileDataset(str(path), dataset, file_meta=meta, preamble=b"\0" * 128)
    file.set_original_encoding(False, True, dataset.original_character_set)
    dcmwrite(path, file, implicit_vr=False, little_endian=True, enforce_file_format=True)
    return path


def _is_plain(tag: BaseTag) -> bool:
    """Neither private (scanners repeat their dose there) nor an overlay in the old pixels."""
    return not tag.is_private and tag.group & 0xFF01 != 0x6000


def _write_dose(dataset: Dataset, header: Dataset, fraction: float) -> None:
    """mA, Exposure and CTDIvol of the lower dose; CTDIvol is a share of what the original header tells."""
    for keyword in TUBE_CURRENT:
        _scale(dataset, keyword, fraction)
    if read_dose([header]).mean_mas is not None:
        _scale(dataset, "Exposure", fraction)
    else:
        set_plain_exposure(dataset)
    for second_tube in items(dataset, "CTAdditionalXRaySourceSequence"):
        for keyword in ("Exposure", *TUBE_CURRENT):
            _scale(second_tube, keyword, fraction)
    reading = told_dose(header)
    if reading.mean_ctdivol_mgy is not None:
        dataset.CTDIvol = reading.mean_ctdivol_mgy * fraction
        if reading.phantom_cm and "CTDIPhantomTypeCodeSequence" not in dataset:
            dataset.CTDIPhantomTypeCodeSequence = DicomSequence([_phantom(reading.phantom_cm)])


def _scale(dataset: Dataset, keyword: str, fraction: float) -> None:
    """Lower one value in place, as its value representation can hold it."""
    value = number(dataset, keyword)
    if not value:
        return
    element, lower = dataset[keyword], value * fraction
    if element.VR == "IS":
        element.value = max(round(lower), 1)
    else:
        element.value = DSfloat(lower, auto_format=True) if element.VR == "DS" else lower


def _phantom(diameter_cm: int) -> Dataset:
    code = codes.DCM.IECHeadDosimetryPhantom if diameter_cm == 16 else codes.DCM.IECBodyDosimetryPhantom
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = code.value, "DCM", code.meaning
    return item
