"""The shifted Poisson process against theory: marginals at every step, the table of start steps."""

import pytest
import torch
from torch import Tensor

from dicomnode.engines.need.poisson import EXTENDED, PUBLISHED, ShiftedPoisson
from dicomnode.engines.start_step import PhotonSchedule

PROCESS = ShiftedPoisson(PhotonSchedule())
STEPS = range(1, 10)
TRANSMISSIONS = (0.0, 0.0036, 0.05, 0.9)
RAYS = 400_000


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def assert_marginal(states: Tensor, y0: float, k: int) -> None:
    """Mean y_0 + s / lambda, variance (lambda y_0 + s) / lambda^2, and the skewness of Poisson counts."""
    photons = float(PROCESS.schedule.photons[k])
    rate = photons * y0 + PROCESS.electronic_variance
    counts = states.double() * photons
    assert counts.mean().item() == pytest.approx(rate, abs=4 * (rate / RAYS) ** 0.5)
    spread = ((2 * rate**2 + rate) / RAYS) ** 0.5
    assert counts.var().item() == pytest.approx(rate, abs=4 * spread)
    third = ((counts - counts.mean()) ** 3).mean().item() / rate**1.5
    assert third == pytest.approx(rate**-0.5, abs=6 * (15 / RAYS) ** 0.5)


@pytest.mark.parametrize("y0", TRANSMISSIONS)
def test_forward_marginals(y0: float) -> None:
    for k in STEPS:
        assert_marginal(PROCESS.forward(torch.full((RAYS,), y0), k, rng(k)), y0, k)


@pytest.mark.parametrize("y0", TRANSMISSIONS)
def test_the_reverse_process_has_the_marginals_of_the_forward_one_at_every_step(y0: float) -> None:
    """Given a perfect prediction, from the noisiest step down: exact, shift included."""
    clean, draw = torch.full((RAYS,), y0), rng(7)
    state = PROCESS.forward(clean, 9, draw)
    for k in range(9, 1, -1):
        state = PROCESS.reverse(state, clean, k, draw)
        assert_marginal(state, y0, k - 1)
    assert torch.equal(PROCESS.reverse(state, clean, 1, draw), clean)


def test_what_is_measured_has_the_marginals_of_its_step_once_it_is_shifted() -> None:
    """Counts and electronic noise of a tenth of the dose, which is step 9 of the schedule."""
    photons, y0 = 25_000.0, 0.0036
    draw = rng(3)
    electronics = torch.randn(RAYS, generator=draw) * PROCESS.electronic_variance**0.5
    counts = torch.poisson(torch.full((RAYS,), photons * y0), generator=draw) + electronics
    state = PROCESS.shifted(counts / photons, photons)
    rate = photons * y0 + PROCESS.electronic_variance
    assert (state * photons).mean().item() == pytest.approx(rate, abs=4 * (rate / RAYS) ** 0.5)
    assert (state * photons).var().item() == pytest.approx(rate, rel=0.01)


def test_the_mean_refill_keeps_the_mean_and_draws_nothing() -> None:
    y0 = torch.full((1000,), 0.05)
    state = PROCESS.forward(y0, 5, rng())
    one, again = (PROCESS.reverse(state, y0, 5) for _ in range(2))
    assert torch.equal(one, again)
    assert (one - y0).mean().item() == pytest.approx(
        (state - y0).mean().item() * PROCESS.schedule.photons[5] / PROCESS.schedule.photons[4], rel=1e-3
    )


def test_a_prediction_below_zero_refills_nothing() -> None:
    state = PROCESS.forward(torch.full((10,), 0.01), 3, rng())
    kept = PROCESS.reverse(state, torch.full((10,), -0.1), 3, rng())
    ratio = PROCESS.schedule.photons[3] / PROCESS.schedule.photons[2]
    assert torch.allclose(kept, state * float(ratio))


@pytest.mark.parametrize("k", range(10))
def test_from_every_step_there_are_k_plus_one_predictions_and_the_last_one_is_the_answer(k: int) -> None:
    truth, asked = torch.full((8, 8), 0.3), []

    def predict(y: Tensor, step: int) -> Tensor:
        asked.append(step)
        return truth

    sampled = PROCESS.sample(predict, PROCESS.forward(truth, k, rng()), k, rng(1))
    assert asked == list(range(k, -1, -1))
    assert torch.equal(sampled, truth)


def test_the_same_seed_gives_the_same_transmission() -> None:
    truth = torch.rand(16, 16, generator=rng())
    start = PROCESS.forward(truth, 9, rng(1))

    def smooth(y: Tensor, step: int) -> Tensor:
        return torch.nn.functional.avg_pool2d(y[None, None], 3, 1, 1)[0, 0]

    one, same, other = (PROCESS.sample(smooth, start, 9, rng(seed)) for seed in (5, 5, 6))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


@pytest.mark.parametrize(("dose", "step"), [(1.0, 0), (0.5, 1), (0.25, 3), (0.125, 7), (0.1, 9), (0.05, 9)])
def test_doses_start_where_the_paper_starts_them(dose: float, step: int) -> None:
    assert PROCESS.schedule.nearest(dose * 2.5e5) == step


@pytest.mark.parametrize(("dose", "step"), [(1.0, 0), (0.5, 1), (0.25, 3), (0.125, 7), (0.1, 9), (0.05, 19)])
def test_the_extended_schedule_goes_on_below_a_tenth_of_the_dose(dose: float, step: int) -> None:
    assert EXTENDED.photons[:10] == pytest.approx(PUBLISHED.photons)
    assert EXTENDED.nearest(dose * 2.5e5) == step
    assert EXTENDED.photons[19] == pytest.approx(0.05 * 2.5e5, rel=0.01)


def test_rays_with_photons_of_their_own_have_the_marginals_of_their_own_level() -> None:
    """A bow-tie: the first ray has a third of the photons of the second, before and after the refill."""
    share, clean = torch.tensor([1 / 3, 1.0]), torch.tensor([0.02, 0.2]).expand(RAYS, 2)
    draw = rng(11)
    state = PROCESS.counted(clean, share * 12_500.0, draw)
    refilled = PROCESS.refilled(state, clean, share * 12_500.0, share * 40_000.0, draw)
    for photons, counts in ((12_500.0, state), (40_000.0, refilled)):
        rate = photons * share * clean[0] + PROCESS.electronic_variance
        found = (counts * share * photons).double()
        assert torch.allclose(found.mean(dim=0).float(), rate, rtol=4 * float((1 / RAYS / rate.min()) ** 0.5))
        assert torch.allclose(found.var(dim=0).float(), rate, rtol=0.02)
