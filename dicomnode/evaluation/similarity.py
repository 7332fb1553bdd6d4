"""How alike two images are: PSNR, SSIM, RMSE and VIF."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import correlate1d
from skimage.metrics import structural_similarity

COMPARED_HU = (-1000.0, 1000.0)
"""The span in which images are compared, as the field does (NEED, section 1.11 of its code)."""

VIF_HU = (-1024.0, 1900.0)
"""The span for VIF (Eulig et al., Med Phys 51(12), 2024)."""

VIF_NOISE_HU2 = 2.0
VIF_SCALES = 4
VIF_LEAST_SIDE_PX = 41
_TINY = 1e-10

Image = NDArray[np.float32]
_Field = NDArray[np.float64]

# scikit-image says it is typed, but this one is not
_similarity: Callable[..., float] = structural_similarity


def rmse_hu(image: Image, target: Image) -> float:
    """Root mean square difference of two images of one shape, HU clipped to `COMPARED_HU`."""
    difference = np.clip(image, *COMPARED_HU) - np.clip(target, *COMPARED_HU)
    return float(np.sqrt(np.mean(difference**2, dtype=np.float64)))


def psnr_db(image: Image, target: Image) -> float:
    """Peak signal to noise, dB, over the target's own range; both HU of one shape, clipped to `COMPARED_HU`.

    Infinite for equal images, NaN where the target is flat.
    """
    span, rmse = _span(_clipped(target)), rmse_hu(image, target)
    if not span:
        return float("nan")
    return float(20.0 * np.log10(span / rmse)) if rmse else float("inf")


def ssim(image: Image, target: Image) -> float:
    """Mean structural similarity, 11 x 11 Gaussian of sigma 1.5 (Wang et al., IEEE TIP 13(4), 2004).

    Both HU [row, column], clipped to `COMPARED_HU`; the range is the target's own. NaN where that is flat.
    """
    x, y = _clipped(image), _clipped(target)
    if not _span(y):
        return float("nan")
    return float(
        _similarity(x, y, data_range=_span(y), gaussian_weights=True, sigma=1.5, use_sample_covariance=False)
    )


def vif(image: Image, reference: Image) -> float:
    """Visual information fidelity in the pixel domain, four scales (Sheikh and Bovik, IEEE TIP 15(2), 2006).

    The information that `image` holds about the scene over what `reference` holds of it: 1 for the same
    image, less for noise and blur, more for contrast enhanced without noise. Both HU [row, column], clipped
    to `VIF_HU`; the eye's noise is 2 HU squared. NaN where the reference is flat; ValueError where the shapes
    differ or a side is below 41 pixels.

    The table of Eulig et al. 2024 has the two the other way round (its published code hands the target over
    as the image under test): compare with it as `vif(full_dose, result)`.
    """
    if image.shape != reference.shape or min(image.shape) < VIF_LEAST_SIDE_PX:
        raise ValueError(f"VIF needs two images of one shape, {VIF_LEAST_SIDE_PX} pixels or wider")
    x, y = (np.clip(a, *VIF_HU).astype(np.float64) for a in (reference, image))
    kept = whole = 0.0
    for scale in range(VIF_SCALES):
        window = _window(2 ** (VIF_SCALES - scale) + 1)
        if scale:
            x, y = (_blur(a, window)[::2, ::2] for a in (x, y))
        there, here = _information(x, y, window)
        whole += there
        kept += here
    return kept / whole if whole else float("nan")


def _information(x: _Field, y: _Field, window: _Field) -> tuple[float, float]:
    """Information in the reference x, and in y about it, of one scale (eq. 13 to 16 of the paper)."""
    mean_x, mean_y = _blur(x, window), _blur(y, window)
    var_x = np.maximum(_blur(x * x, window) - mean_x**2, 0.0)
    var_y = np.maximum(_blur(y * y, window) - mean_y**2, 0.0)
    both = _blur(x * y, window) - mean_x * mean_y
    # y is modelled as gain * x + noise; without variance, or with a negative gain, y tells nothing of x
    lost = (var_x < _TINY) | (var_y < _TINY) | (both < 0)
    gain = np.where(lost, 0.0, both / (var_x + _TINY))
    noise = np.where(lost, var_y, np.maximum(var_y - gain * both, _TINY))
    there = np.where(var_x < _TINY, 0.0, np.log1p(var_x / VIF_NOISE_HU2))
    here = np.log1p(gain**2 * var_x / (noise + VIF_NOISE_HU2))
    return float(there.sum()), float(here.sum())


def _window(width: int) -> _Field:
    at = np.arange(width) - width // 2
    weights = np.exp(-0.5 * (at / (width / 5.0)) ** 2)
    window: _Field = weights / weights.sum()
    return window


def _blur(field: _Field, window: _Field) -> _Field:
    """Weighted mean around each pixel whose window lies inside the field."""
    half = len(window) // 2
    rows = correlate1d(field, window, axis=0)[half : len(field) - half]
    blurred: _Field = correlate1d(rows, window, axis=1)[:, half : field.shape[1] - half]
    return blurred


def _clipped(image: Image) -> _Field:
    return np.clip(image, *COMPARED_HU).astype(np.float64)


def _span(image: _Field) -> float:
    return float(image.max() - image.min())
