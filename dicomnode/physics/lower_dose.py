"""The same patient scanned with less: what noise a scan lacks that it would have had at a lower dose.

Missing noise is drawn in the projections and follows what noise the scan has itself: by frequency, so that
the kernel is the scanner's, and by place.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from dicomnode.errors import DoseUnknown
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

Observer = Callable[[str, int, int], None]
"""Told ("scan", slices done, slices in all) whenever the noise of a slice is drawn."""

MOST_SLICES_LOOKED_AT = 40
SLICES_FITTED = 3
LEAST_PATCHES = 24
ANATOMY_BELOW_PER_PX = 3 / 24
"""Below it even flat tissue varies by more than its noise; there the window of the kernel is level."""

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
class OwnNoise:
    """What noise a series has: its power in flat patches of a few slices, HU [slice, row, column].

    `photons` per reference ray, by the level of the noise.
    """

    hounsfield: Volume
    pixel_mm: float
    patches: tuple[Patch, ...]
    power: NoisePower
    photons: float


def own_noise(hounsfield: Volume, pixel_mm: float) -> OwnNoise:
    """Read from the flattest tissue of a whole series, HU [slice, row, column], what its noise is like.

    Raises DoseUnknown where it shows too little soft tissue to measure its noise in.
    """
    looked_at = np.linspace(0, len(hounsfield) - 1, MOST_SLICES_LOOKED_AT).round().astype(int)
    volume = hounsfield[np.unique(looked_at)]
    reading, patches = measure_noise(volume, pixel_mm), flat_patches(volume)
    if reading is None or len(patches) < LEAST_PATCHES:
        raise DoseUnknown(
            "the series has too little soft tissue to measure its noise, so none can be added to scale"
        )
    diameter_mm = float(np.median(water_equivalent_diameter_mm(volume, pixel_mm)))
    photons = photons_from_noise(reading.std_hu, diameter_mm, pixel_mm, reading.law_texture)
    volume, patches = _richest(volume, patches)
    return OwnNoise(volume, pixel_mm, tuple(patches), noise_power(volume, patches), photons)


def learn_scanner(own: OwnNoise, fraction: float, seed: int) -> Scanner:
    """Fit a kernel that makes the noise that is missing at a fraction of the dose like the series' own."""
    rng = torch.Generator().manual_seed(seed)
    rays = [_missing_rays(image, own.pixel_mm, own.photons, fraction, rng) for image in own.hounsfield]
    kernel = _fit_kernel(rays, own.patches, own.power, 1.0 / fraction - 1.0)
    return Scanner(own.photons, fraction, kernel, own.power)


def lower_dose(
    hounsfield: Volume, pixel_mm: float, scanner: Scanner, seed: int, on_slice: Observer | None = None
) -> Volume:
    """Slices as the scanner would have made them at the lower dose, HU [slice, row, column] in and out."""
    noisy = hounsfield + missing_noise(hounsfield, pixel_mm, scanner, seed, on_slice)
    lowered: Volume = np.maximum(noisy, np.float32(_floor_hu(hounsfield)))
    return lowered


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


def _floor_hu(hounsfield: Volume) -> float:
    """The HU at which this scanner cuts off the noise of air, or minus infinity: there values pile up."""
    lowest = float(hounsfield.min())
    piled, next_to_it = (int((np.abs(hounsfield - lowest - step) < 0.5).sum()) for step in (0, 1))
    many = max(2 * next_to_it, LEAST_PILED * hounsfield.size)  # a lowest value alone is chance
    return lowest if piled > many else -np.inf


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


def _gain(hounsfield: Volume, noise: Volume, scanner: Scanner, per_px: float) -> NDArray[np.float64]:
    """What drawn noise must be multiplied by, near `per_px`, to be what is missing: [slice, block, block]."""
    own = np.stack([level_by_place(image, per_px) for image in hounsfield])
    drawn = np.stack([level_by_place(image, per_px) for image in noise])
    # what is left of anatomy in a band stands alone; noise changes slowly, in the slice and along the patient
    own = ndimage.gaussian_filter(ndimage.median_filter(own, (1, 3, 3)), (0.7, 1.0, 1.0))
    drawn = ndimage.gaussian_filter(drawn, (1.0, 1.5, 1.5))
    gain: NDArray[np.float64] = scanner.missing**0.5 * own / np.maximum(drawn, 1e-3)
    return gain
