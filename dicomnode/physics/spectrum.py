"""The noise of a CT series by frequency and by place, and noise shaped to follow it.

A scan with a share d of the dose adds 1/d - 1 times the noise power of the scan itself, at every place and
frequency: the rays are the same, and so is all that is done to them. Real quarter-dose scans (AAPM-Mayo, two
kernels, where anatomy is faint) show 2 to 5 times by frequency and 2.4 to 3.6 in all, where theory says 3. By
place the noise of a scan changes, in its fine grain above all: a fan resolves more where the source passes
near, and a helix uses more of the turn on one side than on the other.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

PATCH_PX = 24
"""Side of a patch: 12 mm or more of liver, muscle or blood, and 24 frequencies per cycle and pixel."""

_PATCH_STEP_PX = 8
_BLOCK_PX = 16
_LEAST_STD_HU = 0.5
"""Below it there is no quantum noise: masked, padded or synthetic areas."""

SOFT_TISSUE_HU = (0.0, 120.0)

Volume = NDArray[np.float32]
Field = NDArray[np.float64]


@dataclass(frozen=True)
class Patch:
    """A square of `PATCH_PX` in flat tissue, by its slice and first row and column."""

    index: int
    row: int
    column: int

    def of(self, volume: Volume) -> Field:
        """Its pixels, [row, column], HU."""
        rows, columns = slice(self.row, self.row + PATCH_PX), slice(self.column, self.column + PATCH_PX)
        return volume[self.index, rows, columns].astype(np.float64)


def flat_patches(
    hounsfield: Volume, *, most: int = 200, tissue_hu: tuple[float, float] = SOFT_TISSUE_HU
) -> list[Patch]:
    """The flattest squares of one tissue in a series, HU [slice, row, column]; what varies there is noise.

    Flat is what a smooth copy calls flat: noise hardly moves it, vessels and edges do.
    """
    found: list[tuple[float, Patch]] = []
    for k, image in enumerate(hounsfield):
        smooth = ndimage.gaussian_filter(image, 2.5)
        for row in range(0, image.shape[0] - PATCH_PX, _PATCH_STEP_PX):
            for column in range(0, image.shape[1] - PATCH_PX, _PATCH_STEP_PX):
                square = smooth[row : row + PATCH_PX, column : column + PATCH_PX]
                if not tissue_hu[0] < square[::6, ::6].mean() < tissue_hu[1]:
                    continue
                if square.min() < tissue_hu[0] - 40.0 or square.max() > tissue_hu[1] + 80.0:
                    continue
                if image[row : row + PATCH_PX, column : column + PATCH_PX].std() > _LEAST_STD_HU:
                    found.append((float(_level(square).std()), Patch(k, row, column)))
    found.sort(key=lambda pair: pair[0])
    return [patch for _, patch in found[:most]]


@dataclass(frozen=True, eq=False)
class NoisePower:
    """Radial noise power: `power` HU^2 px^2 at `per_px` cycles per pixel."""

    per_px: Field
    power: Field

    @property
    def peak(self) -> float:
        """The frequency of most power, cycles per pixel."""
        return float(self.per_px[int(np.argmax(self.power))])

    def highest(self, share: float) -> float:
        """The highest frequency, cycles per pixel, with at least `share` of the peak of the power."""
        peak = int(np.argmax(self.power))
        above = np.nonzero(self.power[peak:] >= share * self.power[peak])[0]
        return float(self.per_px[peak + above[-1]])


def noise_power(volume: Volume, patches: Sequence[Patch]) -> NoisePower:
    """Mean noise power of patches of a volume [slice, row, column]; slow trends are taken out first."""
    window = np.outer(np.hanning(PATCH_PX), np.hanning(PATCH_PX))
    window /= np.sqrt((window**2).mean())
    radius = np.rint(_radius(PATCH_PX, PATCH_PX) * PATCH_PX).astype(int)
    total = np.zeros(radius.max() + 1)
    for patch in patches:
        spectrum = np.abs(np.fft.fft2(_level(patch.of(volume)) * window)) ** 2 / PATCH_PX**2
        total += np.bincount(radius.ravel(), spectrum.ravel())
    power = total / (np.bincount(radius.ravel()) * max(1, len(patches)))
    return NoisePower(np.arange(len(power)) / PATCH_PX, power)


def level_by_place(image: NDArray[np.float32], per_px: float) -> Field:
    """Noise in a narrow band about `per_px`: median magnitude in blocks of 16 pixels, [block, block], HU.

    Where anatomy has its share in the band it is an upper limit; narrow structures the median overlooks.
    """
    radius = _radius(*image.shape)
    # nothing of the mean: a hundredth of 1000 HU of air would be noise enough
    band = np.exp(-0.5 * ((radius - per_px) / 0.05) ** 2) * (1.0 - np.exp(-0.5 * (radius / 0.05) ** 2))
    magnitude = np.abs(np.fft.ifft2(np.fft.fft2(image) * band).real)
    rows, columns = (n // _BLOCK_PX for n in image.shape)
    blocks = magnitude[: rows * _BLOCK_PX, : columns * _BLOCK_PX]
    blocks = blocks.reshape(rows, _BLOCK_PX, columns, _BLOCK_PX).swapaxes(1, 2)
    medians: Field = np.median(blocks.reshape(rows, columns, -1), axis=-1)
    return medians


def with_gain(
    noise: NDArray[np.float32],
    fine_gain: Field,
    band_per_px: tuple[float, float],
    coarse_gain: Field | None = None,
) -> NDArray[np.float32]:
    """Noise [row, column], its fine and its coarse grain multiplied by gains [block, block] over the slice.

    Fine is what lies above `band_per_px`, cycles per pixel, with a smooth passage within it.
    """
    low, high = band_per_px
    ramp = np.clip((_radius(*noise.shape) - low) / (high - low), 0.0, 1.0)
    fine = np.fft.ifft2(np.fft.fft2(noise) * ramp**2 * (3.0 - 2.0 * ramp)).real
    coarse = noise - fine if coarse_gain is None else (noise - fine) * _spread(coarse_gain, noise.shape)
    shaped: NDArray[np.float32] = (coarse + fine * _spread(fine_gain, noise.shape)).astype(np.float32)
    return shaped


def _spread(gain: Field, shape: tuple[int, ...]) -> Field:
    scale = (shape[0] / gain.shape[0], shape[1] / gain.shape[1])
    spread: Field = ndimage.zoom(gain, scale, order=1, mode="nearest", grid_mode=True)
    return spread


def _radius(rows: int, columns: int) -> Field:
    radius: Field = np.hypot(np.fft.fftfreq(rows)[:, None], np.fft.fftfreq(columns)[None, :])
    return radius


def _level(square: NDArray[np.floating]) -> Field:
    """A square without its mean, slopes and bows."""
    flat = square.reshape(-1).astype(np.float64)
    level: Field = (flat - _TRENDS @ (_TRENDS.T @ flat)).reshape(PATCH_PX, PATCH_PX)
    return level


def _trends() -> Field:
    y, x = (np.mgrid[:PATCH_PX, :PATCH_PX] / PATCH_PX - 0.5).reshape(2, -1)
    return np.linalg.qr(np.stack([np.ones_like(x), x, y, x * x, y * y, x * y], axis=1))[0]


_TRENDS = _trends()
