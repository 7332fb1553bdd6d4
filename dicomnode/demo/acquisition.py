"""The same patient scanned with less.

Missing noise is drawn in the projections and follows what noise the scan has itself: by frequency, so that
the kernel is the scanner's, and by place. The header is as a scanner writes it.
"""

import copy
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import torch
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.filewriter import dcmwrite
from pydicom.sequence import Sequence as DicomSequence
from pydicom.sr.codedict import codes
from pydicom.tag import BaseTag
from pydicom.uid import ExplicitVRLittleEndian, generate_uid
from pydicom.valuerep import DSfloat
from scipy import ndimage

from dicomnode.dicom.dose import DoseReading, read_dose
from dicomnode.dicom.pixels import restore, to_stored
from dicomnode.dicom.series import CtSeries
from dicomnode.dicom.values import items, number
from dicomnode.dicom.verbatim import copy_elements, decode_header
from dicomnode.dose_reference import DoseReference
from dicomnode.engines.enhance import Observer
from dicomnode.errors import DoseUnknown
from dicomnode.journey.matching import bodies, normal_mgy, on_body_phantom
from dicomnode.physics.noise import measure_noise
from dicomnode.physics.photons import photons_from_noise
from dicomnode.physics.simulation import MeasuredKernel, RayNoise, draw_rays
from dicomnode.physics.size import water_equivalent_diameter_mm
from dicomnode.physics.spectrum import (
    PATCH_PX,
    NoisePower,
    Patch,
    flat_patches,
    level_by_place,
    noise_power,
    with_gain,
)

Volume = NDArray[np.float32]

MOST_SLICES_LOOKED_AT = 40
SLICES_FITTED = 3
LEAST_PATCHES = 24
ANATOMY_BELOW_PER_PX = 3 / 24
"""Below it even flat tissue varies by more than its noise; there the window of the kernel is level."""

TUBE_CURRENT = (
    *("XRayTubeCurrent", "XRayTubeCurrentInuA", "XRayTubeCurrentInmA", "ExposureInuAs", "ExposureInmAs"),
)
FITTING_ROUNDS = 3
LEAST_PILED = 1e-4
ANATOMY_GONE = 0.10
FINE_BEGINS, FINE_HOLDS = 0.70, 0.25
"""Shares of the peak of the noise power. Where it has fallen to the first the kernel leaves noise but hardly
any anatomy; between the others lies the passage to the fine grain, whose level differs by place."""


@dataclass(frozen=True, eq=False)
class Scanner:
    """What noise a scanner would add to a series to have it scanned with `fraction` of its photons.

    `photons` per reference ray of the scan at hand; `kernel` scaled so that the noise it makes of the missing
    photons is (1/fraction - 1) times the power the series has itself.
    """

    photons: float
    fraction: float
    kernel: MeasuredKernel
    own: NoisePower

    @property
    def missing(self) -> float:
        """Power of the missing noise over that of the noise at hand."""
        return 1.0 / self.fraction - 1.0


@dataclass(frozen=True, eq=False)
class LowDoseScan:
    """The files written, and what is in them: HU [slice, row, column], sorted as the source.

    `reference` is a table of normal doses in which the original scan is the normal one.
    """

    paths: tuple[Path, ...]
    reference: DoseReference
    hounsfield: Volume
    series_instance_uid: str


def learn_scanner(series: CtSeries, fraction: float, seed: int) -> Scanner:
    """Read from the flattest tissue of a series what its noise is like, and fit a kernel that makes it.

    Raises DoseUnknown where the series shows too little soft tissue to measure its noise in.
    """
    looked_at = np.linspace(0, len(series.hounsfield) - 1, MOST_SLICES_LOOKED_AT).round().astype(int)
    volume = series.hounsfield[np.unique(looked_at)]
    pixel_mm = series.pixel_spacing_mm[0]
    reading, patches = measure_noise(volume, pixel_mm), flat_patches(volume)
    if reading is None or len(patches) < LEAST_PATCHES:
        raise DoseUnknown(
            "the series has too little soft tissue to measure its noise, so none can be added to scale"
        )
    diameter_mm = float(np.median(water_equivalent_diameter_mm(volume, pixel_mm)))
    photons = photons_from_noise(reading.std_hu, diameter_mm, pixel_mm, reading.law_texture)
    volume, patches = _richest(volume, patches)
    rng = torch.Generator().manual_seed(seed)
    rays = [_missing_rays(image, pixel_mm, photons, fraction, rng) for image in volume]
    own = noise_power(volume, patches)
    return Scanner(photons, fraction, _fit_kernel(rays, patches, own, 1.0 / fraction - 1.0), own)


