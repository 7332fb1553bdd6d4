"""What an engine may change: the correction is bounded at every scale and keeps the local mean."""

import torch
from torch import Tensor
from torch.nn import functional

CAP = 3.0
SCALES_PX = (11, 5, 1)
NEIGHBOURHOOD_PX = 61
MEAN_SIGMA_PX = 16.0
LEAST_CAP_HU = 1.0
_STD_OF_MEAN_ABSOLUTE = 1.2533
"""Deviation of normal noise over its mean absolute value, sqrt(pi / 2)."""


def bounded(low_dose: Tensor, proposed: Tensor, cap: float = CAP) -> Tensor:
    """Bound a proposed slice, HU [slice, row, column] in and out.

    The correction loses its slow part, so that no tissue changes its mean. Then, averaged over 11 x 11, over
    5 x 5 and at single pixels, it is cut where it stands out more than `cap` deviations from the correction
    in the neighbourhood: noise does not gather into a spot, a nodule or a vessel does. So an engine can
    neither erase nor invent one beyond what noise of that place could have been.
    """
    correction = (proposed - low_dose)[:, None]
    correction = correction - _gaussian(correction, MEAN_SIGMA_PX)
    for scale in SCALES_PX:
        average = _box(correction, scale)
        limit = _box(average.abs(), NEIGHBOURHOOD_PX) * (_STD_OF_MEAN_ABSOLUTE * cap)
        limit = limit.clamp(min=LEAST_CAP_HU)
        excess = average - torch.minimum(torch.maximum(average, -limit), limit)
        # spread over the same window it was averaged over, so that no edge appears where the cut begins
        correction = correction - _box(excess, scale)
    return low_dose + correction[:, 0]


def _box(x: Tensor, width_px: int) -> Tensor:
    """Mean over a square, separably; the border repeats."""
    if width_px == 1:
        return x
    half = width_px // 2
    x = functional.avg_pool2d(_edged(x, half, 0), (1, width_px), stride=1)
    return functional.avg_pool2d(_edged(x, 0, half), (width_px, 1), stride=1)


def _gaussian(x: Tensor, sigma_px: float) -> Tensor:
    reach = int(3 * sigma_px)
    taps = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, device=x.device) / sigma_px) ** 2)
    taps = (taps / taps.sum()).to(x.dtype)
    x = functional.conv2d(_edged(x, reach, 0), taps[None, None, None, :])
    return functional.conv2d(_edged(x, 0, reach), taps[None, None, :, None])


def _edged(x: Tensor, columns: int, rows: int) -> Tensor:
    return functional.pad(x, (columns, columns, rows, rows), mode="replicate")
