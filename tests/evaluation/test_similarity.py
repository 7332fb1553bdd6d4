"""PSNR, SSIM, RMSE and VIF: against their formulas, and what each must do with noise, blur and contrast."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from scipy.signal import convolve2d

from dicomnode.dicom.series import read_series
from dicomnode.evaluation.similarity import psnr_db, rmse_hu, ssim, vif

Image = NDArray[np.float32]


@pytest.fixture(scope="module")
def scene() -> Image:
    """Soft blobs of -400 to 500 HU: a picture with structure at every scale."""
    rng = np.random.default_rng(1)
    layers = [gaussian_filter(rng.normal(size=(96, 96)), width) * width for width in (1, 3, 8)]
    return np.asarray(300.0 * np.sum(layers, axis=0), np.float32)


def noisy(image: Image, std_hu: float) -> Image:
    return (image + np.random.default_rng(2).normal(0, std_hu, image.shape)).astype(np.float32)


def vif_by_the_paper(image: Image, reference: Image) -> float:
    """Every window summed out in two dimensions, logs to base 2, straight from Sheikh and Bovik."""
    x, y = (np.clip(a, -1024, 1900).astype(np.float64) for a in (reference, image))
    numerator = denominator = 0.0
    for scale in range(1, 5):
        width = 2 ** (5 - scale) + 1
        r, c = np.mgrid[:width, :width] - width // 2
        kernel = np.exp(-(r**2 + c**2) / (2 * (width / 5) ** 2))
        kernel /= kernel.sum()
        if scale > 1:
            x, y = (convolve2d(a, kernel, mode="valid")[::2, ::2] for a in (x, y))
        for row in range(x.shape[0] - width + 1):
            for column in range(x.shape[1] - width + 1):
                a = x[row : row + width, column : column + width]
                b = y[row : row + width, column : column + width]
                da, db = a - (kernel * a).sum(), b - (kernel * b).sum()
                saa, sbb, sab = ((kernel * p).sum() for p in (da * da, db * db, da * db))
                gain = max(sab / saa, 0.0)
                spread = sbb - gain * sab
                numerator += np.log2(1 + gain**2 * saa / (spread + 2.0))
                denominator += np.log2(1 + saa / 2.0)
    return float(numerator / denominator)


def test_vif_is_what_the_formula_says(scene: Image) -> None:
    image = noisy(gaussian_filter(scene, 0.8), 20.0)
    assert vif(image, scene) == pytest.approx(vif_by_the_paper(image, scene), rel=1e-6)
    assert vif(scene, image) == pytest.approx(vif_by_the_paper(scene, image), rel=1e-6)


def test_vif_of_the_same_image_is_one(scene: Image) -> None:
    assert vif(scene, scene) == pytest.approx(1.0, abs=1e-6)
    assert vif(scene + np.float32(30), scene) == pytest.approx(1.0, abs=1e-5)


def test_vif_falls_with_noise_and_with_blur(scene: Image) -> None:
    by_noise = [vif(noisy(scene, std), scene) for std in (0.0, 5.0, 20.0, 60.0)]
    by_blur = [vif(gaussian_filter(scene, width), scene) for width in (0.0, 0.5, 1.0, 2.0)]
    for falling in (by_noise, by_blur):
        assert all(a > b + 0.02 for a, b in pairwise(falling))
        assert falling[-1] < 0.6


def test_vif_exceeds_one_for_contrast(scene: Image) -> None:
    assert vif(1.5 * scene, scene) > 1.02


def test_vif_of_nothing_or_too_little() -> None:
    flat = np.full((64, 64), -1000, np.float32)
    assert np.isnan(vif(flat, flat))
    with pytest.raises(ValueError, match="one shape"):
        vif(flat[:40], flat[:40])
    with pytest.raises(ValueError, match="one shape"):
        vif(flat[:50], flat)


def test_the_smallest_image_that_vif_takes() -> None:
    rng = np.random.default_rng(3)
    image = rng.normal(0, 100, (41, 41)).astype(np.float32)
    assert vif(image, image) == pytest.approx(1.0, abs=1e-6)


def test_a_known_error() -> None:
    target = np.linspace(-900, 900, 64 * 64).reshape(64, 64).astype(np.float32)
    off = target + np.float32(10)
    assert rmse_hu(off, target) == pytest.approx(10.0, rel=1e-5)
    assert psnr_db(off, target) == pytest.approx(20 * np.log10(1800 / 10), rel=1e-5)
    assert psnr_db(target, target) == np.inf
    assert ssim(target, target) == pytest.approx(1.0)


def test_what_lies_beyond_the_span_counts_for_nothing() -> None:
    target = np.linspace(-1000, 1000, 64 * 64).reshape(64, 64).astype(np.float32)
    metal = np.where(target >= 999, 3000, target).astype(np.float32)
    assert rmse_hu(metal, target) == pytest.approx(0.0, abs=0.1)


def test_ssim_in_one_window_is_its_formula() -> None:
    """11 x 11 pixels hold exactly one whole window."""
    rng = np.random.default_rng(4)
    x, y = rng.normal(0, 200, (2, 11, 11)).astype(np.float32)
    r, c = np.mgrid[-5:6, -5:6]
    weights = np.exp(-(r**2 + c**2) / (2 * 1.5**2))
    weights /= weights.sum()
    mx, my = (weights * x).sum(), (weights * y).sum()
    vx, vy, vxy = ((weights * p).sum() for p in ((x - mx) ** 2, (y - my) ** 2, (x - mx) * (y - my)))
    span = float(y.max() - y.min())
    c1, c2 = (0.01 * span) ** 2, (0.03 * span) ** 2
    expected = (2 * mx * my + c1) * (2 * vxy + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))
    assert ssim(x, y) == pytest.approx(expected, rel=1e-5)


def test_a_flat_target_has_no_range() -> None:
    flat = np.zeros((64, 64), np.float32)
    assert np.isnan(psnr_db(noisy(flat, 5), flat))
    assert np.isnan(ssim(noisy(flat, 5), flat))


def test_real_pairs_rank_as_they_must(shared_data: Path) -> None:
    """Half a pixel of blur on a quarter-dose abdomen brings it nearer to the full dose, by every figure."""
    stem = "L192_B30f_3mm_z-206.6_"
    low, full = (
        read_series([shared_data / "pairs" / "mayo" / f"{stem}{dose}.dcm"]).hounsfield[0]
        for dose in ("quarter", "full")
    )
    better = gaussian_filter(low, 0.5)
    for figure in (psnr_db, ssim, vif):
        assert figure(low, full) < figure(better, full) < figure(full, full)
    assert rmse_hu(low, full) > rmse_hu(better, full)
