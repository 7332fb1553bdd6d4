"""Training batches of the raw mode: counts of three neighbouring slices, and the noise in the middle one.

Three clean sinograms of the corpus become transmissions, and photons are counted on every ray by the shifted
Poisson process (NEED 1.4), all three at one level. Where this is not the published training (NEED 1.7):

* The level is drawn anywhere between the photons of the recipe, log-uniform, and not as one of ten steps: a
  measurement has the photons it has (1.6), and 5 % of the dose lies below the published schedule. Uniform k
  would draw 1 / lambda uniformly, and 19 of 20 crops at less than a third of normal dose.
* The loss is Huber's in stabilised units (`engines.need.raw`), not L1 of transmissions (1.7): L1 asks for the
  median, which of counts lies below the mean, and gives rays through air the weight that the patient needs.
* Half of the crops are stretched and sheared, so that a network trained on one parallel beam meets the
  sinograms of other grids and of fans, which are sheared parallel ones.

Averaged weights are kept as published (EMA).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import affine_transform

from dicomnode.engines.need import raw
from dicomnode.engines.need.poisson import EXTENDED, ShiftedPoisson
from dicomnode.learning.corpus import PackedExample
from dicomnode.learning.draw import MISSING, Batch, turned, window
from dicomnode.learning.recipe import RawStage
from dicomnode.physics.geometry import ParallelBeam
from dicomnode.physics.photons import photons_per_bin

SHEARED = 0.5
VIEW_STRETCH = (0.7, 1.4)
"""Steps between views over those of the corpus: 515 to 1030 views in half a turn."""
BIN_STRETCH = (0.75, 1.3)
MOST_SHEAR = 0.4
"""Views of the corpus that a fan turns on with each bin; 0.27 on a clinical scanner."""


@dataclass(frozen=True)
class Grid:
    """How the rays of a crop lie on those of the corpus: one step in view and bin, and the shear."""

    views: float = 1.0
    bins: float = 1.0
    shear: float = 0.0

    def margin(self, patch_px: int) -> int:
        """Side of the piece of the corpus a crop is cut from."""
        reach = max(self.views + abs(self.shear), self.bins) * (patch_px - 1)
        return int(np.ceil(reach)) + 4


def raw_batch(
    examples: Sequence[PackedExample], beam: ParallelBeam, stage: RawStage, rng: np.random.Generator
) -> Batch:
    """Counts of crops [n, 6, view, bin], the level, and their noise in stabilised units [n, 1, view, bin].

    `beam` is the corpus's, for slices of 512 pixels.
    """
    windows, targets, rows = [], [], []
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    process = ShiftedPoisson(EXTENDED)
    for _ in range(stage.batch):
        example = examples[int(rng.integers(len(examples)))]
        clean = torch.exp(-torch.from_numpy(_crop(example, draw_grid(rng), stage.patch_px, rng)))
        side_px = example.arrays["slice_hu"].shape[-1]
        level = float(np.exp(rng.uniform(*np.log(stage.photons))))
        photons = photons_per_bin(level, beam.for_side(side_px), example.pixel_mm)
        states = process.counted(clean, photons, generator)
        for neighbour in (0, 2):
            if rng.random() < MISSING:
                states[neighbour] = states[1]
        windows.append(raw.inputs(states[None], photons))
        targets.append(raw.noise_of(states[1:2], clean[1:2], photons))
        rows.append(raw.conditions(photons))
    return Batch(torch.cat(windows), torch.tensor(rows), torch.cat(targets))


def draw_grid(rng: np.random.Generator) -> Grid:
    """The corpus's own rays, or in a share `SHEARED` those of another scanner."""
    if rng.random() >= SHEARED:
        return Grid()
    views, bins = (float(np.exp(rng.uniform(*np.log(span)))) for span in (VIEW_STRETCH, BIN_STRETCH))
    return Grid(views, bins, float(rng.uniform(-MOST_SHEAR, MOST_SHEAR)))


def _crop(example: PackedExample, grid: Grid, patch_px: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Attenuation of below, itself, above: [3, view, bin]."""
    stretched = grid != Grid()
    piece = min(grid.margin(patch_px), *example.arrays["sinogram"].shape) if stretched else patch_px
    where = window(example.arrays["sinogram"].shape, piece, rng)
    below, above = example.crop("beside_sinogram", where)
    three = [below, example.crop("sinogram", where), above]
    if stretched:
        three = [resampled(one, grid, patch_px) for one in three]
    return np.stack(turned(three, rng, transpose=False))


def resampled(piece: NDArray[np.float32], grid: Grid, patch_px: int) -> NDArray[np.float32]:
    """The rays of `grid` in a piece of a sinogram, [patch, patch]: cubic splines, which keep it sharp."""
    step = np.array([[grid.views, grid.shear], [0.0, grid.bins]])
    half = 0.5 * (np.array(piece.shape) - 1)
    offset = half - step @ np.full(2, 0.5 * (patch_px - 1))
    found: NDArray[np.float32] = affine_transform(
        piece, step, offset, output_shape=(patch_px, patch_px), order=3, mode="nearest"
    )
    return np.maximum(found, 0.0)
