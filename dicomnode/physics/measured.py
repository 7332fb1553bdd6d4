"""Measured projections of slices on the virtual scanner: what an engine with a raw mode takes.

The neighbours of it on the way: `fan.py` makes the parallel rays, `reconstruct` makes the image of them.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dicomnode.physics.geometry import WATER_ATTENUATION_PER_MM, ParallelBeam
from dicomnode.physics.projection import filtered_backprojection

AIR_HU = -1000.0
SLICES_AT_ONCE = 8


@dataclass(frozen=True, eq=False)
class MeasuredSlices:
    """One axial scan as parallel rays, slice by slice. Measured, not projected again from an image.

    * `line_integrals`: float32 [slice, view, bin], -ln(transmission), no unit; the rays are those of `beam`,
      whose unit is `pixel_mm`. Rays that were not measured are 0. exp(-line_integrals) is the transmission
      that NEED works on.
    * `incident_quanta`: float32 [slice, view, bin], or None where the scan does not tell: quanta that would
      leave the noise a ray has. Its variance is exp(P) / quanta, electronic noise apart. Neighbouring bins
      share measured elements: their noise is correlated over about one element and one view.
    * `photons` [slice]: photons per reference ray (`photons.py`), or None as above; `mas` [slice]: tube
      current times rotation time, or None.
    * `height_mm` [slice]: position along the gantry's axis, `thickness_mm` of the slice there.
    * `reach_mm`: radius of the circle that every view sees. `water_per_mm`: attenuation that is 0 HU.
    """

    line_integrals: NDArray[np.float32]
    incident_quanta: NDArray[np.float32] | None
    photons: tuple[float, ...] | None
    mas: tuple[float, ...] | None
    beam: ParallelBeam
    pixel_mm: float
    height_mm: tuple[float, ...]
    thickness_mm: float
    reach_mm: float
    water_per_mm: float

    @property
    def slices(self) -> int:
        """Number of slices."""
        return len(self.line_integrals)


def reconstruct(measured: MeasuredSlices, window: Tensor | None = None) -> NDArray[np.float32]:
    """Filtered backprojection to HU, float32 [slice, row, column]; air where no view saw the slice.

    `window` [frequency] softens the ramp, as for `filter_views`; without it the ramp is bare.
    """
    beam = measured.beam
    hounsfield = np.empty((measured.slices, beam.side_px, beam.side_px), np.float32)
    for first in range(0, measured.slices, SLICES_AT_ONCE):
        part = slice(first, first + SLICES_AT_ONCE)
        rays = torch.from_numpy(measured.line_integrals[part])
        per_mm = filtered_backprojection(rays, beam, window).numpy() / measured.pixel_mm
        hounsfield[part] = 1000.0 * (per_mm / measured.water_per_mm - 1.0)
    hounsfield[:, ~seen(measured)] = AIR_HU
    return hounsfield


def from_parallel(
    rays: NDArray[np.float32], beam: ParallelBeam, pixel_mm: float, window: Tensor | None = None
) -> NDArray[np.float32]:
    """HU [slice, row, column] of line integrals [slice, view, bin] whose beam sees the whole slice: FBP."""
    per_mm = [
        filtered_backprojection(torch.from_numpy(some).contiguous(), beam, window).numpy() / pixel_mm
        for some in np.array_split(rays, max(1, -(-len(rays) // SLICES_AT_ONCE)))
    ]
    return (1000.0 * (np.concatenate(per_mm) / WATER_ATTENUATION_PER_MM - 1.0)).astype(np.float32)


def seen(measured: MeasuredSlices) -> NDArray[np.bool_]:
    """The pixels [row, column] inside the measured circle."""
    side = measured.beam.side_px
    along = (np.arange(side) - 0.5 * (side - 1)) * measured.pixel_mm
    inside: NDArray[np.bool_] = np.hypot(along[:, None], along[None, :]) <= measured.reach_mm
    return inside
