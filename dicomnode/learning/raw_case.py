"""Measured projections for a table: counts of slices at any dose, from a scanner no model was trained on.

The rays are those of a virtual scanner with other views and bins than any corpus has. What they are compared
with is the same scan at normal dose, counted and reconstructed alike: a lower dose is a thinning of those
counts. So the reference keeps of the noise in the input the share that every method is told, the dose.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from dicomnode.engines.enhance_rays import STARVED_QUANTA, MeasuredRays, line_integrals
from dicomnode.physics.geometry import ParallelBeam
from dicomnode.physics.measured import from_parallel
from dicomnode.physics.photons import NORMAL_DOSE_PHOTONS, photons_per_bin
from dicomnode.physics.simulation import (
    STANDARD,
    Window,
    count_photons,
    expected_transmission,
    read_out,
    thinned,
)

DOSES = (0.5, 0.25, 0.125, 0.1, 0.05)
"""Dose fractions of the published tables (NEED 1.1)."""

SCANNER = ParallelBeam(512, 984, 928, 0.8, start_rad=0.0009)
"""For 512 pixels: 984 views over half a turn and 1.25 bins a pixel; a corpus has 720 views and 1."""


@dataclass(frozen=True, eq=False)
class RawCase:
    """One simulated scan: `transmissions` float32 [slice, view, bin].

    `normal`: the same at normal dose, of whose counts these are a part; `clean`: without noise. `photons` per
    reference ray, `quanta` and `normal_quanta` per bin of `beam`; `pixel_mm` of the slices; `kernel` of the
    images, None for the bare ramp.
    """

    transmissions: NDArray[np.float32]
    normal: NDArray[np.float32]
    clean: NDArray[np.float32]
    photons: float
    quanta: float
    normal_quanta: float
    beam: ParallelBeam
    pixel_mm: float
    kernel: Window | None

    @property
    def rays(self) -> MeasuredRays:
        """What `enhance_rays` takes."""
        quanta = np.full((1, 1, 1), self.quanta, np.float32)
        return MeasuredRays(self.transmissions, quanta, self.photons, self.pixel_mm, self.reconstruct)

    def reconstruct(self, rays: NDArray[np.float32]) -> NDArray[np.float32]:
        """Line integrals [slice, view, bin] -> HU [slice, row, column]."""
        window = None if self.kernel is None else self.kernel.window(self.beam)
        return from_parallel(rays, self.beam, self.pixel_mm, window)

    @property
    def low_dose(self) -> NDArray[np.float32]:
        """HU [slice, row, column] of the measured rays."""
        return self._image(self.transmissions, self.quanta)

    @property
    def reference(self) -> NDArray[np.float32]:
        """HU [slice, row, column] of the rays at normal dose: what an enhanced stack is compared with."""
        return self._image(self.normal, self.normal_quanta)

    @property
    def noiseless(self) -> NDArray[np.float32]:
        """HU [slice, row, column] of the rays without noise."""
        return self._image(self.clean, np.inf)

    def _image(self, transmissions: NDArray[np.float32], quanta: float) -> NDArray[np.float32]:
        each = np.full((1, 1, 1), quanta, np.float32)
        return self.reconstruct(line_integrals(transmissions, each, STARVED_QUANTA))


def raw_case(
    hounsfield: NDArray[np.float32],
    pixel_mm: float,
    dose_fraction: float,
    seed: int,
    kernel: Window | None = STANDARD,
) -> RawCase:
    """Scan a stack of neighbouring square slices, HU [slice, row, column], at a share of normal dose.

    The share is 1 at most. Normal dose is 2.5e5 photons a reference ray (NEED 1.3); its counts are those of
    the seed, whatever the share, and each share is drawn from them by itself. Electronic noise is new at each
    dose, as it does not depend on the photons. The slices should have less noise than the scan adds: theirs
    stays in `clean`.
    """
    beam = SCANNER.for_side(hounsfield.shape[-1])
    full = photons_per_bin(NORMAL_DOSE_PHOTONS, beam, pixel_mm)
    stack = torch.from_numpy(np.clip(hounsfield, -1000.0, None).astype(np.float32))
    clean = expected_transmission(stack, pixel_mm, beam)
    rng = torch.Generator().manual_seed(seed)
    photons = count_photons(clean, full, rng)
    normal = measured = read_out(photons, full, rng)
    if dose_fraction < 1.0:
        draw = torch.Generator().manual_seed(_thinning_seed(seed, dose_fraction))
        measured = read_out(thinned(photons, dose_fraction, draw), dose_fraction * full, draw)
    return RawCase(
        transmissions=measured.numpy(),
        normal=normal.numpy(),
        clean=clean.numpy(),
        photons=dose_fraction * NORMAL_DOSE_PHOTONS,
        quanta=dose_fraction * full,
        normal_quanta=full,
        beam=beam,
        pixel_mm=pixel_mm,
        kernel=kernel,
    )


def _thinning_seed(seed: int, dose_fraction: float) -> int:
    return int(np.random.SeedSequence([seed, round(1e4 * dose_fraction)]).generate_state(1)[0])
