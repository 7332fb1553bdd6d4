"""What an engine may change: the correction is bounded and keeps the local mean."""

import torch
from torch import Tensor
from torch.nn import functional

CAP = 3.0
WINDOW_PX = 15
MEAN_SIGMA_PX = 16.0
LEAST_CAP_HU = 3.0


def bounded(low_dose: Tensor, proposed: Tensor, cap: float = CAP) -> Tensor:
    """Bound a proposed slice, HU [slice, row, column] in and out.

    The correction loses its slow part, so that no tissue changes its mean, and is cut where it stands out
    more than `cap` times from the noise removed around it: there it would be taking structure, not noise.
    """
    correction = (proposed - low_dose)[:, None]
    correction = correction - _gaussian(correction, MEAN_SIGMA_PX)
    power = functional.avg_pool2d(
        functional.pad(correction**2, (WINDOW_PX // 2,) * 4, mode="reflect"), WINDOW_PX, stride=1
    )
    limit = (cap * power.sqrt()).clamp(min=LEAST_CAP_HU)
    return low_dose + torch.minimum(torch.maximum(correction, -limit), limit)[:, 0]


def _gaussian(x: Tensor, sigma_px: float) -> Tensor:
    reach = min(int(3 * sigma_px), x.shape[-1] - 1, x.shape[-2] - 1)
    taps = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, device=x.device) / sigma_px) ** 2)
    taps = (taps / taps.sum()).to(x.dtype)
    x = functional.conv2d(functional.pad(x, (reach, reach, 0, 0), mode="reflect"), taps[None, None, None, :])
    return functional.conv2d(
        functional.pad(x, (0, 0, reach, reach), mode="reflect"), taps[None, None, :, None]
    )
