"""Low-dose scans made from better ones: quantum noise in the projections, shaped by a kernel.

The noise is drawn where it arises, on the rays, and reconstructed linearly, so its texture, its streaks
and its growth with the patient come out as on a scanner (Zeng et al., IEEE TNS 62, 2015).
"""

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dicomnode.physics.geometry import WATER_ATTENUATION_PER_MM, ParallelBeam
from dicomnode.physics.photons import ELECTRONIC_VARIANCE, photons_per_bin
from dicomnode.physics.projection import filtered_backprojection, frequencies_per_px, project

STARVED_VARIANCE = 1.0
"""Ceiling of the variance of one post-log ray: below about one quantum the log has no more to say."""

LIFTED_PER_PX = 0.04

SCANNER = ParallelBeam(512, 800, 1440, 0.52, start_rad=0.0011)
"""The scanner of low-dose scans where none is given: as many views as 512 pixels need, pi / 2 x 512."""


class Window(Protocol):
    """A reconstruction kernel, as the window that multiplies the ramp."""

    def window(self, beam: ParallelBeam) -> Tensor:
        """W at the frequencies of `frequencies_per_px(beam)`, [frequency]."""
        ...


@dataclass(frozen=True, eq=False)
class MeasuredKernel:
    """A kernel read from noise: W at `per_px` cycles per pixel, straight between, zero beyond."""

    per_px: NDArray[np.float64]
    values: NDArray[np.float64]

    def window(self, beam: ParallelBeam) -> Tensor:
        """W at the frequencies of `frequencies_per_px(beam)`, [frequency]."""
        frequencies = frequencies_per_px(beam).numpy()
        return torch.from_numpy(np.interp(frequencies, self.per_px, self.values, right=0.0)).float()


@dataclass(frozen=True)
class Kernel:
    """A reconstruction kernel as the window W(f) that multiplies the ramp.

    W(f) = cos(pi f / (2 cutoff))^power (1 + boost (f/peak)^2 exp(1 - (f/peak)^2) + lift exp(-(f/0.04)^2))
    below `cutoff_per_px` (cycles per pixel), zero above. A boost gives the sharpened middle frequencies of
    bone and lung kernels; a lift the coarse noise that adaptive filtering of starved rays leaves behind.
    """

    cutoff_per_px: float
    power: float = 1.0
    boost: float = 0.0
    peak_per_px: float = 0.25
    lift: float = 0.0

    def window(self, beam: ParallelBeam) -> Tensor:
        """W at the frequencies of `frequencies_per_px(beam)`, [frequency]."""
        f = frequencies_per_px(beam)
        roll_off = (
            torch.cos(torch.pi / 2 * (f / self.cutoff_per_px).clamp(max=1.0)).clamp(min=0.0) ** self.power
        )
        hump = (f / self.peak_per_px) ** 2 * torch.exp(1.0 - (f / self.peak_per_px) ** 2)
        coarse = torch.exp(-((f / LIFTED_PER_PX) ** 2))
        inside = (f < self.cutoff_per_px).float()
        return inside * roll_off * (1.0 + self.boost * hump + self.lift * coarse)


STANDARD = Kernel(cutoff_per_px=0.5, power=1.0)
"""The kernel of images made from measured rays: a ramp that ends as a cosine at the finest of a pixel."""


def log_variance(attenuation: Tensor, photons: float, missing_from: float | None = None) -> Tensor:
    """Variance of a post-log ray measured with `photons` incident quanta, any shape.

    With `missing_from` (the quanta of the scan at hand) only the variance still missing between that scan
    and the weaker one: (1-d)/d e^a/N (1 + (1+d)/d Ne e^a/N), d = photons / missing_from
    (Zeng et al.; `photons -> N d`).
    """
    opaque = torch.exp(attenuation)
    variance = opaque / photons * (1.0 + ELECTRONIC_VARIANCE * opaque / photons)
    if missing_from is not None:
        variance = variance - opaque / missing_from * (1.0 + ELECTRONIC_VARIANCE * opaque / missing_from)
    return variance.clamp(0.0, STARVED_VARIANCE)


@dataclass(frozen=True, eq=False)
class RayNoise:
    """Noise of post-log rays, `attenuation` [slice, view, detector], on the rays of `scanner`."""

    attenuation: Tensor
    scanner: ParallelBeam
    pixel_mm: float

    def reconstructed(self, kernel: Window) -> Tensor:
        """What a kernel makes of it, HU [slice, row, column]."""
        per_pixel = WATER_ATTENUATION_PER_MM * self.pixel_mm
        slices = filtered_backprojection(self.attenuation, self.scanner, kernel.window(self.scanner))
        return slices * (1000.0 / per_pixel)


