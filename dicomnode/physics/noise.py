"""Noise measured in the images themselves: the second opinion on the dose."""

from collections import deque
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from dicomnode.physics.photons import law_step_px

WINDOW_MM = 6.0
SOFT_TISSUE_HU = (0.0, 100.0)
SOFT_TISSUE_WIDE_HU = (-60.0, 160.0)
"""Means a window may have: unenhanced soft tissue first; with contrast or fat when that is too little."""

LEAST_WINDOWS = 500
HIGHEST_STD_HU = 400.0
_BIN_HU = 0.2


@dataclass(frozen=True)
class NoiseReading:
    """Global noise level of a series or slice.

    `std_hu`: mode of the local standard deviation in soft tissue. `texture`: mean correlation of the noise
    with the next pixel along rows and columns, 0 (white) to 1 (very smooth). `windows`: how many windows
    voted. `law_texture`: the same with the next pixel of the noise law's grid (`photons.law_step_px`).
    """

    std_hu: float
    texture: float
    windows: int
    law_texture: float = 0.4


def measure_noise(
    hounsfield: NDArray[np.float32], pixel_mm: float, *, most_slices: int = 24
) -> NoiseReading | None:
    """Global noise level after Christianson et al. (AJR 205, 2015), None where it cannot be measured.

    `hounsfield` float32 [slice, row, column], padding already set to air. Local mean and deviation in
    windows of 6 mm; windows in soft tissue without bone, air or edges vote; the mode wins. At most
    `most_slices`, evenly spread, are looked at.
    """
    chosen = np.unique(
        np.linspace(0, len(hounsfield) - 1, min(most_slices, len(hounsfield))).round().astype(int)
    )
    return _read([_local_fields(hounsfield[k], pixel_mm) for k in chosen], law_step_px(pixel_mm))


def measure_added_noise(
    noise_hu: NDArray[np.float32], hounsfield: NDArray[np.float32], pixel_mm: float
) -> NoiseReading:
    """Level of pure noise as `measure_noise` would read it in the soft tissue of what it is added to.

    Both HU [slice, row, column]. Where there is too little soft tissue the plain deviation stands in.
    """
    soft = (hounsfield > -150.0) & (hounsfield < 250.0)
    reading = measure_noise(np.where(soft, noise_hu + 50.0, -1000.0).astype(np.float32), pixel_mm)
    if reading is not None:
        return reading
    inside = noise_hu[soft] if soft.any() else noise_hu
    return NoiseReading(max(float(inside.std()), 1e-3), 0.4, 0)


def measure_noise_along(
    hounsfield: NDArray[np.float32], pixel_mm: float, *, reach: int = 2
) -> list[NoiseReading | None]:
    """Noise level along the patient, one reading a slice, each from the slice and its `reach` neighbours.

    Where a neighbourhood has too little soft tissue the reading of the whole series stands in.
    """
    fields: deque[_Fields] = deque(maxlen=2 * reach + 1)
    readings: list[NoiseReading | None] = []
    count = len(hounsfield)
    for k in range(count + reach):
        if k < count:
            fields.append(_local_fields(hounsfield[k], pixel_mm))
        elif count - len(fields) < k - 2 * reach:  # the first is no neighbour of slice k - reach
            fields.popleft()
        if k >= reach:
            readings.append(_read(list(fields), law_step_px(pixel_mm)))
    if None not in readings or count <= reach + 1:  # every neighbourhood is the whole
        return readings
    whole = measure_noise(hounsfield, pixel_mm)
    return [reading or whole for reading in readings]


def _read(fields: list["_Fields"], law_step: int) -> NoiseReading | None:
    for span in (SOFT_TISSUE_HU, SOFT_TISSUE_WIDE_HU):
        votes = [_votes(field, span) for field in fields]
        spreads = np.concatenate([field.std_hu[vote] for field, vote in zip(fields, votes, strict=True)])
        if len(spreads) >= LEAST_WINDOWS:
            std_hu = _mode(spreads)
            if std_hu is None:
                return None
            texture = _texture(fields, votes, std_hu)
            law_texture = texture if law_step == 1 else _texture(fields, votes, std_hu, law_step)
            return NoiseReading(std_hu, texture, len(spreads), law_texture)
    return None


@dataclass(frozen=True)
class _Fields:
    """One slice and its local statistics, each [row, column]."""

    residual_hu: NDArray[np.float32]
    mean_hu: NDArray[np.float32]
    std_hu: NDArray[np.float32]
    flat: NDArray[np.bool_]


def _local_fields(image: NDArray[np.float32], pixel_mm: float) -> _Fields:
    width = max(5, round(WINDOW_MM / pixel_mm) // 2 * 2 + 1)
    mean = ndimage.uniform_filter(image, width)
    residual = image - mean
    std = np.sqrt(np.maximum(ndimage.uniform_filter(image * image, width) - mean * mean, 0.0))
    # a smooth copy tells structure from noise: bone, air and edges move it, noise hardly does
    smooth = ndimage.uniform_filter(image, max(3, width // 3))
    highest = ndimage.maximum_filter(smooth, width)
    lowest = ndimage.minimum_filter(smooth, width)
    flat = (lowest > -200) & (highest < 300) & (highest - lowest < 1.5 * std + 30.0)
    return _Fields(residual, mean, std, flat)


def _votes(field: _Fields, span_hu: tuple[float, float]) -> NDArray[np.bool_]:
    # below half a HU there is no quantum noise: masked, padded or synthetic areas
    inside = (field.mean_hu > span_hu[0]) & (field.mean_hu < span_hu[1])
    votes: NDArray[np.bool_] = inside & field.flat & (field.std_hu > 0.5)
    return votes


def _mode(spreads_hu: NDArray[np.float32]) -> float | None:
    counts, edges = np.histogram(spreads_hu, bins=np.arange(0.0, HIGHEST_STD_HU, _BIN_HU))
    smooth = ndimage.gaussian_filter1d(
        counts.astype(float), max(1.0, 0.04 * float(np.median(spreads_hu)) / _BIN_HU)
    )
    peak = int(np.argmax(smooth))
    if peak >= len(smooth) - 2:
        return None
    return float(edges[peak] + _BIN_HU / 2)


def _texture(fields: list[_Fields], votes: list[NDArray[np.bool_]], std_hu: float, step: int = 1) -> float:
    along, power = 0.0, 0.0
    for field, vote in zip(fields, votes, strict=True):
        near = vote & (np.abs(field.std_hu - std_hu) < 0.3 * std_hu)
        near[-step:, :] = near[:, -step:] = False
        rows, columns = np.nonzero(near)
        centre = field.residual_hu[rows, columns].astype(np.float64)
        power += 2.0 * float(np.dot(centre, centre))
        along += float(np.dot(centre, field.residual_hu[rows, columns + step]))
        along += float(np.dot(centre, field.residual_hu[rows + step, columns]))
    return float(np.clip(along / power, -0.5, 1.0)) if power > 0 else 0.5
