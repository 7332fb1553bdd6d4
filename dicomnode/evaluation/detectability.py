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

from dicomnode.errors import NotMeasurable
from dicomnode.evaluation.insertion import Disc, Operator, add, draw, side_for
from dicomnode.evaluation.places import Place, Volume, cut

CHANNELS = 10
FIRST_PER_PIXEL = 0.005
STEP = 1.4
BAND = 1.67
"""The dense difference-of-Gaussian channels of Abbey and Barrett, JOSA A 18(3), 2001."""

LEVEL = 0.95

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
    free = sum(images) - count - 1
    if min(images) < 2 or free < 3:
        raise NotMeasurable(
            f"{images[0]} images with the disc and {images[1]} without are too few for {count} channels"
        )
    distance2 = _distance2(*(_seen(ensemble, channels) for ensemble in (present, absent)))
    weight = images[0] * images[1] / sum(images)
    # weight * distance2, rescaled, is noncentral F with noncentrality weight * d'^2
    statistic = free / (count * (free + count - 1)) * weight * distance2
    unbiased2 = ((free - 2) * count / free * statistic - count) / weight
    low, high = (
        (_noncentrality(statistic, count, free, tail) / weight) ** 0.5
        for tail in ((1 + LEVEL) / 2, (1 - LEVEL) / 2)
    )
    return Detectability(max(unbiased2, 0.0) ** 0.5, (low, high), images, count)


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


def _distance2(present: _Field, absent: _Field) -> float:
    """Squared distance of the means in units of the pooled covariance."""
    gap = present.mean(axis=0) - absent.mean(axis=0)
    spread = sum((v - v.mean(axis=0)).T @ (v - v.mean(axis=0)) for v in (present, absent))
    covariance = np.asarray(spread) / (len(present) + len(absent) - 2)
    deviation = np.sqrt(np.diag(covariance))
    if not deviation.all() or np.linalg.matrix_rank(covariance / np.outer(deviation, deviation)) < len(gap):
        raise NotMeasurable("the channels do not vary independently: too little noise or too small squares")
    return float(gap @ np.linalg.solve(covariance, gap))


def _noncentrality(statistic: float, count: int, free: int, tail: float) -> float:
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
