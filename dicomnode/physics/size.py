"""How much patient the beam went through."""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

BODY_THRESHOLD_HU = -260.0


def body_mask(hounsfield: NDArray[np.float32]) -> NDArray[np.bool_]:
    """The patient in each slice, without table and clothing: bool [slice, row, column].

    Threshold, the largest connected piece, holes (lung, bowel gas) filled.
    """
    mask = np.zeros(hounsfield.shape, bool)
    for k, image in enumerate(hounsfield):
        solid = ndimage.binary_opening(image > BODY_THRESHOLD_HU, iterations=2)
        labels, count = ndimage.label(solid)
        if count:
            sizes = np.bincount(labels.ravel())
            sizes[0] = 0
            mask[k] = ndimage.binary_fill_holes(labels == int(np.argmax(sizes)))
    return mask


def water_equivalent_diameter_mm(hounsfield: NDArray[np.float32], pixel_mm: float) -> NDArray[np.float32]:
    """Dw of each slice, [slice], mm: 2 sqrt(Aw / pi), Aw = sum(HU/1000 + 1) x pixel area (AAPM Report 220).

    A slice without a body gives 0. Where the body touches the field of view it is a lower bound.
    """
    inside = body_mask(hounsfield)
    # a margin of air costs nothing (it weighs 0) and keeps the skin
    inside = ndimage.binary_dilation(inside, structure=np.ones((1, 5, 5), bool))
    water = np.maximum(hounsfield / 1000.0 + 1.0, 0.0)
    area_mm2 = np.where(inside, water, 0.0).sum(axis=(1, 2)) * pixel_mm**2
    diameters: NDArray[np.float32] = (2.0 * np.sqrt(area_mm2 / np.pi)).astype(np.float32)
    return diameters
