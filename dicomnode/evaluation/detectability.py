"""How well a faint disc can be told from noise: the channelised Hotelling observer."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import isfinite

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import ndtr
from scipy.stats import f as central_f
from scipy.stats import ncf
from scipy.stats import t as student_t

from dicomnode.errors import NotMeasurable
from dicomnode.evaluation.insertion import Disc, Operator, add, draw, side_for
from dicomnode.evaluation.places import Place, Volume, cut

CHANNELS = 10
FIRST_PER_PIXEL = 0.005
STEP = 1.4
BAND = 1.67
"""The dense difference-of-Gaussian channels of Abbey and Barrett, JOSA A 18(3), 2001."""

LEVEL = 0.95

LEAST_TWICE = 8
"""Places more than channels: with fewer, d' may be wrong by half."""

LEAST_OWN = 0.01
"""Noise of the difference that is reckoned with at the least, in units of the noise of an image."""

_Field = NDArray[np.float64]


@dataclass(frozen=True)
class Detectability:
    """d' without bias, and the interval that holds it with 95 %; `images` with the disc and without.

    d' is the distance of the observer's two mean answers over their standard deviation.
    """

    d_prime: float
    interval: tuple[float, float]
    images: tuple[int, int]
    channels: int

    @property
    def area_under_curve(self) -> float:
        """Share of pairs in which the observer picks the image with the disc: 0.5 is guessing."""
        return float(ndtr(self.d_prime / 2**0.5))


@dataclass(frozen=True)
class Ratio:
    """One d' over another, and the interval that holds it with 95 %."""

    value: float
    interval: tuple[float, float]


@dataclass(frozen=True, eq=False)
class Ensembles:
    """Squares with the disc in their middle and squares without it, HU [square, row, column]."""

    present: Volume
    absent: Volume


def dense_channels(side_px: int, count: int = CHANNELS) -> _Field:
    """Dense difference-of-Gaussian channels around pixel `side_px // 2`, [channel, row, column]."""
    at = np.arange(side_px) - side_px // 2
    radius2 = at[:, None] ** 2.0 + at[None, :] ** 2.0
    widths = FIRST_PER_PIXEL * STEP ** np.arange(count)

    def gaussian(per_pixel: float) -> _Field:
        # exp(-f^2 / 2 w^2) over frequency, as an image
        image: _Field = 2 * np.pi * per_pixel**2 * np.exp(-2 * (np.pi * per_pixel) ** 2 * radius2)
        return image

    return np.stack([gaussian(BAND * width) - gaussian(width) for width in widths])


def observe(present: Volume, absent: Volume, channels: _Field) -> Detectability:
    """d' of the Hotelling observer that sees each image through `channels` [channel, row, column] alone.

    Both ensembles [image, row, column], with noise of their own each: the interval is exact for Gaussian
    channel values (Wunderlich, Noo, Gallas and Heilbrun, IEEE TMI 34(2), 2015), and the estimate is the
    unbiased one of d' squared. Raises NotMeasurable for fewer images than the channels need, or where the
    channels do not vary independently (no noise).
    """
    count, images = len(channels), (len(present), len(absent))
    degrees = sum(images) - 2
    if min(images) < 2 or degrees - count + 1 < 3:
        raise NotMeasurable(
            f"{images[0]} images with the disc and {images[1]} without are too few for {count} channels"
        )
    with_disc, without = (_seen(ensemble, channels) for ensemble in (present, absent))
    gap = with_disc.mean(axis=0) - without.mean(axis=0)
    spread = sum((v - v.mean(axis=0)).T @ (v - v.mean(axis=0)) for v in (with_disc, without))
    covariance = np.asarray(spread) / degrees
    _check_independent(covariance)
    distance2 = float(gap @ np.linalg.solve(covariance, gap))
    estimate = _Estimate(distance2, images[0] * images[1] / sum(images), degrees, count)
    return Detectability(estimate.unbiased2**0.5, estimate.interval(), images, count)


@dataclass(frozen=True, eq=False)
class Twice:
    """Channel values [place, channel] of the same places in the same noise, with the disc and without."""

    present: _Field
    absent: _Field

    @staticmethod
    def seen(present: Volume, absent: Volume, channels: _Field) -> "Twice":
        """`present`, `absent` [place, row, column]; `channels` [channel, row, column]."""
        return Twice(_seen(present, channels), _seen(absent, channels))

    def observe(self) -> Detectability:
        """d' of the Hotelling observer.

        The noise cancels in the difference, so hardly anything but the covariance is uncertain (Wunderlich
        and Noo, IEEE TMI 31(7), 2012, where the means' difference is known); what a method adds of its own
        enters as noise of the difference. Two covariances of the same noise count once. Raises NotMeasurable
        for fewer than `LEAST_TWICE` places more than channels, or channels that do not vary independently.
        """
        self._check_enough()
        places, count = self.present.shape
        estimate = self._estimate(np.ones(places, bool))
        return Detectability(estimate.unbiased2**0.5, estimate.interval(), (places, places), count)

    def over(self, other: "Twice") -> Ratio:
        """d' here over d' of `other`, which holds the same places: what places and noise do to both cancels.

        Interval by the jackknife over the places, on the logarithm; NaN where one of them sees nothing.
        Raises NotMeasurable as `observe` does.
        """
        self._check_enough()
        places = len(self.present)
        kept = ~np.eye(places, dtype=bool)
        everywhere = self._log_over(other, np.ones(places, bool))
        without_one = np.array([self._log_over(other, some) for some in kept])
        error = float(np.sqrt((places - 1) / places * ((without_one - without_one.mean()) ** 2).sum()))
        reach = float(student_t.ppf((1 + LEVEL) / 2, places - 1)) * error
        return Ratio(float(np.exp(everywhere)), (_exp(everywhere - reach), _exp(everywhere + reach)))

    def _check_enough(self) -> None:
        places, count = self.present.shape
        if places - count < LEAST_TWICE:
            raise NotMeasurable(f"{places} places are too few for {count} channels")

    def _log_over(self, other: "Twice", some: NDArray[np.bool_]) -> float:
        here, there = (one._estimate(some).unbiased2 for one in (self, other))
        return 0.5 * float(np.log(here / there)) if here > 0 and there > 0 else float("nan")

    def _estimate(self, some: NDArray[np.bool_]) -> "_Estimate":
        present, absent = self.present[some], self.absent[some]
        places, count = present.shape
        covariance = 0.5 * (np.atleast_2d(np.cov(present.T)) + np.atleast_2d(np.cov(absent.T)))
        _check_independent(covariance)
        gaps = present - absent
        gap = gaps.mean(axis=0)
        distance2 = float(gap @ np.linalg.solve(covariance, gap))
        # noise of the difference in units of that of an image: 0 for a linear method, 2 for independent noise
        own = float(np.trace(np.linalg.solve(covariance, np.atleast_2d(np.cov(gaps.T))))) / count
        own = min(max(own * (places - count - 2) / (places - 1), LEAST_OWN), 2.0)
        # two covariances of noises so correlated know as much as one of so many degrees of freedom
        degrees = 2 * (places - 1) / (1 + (1 - own / 2) ** 2)
        return _Estimate(distance2, places / own, degrees, count)


