"""The gate: what is good passes, what moved, rose or cannot be judged does not."""

import numpy as np
import pytest
from numpy.typing import NDArray

from dicomnode.quality import Limits, bias_by_tissue, judge

SIDE = 160
PIXEL_MM = 2.0
Volume = NDArray[np.float32]


@pytest.fixture(scope="module")
def clean() -> Volume:
    """A body of soft tissue with a ring of fat, in air: HU [slice, row, column]."""
    y, x = np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2
    radius = np.hypot(x, y)
    image = np.where(radius < 50, 50.0, np.where(radius < 68, -100.0, -1000.0))
    return np.repeat(image[None], 12, axis=0).astype(np.float32)


@pytest.fixture(scope="module")
def noisy(clean: Volume) -> Volume:
    noise = np.random.default_rng(0).normal(0, 30, clean.shape)
    return (clean + noise).astype(np.float32)


def better(clean: Volume, noisy: Volume) -> Volume:
    return (clean + 0.5 * (noisy - clean)).astype(np.float32)


def test_less_noise_same_means_passes(clean: Volume, noisy: Volume) -> None:
    verdict = judge(noisy, better(clean, noisy), PIXEL_MM, Limits())
    assert verdict.verdict == "pass"
    assert verdict.reasons == ()
    assert verdict.noise_before_hu == pytest.approx(30, rel=0.1)
    assert verdict.noise_after_hu == pytest.approx(15, rel=0.1)
    assert set(verdict.bias_hu) >= {"air", "fat", "soft"}


@pytest.mark.parametrize(
    ("tissue", "span"), [("soft", (0, 100)), ("fat", (-140, -60)), ("air", (-1100, -900))]
)
def test_a_tissue_that_moved_is_held(
    clean: Volume, noisy: Volume, tissue: str, span: tuple[float, float]
) -> None:
    where = (clean > span[0]) & (clean < span[1])
    after = better(clean, noisy) + np.where(where, 3.0, 0.0).astype(np.float32)
    verdict = judge(noisy, after, PIXEL_MM, Limits())
    assert verdict.verdict == "hold"
    assert any(f"mean of {tissue} moved by +" in reason for reason in verdict.reasons)
    assert judge(noisy, after, PIXEL_MM, Limits(on_failure="label")).verdict == "label"
    assert judge(noisy, after, PIXEL_MM, Limits(max_bias_hu=5.0)).verdict == "pass"


def test_one_slice_among_many_is_enough(clean: Volume, noisy: Volume) -> None:
    after = better(clean, noisy)
    after[7] += 12.0
    verdict = judge(noisy, after, PIXEL_MM, Limits())
    assert verdict.verdict == "hold"
    assert any("in slice 8" in reason for reason in verdict.reasons)


def test_noise_that_rose_is_held(clean: Volume, noisy: Volume) -> None:
    verdict = judge(noisy, clean + 1.2 * (noisy - clean), PIXEL_MM, Limits())
    assert verdict.verdict == "hold"
    assert "nothing was removed" in verdict.reasons[0]


def test_values_that_are_not_finite_are_held_whatever_the_policy(clean: Volume, noisy: Volume) -> None:
    after = better(clean, noisy)
    after[0, 0, 0] = np.nan
    assert judge(noisy, after, PIXEL_MM, Limits(on_failure="label")).verdict == "hold"


def test_what_cannot_be_judged_is_not_passed() -> None:
    nothing = np.full((2, 16, 16), 500.0, np.float32)
    assert judge(nothing, nothing + 1.0, PIXEL_MM, Limits()).verdict == "hold"
    assert judge(nothing, nothing, PIXEL_MM, Limits(), changed=False).verdict == "pass"


def test_padding_is_not_judged(clean: Volume, noisy: Volume) -> None:
    padding = np.zeros(noisy.shape, bool)
    padding[:, :20] = True
    after = better(clean, noisy)
    after[padding] += 1000.0
    assert judge(noisy, after, PIXEL_MM, Limits(), padding=padding).verdict == "pass"


def test_bias_is_the_mean_of_the_change(clean: Volume) -> None:
    change = np.where(clean == 50.0, 1.5, -0.5).astype(np.float32)
    bias = bias_by_tissue(clean, change)
    assert bias["soft"] == pytest.approx(1.5, abs=0.05)
    assert bias["air"] == pytest.approx(-0.5, abs=0.05)
