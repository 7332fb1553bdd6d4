"""How alike a result is to its reference: likeness, bias by tissue, noise, organs."""

from collections import defaultdict
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter

from dicomnode.appraisal.cases import Case
from dicomnode.appraisal.methods import Volume
from dicomnode.evaluation.segmentation import ORGANS, Organs, dice, segment
from dicomnode.evaluation.similarity import VIF_LEAST_SIDE_PX, psnr_db, rmse_hu, ssim, vif
from dicomnode.physics.noise import measure_noise
from dicomnode.physics.size import body_mask
from dicomnode.quality import LEAST_PIXELS, SORTING_PX, tissue_masks

BONE_HU = 200.0
"""Bone begins here, in the smoothed reference, as for `evaluation.segmentation`."""

TISSUES = ("air", "lung", "fat", "soft", "bone")
LIKENESS = ("psnr_db", "ssim", "rmse_hu", "vif")


@dataclass(frozen=True, eq=False)
class Truth:
    """What is known of a case before any method runs: the judged slices of its reference, sorted.

    `case_reference` is the whole stack that they are from.
    """

    reference: Volume
    case_reference: Volume
    tissues: dict[str, NDArray[np.bool_]]
    organs: Organs
    pixel_mm: float

    @staticmethod
    def of(case: Case) -> "Truth":
        """Sort the judged slices of the reference into tissues and organs."""
        reference = case.reference[case.judged]
        smooth = np.stack([uniform_filter(image, SORTING_PX) for image in reference])
        tissues = {**tissue_masks(reference), "bone": (smooth > BONE_HU) & body_mask(reference)}
        organs = segment(reference, case.spacing_mm)
        return Truth(reference, case.reference, tissues, organs, case.scan.pixel_mm)


@dataclass(eq=False)
class Scored:
    """Sums over what one method made of all cases of one dose and kernel."""

    likeness: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    changed_hu: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    pixels: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    noise_hu: list[float] = field(default_factory=list)
    dice: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    def add(self, result: Volume, truth: Truth) -> None:
        """Compare a result, HU [slice, row, column], with the truth of its case."""
        self.compare(result, truth.reference)
        change = (result - truth.reference).astype(np.float64)
        for tissue, where in truth.tissues.items():
            self.changed_hu[tissue] += float(change[where].sum())
            self.pixels[tissue] += int(where.sum())
        if reading := measure_noise(result, truth.pixel_mm):
            self.noise_hu.append(reading.std_hu)
        grown = truth.organs.grown
        organs = segment(result, truth.organs.spacing_mm, seed=grown.seed if grown else None)
        for organ in ORGANS:
            # what is not in the reference is not asked for: a trachea found in noise alone counts nothing
            if truth.organs.mask(organ).any():
                self.dice[organ].append(dice(organs.mask(organ), truth.organs.mask(organ)))

    def compare(self, result: Volume, reference: Volume) -> None:
        """Likeness alone, slice by slice, HU [slice, row, column]."""
        for image, target in zip(result, reference, strict=True):
            self.likeness["psnr_db"].append(psnr_db(image, target))
            self.likeness["ssim"].append(ssim(image, target))
            self.likeness["rmse_hu"].append(rmse_hu(image, target))
            if min(image.shape) >= VIF_LEAST_SIDE_PX:
                self.likeness["vif"].append(vif(image, target))

    def figures(self) -> dict[str, float | dict[str, float]]:
        """Means over slices, over the pixels of a tissue, over stacks; NaN where there is nothing."""
        return {
            **{name: _mean(self.likeness[name]) for name in LIKENESS},
            "noise_hu": _mean(self.noise_hu),
            "bias_hu": self._bias_hu(),
            "dice": {organ: _mean(self.dice[organ]) for organ in ORGANS if self.dice[organ]},
        }

    def _bias_hu(self) -> dict[str, float]:
        enough = [tissue for tissue in TISSUES if self.pixels[tissue] >= LEAST_PIXELS]
        return {tissue: self.changed_hu[tissue] / self.pixels[tissue] for tissue in enough}


def _mean(values: list[float]) -> float:
    """Of equal images PSNR is infinite, and so is its mean."""
    known = [value for value in values if not np.isnan(value)]
    return float(np.mean(known)) if known else float("nan")
