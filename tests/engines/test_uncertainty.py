"""The spread over seeds: what it is, and that a spread of nothing is refused."""

from dataclasses import replace

import numpy as np
import pytest

from dicomnode.engines.enhance import enhance
from dicomnode.engines.need.engine import NeedEngine
from dicomnode.engines.uncertainty import drawing, draws_on, spread
from dicomnode.errors import NoSpread
from tests.engines.test_enhance import START, engine, stack

pytestmark = pytest.mark.slow

__all__ = ["engine"]
NORMAL = replace(START, step=0, fraction=1.0)
ONE_PASS = replace(START, step=1)


def test_results_with_the_mean_do_not_depend_on_the_seed_and_drawn_ones_do(engine: NeedEngine) -> None:
    x = stack(2)
    assert engine.card.refill == "mean"
    means = [enhance(engine, x, 0.7, [START] * 2, seed).hounsfield for seed in (1, 2)]
    assert np.array_equal(means[0], means[1])
    drawn = [enhance(drawing(engine), x, 0.7, [START] * 2, seed).hounsfield for seed in (1, 2)]
    assert not np.array_equal(drawn[0], drawn[1])


def test_the_spread_is_the_standard_deviation_over_drawn_results(engine: NeedEngine) -> None:
    """Of two seeds as of many: the mean of its square is the variance, whatever the number of seeds."""
    x, runs = stack(2), 24
    others = [enhance(drawing(engine), x, 0.7, [START] * 2, 1000 + s).hounsfield for s in range(runs)]
    variance = np.var(np.stack(others), axis=0, ddof=1, dtype=np.float64)
    assert variance.mean() > 0
    for seeds in (2, runs):
        found = spread(engine, x, 0.7, [START] * 2, seed=5, seeds=seeds)
        assert found.shape == x.shape
        assert (found >= 0).all()
        assert (found.astype(np.float64) ** 2).mean() == pytest.approx(variance.mean(), rel=0.15)


def test_the_same_seed_gives_the_same_spread_and_another_another(engine: NeedEngine) -> None:
    x = stack(3)
    one = spread(engine, x, 0.7, [START] * 3, seed=1, seeds=3)
    assert np.array_equal(one, spread(engine, x, 0.7, [START] * 3, seed=1, seeds=3))
    assert not np.array_equal(one, spread(engine, x, 0.7, [START] * 3, seed=2, seeds=3))


def test_it_is_zero_exactly_where_nothing_is_drawn(engine: NeedEngine) -> None:
    starts = [START, NORMAL, ONE_PASS, START, NORMAL]
    told: list[tuple[str, int, int]] = []
    found = spread(engine, stack(), 0.7, starts, 1, 4, on_slice=lambda *news: told.append(news), batch=2)
    assert [bool(image.any()) for image in found] == [draws_on(engine, start) for start in starts]
    assert [draws_on(engine, start) for start in starts] == [True, False, False, True, False]
    assert told == [("uncertainty", 2, 5), ("uncertainty", 4, 5), ("uncertainty", 5, 5)]


def test_a_spread_that_would_be_zero_everywhere_is_refused(engine: NeedEngine) -> None:
    one_pass = replace(engine, card=engine.card.model_copy(update={"projection_passes": 1}))
    with pytest.raises(NoSpread, match="uncertainty_seeds"):
        drawing(one_pass)
    with pytest.raises(NoSpread):
        spread(one_pass, stack(1), 0.7, [START], 1, 4)
    with pytest.raises(NoSpread, match="normal dose"):
        spread(engine, stack(2), 0.7, [NORMAL, ONE_PASS], 1, 4)
    with pytest.raises(ValueError, match="two seeds"):
        spread(engine, stack(1), 0.7, [START], 1, 1)
