"""Photons, noise and size agree with one another: each is measured where another one put it."""

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import ndimage

from dicomnode.physics.geometry import ParallelBeam
from dicomnode.physics.noise import measure_noise, measure_noise_along
from dicomnode.physics.photons import (
    photons_from_dose,
    photons_from_noise,
    photons_per_bin,
    predicted_noise_hu,
)
from dicomnode.physics.simulation import Kernel, log_variance, simulate_noise
from dicomnode.physics.size import body_mask, water_equivalent_diameter_mm

PIXEL_MM = 0.7


def disc(
    diameter_mm: float, value_hu: float = 40.0, side: int = 512, pixel_mm: float = PIXEL_MM
) -> NDArray[np.float32]:
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    inside = np.hypot(x, y) * pixel_mm < diameter_mm / 2
    return np.where(inside, value_hu, -1000.0).astype(np.float32)[None]


@pytest.mark.slow
@pytest.mark.parametrize(("diameter_mm", "cutoff"), [(200, 0.4), (300, 0.6), (300, 1.0)])
def test_noise_law_finds_the_photons_that_were_sent(diameter_mm: float, cutoff: float) -> None:
    image, photons = disc(diameter_mm), 2.0e5
    rng = torch.Generator().manual_seed(3)
    noise = simulate_noise(torch.from_numpy(image), PIXEL_MM, photons, Kernel(cutoff), rng).numpy()
    reading = measure_noise(image + noise, PIXEL_MM)
    assert reading is not None
    found = photons_from_noise(reading.std_hu, diameter_mm, PIXEL_MM, reading.texture)
    assert math.sqrt(found / photons) == pytest.approx(1.0, abs=0.15)


@pytest.mark.parametrize("sigma_px", [0.6, 1.0, 1.4])
def test_a_finer_matrix_is_no_other_dose(sigma_px: float) -> None:
    """The same reconstruction in pixels of half the size: a 1024 matrix."""
    rng = np.random.default_rng(5)
    fine = ndimage.gaussian_filter(rng.normal(0, 1, (1024, 1024)), 2 * sigma_px)
    noise = (15.0 * fine / fine.std()).astype(np.float32)
    found = []
    for shown, pixel_mm in ((noise, PIXEL_MM / 2), (noise[::2, ::2], PIXEL_MM)):
        image = disc(250, side=shown.shape[0], pixel_mm=pixel_mm) + shown[None]
        reading = measure_noise(image, pixel_mm)
        assert reading is not None
        found.append(photons_from_noise(reading.std_hu, 250, pixel_mm, reading.law_texture))
    assert found[0] == pytest.approx(found[1], rel=0.25)


def test_measured_noise_is_the_noise_that_is_there() -> None:
    rng = np.random.default_rng(0)
    image = disc(250, side=256, pixel_mm=1.2) + rng.normal(0, 25, (1, 256, 256)).astype(np.float32)
    reading = measure_noise(image, 1.2)
    assert reading is not None
    assert reading.std_hu == pytest.approx(25.0, rel=0.08)
    assert abs(reading.texture) < 0.1


def test_noise_without_soft_tissue_is_not_guessed() -> None:
    air = np.full((2, 128, 128), -1000.0, np.float32)
    assert measure_noise(air, 1.0) is None
    assert measure_noise_along(air, 1.0) == [None, None]


def test_where_a_neighbourhood_has_no_tissue_the_whole_series_tells_the_noise() -> None:
    rng = np.random.default_rng(2)
    for slices, with_tissue in ((3, 2), (4, 1), (5, 1), (12, 4)):
        stack = np.full((slices, 256, 256), -1000.0, np.float32)
        stack[:with_tissue] = disc(250, side=256, pixel_mm=1.2)
        stack += rng.normal(0, 10, stack.shape).astype(np.float32)
        whole = measure_noise(stack, 1.2)
        assert whole is not None
        along = measure_noise_along(stack, 1.2)
        assert len(along) == slices
        assert along[-1] == whole


