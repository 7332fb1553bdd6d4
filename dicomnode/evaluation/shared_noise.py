"""What two scans of one patient share of their noise: by that one can be brought near to the other, or not.

A lower dose made of a scan by adding noise, in the image or in the projections, still holds the noise of that
scan; two doses measured apart share none.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from dicomnode.evaluation.places import Volume, cut, find_even

SIDE_PX = 24
MOST_PLACES = 40
GRAIN_PX = 2.0
"""Only what is finer than this counts: anatomy, which both show, would look like shared noise."""

LEAST_HU = 0.1
"""A reference with less is none that was measured: rounding alone leaves more."""


@dataclass(frozen=True)
class SharedNoise:
    """Noise of a low dose and of its reference in the same squares: variances, covariance, HU^2."""

    low_hu2: float
    reference_hu2: float
    covariance_hu2: float
    squares: int

    @property
    def share(self) -> float:
        """Of the reference's noise, what the low dose holds too: 1 where all, 0 where independent."""
        return self.covariance_hu2 / self.reference_hu2

    @property
    def added(self) -> float:
        """Variance of the difference, in variances of the reference's noise."""
        return (self.low_hu2 + self.reference_hu2 - 2.0 * self.covariance_hu2) / self.reference_hu2

    @property
    def least_rmse_share(self) -> float:
        """RMSE, over the input's, of the anatomy with the best part of the input's noise left in it.

        The anatomy known exactly, and one part for noise of every grain: a floor for methods that denoise.
        """
        unknown = 1.0 - self.share * self.covariance_hu2 / self.low_hu2
        return float(np.sqrt(max(unknown, 0.0) / self.added))


def shared_noise(low: Volume, reference: Volume) -> SharedNoise | None:
    """Measured in squares of even tissue, both HU [slice, row, column]; None where there is no such square.

    None, too, where the two are one image or the reference has no noise: there is nothing to share.
    """
    places = find_even(reference, SIDE_PX, most=MOST_PLACES)
    if not places:
        return None
    one, other = (_fine(cut(stack, places, SIDE_PX)) for stack in (low, reference))
    if (other * other).mean() < LEAST_HU**2 or np.array_equal(one, other):
        return None
    return SharedNoise(
        float((one * one).mean()), float((other * other).mean()), float((one * other).mean()), len(places)
    )


def all_together(found: Sequence[SharedNoise]) -> SharedNoise | None:
    """Ratios as the mean over all squares, so that a slice with much noise weighs no more than another."""
    if not found:
        return None
    squares = [one.squares for one in found]
    share = float(np.average([one.share for one in found], weights=squares))
    low = float(np.average([one.low_hu2 / one.reference_hu2 for one in found], weights=squares))
    return SharedNoise(low, 1.0, share, sum(squares))


def _fine(squares: Volume) -> NDArray[np.float64]:
    whole = squares.astype(np.float64)
    fine: NDArray[np.float64] = whole - gaussian_filter(whole, (0.0, GRAIN_PX, GRAIN_PX))
    return fine
