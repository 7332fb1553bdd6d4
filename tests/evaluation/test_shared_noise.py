"""What two doses share of their noise: nothing if both were measured, all if one was made of the other."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from dicomnode.appraisal.pairs import match_pairs
from dicomnode.evaluation.shared_noise import all_together, shared_noise

Volume = NDArray[np.float32]


def grain(seed: int, std_hu: float) -> Volume:
    noise = gaussian_filter(np.random.default_rng(seed).normal(0, 1, (2, 160, 160)), (0, 0.8, 0.8))
    return (noise * (std_hu / noise.std())).astype(np.float32)


@pytest.mark.parametrize(
    ("shares", "added", "floor"), [(1.0, 3.0, np.sqrt(0.75 / 3)), (0.0, 5.0, np.sqrt(1 / 5))]
)
def test_a_quarter_dose_shares_all_of_the_noise_or_none(shares: float, added: float, floor: float) -> None:
    """Variance 4 against 1: missing noise of variance 3 on top of the reference's own, or 4 of its own."""
    own = grain(1, 10.0)
    reference = 50.0 + own
    low = reference + grain(2, 10.0 * np.sqrt(3)) if shares else 50.0 + grain(3, 20.0)
    found = shared_noise(np.asarray(low, np.float32), reference)
    assert found is not None
    assert found.share == pytest.approx(shares, abs=0.06)
    assert found.added == pytest.approx(added, rel=0.05)
    assert found.least_rmse_share == pytest.approx(floor, abs=0.02)


def test_nothing_is_told_of_one_image_and_where_nothing_is_even() -> None:
    reference = 50.0 + grain(1, 10.0)
    assert shared_noise(reference, reference) is None
    assert shared_noise(reference, np.full_like(reference, 50.0)) is None
    assert shared_noise(reference, reference - 900.0) is None
    assert all_together([]) is None


def test_the_mayo_pairs_share_most_of_it(shared_data: Path) -> None:
    """Their quarter dose was made by noise inserted into the projections of the full dose."""
    folder = shared_data / "pairs" / "mayo"
    pairs = match_pairs(folder, folder).pairs
    found = [shared_noise(pair.low.hounsfield, pair.full.hounsfield) for pair in pairs]
    known = all_together([one for one in found if one])
    assert known is not None
    assert 0.75 < known.share < 0.95
    assert known.added < 4.0
