"""What is drawn into training slices: of the contrast and size that is promised, and never noise."""

import numpy as np
import pytest

from dicomnode.learning.objects import CONTRAST_HU, MOST, SHAPES, draw_objects

SIDE = 64
MIDDLE = np.mgrid[:SIDE, :SIDE] - SIDE / 2.0


@pytest.mark.parametrize("seed", range(40))
def test_contrast_is_bounded_and_most_of_the_crop_is_left_alone(seed):
    objects = draw_objects(SIDE, np.random.default_rng(seed))
    assert objects.shape == (SIDE, SIDE)
    assert 0.0 < np.abs(objects).max() <= MOST * CONTRAST_HU[1]


def test_both_signs_and_all_contrasts_come_up():
    rng = np.random.default_rng(1)
    peaks = np.array([max(draw_objects(SIDE, rng).ravel(), key=abs) for _ in range(300)])
    assert 0.2 < (peaks < 0).mean() < 0.6
    assert (np.abs(peaks) < 60).mean() > 0.1
    assert (np.abs(peaks) > 300).mean() > 0.1


@pytest.mark.parametrize("shape", sorted(set(SHAPES), key=lambda shape: shape.__name__))
def test_a_shape_is_a_share_with_sharp_edges(shape):
    rng = np.random.default_rng(2)
    for _ in range(50):
        share = shape(*MIDDLE, rng)
        assert 0.0 <= share.min() <= share.max() <= 1.0
        edge = (share > 0) & (share < 1)
        assert edge.mean() <= 0.5


def test_the_same_seed_draws_the_same():
    one, other = (draw_objects(SIDE, np.random.default_rng(3)) for _ in range(2))
    assert np.array_equal(one, other)
