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
LEAST_IN_SLICE = 3000
SORTING_PX = 9


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

    Fails when a tissue moved by more than `max_bias_hu`, in the series or in a single slice, when the noise
    did not fall although something was `changed`, when there was nothing to judge a change by, or when a
    value is not finite. What lies in `padding` is not looked at: it is restored when the result is written.
    """
    finite = bool(np.isfinite(after).all())
    change = np.where(np.isfinite(after), after - before, 0.0)
    if padding is not None:
        change = np.where(padding, 0.0, change)
    tissues = tissue_masks(before)
    bias = _means(change, tissues)
    noise = [measure_noise(volume, pixel_mm) if finite else None for volume in (before, after)]
    reasons = _bias_reasons(change, tissues, bias, limits.max_bias_hu)
    if changed and not bias and noise[0] is None:
        reasons.append("there is neither tissue nor measurable noise to judge the result by")
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


Masks = dict[str, NDArray[np.bool_]]


def tissue_masks(before: NDArray[np.float32]) -> Masks:
    """Where each tissue is, bool [slice, row, column], by the smoothed HU of `before`.

    Inside the patient, but for air, which is around him.
    """
    smooth = np.stack([uniform_filter(image, SORTING_PX) for image in before])
    inside = body_mask(before)
    masks = {}
    for tissue, (low, high) in TISSUES_HU.items():
        where = (smooth > low) & (smooth < high)
        masks[tissue] = where & (~inside if tissue == "air" else inside)
    return masks


def bias_by_tissue(before: NDArray[np.float32], change: NDArray[np.float32]) -> dict[str, float]:
    """Mean of `change` by tissue of `before`, HU; both [slice, row, column]. Too little tissue: no mean."""
    return _means(change, tissue_masks(before))


def _means(change: NDArray[np.float32], tissues: Masks, least: int = LEAST_PIXELS) -> dict[str, float]:
    return {
        tissue: float(change[where].mean(dtype=np.float64))
        for tissue, where in tissues.items()
        if int(where.sum()) >= least
    }


def _bias_reasons(
    change: NDArray[np.float32], tissues: Masks, bias: dict[str, float], allowed_hu: float
) -> list[str]:
    """A sentence for each gated tissue that moved in the whole series, or where it moved most."""
    reasons = []
    by_slice = [
        _means(change[k], {t: where[k] for t, where in tissues.items()}, LEAST_IN_SLICE)
        for k in range(len(change))
    ]
    for tissue in GATED:
        worst = max(range(len(change)), key=lambda k: abs(by_slice[k].get(tissue, 0.0)))
        if abs(bias.get(tissue, 0.0)) > allowed_hu:
            reasons.append(f"mean of {tissue} moved by {bias[tissue]:+.2f} HU, allowed {allowed_hu:g}")
        elif abs(moved := by_slice[worst].get(tissue, 0.0)) > allowed_hu:
            reasons.append(
                f"mean of {tissue} moved by {moved:+.2f} HU in slice {worst + 1}, allowed {allowed_hu:g}"
            )
    return reasons


def _noise_reasons(before: NoiseReading | None, after: NoiseReading | None, changed: bool) -> list[str]:
    if not changed or before is None or after is None or after.std_hu <= before.std_hu:
        return []
    return [f"noise rose from {before.std_hu:.1f} to {after.std_hu:.1f} HU: nothing was removed"]
