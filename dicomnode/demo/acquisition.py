"""The same patient scanned with less.

Missing noise is added in the projections; the header is as a scanner writes it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as DicomSequence
from pydicom.sr.codedict import codes
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from dicomnode.dicom.dose import read_dose
from dicomnode.dicom.pixels import restore, to_stored
from dicomnode.dicom.series import CtSeries
from dicomnode.engines.enhance import Observer
from dicomnode.errors import DoseUnknown
from dicomnode.physics.noise import NoiseReading, measure_added_noise, measure_noise, noise_ratio
from dicomnode.physics.photons import normal_ctdivol_mgy, photons_from_noise
from dicomnode.physics.simulation import Kernel, simulate_noise
from dicomnode.physics.size import water_equivalent_diameter_mm
from dicomnode.settings import DoseReference

TEXTURES = (0.75, 0.59, 0.345, 0.06, -0.08)
CUTOFFS_PER_PX = (0.28, 0.40, 0.60, 1.00, 1.50)
"""Cutoff of a cosine kernel for a measured texture, by simulating water discs (`physics.photons`)."""


@dataclass(frozen=True, eq=False)
class LowDoseScan:
    """The files written, and what is in them: HU [slice, row, column], sorted as the source.

    `reference` is a table of normal doses in which the original scan is the normal one.
    """

    paths: tuple[Path, ...]
    reference: DoseReference
    hounsfield: NDArray[np.float32]
    series_instance_uid: str


def scan_again(
    series: CtSeries, fraction: float, folder: Path, seed: int, on_slice: Observer | None = None
) -> LowDoseScan:
    """Simulate the series at `fraction` of its dose and write it as a new ORIGINAL series of the study.

    Raises DoseUnknown where the series shows no soft tissue to measure the dose at hand in.
    """
    pixel_mm = series.pixel_spacing_mm[0]
    reading = measure_noise(series.hounsfield, pixel_mm)
    if reading is None:
        raise DoseUnknown(
            "the series has too little soft tissue to measure its noise, so none can be added to scale"
        )
    diameters = water_equivalent_diameter_mm(series.hounsfield, pixel_mm)
    photons = photons_from_noise(reading.std_hu, float(np.median(diameters)), pixel_mm, reading.texture)
    scan = _Scan(pixel_mm, photons, fraction, torch.Generator().manual_seed(seed))
    noise = _noise_like(series.hounsfield, scan, reading, on_slice)
    noisy = series.hounsfield + noise
    folder.mkdir(parents=True, exist_ok=True)
    uid = generate_uid(
        entropy_srcs=["low-dose scan", series.series_instance_uid, f"{fraction:.6f}", str(seed)]
    )
    paths = tuple(_write(series, k, noisy[k], fraction, uid, folder) for k in range(len(noisy)))
    reference = _reference(paths, fraction, float(np.median(diameters)))
    return LowDoseScan(paths, reference, without_padding(series, noisy), uid)


def without_padding(series: CtSeries, hounsfield: NDArray[np.float32]) -> NDArray[np.float32]:
    """HU [slice, row, column] with air where the series has padding: there nothing was measured."""
    air = np.float32(-1000.0)
    return hounsfield if series.padding is None else np.where(series.padding, air, hounsfield)


def _reference(paths: Sequence[Path], fraction: float, diameter_mm: float) -> DoseReference:
    """Normal dose as the original had it: what a site would put into its own configuration."""
    dose = read_dose([dcmread(path, stop_before_pixels=True) for path in paths])
    if dose.mean_ctdivol_mgy is None:
        return DoseReference()
    normal_mgy = dose.mean_ctdivol_mgy / fraction
    if dose.phantom_cm == 16:
        return DoseReference(version="this-scanner", head_ctdivol_mgy=round(normal_mgy, 2))
    at_reference = normal_mgy / normal_ctdivol_mgy(1.0, diameter_mm)
    return DoseReference(version="this-scanner", body_ctdivol_mgy=round(at_reference, 2))


@dataclass(frozen=True, eq=False)
class _Scan:
    """What is simulated: photons of the scan at hand, and the share of them the new one has."""

    pixel_mm: float
    photons: float
    fraction: float
    rng: torch.Generator

    def noise(self, image: NDArray[np.float32], kernel: Kernel) -> NDArray[np.float32]:
        """The noise that a slice [row, column] lacks at the lower dose, HU."""
        tissue = torch.from_numpy(np.clip(image, -1000.0, 3071.0))[None]
        wanted = self.photons * self.fraction
        noise = simulate_noise(tissue, self.pixel_mm, wanted, kernel, self.rng, missing_from=self.photons)
        return noise[0].numpy()


def _noise_like(
    hounsfield: NDArray[np.float32], scan: _Scan, reading: NoiseReading, on_slice: Observer | None
) -> NDArray[np.float32]:
    """Noise of the texture and to the level that the series shows, [slice, row, column], HU."""
    middle = hounsfield[len(hounsfield) // 2]
    trial = scan.noise(middle, _kernel(reading.texture))
    came_out = measure_added_noise(trial[None], middle[None], scan.pixel_mm).texture
    kernel = _kernel(2.0 * reading.texture - came_out)
    noise = np.empty_like(hounsfield)
    for k, image in enumerate(hounsfield):
        noise[k] = scan.noise(image, kernel)
        if on_slice:
            on_slice("scan", k + 1, len(noise))
    # the photons are good to some 15 %; the noise the series shows says exactly how much is missing
    ratio = noise_ratio(noise, hounsfield)
    if ratio:
        noise *= (1.0 / scan.fraction - 1.0) ** 0.5 / ratio
    return noise


def _kernel(texture: float) -> Kernel:
    return Kernel(float(np.interp(-texture, [-t for t in TEXTURES], CUTOFFS_PER_PX)))


def _write(
    series: CtSeries, k: int, hounsfield: NDArray[np.float32], fraction: float, series_uid: str, folder: Path
) -> Path:
    dataset = dcmread(series.source_paths[k])
    if dataset.file_meta.TransferSyntaxUID.is_compressed:
        dataset.decompress()
    dataset.SeriesInstanceUID = series_uid
    dataset.SOPInstanceUID = generate_uid(entropy_srcs=[series_uid, str(series.headers[k].SOPInstanceUID)])
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SeriesNumber = int(dataset.get("SeriesNumber") or 0) + 1
    dataset.SeriesDescription = f"Simulated, {100 * fraction:g} % dose"
    _write_dose(dataset, fraction)
    padding = None if series.padding is None else series.padding[k]
    header = series.headers[k]
    stored = restore(header, to_stored(header, hounsfield), series.stored[k], padding)
    dataset.PixelData = stored.astype(stored.dtype.newbyteorder("<")).tobytes()
    dataset["PixelData"].VR = "OW"
    path = folder / f"{k:04d}.dcm"
    dataset.save_as(path, enforce_file_format=True)
    return path


def _write_dose(dataset: Dataset, fraction: float) -> None:
    """mA, Exposure and CTDIvol of the lower dose.

    The first two are scaled, the third is read from them if absent. An Exposure that does not fit the other
    exposure tags, as old GE scanners write it, becomes mA x time: a share of it would be no better.
    """
    exposure_is_readable = read_dose([dataset]).mean_mas is not None
    if dataset.get("XRayTubeCurrent"):
        dataset.XRayTubeCurrent = round(float(dataset.XRayTubeCurrent) * fraction)
    if dataset.get("Exposure") and exposure_is_readable:
        dataset.Exposure = round(float(dataset.Exposure) * fraction)
    elif dataset.get("XRayTubeCurrent") and dataset.get("ExposureTime"):
        dataset.Exposure = round(float(dataset.XRayTubeCurrent) * float(dataset.ExposureTime) / 1000.0)
    if dataset.get("CTDIvol"):
        dataset.CTDIvol = float(dataset.CTDIvol) * fraction
        return
    reading = read_dose([dataset])
    if reading.ctdivol_mgy[0] is not None:
        dataset.CTDIvol = round(reading.ctdivol_mgy[0], 3)
        phantom = (
            codes.DCM.IECHeadDosimetryPhantom
            if reading.phantom_cm == 16
            else codes.DCM.IECBodyDosimetryPhantom
        )
        item = Dataset()
        item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = phantom.value, "DCM", phantom.meaning
        dataset.CTDIPhantomTypeCodeSequence = DicomSequence([item])