@pytest.mark.parametrize("slices", [1, 2, 3, 4, 5, 6, 9])
def test_each_slice_is_read_with_its_neighbours_in_series_of_any_length(slices: int) -> None:
    rng = np.random.default_rng(3)
    levels = np.geomspace(5, 60, slices).astype(np.float32)
    stack = disc(250, side=256, pixel_mm=1.2) + levels[:, None, None] * rng.normal(0, 1, (slices, 256, 256))
    stack = stack.astype(np.float32)
    along = measure_noise_along(stack, 1.2)
    assert along == [measure_noise(stack[max(0, k - 2) : k + 3], 1.2) for k in range(slices)]


def test_noise_along_follows_the_patient() -> None:
    rng = np.random.default_rng(1)
    levels = np.r_[np.full(6, 10.0), np.full(6, 30.0)].astype(np.float32)
    stack = (
        disc(250, side=256, pixel_mm=1.2)
        + rng.normal(0, 1, (12, 256, 256)).astype(np.float32) * levels[:, None, None]
    )
    found = [reading.std_hu for reading in measure_noise_along(stack, 1.2) if reading]
    assert len(found) == 12
    assert found[0] == pytest.approx(10, rel=0.1)
    assert found[-1] == pytest.approx(30, rel=0.1)


def test_four_times_the_photons_half_the_noise() -> None:
    assert predicted_noise_hu(4e5, 300, 0.7, 0.5) == pytest.approx(predicted_noise_hu(1e5, 300, 0.7, 0.5) / 2)


def test_missing_noise_adds_up() -> None:
    """Variance at hand plus the missing one is the variance of the weaker scan."""
    attenuation = torch.linspace(0, 6, 50)
    for fraction in (0.5, 0.25, 0.1):
        whole = log_variance(attenuation, 3e5 * fraction)
        parts = log_variance(attenuation, 3e5) + log_variance(attenuation, 3e5 * fraction, missing_from=3e5)
        assert torch.allclose(whole, parts, rtol=1e-4)


def test_missing_noise_is_the_published_formula() -> None:
    """Zeng et al. 2015: (1-a)/a e^P/N0 (1 + (1+a)/a Ne e^P/N0)."""
    p, n0, a, electronic = torch.tensor([0.0, 2.0, 5.0]), 2.5e5, 0.25, 10.0
    published = (1 - a) / a * torch.exp(p) / n0 * (1 + (1 + a) / a * electronic * torch.exp(p) / n0)
    assert torch.allclose(log_variance(p, a * n0, missing_from=n0), published, rtol=1e-4)


def test_equal_fluence_on_any_grid() -> None:
    coarse, fine = ParallelBeam(512, 720, 736, 1.0), ParallelBeam(512, 1440, 1472, 0.5)
    whole = [photons_per_bin(1e5, b, 0.7) * b.views / (b.pitch_px * 0.7) for b in (coarse, fine)]
    assert whole[0] == pytest.approx(whole[1])


def test_dose_and_thickness_both_count() -> None:
    assert photons_from_dose(8.0, 2.0) == pytest.approx(photons_from_dose(16.0, 1.0))


@pytest.mark.parametrize("value_hu", [0.0, -500.0, 200.0])
def test_water_equivalent_diameter(value_hu: float) -> None:
    """AAPM 220: a cylinder of density k has the diameter of a water cylinder times sqrt(k)."""
    body = disc(300, 0.0)
    core = disc(200, value_hu)
    image = np.where(core > -1000.0, core, body)
    expected = math.sqrt(300**2 - 200**2 + (1 + value_hu / 1000) * 200**2)
    assert water_equivalent_diameter_mm(image, PIXEL_MM)[0] == pytest.approx(expected, rel=0.01)


def test_table_is_not_body() -> None:
    image = disc(250, side=512)
    image[:, 480:484, 100:400] = 100.0
    assert not body_mask(image)[0, 480:484].any()


def test_empty_slice_has_no_size() -> None:
    assert water_equivalent_diameter_mm(np.full((1, 64, 64), -1000.0, np.float32), 1.0)[0] == 0.0