def draw_rays(
    hounsfield: Tensor,
    pixel_mm: float,
    photons: float,
    rng: torch.Generator,
    *,
    missing_from: float | None = None,
    scanner: ParallelBeam | None = None,
) -> RayNoise:
    """Noise on the rays of a scan with `photons` quanta per reference ray.

    `hounsfield` float32 [slice, row, column] is the object. `missing_from` as in `log_variance`. The rays of
    `scanner` should be about twice as fine as the pixels, so that sharp kernels keep their texture, and must
    not be those of the virtual scanner the engine looks with: noise that is independent between the very rays
    it is looked at along is easier to take away than any real one.
    """
    fine = scanner or SCANNER.for_side(hounsfield.shape[-1])
    coarse = replace(fine, detectors=-(-fine.detectors // 2), pitch_px=2 * fine.pitch_px)
    per_pixel = WATER_ATTENUATION_PER_MM * pixel_mm
    attenuation = project((1.0 + hounsfield / 1000.0).clamp(min=0.0) * per_pixel, coarse)
    attenuation = torch.nn.functional.interpolate(attenuation, scale_factor=2, mode="linear")
    share = photons_per_bin(1.0, fine, pixel_mm)
    missing = None if missing_from is None else missing_from * share
    spread = log_variance(attenuation[..., : fine.detectors], photons * share, missing).sqrt()
    return RayNoise(torch.randn(spread.shape, generator=rng) * spread, fine, pixel_mm)


def expected_transmission(hounsfield: Tensor, pixel_mm: float, scanner: ParallelBeam) -> Tensor:
    """The share of photons that comes through, [slice, view, bin] of `scanner`, for HU [slice, row, column].

    Of each bin the mean over two rays: an element has a width, and counts photons and no line integrals.
    """
    fine = replace(scanner, detectors=2 * scanner.detectors, pitch_px=scanner.pitch_px / 2)
    per_pixel = WATER_ATTENUATION_PER_MM * pixel_mm
    through = torch.exp(-project((1.0 + hounsfield / 1000.0).clamp(min=0.0) * per_pixel, fine))
    return 0.5 * (through[..., 0::2] + through[..., 1::2])


def counted(transmission: Tensor, quanta: float, rng: torch.Generator) -> Tensor:
    """Measured transmissions, any shape: photons counted of `quanta` on each ray, and electronic noise.

    (Poisson(quanta y_0) + N(0, s)) / quanta with s of `photons.ELECTRONIC_VARIANCE` (NEED 1.3).
    """
    return read_out(count_photons(transmission, quanta, rng), quanta, rng)


def count_photons(transmission: Tensor, quanta: float, rng: torch.Generator) -> Tensor:
    """Whole photons that come through, any shape, of `quanta` incident on each ray."""
    return torch.poisson(quanta * transmission, generator=rng)


def thinned(photons: Tensor, share: float, rng: torch.Generator) -> Tensor:
    """Of counted photons a share, each kept or lost by itself: the counts of a lower dose, any shape.

    Binomial(Poisson(a), d) is Poisson(d a), and a, given those of the lower dose, varies by what they lack:
    the lower dose holds all noise of the higher, which is the share d of its own variance.
    """
    return torch.binomial(photons, torch.full_like(photons, share), generator=rng)


def read_out(photons: Tensor, quanta: float, rng: torch.Generator) -> Tensor:
    """Measured transmissions of photons counted, of `quanta` on each ray, with noise of the electronics."""
    electronics = torch.randn(photons.shape, generator=rng) * ELECTRONIC_VARIANCE**0.5
    measured: Tensor = (photons + electronics) / quanta
    return measured


def simulate_noise(
    hounsfield: Tensor,
    pixel_mm: float,
    photons: float,
    kernel: Window,
    rng: torch.Generator,
    *,
    missing_from: float | None = None,
    scanner: ParallelBeam | None = None,
) -> Tensor:
    """Noise of a scan with `photons` quanta per reference ray, HU [slice, row, column]: `draw_rays`, seen
    through a kernel. Add the result to `hounsfield`."""
    rays = draw_rays(hounsfield, pixel_mm, photons, rng, missing_from=missing_from, scanner=scanner)
    return rays.reconstructed(kernel)
