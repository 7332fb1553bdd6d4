"""The observer: against theory on white noise, its interval's promise, and real noise."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from dicomnode.dicom.series import read_series
from dicomnode.errors import NotMeasurable
from dicomnode.evaluation.detectability import Twice, dense_channels, observe, put_discs, square_side
from dicomnode.evaluation.insertion import Disc, draw
from dicomnode.evaluation.places import Place, find_even

PIXEL_MM = 0.7
SIDE = 33
NOISE_HU = 20.0
Volume = NDArray[np.float32]
Field = NDArray[np.float64]


def disc(contrast_hu: float, diameter_mm: float = 6.0, side: int = SIDE) -> Field:
    at = (np.arange(side) - side // 2) * PIXEL_MM
    down, across = np.meshgrid(at, at, indexing="ij")
    return draw(Disc(diameter_mm, contrast_hu), down, across, PIXEL_MM)


def ensembles(signal: Field, images: int, seed: int, noise_hu: float = NOISE_HU) -> tuple[Volume, Volume]:
    rng = np.random.default_rng(seed)
    noise = rng.normal(50, noise_hu, (2, images, *signal.shape))
    return (noise[0] + signal).astype(np.float32), noise[1].astype(np.float32)


def through(channels: Field, signal: Field, noise_hu: float = NOISE_HU) -> float:
    """d' of the ideal observer behind the channels in white noise: what they span of the signal."""
    flat = channels.reshape(len(channels), -1)
    span, _ = np.linalg.qr(flat.T)
    return float(np.linalg.norm(span.T @ signal.ravel()) / noise_hu)


@pytest.mark.parametrize("contrast_hu", [3.0, 8.0, 20.0])
def test_the_matched_template_in_white_noise(contrast_hu: float) -> None:
    signal = disc(contrast_hu)
    expected = float(np.linalg.norm(signal) / NOISE_HU)
    found = [observe(*ensembles(signal, 100, seed), signal[None]) for seed in range(60)]
    # 57 of 60 are expected to hold it; fewer than 52 would be one case in a hundred
    assert sum(one.interval[0] <= expected <= one.interval[1] for one in found) >= 52
    assert np.mean([one.d_prime for one in found]) == pytest.approx(expected, rel=0.03)
    assert all(one.interval[0] < one.d_prime < one.interval[1] for one in found)


def test_dense_channels_see_nearly_all_of_a_disc() -> None:
    for diameter_mm in (3.0, 6.0, 9.0):
        signal = disc(10.0, diameter_mm)
        channels = dense_channels(SIDE)
        expected = through(channels, signal)
        assert 0.9 < expected / (np.linalg.norm(signal) / NOISE_HU) <= 1
        found = observe(*ensembles(signal, 300, 2), channels)
        assert found.interval[0] <= expected <= found.interval[1]


@pytest.mark.parametrize("contrast_hu", [0.0, 6.0])
def test_the_interval_keeps_its_promise_and_the_estimate_is_unbiased(contrast_hu: float) -> None:
    """400 experiments of few images each: 95 % of the intervals hold the truth."""
    signal, channels = disc(contrast_hu, side=15), dense_channels(15, 4)
    expected = through(channels, signal)
    found = [observe(*ensembles(signal, 12, seed), channels) for seed in range(400)]
    held = np.mean([one.interval[0] <= expected <= one.interval[1] for one in found])
    # a truth of 0 can only lie below an interval, never above
    assert held == pytest.approx(0.95 if contrast_hu else 0.975, abs=0.02)
    if contrast_hu:
        # where d'^2 is far from 0 it is seldom cut there
        assert np.mean([one.d_prime**2 for one in found]) == pytest.approx(expected**2, rel=0.08)


def test_affine_grey_scales_change_nothing() -> None:
    present, absent = ensembles(disc(8.0), 100, 3)
    channels = dense_channels(SIDE)
    plain = observe(present, absent, channels)
    other = observe(-0.3 * present + 700, -0.3 * absent + 700, channels)
    assert other.d_prime == pytest.approx(plain.d_prime, rel=1e-4)
    assert other.interval == pytest.approx(plain.interval, rel=1e-4)


