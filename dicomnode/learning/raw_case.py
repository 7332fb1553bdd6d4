"""Measured projections for a table: counts of slices at any dose, from a scanner no model was trained on.

The rays are those of a virtual scanner with other views and bins than any corpus has. What they are compared
with is the same scan without noise, reconstructed alike (NEED 1.11), so that only the dose differs.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from dicomnode.engines.enhance_rays import STARVED_QUANTA, MeasuredRays, line_integrals
from dicomnode.physics.geometry import ParallelBeam
from dicomnode.physics.measured import from_parallel
from dicomnode.physics.photons import NORMAL_DOSE_PHOTONS, photons_per_bin
from dicomnode.physics.simulation import STANDARD, Window, counted, expected_transmission

DOSES = (0.5, 0.25, 0.125, 0.1, 0.05)
"""Dose fractions of the published tables (NEED 1.1)."""

SCANNER = ParallelBeam(512, 984, 928, 0.8, start_rad=0.0009)
"""For 512 pixels: 984 views over half a turn and 1.25 bins a pixel; a corpus has 720 views and 1."""


@dataclass(frozen=True, eq=False)
class RawCase:
    """One simulated scan: `transmissions` and `clean` float32 [slice, view, bin], the same without noise.

    `photons` per reference ray, `quanta` per bin of `beam`; `pixel_mm` of the slices; `kernel` of the images,
    None for the bare ramp.
    """

    transmissions: NDArray[np.float32]
    clean: NDArray[np.float32]
    photons: float
    quanta: float
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
        return self.reconstruct(line_integrals(self.transmissions, self.rays.quanta, STARVED_QUANTA))

    @property
    def target(self) -> NDArray[np.float32]:
        """HU [slice, row, column] of the rays without noise: what an enhanced stack is compared with."""
        return self.reconstruct(line_integrals(self.clean, np.full((1, 1, 1), np.inf, np.float32)))


def raw_case(
    hounsfield: NDArray[np.float32],
    pixel_mm: float,
    dose_fraction: float,
    seed: int,
    kernel: Window | None = STANDARD,
) -> RawCase:
    """Scan a stack of neighbouring square slices, HU [slice, row, column], at a share of normal dose.

    Normal dose is 2.5e5 photons a reference ray (NEED 1.3). The slices should have less noise than the scan
    adds: theirs stays in `clean`.
    """
    beam = SCANNER.for_side(hounsfield.shape[-1])
    photons = dose_fraction * NORMAL_DOSE_PHOTONS
    quanta = photons_per_bin(photons, beam, pixel_mm)
    stack = torch.from_numpy(np.clip(hounsfield, -1000.0, None).astype(np.float32))
    clean = expected_transmission(stack, pixel_mm, beam)
    measured = counted(clean, quanta, torch.Generator().manual_seed(seed))
    return RawCase(measured.numpy(), clean.numpy(), photons, quanta, beam, pixel_mm, kernel)
