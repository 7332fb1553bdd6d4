"""Noise power: Parseval, white and filtered noise with known spectra, anatomy that cancels."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.integrate import quad
from scipy.ndimage import gaussian_filter

from dicomnode.dicom.series import read_series
from dicomnode.errors import NotMeasurable
from dicomnode.evaluation.places import Place, cut, find_even
from dicomnode.evaluation.texture import (
    mean_frequency_shift_percent,
    noise_power,
    power_in_difference,
    power_in_places,
)

PIXEL_MM = 0.7
Volume = NDArray[np.float32]


def white(squares: int, side: int, std_hu: float = 20.0, seed: int = 0) -> Volume:
    return np.random.default_rng(seed).normal(0, std_hu, (squares, side, side)).astype(np.float32)


def blurred(noise: Volume, width_px: float) -> Volume:
    return np.stack([gaussian_filter(square, width_px, mode="wrap") for square in noise])


@pytest.mark.parametrize("side", [63, 64])
@pytest.mark.parametrize("width_px", [0.0, 1.5])
def test_its_integral_is_the_variance(side: int, width_px: float) -> None:
    noise = blurred(white(5, side), width_px)
    power = noise_power(noise, PIXEL_MM, trend=0)
    assert power.variance_hu2 == pytest.approx(float(noise.var(axis=(1, 2)).mean()), rel=1e-5)


def test_the_trend_takes_structure_and_hardly_any_noise() -> None:
    noise = white(50, 64)
    at = np.linspace(-1, 1, 64)
    shading = 80 * at[:, None] ** 2 + 50 * at[None, :] * at[:, None] - 30 * at[None, :] + 40
    plain, shaded = (noise_power(n, PIXEL_MM) for n in (noise, noise + shading.astype(np.float32)))
    np.testing.assert_allclose(shaded.density_hu2_cm2, plain.density_hu2_cm2, rtol=1e-3, atol=1e-4)
    assert shaded.variance_hu2 == pytest.approx(400.0, rel=0.02)


def test_white_noise_is_flat() -> None:
    radial = noise_power(white(400, 64), PIXEL_MM).radial()
    # variance times pixel area; 400 squares leave the first rings an error of 2 %
    np.testing.assert_allclose(radial.density_hu2_cm2[1:], 400.0 * 0.07**2, rtol=0.06)
    assert radial.frequency_per_cm[-1] == pytest.approx(1 / (2 * 0.07))
    assert radial.mean_frequency_per_cm == pytest.approx(radial.frequency_per_cm[1:].mean(), rel=0.005)


@pytest.mark.parametrize("width_mm", [0.7, 0.9, 1.2])
def test_filtered_noise_has_its_mean_frequency(width_mm: float) -> None:
    noise = blurred(white(200, 128), width_mm / PIXEL_MM)
    power = noise_power(noise, PIXEL_MM)
    nyquist, step = 1 / 0.14, power.step_per_cm

    def density(f: float) -> float:
        return float(np.exp(-((2 * np.pi * width_mm / 10 * f) ** 2)))

    # the zero frequency is left out, and with it half a step
    low, high = step / 2, nyquist + step / 2
    expected = quad(lambda f: f * density(f), low, high)[0] / quad(density, low, high)[0]
    assert power.radial().mean_frequency_per_cm == pytest.approx(expected, rel=0.01)


def test_the_shift_is_that_of_the_widths() -> None:
    """The mean frequency of Gaussian noise goes with 1 / width."""
    noise = white(100, 128)
    before, after = (noise_power(blurred(noise, w), PIXEL_MM) for w in (1.5, 2.0))
    assert mean_frequency_shift_percent(before, after) == pytest.approx(-25.0, abs=1.5)
    assert mean_frequency_shift_percent(before, before) == 0.0


def test_strength_and_pixel_size_scale_as_they_must() -> None:
    noise = white(20, 64)
    once, twice = noise_power(noise, PIXEL_MM), noise_power(2 * noise, PIXEL_MM)
    assert mean_frequency_shift_percent(once, twice) == pytest.approx(0.0, abs=1e-4)
    assert twice.variance_hu2 == pytest.approx(4 * once.variance_hu2, rel=1e-5)
    wide = noise_power(noise, 2 * PIXEL_MM)
    assert wide.variance_hu2 == pytest.approx(once.variance_hu2, rel=1e-6)
    assert wide.radial().mean_frequency_per_cm == pytest.approx(once.radial().mean_frequency_per_cm / 2)


def test_anatomy_cancels_in_a_difference() -> None:
    y, x = np.mgrid[:128, :128]
    anatomy = (100 * np.sin(x / 5) * np.cos(y / 7) + 50).astype(np.float32)
    noise = blurred(white(60, 128), 1.0)
    places = [Place(k, row, column) for k in range(30) for row in (32, 96) for column in (32, 96)]
    power = power_in_difference(anatomy + noise[:30], anatomy + noise[30:], places, 64, PIXEL_MM)
    alone = power_in_places(noise[:30], places, 64, PIXEL_MM)
    assert power.variance_hu2 == pytest.approx(alone.variance_hu2, rel=0.05)
    assert mean_frequency_shift_percent(alone, power) == pytest.approx(0.0, abs=2.0)


def test_a_difference_keeps_the_coarse_grain_that_a_trend_takes() -> None:
    """In squares as small as fit into a patient: the mean frequency is nearer to theory, from above."""
    noise = blurred(white(80, 96), 2.0)
    places = [Place(k, row, column) for k in range(40) for row in (24, 48, 72) for column in (24, 48, 72)]
    told = power_in_difference(noise[:40], noise[40:], places, 24, PIXEL_MM)
    without_trend = noise_power(cut(noise[:40], places, 24), PIXEL_MM)
    expected = 1 / (2 * np.pi**1.5 * 2.0 * PIXEL_MM / 10)
    found = told.radial().mean_frequency_per_cm
    assert expected < found < without_trend.radial().mean_frequency_per_cm - 0.02 * expected


def test_what_gives_no_spectrum_is_told() -> None:
    with pytest.raises(NotMeasurable, match="needs squares"):
        noise_power(white(0, 64), PIXEL_MM)
    with pytest.raises(NotMeasurable, match="needs squares"):
        noise_power(white(1, 64)[:, :32], PIXEL_MM)
    with pytest.raises(NotMeasurable, match="too small"):
        noise_power(white(2, 7), PIXEL_MM)
    with pytest.raises(NotMeasurable, match="no noise"):
        _ = noise_power(np.zeros((2, 16, 16), np.float32), PIXEL_MM).radial().mean_frequency_per_cm


def test_even_places_avoid_structure_and_each_other() -> None:
    volume = np.full((2, 160, 160), 60.0, np.float32)
    volume[:, :, 80:] = -100.0
    volume[:, 100:108, 20:28] = 140.0
    volume += white(2, 160, 10.0)
    places = find_even(volume, 32)
    assert len(places) >= 4
    for place in places:
        assert place.column + 16 <= 80
        assert not (abs(place.row - 104) < 16 and abs(place.column - 24) < 16)
    corners = [(p.slice, p.row - 16, p.column - 16) for p in places]
    taken = np.zeros(volume.shape, int)
    for k, row, column in corners:
        taken[k, row : row + 32, column : column + 32] += 1
    assert taken.max() == 1
    assert taken.sum() == len(places) * 32 * 32
    assert len(find_even(volume, 32, most=3)) == 3
    assert cut(volume, places, 32).shape == (len(places), 32, 32)
    with pytest.raises(ValueError, match="leaves the image"):
        cut(volume, [Place(0, 10, 80)], 32)


def test_real_noise_of_a_quarter_of_the_dose(shared_data: Path) -> None:
    """Against the difference of the pair, which is nothing but the added noise of the same kernel."""
    stem = "L192_D45f_3mm_z-100.6_"
    full, low = (
        read_series([shared_data / "pairs" / "mayo" / f"{stem}{dose}.dcm"]) for dose in ("full", "quarter")
    )
    pixel_mm = full.pixel_spacing_mm[0]
    places = find_even(full.hounsfield, 32)
    assert len(places) >= 3
    before, after = (power_in_places(s.hounsfield, places, 32, pixel_mm) for s in (full, low))
    added = noise_power(cut(low.hounsfield - full.hounsfield, places, 32), pixel_mm)
    assert after.variance_hu2 == pytest.approx(before.variance_hu2 + added.variance_hu2, rel=0.1)
    assert after.variance_hu2 / before.variance_hu2 == pytest.approx(4.0, rel=0.15)
    assert mean_frequency_shift_percent(added, after) == pytest.approx(0.0, abs=3.0)
    assert mean_frequency_shift_percent(added, before) == pytest.approx(0.0, abs=12.0)
