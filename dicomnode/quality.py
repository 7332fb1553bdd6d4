"""The gate between refine and send: may this image leave?"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter

from dicomnode.physics.noise import NoiseReading, measure_noise
from dicomnode.physics.size import body_mask

TISSUES_HU = {
    "air": (-1100.0, -900.0),
    "lung": (-900.0, -500.0),
    "fat": (-140.0, -60.0),
    "soft": (0.0, 100.0),
}
"""Tissues by the HU of the low-dose image after smoothing, so that noise does not sort the pixels."""

GATED = ("air", "fat", "soft")
LEAST_PIXELS = 500


@dataclass(frozen=True)
class Limits:
    """What the gate allows.

    `on_failure`: `hold` keeps a failed result back, `label` sends it with the reasons.
    """

    max_bias_hu: float = 2.0
    on_failure: Literal["hold", "label"] = "hold"


@dataclass(frozen=True)
class Verdict:
    """`bias_hu`: mean change by tissue, absent where there was too little of it. Reasons are sentences."""

    verdict: Literal["pass", "label", "hold"]
    bias_hu: dict[str, float]
    noise_before_hu: float | None
    noise_after_hu: float | None
    max_change_hu: float
    reasons: tuple[str, ...]


def judge(
    before: NDArray[np.float32],
    after: NDArray[np.float32],
    pixel_mm: float,
    limits: Limits,
    *,
    changed: bool = True,
    padding: NDArray[np.bool_] | None = None,
) -> Verdict:
    """Compare a result with its source, both HU [slice, row, column].

    Fails when a tissue moved by more than `max_bias_hu`, when the noise did not fall although something was
    `changed`, when a value is not finite, or when padding was touched.
    """
    finite = bool(np.isfinite(after).all())
    change = np.where(np.isfinite(after), after - before, 0.0)
    if padding is not None:
        change = np.where(padding, 0.0, change)
    bias = bias_by_tissue(before, change)
    noise = [measure_noise(volume, pixel_mm) if finite else None for volume in (before, after)]
    reasons = [
        f"mean of {t} moved by {bias[t]:+.2f} HU, allowed {limits.max_bias_hu:g}"
        for t in GATED
        if abs(bias.get(t, 0.0)) > limits.max_bias_hu
    ]
    if not finite:
        reasons.append("the result holds values that are not finite")
    reasons += _noise_reasons(noise[0], noise[1], changed)
    return Verdict(
        verdict="pass" if not reasons else limits.on_failure if finite else "hold",
        bias_hu=bias,
        noise_before_hu=noise[0].std_hu if noise[0] else None,
        noise_after_hu=noise[1].std_hu if noise[1] else None,
        max_change_hu=float(np.abs(change).max()),
        reasons=tuple(reasons),
    )


def bias_by_tissue(before: NDArray[np.float32], change: NDArray[np.float32]) -> dict[str, float]:
    """Mean of `change` by tissue of `before`, HU; both [slice, row, column].

    Only inside the patient, but for air, which is around him: the correction there is clipped and easy.
    """
    smooth = np.stack([uniform_filter(image, 5) for image in before])
    inside = body_mask(before)
    bias = {}
    for tissue, (low, high) in TISSUES_HU.items():
        where = (smooth > low) & (smooth < high)
        where &= ~inside if tissue == "air" else inside
        if int(where.sum()) >= LEAST_PIXELS:
            bias[tissue] = float(change[where].mean(dtype=np.float64))
    return bias


def _noise_reasons(before: NoiseReading | None, after: NoiseReading | None, changed: bool) -> list[str]:
    if not changed or before is None or after is None or after.std_hu <= before.std_hu:
        return []
    return [f"noise rose from {before.std_hu:.1f} to {after.std_hu:.1f} HU: nothing was removed"]