def scan_again(
    series: CtSeries, scanner: Scanner, folder: Path, seed: int, on_slice: Observer | None = None
) -> LowDoseScan:
    """Simulate the series at the lower dose and write it as a new ORIGINAL series of the study."""
    pixel_mm, fraction = series.pixel_spacing_mm[0], scanner.fraction
    noisy = series.hounsfield + missing_noise(series.hounsfield, pixel_mm, scanner, seed, on_slice)
    noisy = np.maximum(noisy, _floor_hu(series.hounsfield))
    folder.mkdir(parents=True, exist_ok=True)
    uid = generate_uid(
        entropy_srcs=["low-dose scan", series.series_instance_uid, f"{fraction:.6f}", str(seed)]
    )
    paths = tuple(_write(series, k, noisy[k], fraction, uid, folder) for k in range(len(noisy)))
    return LowDoseScan(paths, _reference(series, paths, fraction), without_padding(series, noisy), uid)


def without_padding(series: CtSeries, hounsfield: Volume) -> Volume:
    """HU [slice, row, column] with air where the series has padding: there nothing was measured."""
    air = np.float32(-1000.0)
    return hounsfield if series.padding is None else np.where(series.padding, air, hounsfield)


def _floor_hu(hounsfield: Volume) -> float:
    """The HU at which this scanner cuts off the noise of air, or minus infinity: there values pile up."""
    lowest = float(hounsfield.min())
    piled, next_to_it = (int((np.abs(hounsfield - lowest - step) < 0.5).sum()) for step in (0, 1))
    many = max(2 * next_to_it, LEAST_PILED * hounsfield.size)  # a lowest value alone is chance
    return lowest if piled > many else -np.inf


# --- noise -------------------------------------------------------------------------------------------


def _missing_rays(
    image: NDArray[np.float32], pixel_mm: float, photons: float, fraction: float, rng: torch.Generator
) -> RayNoise:
    rows, columns = image.shape
    side = max(rows, columns)
    square = np.pad(image, ((0, side - rows), (0, side - columns)), constant_values=-1000.0)
    tissue = torch.from_numpy(np.clip(square, -1000.0, 3071.0))[None]
    return draw_rays(tissue, pixel_mm, photons * fraction, rng, missing_from=photons)


def _richest(volume: Volume, patches: Sequence[Patch]) -> tuple[Volume, list[Patch]]:
    """The few slices that hold most of the patches, and those patches in them."""
    counts = np.bincount([patch.index for patch in patches], minlength=len(volume))
    chosen = np.argsort(counts)[::-1][:SLICES_FITTED]
    place = {int(k): n for n, k in enumerate(chosen)}
    return volume[chosen], [Patch(place[p.index], p.row, p.column) for p in patches if p.index in place]


def _fit_kernel(
    rays: Sequence[RayNoise], patches: Sequence[Patch], own: NoisePower, missing: float
) -> MeasuredKernel:
    """The kernel that makes noise of `missing` times the power of `own` of the rays, at every frequency."""
    values = np.ones(len(own.per_px))
    begin = int(np.ceil(ANATOMY_BELOW_PER_PX / own.per_px[1]))
    for again in range(FITTING_ROUNDS):
        kernel = MeasuredKernel(own.per_px, values)
        made = np.concatenate([noise.reconstructed(kernel).numpy() for noise in rays])
        power = noise_power(made, patches).power
        step = np.sqrt(missing * own.power / np.maximum(power, 1e-6 * power.max()))
        values = values * (np.clip(step, 0.5, 2.0) if again else step)
        values[:begin] = values[begin]
        values[-1] = 0.0
    return MeasuredKernel(own.per_px, values)


