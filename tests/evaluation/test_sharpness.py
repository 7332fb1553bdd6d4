"""Sharpness: operators of which the transfer is known."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from dicomnode.appraisal.methods import total_variation as tv
from dicomnode.dicom.series import read_series
from dicomnode.errors import NotMeasurable
from dicomnode.evaluation.insertion import Bars, Disc, Operator, draw, respond, side_for
from dicomnode.evaluation.places import Place, find_even
from dicomnode.evaluation.sharpness import Sharpness, bars_kept, dot_kept, edge_transfer

PIXEL_MM = 0.7
DISC = Disc(diameter_mm=16.0, contrast_hu=100.0, blur_mm=0.6)
PLACES = [Place(k, row, column) for k in range(3) for row in (44, 132) for column in (44, 132)]
Volume = NDArray[np.float32]


def noise(std_hu: float = 25.0) -> Volume:
    rng = np.random.default_rng(7)
    return np.asarray(50 + rng.normal(0, std_hu, (3, 176, 176)), np.float32)


def blur(width_mm: float) -> Operator:
    return lambda image: np.asarray(gaussian_filter(image, width_mm / PIXEL_MM, truncate=6.0), np.float32)


def sharpness(operator: Operator, disc: Disc = DISC) -> Sharpness:
    rng = np.random.default_rng(3)
    responses = respond(operator, noise(), PLACES, disc, PIXEL_MM, rng=rng)
    return edge_transfer(responses, disc, rng=rng)


def half(width_mm: float) -> float:
    """Line pairs per cm at which a Gaussian blur of that width leaves half."""
    return 10 * float(np.sqrt(np.log(2) / 2)) / (np.pi * width_mm)


@pytest.mark.parametrize("width_mm", [0.6, 0.8, 1.2])
def test_a_blur_has_its_mtf50(width_mm: float) -> None:
    found = sharpness(blur(width_mm))
    # pixels blur as a square of their width, which is close to a Gaussian of that variance
    own_mm = np.sqrt(DISC.blur_mm**2 + PIXEL_MM**2 / 12)
    both_mm = float(np.hypot(own_mm, width_mm))
    assert found.operator.frequency_at() == pytest.approx(half(width_mm), rel=0.005)
    assert found.before.frequency_at() == pytest.approx(half(own_mm), rel=0.005)
    assert found.after.frequency_at() == pytest.approx(half(both_mm), rel=0.005)
    assert found.mtf50_change_percent == pytest.approx(100 * (own_mm / both_mm - 1), abs=0.5)
    assert found.contrast_kept == pytest.approx(1.0, abs=0.001)
    low, high = found.interval_percent
    assert low <= found.mtf50_change_percent <= high
    assert high - low < 1.0


def test_the_curve_of_what_is_put_in_reaches_beyond_the_pixels() -> None:
    """A Gaussian times the pixel's own transfer, mean over the directions of the edge."""
    found = sharpness(lambda image: image, Disc(20.0, 100.0, blur_mm=0.25)).before
    f = found.frequency_per_cm
    known = f < 8.0
    direction = np.linspace(0, np.pi, 181)[:-1]
    across = [np.sinc(np.outer(f[known] / 10, PIXEL_MM * axis(direction))) for axis in (np.cos, np.sin)]
    expected = np.exp(-2 * (np.pi * 0.025 * f[known]) ** 2) * (across[0] * across[1]).mean(axis=1)
    np.testing.assert_allclose(found.modulation[known], expected, atol=0.006)


def test_the_whole_curve_of_a_blur() -> None:
    found = sharpness(blur(0.8)).operator
    f = found.frequency_per_cm
    known = f < 5.0
    np.testing.assert_allclose(
        found.modulation[known], np.exp(-2 * (np.pi * 0.08 * f[known]) ** 2), atol=0.015
    )


@pytest.mark.parametrize("diameter_mm", [10.0, 14.0, 24.0])
@pytest.mark.parametrize("contrast_hu", [-300.0, 20.0])
def test_mtf50_of_a_linear_operator_depends_on_no_disc(diameter_mm: float, contrast_hu: float) -> None:
    found = sharpness(blur(0.8), Disc(diameter_mm, contrast_hu, 0.6))
    assert found.operator.frequency_at() == pytest.approx(half(0.8), rel=0.005)


def test_identity_changes_nothing() -> None:
    found = sharpness(lambda image: image)
    assert found.mtf50_change_percent == pytest.approx(0.0, abs=0.01)
    assert found.contrast_kept == pytest.approx(1.0, abs=1e-4)
    assert np.isnan(found.operator.frequency_at())


def test_sharpening_is_seen() -> None:
    def sharpen(image: Volume) -> Volume:
        return np.asarray(image + 0.7 * (image - gaussian_filter(image, 1.2)), np.float32)

    assert sharpness(sharpen).mtf50_change_percent > 15


def test_less_contrast_is_kept_contrast_and_not_sharpness() -> None:
    def scale(image: Volume) -> Volume:
        return np.asarray(0.9 * image + 30, np.float32)

    found = sharpness(scale)
    assert found.contrast_kept == pytest.approx(0.9, abs=1e-3)
    assert found.mtf50_change_percent == pytest.approx(0.0, abs=0.01)
    rng = np.random.default_rng(1)
    dot, bars = Disc(2.0, 80.0), Bars(4.0, 80.0)
    kept = dot_kept(respond(scale, noise(), PLACES, dot, PIXEL_MM, rng=rng))
    assert kept.share == pytest.approx(0.9, abs=1e-4)
    assert kept.error < 1e-4
    assert kept.places == len(PLACES)
    kept = bars_kept(respond(scale, noise(), PLACES, bars, PIXEL_MM, rng=rng), bars)
    assert kept.share == pytest.approx(0.9, abs=1e-4)


