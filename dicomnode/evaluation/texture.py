"""How the noise looks: its power spectrum, and whether that moved."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dicomnode.errors import NotMeasurable
from dicomnode.evaluation.places import Place, Volume, cut

LEAST_SIDE_PX = 8

_Field = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class NoisePower:
    """Noise power spectrum: `density_hu2_cm2` [row frequency, column frequency], frequency 0 in the middle.

    `kept`, of the same shape, is the share of white noise that taking the trend left at each frequency.
    `step_per_cm`: distance of two frequencies; `squares`: how many squares it is the mean of.
    """

    density_hu2_cm2: _Field
    kept: _Field
    step_per_cm: float
    squares: int

    @property
    def variance_hu2(self) -> float:
        """Its integral over all frequencies: the variance of the noise (Parseval)."""
        return float(self.density_hu2_cm2.sum()) * self.step_per_cm**2

    def radial(self) -> "RadialNoisePower":
        """Mean over rings one step wide, up to the Nyquist frequency of rows and columns.

        What the trend took from a ring is made up for, but for frequency zero, of which it took all.
        """
        side = len(self.density_hu2_cm2)
        at = np.arange(side) - side // 2
        ring = np.rint(np.hypot(at[:, None], at[None, :])).astype(int).ravel()
        power, kept = (np.bincount(ring, field.ravel()) for field in (self.density_hu2_cm2, self.kept))
        rings = np.arange(1, side // 2 + 1)
        density = np.zeros(len(rings) + 1)
        density[rings] = power[rings] / kept[rings]
        return RadialNoisePower(np.arange(len(density), dtype=np.float64) * self.step_per_cm, density)


@dataclass(frozen=True, eq=False)
class RadialNoisePower:
    """Noise power by frequency alone: `density_hu2_cm2` [frequency] at `frequency_per_cm` [frequency]."""

    frequency_per_cm: _Field
    density_hu2_cm2: _Field

    @property
    def mean_frequency_per_cm(self) -> float:
        """Mean of the frequency, weighted by the radial spectrum (AAPM Report 233, section 3.2.2).

        Without the zero frequency, from which the trend was taken. Raises NotMeasurable without noise.
        """
        weights = self.density_hu2_cm2[1:]
        if not weights.sum() > 0:
            raise NotMeasurable("there is no noise in the squares: nothing to take the mean frequency of")
        return float(np.average(self.frequency_per_cm[1:], weights=weights))


def noise_power(noise_hu: Volume, pixel_mm: float, *, trend: int = 2) -> NoisePower:
    """Noise power spectrum of squares of noise, [square, row, column], HU (ICRU Report 87, section 4.3).

    NPS = pixel area / pixels * mean |DFT(square - trend)|^2 (Siewerdsen et al., Med Phys 29(11), 2002). The
    trend is a polynomial of that order in row and column, fitted to each square; order 0 is the mean. Squares
    of anatomy will do where that is even: `places.find_even`. Raises NotMeasurable without squares of at
    least 8 pixels.
    """
    if noise_hu.ndim != 3 or not len(noise_hu) or noise_hu.shape[1] != noise_hu.shape[2]:
        raise NotMeasurable(f"a noise power spectrum needs squares, not an array of shape {noise_hu.shape}")
    side = noise_hu.shape[1]
    if side < LEAST_SIDE_PX:
        raise NotMeasurable(
            f"squares of {side} pixels are too small for a spectrum: take {LEAST_SIDE_PX} or more"
        )
    pixel_cm = pixel_mm / 10.0
    basis = _trends(side, trend)
    power = _power(_without(noise_hu.astype(np.float64), basis))
    density = power.mean(axis=0) * (pixel_cm / side) ** 2
    kept = 1.0 - _power(basis).sum(axis=0) / side**2
    return NoisePower(density, kept, 1.0 / (side * pixel_cm), len(noise_hu))


def power_in_difference(
    first: Volume, second: Volume, places: Sequence[Place], side_px: int, pixel_mm: float
) -> NoisePower:
    """Noise power of one image from two of the same anatomy with independent noise of one strength.

    Both HU [slice, row, column]. Anatomy cancels in the difference, whose power is twice that of one image.
    There is no trend to take, which would take coarse grain with it and so hide that noise became coarser.
    """
    squares = cut(first, places, side_px).astype(np.float64) - cut(second, places, side_px)
    return noise_power((squares / np.sqrt(2.0)).astype(np.float32), pixel_mm, trend=0)


def power_in_places(hounsfield: Volume, places: Sequence[Place], side_px: int, pixel_mm: float) -> NoisePower:
    """Noise power of a single stack, HU [slice, row, column], in squares of even tissue.

    Structure that the trend does not follow counts as noise of low frequency, and weighs the more, the less
    noise there is: of an image before and after noise was removed, the mean frequency falls by more than the
    noise's own does. `power_in_difference` has no such error.
    """
    return noise_power(cut(hounsfield, places, side_px), pixel_mm)


def mean_frequency_shift_percent(before: NoisePower, after: NoisePower) -> float:
    """How far the mean frequency of the noise moved, percent: below 0 the noise became coarser."""
    was, now = (power.radial().mean_frequency_per_cm for power in (before, after))
    return 100.0 * (now / was - 1.0)


def _trends(side: int, order: int) -> _Field:
    """Orthonormal polynomials over a square, [term, row, column]."""
    at = np.linspace(-1.0, 1.0, side)
    powers = [(i, j) for i in range(order + 1) for j in range(order + 1 - i)]
    terms, _ = np.linalg.qr(np.stack([np.outer(at**i, at**j).ravel() for i, j in powers], axis=1))
    return np.ascontiguousarray(terms.T).reshape(-1, side, side)


def _without(squares: _Field, basis: _Field) -> _Field:
    """Each square less the sum of `basis` that fits it best."""
    rest: _Field = squares - np.tensordot(np.einsum("srk,trk->st", squares, basis, optimize=True), basis, 1)
    return rest


def _power(squares: _Field) -> _Field:
    power: _Field = np.abs(np.fft.fftshift(np.fft.fft2(squares), axes=(1, 2))) ** 2
    return power