def missing_noise(
    hounsfield: Volume, pixel_mm: float, scanner: Scanner, seed: int, on_slice: Observer | None = None
) -> Volume:
    """The noise [slice, row, column] that the slices lack at the lower dose, HU."""
    rng = torch.Generator().manual_seed(seed)
    noise = np.empty_like(hounsfield)
    for k, image in enumerate(hounsfield):
        rays = _missing_rays(image, pixel_mm, scanner.photons, scanner.fraction, rng)
        noise[k] = rays.reconstructed(scanner.kernel)[0, : image.shape[0], : image.shape[1]].numpy()
        if on_slice:
            on_slice("scan", k + 1, len(noise))
    begins, holds = scanner.own.highest(FINE_BEGINS), scanner.own.highest(FINE_HOLDS)
    band = (begins, max(holds, begins + 1.0 / PATCH_PX))
    fine = _gain(hounsfield, noise, scanner, scanner.own.highest(ANATOMY_GONE))
    # coarse grain is told from anatomy only where there is none, and there it may be less than was drawn
    coarse = np.minimum(_gain(hounsfield, noise, scanner, scanner.own.peak), 1.0)
    return np.stack([with_gain(noise[k], fine[k], band, coarse[k]) for k in range(len(noise))])


def _gain(hounsfield: Volume, noise: Volume, scanner: Scanner, per_px: float) -> NDArray[np.float64]:
    """What drawn noise must be multiplied by, near `per_px`, to be what is missing: [slice, block, block]."""
    own = np.stack([level_by_place(image, per_px) for image in hounsfield])
    drawn = np.stack([level_by_place(image, per_px) for image in noise])
    # what is left of anatomy in a band stands alone; noise changes slowly, in the slice and along the patient
    own = ndimage.gaussian_filter(ndimage.median_filter(own, (1, 3, 3)), (0.7, 1.0, 1.0))
    drawn = ndimage.gaussian_filter(drawn, (1.0, 1.5, 1.5))
    gain: NDArray[np.float64] = scanner.missing**0.5 * own / np.maximum(drawn, 1e-3)
    return gain


# --- files -------------------------------------------------------------------------------------------


def _reference(series: CtSeries, paths: Sequence[Path], fraction: float) -> DoseReference:
    """Normal dose as the original had it: what a site would put into its own configuration.

    Each region that the series shows gets the median of what its slices say; the others follow all slices.
    """
    dose = read_dose([dcmread(path, stop_before_pixels=True) for path in paths])
    table = DoseReference()
    shares: dict[str, list[float]] = defaultdict(list)
    for body, ctdivol in zip(bodies(series, dose, table), dose.ctdivol_mgy, strict=True):
        if ctdivol is not None:
            told = on_body_phantom(ctdivol, dose.phantom_cm, body.diameter_mm) / fraction
            row = table.row(body.region)
            shares[row.region].append(told / normal_mgy(row, body.diameter_mm))
    if not shares:
        return table
    overall = [share for found in shares.values() for share in found]
    rows = [
        {**row.model_dump(), "ctdivol_mgy": row.ctdivol_mgy * median(shares.get(row.region, overall))}
        for row in table.regions
    ]
    return DoseReference.model_validate({"version": "this-scanner", "regions": rows})


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


def told_dose(header: Dataset) -> DoseReading:
    """The dose of one image.

    An Exposure that does not fit the other exposure tags, as old GE scanners write it, counts as mA x time.
    """
    reading = read_dose([header])
    if reading.mean_ctdivol_mgy is not None:
        return reading
    plain = copy.copy(header)
    _set_plain_exposure(plain)
    return read_dose([plain])


def _write_dose(dataset: Dataset, header: Dataset, fraction: float) -> None:
    """mA, Exposure and CTDIvol of the lower dose; CTDIvol is a share of what the original header tells."""
    for keyword in TUBE_CURRENT:
        _scale(dataset, keyword, fraction)
    if read_dose([header]).mean_mas is not None:
        _scale(dataset, "Exposure", fraction)
    else:
        _set_plain_exposure(dataset)
    for second_tube in items(dataset, "CTAdditionalXRaySourceSequence"):
        for keyword in ("Exposure", *TUBE_CURRENT):
            _scale(second_tube, keyword, fraction)
    reading = told_dose(header)
    if reading.mean_ctdivol_mgy is not None:
        dataset.CTDIvol = reading.mean_ctdivol_mgy * fraction
        if reading.phantom_cm and "CTDIPhantomTypeCodeSequence" not in dataset:
            dataset.CTDIPhantomTypeCodeSequence = DicomSequence([_phantom(reading.phantom_cm)])


def _set_plain_exposure(dataset: Dataset) -> None:
    current, milliseconds = number(dataset, "XRayTubeCurrent"), number(dataset, "ExposureTime")
    if current and milliseconds:
        dataset.Exposure = round(current * milliseconds / 1000.0)


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
