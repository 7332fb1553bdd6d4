"""What an operator does to edges, bars and dots: the transfer of objects put into real noise."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from dicomnode.errors import NotMeasurable
from dicomnode.evaluation.insertion import Bars, Disc, Responses

BINS_PER_PIXEL = 5
FREQUENCY_STEP_PER_CM = 0.05
LEAST_BEFORE = 0.05
"""Modulation of the object put in, below which nothing is said about the operator."""

DRAWS = 300
LEVEL = 0.95

_Field = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Transfer:
    """Modulation [frequency], 1 at frequency 0, at `frequency_per_cm` [frequency].

    `contrast_hu`: height of the edge that it was read from.
    """

    frequency_per_cm: _Field
    modulation: _Field
    contrast_hu: float

    def frequency_at(self, level: float = 0.5) -> float:
        """Where the modulation first falls below `level`, line pairs per cm (MTF50); NaN: it never does."""
        below = np.flatnonzero(~(self.modulation >= level))
        if not len(below) or not below[0] or np.isnan(self.modulation[below[0]]):
            return float("nan")
        k = below[0]
        high, low = self.modulation[k - 1], self.modulation[k]
        part = (high - level) / (high - low)
        return float(
            self.frequency_per_cm[k - 1] + part * (self.frequency_per_cm[k] - self.frequency_per_cm[k - 1])
        )


@dataclass(frozen=True, eq=False)
class Sharpness:
    """Transfer of a disc before and after an operator, and of the operator alone.

    `mtf50_change_percent` is 0 where it is as sharp as before; `interval_percent` holds it with 95 %
    (bootstrap over the places). `contrast_kept`: height of the edge after over before.
    """

    before: Transfer
    after: Transfer
    operator: Transfer
    mtf50_change_percent: float
    interval_percent: tuple[float, float]
    contrast_kept: float
    places: int


@dataclass(frozen=True)
class Kept:
    """Share of a contrast that an operator kept, with the standard error of the mean over places."""

    share: float
    error: float
    places: int


def edge_transfer(responses: Responses, disc: Disc, *, rng: np.random.Generator) -> Sharpness:
    """Transfer by the circular edge of a disc (Richard et al., Med Phys 39(7), 2012).

    Pixels of all places are sorted by their distance from the middle into bins of a fifth of a pixel; the
    slope of that profile is the line spread, its Fourier transform the transfer. For a denoiser it depends on
    contrast, background and noise (hence "task-based"): say which with the figure. The disc should be ten
    times as wide as it comes back blurred. Raises NotMeasurable for one of less than 8 pixels, without a
    margin around it, or where nothing of it comes back.
    """
    radius_mm, pixel_mm = disc.diameter_mm / 2, responses.pixel_mm
    if radius_mm < 4 * pixel_mm:
        raise NotMeasurable(
            f"a disc of {disc.diameter_mm:g} mm has too short an edge in pixels of {pixel_mm:g} mm: "
            f"take one of {8 * pixel_mm:.1f} mm or more"
        )
    profiles = _Profiles.read(responses, radius_mm)
    everyone = np.arange(len(responses))
    before, after = profiles.transfers(everyone)
    if not after.contrast_hu * disc.contrast_hu > 0:
        raise NotMeasurable("nothing of the disc came back from the operator: it has no edge to measure")
    draws = [
        _change_percent(*profiles.transfers(rng.choice(everyone, len(everyone))))
        for _ in range(DRAWS if len(everyone) > 1 else 0)
    ]
    return Sharpness(
        before,
        after,
        _ratio(after, before),
        _change_percent(before, after),
        _interval(draws),
        after.contrast_hu / before.contrast_hu,
        len(responses),
    )


def bars_kept(responses: Responses, bars: Bars) -> Kept:
    """Modulation kept of a bar pattern: its first harmonic, after over before.

    For a linear operator it is the operator's transfer at the frequency of the bars.
    """
    wave = bars.wave(responses.down_mm, responses.across_mm)
    was = (responses.put_in * wave).sum(axis=(1, 2))
    now = (responses.came_back * wave).sum(axis=(1, 2))
    # in phase with what was put in: noise has no phase, and would only ever add to an amplitude
    return _kept((now * was.conj()).real / np.abs(was) ** 2)


def dot_kept(responses: Responses) -> Kept:
    """Contrast kept of a dot: the multiple of what was put in that fits best what came back."""
    before, back = responses.put_in, responses.came_back
    return _kept((before * back).sum(axis=(1, 2)) / (before**2).sum(axis=(1, 2)))


@dataclass(frozen=True, eq=False)
class _Profiles:
    """Sums over the pixels of each place by their distance from the edge, [place, bin]."""

    pixels: _Field
    before_hu: _Field
    after_hu: _Field
    radius_mm: float
    inner_mm: float
    bin_mm: float

    @cached_property
    def middle_mm(self) -> _Field:
        """Distance of each bin from the middle of the disc, [bin]."""
        numbers = np.arange(self.pixels.shape[1], dtype=np.float64)
        return self.inner_mm + (numbers + 0.5) * self.bin_mm

    @cached_property
    def between_mm(self) -> _Field:
        """Distance of the boundary between two bins from the middle of the disc, [boundary]."""
        boundaries: _Field = 0.5 * (self.middle_mm[1:] + self.middle_mm[:-1])
        return boundaries

    @cached_property
    def frequency_per_cm(self) -> _Field:
        return np.arange(0.0, 10.0 / (4 * self.bin_mm), FREQUENCY_STEP_PER_CM)

    @cached_property
    def waves(self) -> NDArray[np.complex128]:
        """Fourier transform of the line spread as a matrix [frequency, boundary].

        A blurred disc falls by (R / r)^0.5 of what a straight edge does at the distance r - R; bins and their
        differences blur by a bin each; the ends of the spread hold noise alone.
        """
        f_per_mm = self.frequency_per_cm / 10.0
        waves = np.exp(-2j * np.pi * np.outer(f_per_mm, self.between_mm - self.radius_mm))
        straight = np.sqrt(self.between_mm / self.radius_mm) * _taper(len(self.between_mm))
        matrix: NDArray[np.complex128] = waves * straight / np.sinc(f_per_mm * self.bin_mm)[:, None] ** 2
        return matrix

    @staticmethod
    def read(responses: Responses, radius_mm: float) -> "_Profiles":
        bin_mm = responses.pixel_mm / BINS_PER_PIXEL
        side = responses.put_in.shape[1]
        # as far outwards as inwards; the very middle has too few pixels
        reach_mm = min(radius_mm - responses.pixel_mm, (side // 2 - 1) * responses.pixel_mm - radius_mm)
        if reach_mm < 3 * responses.pixel_mm:
            raise NotMeasurable("the squares end too close around the disc: put it in with more margin")
        inner_mm, bins = radius_mm - reach_mm, int(2 * reach_mm / bin_mm)
        distance = np.hypot(responses.down_mm, responses.across_mm)
        where = np.floor((distance - inner_mm) / bin_mm).astype(int)
        used = (where >= 0) & (where < bins)

        def by_bin(values: _Field) -> _Field:
            return np.stack(
                [np.bincount(w[u], v[u], bins) for w, u, v in zip(where, used, values, strict=True)]
            )

        counts = by_bin(np.ones_like(distance))
        return _Profiles(
            counts, by_bin(responses.put_in), by_bin(responses.came_back), radius_mm, inner_mm, bin_mm
        )

    def transfers(self, places: NDArray[np.int64]) -> tuple[Transfer, Transfer]:
        """Before and after, from some of the places."""
        pixels = self.pixels[places].sum(axis=0)
        before, after = (
            self._transfer(pixels, summed[places].sum(axis=0)) for summed in (self.before_hu, self.after_hu)
        )
        return before, after

    def _transfer(self, pixels: _Field, summed_hu: _Field) -> Transfer:
        known = pixels > 0
        profile = np.interp(self.middle_mm, self.middle_mm[known], summed_hu[known] / pixels[known])
        slope_hu = -np.diff(profile)
        spectrum = np.abs(self.waves @ slope_hu)
        height_hu = float(slope_hu @ _taper(len(slope_hu)))
        return Transfer(self.frequency_per_cm, spectrum / (spectrum[0] or np.inf), height_hu)


def _taper(count: int) -> _Field:
    """1 in the middle three quarters, falling as a cosine to 0 at the ends (Tukey)."""
    from_middle = np.abs(np.linspace(-1.0, 1.0, count))
    taper: _Field = 0.5 + 0.5 * np.cos(4 * np.pi * np.maximum(from_middle - 0.75, 0.0))
    return taper


def _ratio(after: Transfer, before: Transfer) -> Transfer:
    """The operator's own transfer, up to where the object holds enough; NaN beyond."""
    enough = np.minimum.accumulate(before.modulation >= LEAST_BEFORE)
    share = np.divide(after.modulation, before.modulation, out=np.full(len(enough), np.nan), where=enough)
    return Transfer(after.frequency_per_cm, share, after.contrast_hu)


def _change_percent(before: Transfer, after: Transfer) -> float:
    return 100.0 * (after.frequency_at() / before.frequency_at() - 1.0)


def _interval(draws: list[float]) -> tuple[float, float]:
    known = [draw for draw in draws if np.isfinite(draw)]
    if len(known) < DRAWS // 2:
        return float("nan"), float("nan")
    low, high = np.quantile(known, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def _kept(shares: _Field) -> Kept:
    count = len(shares)
    error = float(shares.std(ddof=1) / np.sqrt(count)) if count > 1 else float("nan")
    return Kept(float(shares.mean()), error, count)
