"""Noise by frequency and by place: what is measured is what was put in."""

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import ndimage

from dicomnode.dicom.series import read_series
from dicomnode.physics.geometry import ParallelBeam
from dicomnode.physics.projection import frequencies_per_px
from dicomnode.physics.simulation import Kernel, MeasuredKernel, draw_rays, simulate_noise
from dicomnode.physics.spectrum import (
    PATCH_PX,
    Patch,
    flat_patches,
    level_by_place,
    noise_power,
    with_gain,
)


def white(std_hu: float, side: int = 192, slices: int = 2) -> NDArray[np.float32]:
    rng = np.random.default_rng(0)
    return (std_hu * rng.standard_normal((slices, side, side))).astype(np.float32)


def everywhere(volume: NDArray[np.float32]) -> list[Patch]:
    steps = range(0, volume.shape[1] - PATCH_PX, PATCH_PX)
    return [Patch(k, y, x) for k in range(len(volume)) for y in steps for x in steps]


def test_white_noise_has_its_variance_at_every_frequency() -> None:
    noise = white(10.0)
    power = noise_power(noise, everywhere(noise)).power
    # below two cycles a patch the trends that were taken out are missing
    assert power[3:] == pytest.approx(np.full(len(power) - 3, 100.0), rel=0.15)


def test_flat_patches_are_where_nothing_but_noise_is() -> None:
    volume = np.full((1, 128, 128), -1000.0, np.float32)
    volume[:, 16:112, 16:112] = 50.0
    volume[:, 60:64, 16:112] = 150.0
    patches = flat_patches(volume + white(8.0, 128, 1), most=20)
    assert patches
    for patch in patches:
        square = patch.of(volume)
        assert square.min() == square.max() == 50.0


def test_a_series_of_air_has_no_flat_tissue() -> None:
    assert flat_patches(np.full((2, 64, 64), -1000.0, np.float32)) == []


def test_highest_finds_the_share_of_the_peak() -> None:
    noise = np.stack([ndimage.gaussian_filter(image, 1.0) for image in white(50.0)])
    power = noise_power(noise, everywhere(noise))
    # the power of a Gaussian of one pixel is exp(-4 pi^2 f^2): a tenth at 0.24
    assert power.highest(0.1) == pytest.approx(0.24, abs=1.5 / PATCH_PX)
    assert power.highest(0.5) < power.highest(0.1)


def test_gain_of_one_changes_nothing() -> None:
    noise = white(20.0)[0]
    assert with_gain(noise, np.ones((12, 12)), (0.2, 0.4)) == pytest.approx(noise, abs=1e-3)


def test_gain_acts_on_fine_grain_and_place_alone() -> None:
    noise = white(20.0)[0]
    gain = np.ones((12, 12))
    gain[:, 6:] = 3.0
    out = with_gain(noise, gain, (0.25, 0.35))
    fine, coarse = (level_by_place(out, per_px) / level_by_place(noise, per_px) for per_px in (0.5, 0.1))
    assert fine[:, :5].mean() == pytest.approx(1.0, abs=0.05)
    assert fine[:, 7:].mean() == pytest.approx(3.0, rel=0.1)
    assert coarse.mean() == pytest.approx(1.0, abs=0.1)


def test_level_by_place_overlooks_anatomy() -> None:
    noise = white(10.0)[0]
    anatomy = np.zeros_like(noise)
    anatomy[40:150, 60:130] = 900.0
    anatomy = ndimage.gaussian_filter(anatomy, 1.5)
    alone, together = level_by_place(noise, 0.45), level_by_place(noise + anatomy, 0.45)
    assert np.median(together) == pytest.approx(np.median(alone), rel=0.05)


def test_a_measured_kernel_is_the_kernel_it_was_measured_from() -> None:
    beam, kernel = ParallelBeam(128, 180, 370, 0.5), Kernel(0.6)
    frequencies = frequencies_per_px(beam).numpy()
    order = np.argsort(frequencies)
    copy = MeasuredKernel(frequencies[order].astype(float), kernel.window(beam).numpy()[order].astype(float))
    assert torch.allclose(copy.window(beam), kernel.window(beam), atol=1e-5)


def test_rays_drawn_once_serve_every_kernel() -> None:
    disc = torch.zeros(1, 64, 64)
    rays = draw_rays(disc, 1.0, 1e5, torch.Generator().manual_seed(7))
    seen = simulate_noise(disc, 1.0, 1e5, Kernel(0.6), torch.Generator().manual_seed(7))
    assert torch.equal(rays.reconstructed(Kernel(0.6)), seen)
    assert float(rays.reconstructed(Kernel(0.3)).std()) < float(seen.std())


@pytest.mark.parametrize("tissue_hu", [(-1010.0, -990.0), (0.0, 120.0)])
@pytest.mark.parametrize("kernel", ["B30f", "D45f"])
def test_a_real_quarter_dose_adds_about_three_times_the_power(
    shared_data: Path, kernel: str, tissue_hu: tuple[float, float]
) -> None:
    """What the simulated scans rest on, on AAPM-Mayo pairs.

    Three in theory; more where electronic noise counts, less in air, whose noise is cut off at -1024 HU.
    """
    low, full = [], []
    for path in sorted((shared_data / "pairs" / "mayo").glob(f"*{kernel}*quarter.dcm")):
        for volume, name in ((low, path.name), (full, path.name.replace("quarter", "full"))):
            volume.append(read_series([path.with_name(name)]).hounsfield[0])
    own, added = np.stack(full), np.stack(low) - np.stack(full)
    patches = flat_patches(own, most=100, tissue_hu=tissue_hu)
    powers = [noise_power(volume, patches).power[4:14] for volume in (added, own)]
    ratio = powers[0] / powers[1]
    assert ratio.min() > 2.0
    assert ratio.max() < 5.0
    assert 2.3 < powers[0].sum() / powers[1].sum() < 4.0