@dataclass(frozen=True)
class _Estimate:
    """A squared distance of two means by `weight` images and a covariance of `degrees` of freedom."""

    distance2: float
    weight: float
    degrees: float
    count: int

    @property
    def _free(self) -> float:
        return self.degrees - self.count + 1

    @property
    def _statistic(self) -> float:
        """`weight` times the squared distance, rescaled: noncentral F with noncentrality weight * d'^2."""
        return self._free / (self.count * self.degrees) * self.weight * self.distance2

    @property
    def unbiased2(self) -> float:
        """d'^2, 0 or more."""
        free, count = self._free, self.count
        return max(((free - 2) * count / free * self._statistic - count) / self.weight, 0.0)

    def interval(self) -> tuple[float, float]:
        low, high = (
            (_noncentrality(self._statistic, self.count, self._free, tail) / self.weight) ** 0.5
            for tail in ((1 + LEVEL) / 2, (1 - LEVEL) / 2)
        )
        return low, high


def put_discs(
    operator: Operator, hounsfield: Volume, places: Sequence[Place], disc: Disc, pixel_mm: float
) -> Ensembles:
    """What an operator makes of even tissue, with the disc in every second place and without it elsewhere.

    `hounsfield` [slice, row, column]; the operator runs once a slice. The disc lies on the middle of its
    place. Places (`places.find_even`) should not overlap within `square_side`: what differs between the
    ensembles is then the disc and independent noise.
    """
    side, drawn = square_side(disc, pixel_mm), centred(disc, pixel_mm)
    ordered = sorted(places)
    chosen = set(ordered[::2])
    squares: dict[bool, list[Volume]] = {True: [], False: []}
    for number in sorted({place.slice for place in ordered}):
        here = [replace(place, slice=0) for place in ordered if place.slice == number]
        holds = [replace(place, slice=number) in chosen for place in here]
        image = hounsfield[number]
        cut(image[None], here, side)  # refuses squares that leave the image
        marked = [place for place, held in zip(here, holds, strict=True) if held]
        out = operator(add(image, marked, np.broadcast_to(drawn, (len(marked), side, side))))
        for held, square in zip(holds, cut(out[None], here, side), strict=True):
            squares[held].append(square)
    if not squares[True] or not squares[False]:
        raise NotMeasurable("an observer needs places with and without the disc: there is at most one place")
    return Ensembles(np.stack(squares[True]), np.stack(squares[False]))


def centred(disc: Disc, pixel_mm: float) -> _Field:
    """The disc in the middle of its square, HU [row, column]."""
    side = square_side(disc, pixel_mm)
    at = (np.arange(side) - side // 2) * pixel_mm
    down, across = np.meshgrid(at, at, indexing="ij")
    return draw(disc, down, across, pixel_mm)


def square_side(disc: Disc, pixel_mm: float) -> int:
    """Side in pixels of the square that an observer of this disc looks at: the disc and half of it around."""
    return side_for(disc, pixel_mm, margin_mm=disc.diameter_mm / 2)


def _seen(images: Volume, channels: _Field) -> _Field:
    """Channel values, [image, channel]."""
    return np.asarray(np.tensordot(images.astype(np.float64), channels, ([1, 2], [1, 2])), np.float64)


def _check_independent(covariance: _Field) -> None:
    deviation = np.sqrt(np.diag(covariance))
    rank = np.linalg.matrix_rank(covariance / np.outer(deviation, deviation)) if deviation.all() else 0
    if rank < len(covariance):
        raise NotMeasurable("the channels do not vary independently: too little noise or too small squares")


def _exp(value: float) -> float:
    return float(np.exp(value))


def _noncentrality(statistic: float, count: int, free: float, tail: float) -> float:
    """The noncentrality under which so small a statistic has the probability `tail`; 0 where none has."""
    if central_f.cdf(statistic, count, free) <= tail:
        return 0.0

    def miss(noncentrality: float) -> float:
        below = float(ncf.cdf(statistic, count, free, noncentrality))
        return (below if isfinite(below) else 0.0) - tail

    upper = count * statistic + 10.0
    while miss(upper) > 0:
        upper *= 2
    return float(brentq(miss, 0.0, upper, rtol=1e-8))