def test_more_noise_is_seen_worse_and_more_contrast_better() -> None:
    channels = dense_channels(SIDE)
    noisier = [observe(*ensembles(disc(10.0), 200, 4, n), channels).d_prime for n in (10.0, 20.0, 40.0)]
    fainter = [observe(*ensembles(disc(c), 200, 4), channels).d_prime for c in (20.0, 10.0, 5.0)]
    smaller = [observe(*ensembles(disc(10.0, d), 200, 4), channels).d_prime for d in (9.0, 6.0, 3.0)]
    for falling in (noisier, fainter, smaller):
        assert falling[0] > 1.3 * falling[1] > 1.3 * 1.3 * falling[2]


def test_area_under_the_curve() -> None:
    nothing = observe(*ensembles(disc(0.0), 500, 6), disc(1.0)[None])
    assert nothing.interval[0] == 0.0
    assert nothing.area_under_curve == pytest.approx(0.5, abs=0.05)
    present, absent = ensembles(disc(6.0), 2000, 5)
    template = disc(6.0)
    found = observe(present, absent, template[None])
    answers = [np.tensordot(e, template, 2) for e in (present, absent)]
    picked = float((answers[0][:, None] > answers[1][None, :]).mean())
    assert found.area_under_curve == pytest.approx(picked, abs=0.01)


def test_discs_are_put_into_every_second_place() -> None:
    one = Disc(6.0, 40.0)
    side = square_side(one, PIXEL_MM)
    volume = np.random.default_rng(0).normal(0, 5, (3, 150, 150)).astype(np.float32)
    places = [Place(k, r, c) for k in range(3) for r in (25, 75, 125) for c in (25, 75, 125)]
    calls: list[int] = []

    def halved(image: Volume) -> Volume:
        calls.append(1)
        return np.asarray(0.5 * image, np.float32)

    made = put_discs(halved, volume, places, one, PIXEL_MM)
    assert len(calls) == 3
    assert made.present.shape == (14, side, side)
    assert made.absent.shape == (13, side, side)
    middle = side // 2
    assert made.present[:, middle - 2 : middle + 3, middle - 2 : middle + 3].mean() == pytest.approx(
        20, abs=1
    )
    assert abs(made.absent.mean()) < 0.5


def test_linear_smoothing_does_not_help_and_cannot_harm_an_ideal_observer() -> None:
    """White noise and a blur that can be undone: d' stays, though the noise falls to a quarter."""
    one = Disc(8.0, 12.0)
    side = square_side(one, PIXEL_MM)
    volume = np.random.default_rng(1).normal(0, 20, (10, 260, 260)).astype(np.float32)
    grid = range(side, 260 - side, side)
    places = [Place(k, r, c) for k in range(10) for r in grid for c in grid]

    def smooth(image: Volume) -> Volume:
        return np.asarray(gaussian_filter(image, 1.0), np.float32)

    channels = dense_channels(side)
    plain, smoothed = (
        observe(made.present, made.absent, channels)
        for made in (put_discs(o, volume, places, one, PIXEL_MM) for o in (lambda image: image, smooth))
    )
    assert smoothed.interval[0] < plain.d_prime < smoothed.interval[1]
    assert smoothed.d_prime == pytest.approx(plain.d_prime, rel=0.15)


def twice(signal: Field, channels: Field, places: int, seed: int, own: float) -> tuple[Twice, Twice]:
    """Channel values of white noise with and without a signal; and with noise of a method's own on top."""
    rng = np.random.default_rng(seed)
    flat = channels.reshape(len(channels), -1)
    colour = NOISE_HU * np.linalg.cholesky(flat @ flat.T)
    gap = flat @ signal.ravel()

    def noise() -> Field:
        return np.asarray(rng.normal(size=(places, len(channels))) @ colour.T, np.float64)

    common = noise()
    plain = Twice(common + gap, common)
    return plain, Twice(plain.present + own * noise(), plain.absent + own * noise())


