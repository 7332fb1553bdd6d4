"""What an engine may change: the correction is bounded at every scale and keeps the local mean."""

import torch
from torch import Tensor
from torch.nn import functional

CAP = 2.0
SPOTS_MM = (15.0, 7.5, 3.5)
"""Widths of the spots that are looked for, beside single pixels."""

NEIGHBOURHOOD_MM = 85.0
"""Wide, or a large spot fills it and raises its own limit."""

MEAN_SIGMA_MM = 11.0
LEAST_CAP_HU = 1.0
_STD_OF_MEAN_ABSOLUTE = 1.2533
"""Deviation of normal noise over its mean absolute value, sqrt(pi / 2)."""


def bounded(low_dose: Tensor, proposed: Tensor, pixel_mm: float, cap: float = CAP) -> Tensor:
    """Bound a proposed slice, HU [slice, row, column] in and out.

    The correction loses its slow part, so that no tissue changes its mean. Then, averaged over spots of 15,
    7.5 and 3.5 mm and at single pixels, it is cut where it stands out more than `cap` deviations from the
    correction in the neighbourhood, the place itself left out: noise does not gather into a spot, a nodule
    or a vessel does. How much of a spot or vessel that holds is measured, not proven: the README has the
    figures, and a test holds them. What hardly stands out from the noise cannot be told from it.
    """
    correction = (proposed - low_dose)[:, None]
    correction = correction - _gaussian(correction, MEAN_SIGMA_MM / pixel_mm)
    around = _odd(NEIGHBOURHOOD_MM / pixel_mm)
    for width in (*(_odd(spot / pixel_mm) for spot in SPOTS_MM), 1):
        average = _box(correction, width)
        limit = _mean_around(average.abs(), around, 2 * width + 1) * (_STD_OF_MEAN_ABSOLUTE * cap)
        limit = limit.clamp(min=LEAST_CAP_HU)
        excess = average - torch.minimum(torch.maximum(average, -limit), limit)
        # spread over the same window it was averaged over, so that no edge appears where the cut begins
        correction = correction - _box(excess, width)
    return low_dose + correction[:, 0]


def slow_part(hounsfield: Tensor, pixel_mm: float) -> Tensor:
    """What is left of slices [slice, row, column] when all that is smaller than a tissue is averaged out."""
    return _gaussian(hounsfield[:, None], MEAN_SIGMA_MM / pixel_mm)[:, 0]


def _odd(width_px: float) -> int:
    return max(3, round(width_px) // 2 * 2 + 1)


def _mean_around(x: Tensor, outer_px: int, inner_px: int) -> Tensor:
    """Mean over a square without the smaller one in its middle."""
    inner_px = min(inner_px, outer_px - 2)
    ring = _box(x, outer_px) * outer_px**2 - _box(x, inner_px) * inner_px**2
    return (ring / (outer_px**2 - inner_px**2)).clamp(min=0.0)


def _box(x: Tensor, width_px: int) -> Tensor:
    """Mean over a square, separably; the border mirrors."""
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
    """Mirrored at the border, its pixel repeated: an average over that keeps the mean of a slice."""
    x = x[..., _mirror(x.shape[-1], columns, x.device)] if columns else x
    return x[..., _mirror(x.shape[-2], rows, x.device), :] if rows else x


def _mirror(length: int, beyond: int, device: torch.device) -> Tensor:
    """Index of a line of that length, `beyond` more on both sides, however small the line is."""
    at = torch.arange(-beyond, length + beyond, device=device) % (2 * length)
    return torch.minimum(at, 2 * length - 1 - at)
