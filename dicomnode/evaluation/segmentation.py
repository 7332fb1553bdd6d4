"""Organs by threshold and shape: do they come out the same from two images of one patient?"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from dicomnode.errors import NotMeasurable
from dicomnode.evaluation.airways import Airways, Mask, Seed, Volume, find_trachea, grow_airways
from dicomnode.physics.size import body_mask

LUNG_HU = -400.0
GAS_HU = -915.0
LARGE_GAS_HU = -970.0
MOST_GAS_MM2 = 6000.0
"""A piece of air is gas and no lung below this median of its inside; a large one, which may be emphysema,
only where it is nearly pure. Measured: lung -700 to -902, gas -923 to -1006 HU (scatter fills it)."""

BONE_HU = 200.0
SOFT_HU = -30.0
"""Soft tissue lies between this, above fat, and bone."""

LEAST_LUNG_MM2 = 400.0
LEAST_BONE_MM2 = 20.0
LEAST_SOFT_MM2 = 50.0
VESSEL_MM2 = 150.0
MARROW_MM2 = 100.0
SPECK_MM2 = 10.0

ORGANS = ("lung", "bone", "soft", "airways")


@dataclass(frozen=True, eq=False)
class Organs:
    """Where each organ is, bool [slice, row, column]. `grown`: how the airways were found, if they were."""

    lung: Mask
    bone: Mask
    soft: Mask
    spacing_mm: tuple[float, float, float]
    grown: Airways | None

    def mask(self, organ: str) -> Mask:
        """One of `ORGANS`; nothing anywhere for airways that were not found."""
        if organ == "airways":
            return self.grown.mask if self.grown else np.zeros_like(self.lung)
        masks: dict[str, Mask] = {"lung": self.lung, "bone": self.bone, "soft": self.soft}
        return masks[organ]

    def volume_ml(self, organ: str) -> float:
        """Volume of one of `ORGANS`, ml."""
        return float(self.mask(organ).sum()) * float(np.prod(self.spacing_mm)) / 1000.0


def segment(
    hounsfield: Volume, spacing_mm: tuple[float, float, float], *, seed: Seed | None = None
) -> Organs:
    """Lung, bone, soft tissue and airways of a stack, HU [slice, row, column]; a single slice will do.

    Each is a threshold inside the body, pieces too small dropped and small holes filled, slice by slice:
    lung below -400 HU, unless it is gas; bone above 200 HU with the marrow it encloses, and whatever else is
    as dense (contrast agent, metal); soft tissue from -30 HU up to bone. Nothing is smoothed, so noise shows.
    Airways grow from `seed` [slice, row, column], or from the trachea where that is found by itself; without
    a trachea, or from a seed in no airway, there are none.
    """
    body = body_mask(hounsfield)
    pixel_mm2 = spacing_mm[1] * spacing_mm[2]
    air = _lung(hounsfield, body, pixel_mm2)
    grown = _airways(hounsfield, body, air, spacing_mm, seed)
    lung = air & ~grown.mask if grown else air
    bone = _fill(_drop(body & (hounsfield > BONE_HU), LEAST_BONE_MM2 / pixel_mm2), MARROW_MM2 / pixel_mm2)
    bone &= ~air
    soft = body & (hounsfield > SOFT_HU) & ~bone & ~air
    soft = _fill(_drop(soft, LEAST_SOFT_MM2 / pixel_mm2), SPECK_MM2 / pixel_mm2) & ~bone & ~air
    return Organs(lung, bone, soft, spacing_mm, grown)


def dice(one: Mask, other: Mask) -> float:
    """Overlap of two masks of one shape over their mean size, 0 to 1 (Dice 1945); NaN for nothing at all."""
    size = int(one.sum()) + int(other.sum())
    return 2.0 * int((one & other).sum()) / size if size else float("nan")


def agreement(
    image: Volume,
    reference: Volume,
    spacing_mm: tuple[float, float, float],
    *,
    seed: Seed | None = None,
) -> dict[str, float]:
    """Dice of each organ between an image and its reference, both HU [slice, row, column].

    Airways of both grow from one seed: the given one, or the reference's. NaN for what neither holds.
    """
    expected = segment(reference, spacing_mm, seed=seed)
    start = seed or (expected.grown.seed if expected.grown else None)
    found = segment(image, spacing_mm, seed=start)
    return {organ: dice(found.mask(organ), expected.mask(organ)) for organ in ORGANS}


def _airways(
    hounsfield: Volume, body: Mask, lung: Mask, spacing_mm: tuple[float, float, float], seed: Seed | None
) -> Airways | None:
    start = seed or find_trachea(hounsfield, body, lung, spacing_mm)
    if start is None:
        return None
    try:
        return grow_airways(hounsfield, body, spacing_mm, start)
    except NotMeasurable:
        return None


def _lung(hounsfield: Volume, body: Mask, pixel_mm2: float) -> Mask:
    """Air in the body that is no gas, with the vessels in it."""
    air = _drop(body & (hounsfield < LUNG_HU), LEAST_LUNG_MM2 / pixel_mm2)
    labels, count = _pieces(air)
    core = np.where(ndimage.binary_erosion(air, structure=_IN_SLICE, iterations=2), labels, 0)
    known = np.unique(core)[1:]
    large = np.bincount(labels.ravel())[known] * pixel_mm2 > MOST_GAS_MM2
    gas = np.zeros(count + 1, bool)
    gas[known] = np.asarray(ndimage.median(hounsfield, core, known)) < np.where(large, LARGE_GAS_HU, GAS_HU)
    return _fill(air & ~gas[labels], VESSEL_MM2 / pixel_mm2)


_IN_SLICE = np.zeros((3, 3, 3), bool)
_IN_SLICE[1] = ndimage.generate_binary_structure(2, 1)


def _pieces(mask: Mask) -> tuple[NDArray[np.int32], int]:
    """Connected pieces within each slice, numbered through the stack."""
    labels, count = ndimage.label(mask, structure=_IN_SLICE)
    return labels, int(count)


def _drop(mask: Mask, least_px: float) -> Mask:
    """Without pieces of fewer pixels in a slice."""
    labels, _ = _pieces(mask)
    keep = np.bincount(labels.ravel()) >= least_px
    keep[0] = False
    kept: Mask = keep[labels]
    return kept


def _fill(mask: Mask, most_px: float) -> Mask:
    """With the holes of up to so many pixels in a slice."""
    holes = ~mask & ~_drop(~mask, most_px + 1)
    return mask | holes