@pytest.mark.parametrize("line_pairs_per_cm", [1.5, 2.5, 4.0])
@pytest.mark.parametrize("angle_rad", [0.0, 0.1, 0.8])
def test_bars_keep_what_the_blur_leaves(line_pairs_per_cm: float, angle_rad: float) -> None:
    bars = Bars(line_pairs_per_cm, 100.0, angle_rad=angle_rad, pairs=4)
    responses = respond(
        blur(0.6), noise(), PLACES, bars, PIXEL_MM, rng=np.random.default_rng(1), margin_mm=4.0
    )
    expected = np.exp(-2 * (np.pi * 0.06 * line_pairs_per_cm) ** 2)
    assert bars_kept(responses, bars).share == pytest.approx(expected, rel=0.01)


def test_a_smaller_dot_loses_more() -> None:
    shares = []
    for diameter_mm in (1.5, 3.0, 6.0):
        dot = Disc(diameter_mm, 100.0)
        responses = respond(blur(1.0), noise(), PLACES, dot, PIXEL_MM, rng=np.random.default_rng(1))
        shares.append(dot_kept(responses).share)
    assert shares[0] < shares[1] < shares[2] < 1
    # of a dot far smaller than its blur b, what is left at the middle of the overlap: b^2 / (b^2 + w^2 / 2)
    tiny = Disc(0.8, 100.0, blur_mm=1.5)
    responses = respond(blur(1.5), noise(), PLACES, tiny, PIXEL_MM, rng=np.random.default_rng(1))
    own = 1.5**2 + 0.8**2 / 16 + PIXEL_MM**2 / 12
    assert dot_kept(responses).share == pytest.approx(own / (own + 1.5**2 / 2), rel=0.01)


def test_drawn_objects_have_their_area() -> None:
    side = side_for(DISC, PIXEL_MM)
    at = (np.arange(side) - side // 2) * PIXEL_MM
    down, across = np.meshgrid(at + 0.21, at - 0.13, indexing="ij")
    disc, bars = draw(DISC, down, across, PIXEL_MM), draw(Bars(2.0, 10.0, pairs=3), down, across, PIXEL_MM)
    assert disc.sum() * PIXEL_MM**2 == pytest.approx(100 * np.pi * 64, rel=1e-3)
    assert bars.sum() * PIXEL_MM**2 == pytest.approx(10 * 15 * 7.5, rel=0.01)
    assert disc.max() == pytest.approx(100.0)


def test_background_cancels_for_a_linear_operator() -> None:
    steep = noise() + np.asarray(800 * np.tri(176), np.float32)
    rng = [np.random.default_rng(1) for _ in range(2)]
    flat, other = (
        respond(blur(0.8), volume, PLACES, DISC, PIXEL_MM, rng=r)
        for volume, r in zip((noise(), steep), rng, strict=True)
    )
    np.testing.assert_allclose(flat.came_back, other.came_back, atol=2e-3)


def test_what_cannot_be_measured_is_told() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(NotMeasurable, match="no place"):
        respond(blur(1), noise(), [], DISC, PIXEL_MM, rng=rng)
    with pytest.raises(ValueError, match="overlap"):
        respond(blur(1), noise(), [Place(0, 60, 60), Place(0, 60, 70)], DISC, PIXEL_MM, rng=rng)
    with pytest.raises(ValueError, match="leaves the image"):
        respond(blur(1), noise(), [Place(0, 5, 60)], DISC, PIXEL_MM, rng=rng)
    with pytest.raises(NotMeasurable, match="too short an edge"):
        sharpness(blur(1), Disc(4.0, 100.0))
    sharp = Disc(16.0, 100.0, blur_mm=0.0)
    tight = respond(blur(1), noise(), PLACES, sharp, PIXEL_MM, rng=rng, margin_mm=0.0)
    with pytest.raises(NotMeasurable, match="more margin"):
        edge_transfer(tight, sharp, rng=rng)
    with pytest.raises(NotMeasurable, match="nothing of the disc"):
        sharpness(lambda image: np.zeros_like(image))
    with pytest.raises(ValueError, match="diameter"):
        Disc(0.0, 10.0)
    with pytest.raises(ValueError, match="frequency"):
        Bars(0.0, 10.0)


def test_total_variation_blurs_real_low_contrast_more_than_high(shared_data: Path) -> None:
    """In a quarter-dose abdomen: why the contrast belongs to the figure."""
    path = shared_data / "pairs" / "mayo" / "L286_D45f_3mm_z-365.0_quarter.dcm"
    series = read_series([path])
    pixel_mm = series.pixel_spacing_mm[0]

    def operator(image: Volume) -> Volume:
        return tv(image, 57.0)

    found = []
    for contrast_hu in (60.0, 600.0):
        disc = Disc(12.0, contrast_hu, 0.6)
        places = find_even(series.hounsfield, side_for(disc, pixel_mm))
        rng = np.random.default_rng(0)
        responses = respond(operator, series.hounsfield, places, disc, pixel_mm, rng=rng)
        found.append(edge_transfer(responses, disc, rng=rng))
    low, high = found
    assert low.contrast_kept < high.contrast_kept < 1
    assert low.interval_percent[1] < -20 < high.interval_percent[0]
    assert high.interval_percent[1] < 0