@pytest.mark.parametrize("places", [14, 26])
def test_the_same_places_twice_keep_the_promise_and_the_ratio(places: int) -> None:
    """A method that adds noise of its own: d' falls as the noise rises, and the ratio is not biased."""
    signal, own = disc(12.0, side=15), 0.5
    channels = dense_channels(15)[-6:]
    expected = through(channels, signal)
    lost = 1 / np.sqrt(1 + own**2)
    pairs = [twice(signal, channels, places, seed, own) for seed in range(150)]
    for number, truth in enumerate((expected, expected * lost)):
        found = [pair[number].observe() for pair in pairs]
        assert np.mean([one.d_prime**2 for one in found]) == pytest.approx(truth**2, rel=0.15)
        # 150 intervals of 95 %: fewer than 135 would be one case in a hundred
        assert sum(one.interval[0] <= truth <= one.interval[1] for one in found) >= 135
    ratios = [noisy.over(plain) for plain, noisy in pairs]
    assert np.mean([one.value for one in ratios]) == pytest.approx(lost, rel=0.05)
    assert sum(one.interval[0] <= lost <= one.interval[1] for one in ratios) >= 135


def test_what_can_be_undone_costs_nothing_and_the_ratio_is_sure_of_it() -> None:
    """A blur that can be undone mixes the channels: the observer sees as much, place by place."""
    channels = dense_channels(15)[-6:]
    plain, _ = twice(disc(12.0, side=15), channels, 20, 0, 0.0)
    mix = np.random.default_rng(1).normal(size=(6, 6))
    found = Twice(plain.present @ mix, plain.absent @ mix).over(plain)
    assert (found.value, *found.interval) == pytest.approx((1.0, 1.0, 1.0), abs=1e-6)


def test_ten_places_tell_nothing_through_six_channels() -> None:
    plain, _ = twice(disc(12.0, side=15), dense_channels(15)[-6:], 13, 0, 0.0)
    for told in (plain.observe, lambda: plain.over(plain)):
        with pytest.raises(NotMeasurable, match="13 places are too few for 6 channels"):
            told()


def test_what_cannot_be_told_is_refused() -> None:
    present, absent = ensembles(disc(5.0), 6, 0)
    with pytest.raises(NotMeasurable, match="too few for 10 channels"):
        observe(present, absent, dense_channels(SIDE))
    flat = np.zeros((40, SIDE, SIDE), np.float32)
    with pytest.raises(NotMeasurable, match="independently"):
        observe(flat + disc(5.0).astype(np.float32), flat, dense_channels(SIDE))
    with pytest.raises(NotMeasurable, match="at most one place"):
        put_discs(lambda image: image, flat, [Place(0, 16, 16)], Disc(3.0, 5.0), PIXEL_MM)
    with pytest.raises(ValueError, match="leaves the image"):
        put_discs(lambda image: image, flat, [Place(0, 1, 16)], Disc(3.0, 5.0), PIXEL_MM)


def test_a_quarter_of_the_dose_hides_a_real_disc(shared_data: Path) -> None:
    """Four times the variance is about half the d'. 6 mm, 40 HU, in the even tissue of all sharp pairs."""
    one, pixel_mm = Disc(6.0, 40.0, 0.6), 0.7
    found = []
    stems = sorted({p.name.rsplit("_", 1)[0] for p in (shared_data / "pairs" / "mayo").glob("*D45f*")})
    full, low = (
        np.concatenate(
            [read_series([shared_data / "pairs" / "mayo" / f"{s}_{dose}.dcm"]).hounsfield for s in stems]
        )
        for dose in ("full", "quarter")
    )
    side = square_side(one, pixel_mm)
    places = find_even(full, side)
    for volume in (full, low):
        made = put_discs(lambda image: image, volume, places, one, pixel_mm)
        found.append(observe(made.present, made.absent, dense_channels(side)))
    assert found[1].d_prime < 0.75 * found[0].d_prime
    assert found[1].interval[0] > 0
