"""The reverse processes: marginals against theory, bounds kept, identity where there is nothing to do."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dicomnode.engines.bounds import bounded
from dicomnode.engines.need import dgdiff, spdiff
from dicomnode.engines.start_step import PhotonSchedule, StartStep
from dicomnode.engines.unet import UNet, UNetShape
from dicomnode.physics.simulation import Kernel, simulate_noise

SCHEDULE = PhotonSchedule()
PIXEL_MM = 0.7
START = StartStep(9, 25000.0, 0.1, 60.0, 0.5, "noise", None)


class Removes(UNet):
    """Answers with a fixed noise estimate, in units of the noise level."""

    def __init__(self, answer: Tensor) -> None:
        super().__init__(UNetShape(dgdiff.CHANNELS, (1,), 1))
        self.answer = answer

    def forward(self, x: Tensor, conditions: Tensor) -> Tensor:
        return self.answer.expand(len(x), 1, *x.shape[-2:])


class Steered(Removes):
    """Answers by what it sees and by how it is steered."""

    def __init__(self) -> None:
        super().__init__(torch.zeros(1))

    def forward(self, x: Tensor, conditions: Tensor) -> Tensor:
        return 0.2 * x[:, 1:2] + 0.1 * conditions.mean(dim=1)[:, None, None, None]


def pair(x: Tensor) -> Tensor:
    """Neighbours of [1, row, column] that say nothing: the slice itself, twice."""
    return x[:, None].expand(-1, 2, -1, -1)


@pytest.mark.parametrize("k", range(1, 10))
def test_refill_gives_the_marginal_of_the_next_step(k: int) -> None:
    """lambda_k y_k ~ Poisson(lambda_k y_0); with the true y_0 the refill is Poisson(lambda_{k-1} y_0)."""
    rng = torch.Generator().manual_seed(k)
    now, then = float(SCHEDULE.photons[k]), float(SCHEDULE.photons[k - 1])
    y0 = torch.full((400_000,), 0.05)
    counts = torch.poisson(now * y0, generator=rng)
    y = spdiff.refill(-torch.log(counts / now), -torch.log(y0), now, then, rng)
    transmission = torch.exp(-y).double()
    assert float(transmission.mean()) == pytest.approx(0.05, rel=2e-3)
    assert float(transmission.var()) == pytest.approx(0.05 / then, rel=0.02)


def test_refill_with_the_mean_shrinks_towards_the_estimate() -> None:
    y, yhat0 = torch.tensor([2.1, 1.9]), torch.tensor([2.0, 2.0])
    out = torch.exp(-spdiff.refill(y, yhat0, 1e5, 4e5))
    assert torch.allclose(out, 0.25 * torch.exp(-y) + 0.75 * torch.exp(-yhat0), rtol=1e-5)


def test_starved_rays_stay_finite() -> None:
    y = torch.tensor([50.0, 0.0, -1.0])
    assert torch.isfinite(spdiff.refill(y, y, 1e3, 2e3)).all()


def test_thinning_keeps_the_share_that_stays() -> None:
    """What belongs to the normal dose is untouched: sigma^2 fraction is invariant."""
    after = spdiff.thinned(START, 0.5)
    assert after.noise_hu**2 * after.fraction == pytest.approx(START.noise_hu**2 * START.fraction)
    assert after.photons * after.noise_hu**2 == pytest.approx(START.photons * START.noise_hu**2)
    assert after.noise_hu < START.noise_hu


@pytest.mark.parametrize("passes", [1, 2, 4])
def test_every_pass_count_ends_at_the_estimate(passes: int) -> None:
    x = torch.randn(1, 16, 16, generator=torch.Generator().manual_seed(0)) * 60
    nothing = Removes(torch.zeros(1))
    assert torch.allclose(dgdiff.refine(nothing, x, x, pair(x), [START], SCHEDULE, passes), x)
    a = torch.rand(1, 12, 20, generator=torch.Generator().manual_seed(1)) * 4
    assert torch.allclose(spdiff.clean(nothing, a, [START], SCHEDULE, passes, 0.7), a, atol=1e-4)


def test_slices_that_walk_together_go_where_each_goes_alone() -> None:
    """Each with noise, photons and texture of its own; only the step is shared."""
    rng = torch.Generator().manual_seed(3)
    starts = [
        replace(START, noise_hu=START.noise_hu * by, photons=START.photons / by) for by in (0.8, 1.0, 1.3)
    ]
    steered = Steered()
    x, prior = (40 * torch.randn(3, 16, 16, generator=rng) for _ in range(2))
    together = dgdiff.refine(steered, x, prior, pair(x), starts, SCHEDULE, 3)
    a = 4 * torch.rand(3, 12, 20, generator=rng)
    cleaned = spdiff.clean(steered, a, starts, SCHEDULE, 3, 0.7)
    for k, start in enumerate(starts):
        only = slice(k, k + 1)
        alone = dgdiff.refine(steered, x[only], prior[only], pair(x[only]), [start], SCHEDULE, 3)
        assert torch.allclose(together[only], alone, atol=1e-3)
        one = spdiff.clean(steered, a[only], [start], SCHEDULE, 3, 0.7)
        assert torch.allclose(cleaned[only], one, atol=1e-5)
    assert not torch.allclose(together[0] - prior[0], together[1] - prior[1], atol=0.1)


def test_several_steps_cannot_walk_together() -> None:
    x = torch.zeros(2, 16, 16)
    starts = [START, replace(START, step=START.step - 1)]
    with pytest.raises(ValueError, match="several steps"):
        dgdiff.refine(Removes(torch.zeros(1)), x, x, pair(x), starts, SCHEDULE, 2)


def test_step_zero_changes_nothing() -> None:
    x = torch.randn(1, 16, 16) * 60
    everything = Removes(torch.ones(1))
    normal = replace(START, step=0)
    assert torch.equal(dgdiff.refine(everything, x, x, pair(x), [normal], SCHEDULE, 4), x)
    assert torch.equal(spdiff.clean(everything, x, [normal], SCHEDULE, 4, 0.7), x)


def test_same_seed_same_image_drawn_or_not() -> None:
    a = torch.rand(1, 12, 20, generator=torch.Generator().manual_seed(1)) * 4
    network = Removes(torch.full((1,), 0.01))

    def once(seed: int) -> Tensor:
        return spdiff.clean(network, a, [START], SCHEDULE, 3, 0.7, torch.Generator().manual_seed(seed))

    assert torch.equal(once(1), once(1))
    assert not torch.equal(once(1), once(2))


def test_network_answers_at_any_size_and_starts_as_identity() -> None:
    network = UNet(UNetShape(3, (8, 16, 16), 3)).eval()
    x = torch.randn(2, 3, 37, 50)
    answer = network(x, torch.zeros(2, 3))
    assert answer.shape == (2, 1, 37, 50)
    assert float(answer.detach().abs().max()) == 0.0


def noise_image(seed: int, side: int = 128) -> Tensor:
    white = torch.randn(1, 1, side + 4, side + 4, generator=torch.Generator().manual_seed(seed))
    return nn.functional.avg_pool2d(white, 5, stride=1)[0] * 150


def test_bound_passes_noise_and_keeps_the_mean() -> None:
    noise = noise_image(0)
    low_dose = noise + 40.0
    out = bounded(low_dose, low_dose - noise - 7.0, PIXEL_MM)
    assert float(out.std()) < 0.4 * float(low_dose.std())
    assert abs(float((out - low_dose).mean())) < 0.8  # of the 7 HU that were proposed


def disc(radius_px: float, side: int = 128) -> Tensor:
    y, x = torch.meshgrid(*2 * [torch.arange(side) - side / 2], indexing="ij")
    return (torch.hypot(x, y) < radius_px).float()[None]


def mean_over(spot: Tensor, image: Tensor) -> float:
    return float((image * spot).sum() / spot.sum())


FIELD_MM = 128.0


def shapes(pixel_mm: float) -> list[Tensor]:
    """Discs as small as a nodule and as large as an organ's section, and vessels of any length."""
    side = round(FIELD_MM / pixel_mm)
    x = (torch.arange(side) - side / 2).abs().expand(1, side, side)
    diameters_mm, widths_mm = (2.0, 3.0, 5.0, 9.0, 14.0, 30.0, 40.0), (2.0, 5.0, 10.0)
    discs = [disc(0.5 * diameter_mm / pixel_mm, side) for diameter_mm in diameters_mm]
    return discs + [(x < 0.5 * width_mm / pixel_mm).float() for width_mm in widths_mm]


@pytest.mark.slow
@pytest.mark.parametrize("cutoff_per_px", [0.4, 0.8])
@pytest.mark.parametrize("pixel_mm", [0.5, 0.7, 1.0])
@pytest.mark.parametrize(
    ("deviations", "kept", "drawn"), [(3, 0.30, 0.85), (5, 0.50, 0.60), (10, 0.65, 0.35)]
)
def test_a_spot_is_neither_erased_nor_drawn(
    cutoff_per_px: float, pixel_mm: float, deviations: float, kept: float, drawn: float
) -> None:
    """The figures of the README: an engine that takes away all noise, and a spot with it, or draws one."""
    for spot in shapes(pixel_mm):
        stays, comes = [], []
        for noise, plain in draws(pixel_mm, cutoff_per_px):
            contrast = deviations * float(noise.std())
            erased = bounded(noise + contrast * spot, torch.zeros_like(noise), pixel_mm)
            invented = bounded(noise, contrast * spot, pixel_mm)
            stays.append(mean_over(spot, erased - plain) / contrast)
            comes.append(mean_over(spot, invented - plain) / contrast)
        assert np.mean(stays) >= kept
        assert np.mean(comes) <= drawn


@cache
def draws(pixel_mm: float, cutoff_per_px: float) -> list[tuple[Tensor, Tensor]]:
    """Noise of a scan of water, and what the bound leaves of it when all of it is to go."""
    side = round(FIELD_MM / pixel_mm)
    water, pairs = torch.zeros(1, side, side), []
    for seed in range(6):
        rng = torch.Generator().manual_seed(seed)
        noise = simulate_noise(water, pixel_mm, 1e5, Kernel(cutoff_per_px), rng)
        pairs.append((noise, bounded(noise, torch.zeros_like(noise), pixel_mm)))
    return pairs


@pytest.mark.slow
def test_a_spot_does_not_raise_its_own_limit() -> None:
    """The more there is of it, the less of its share may go, also of one as large as a kidney."""
    noise, spot = noise_image(1, 192) * 0.33, disc(20.0, 192)
    shares = []
    for deviations in (5.0, 20.0, 80.0):
        contrast = deviations * float(noise.std())
        out = bounded(noise + contrast * spot, torch.zeros_like(noise), PIXEL_MM)
        shares.append(mean_over(spot, out) / contrast)
    assert shares == sorted(shares)


@pytest.mark.slow
def test_bounds_are_in_millimetres() -> None:
    """A spot of one size in mm is protected alike on fine and coarse pixels."""
    shares = []
    for pixel_mm, radius_px in ((0.5, 6.0), (1.0, 3.0)):
        noise, spot = noise_image(1, 192) * 0.33, disc(radius_px, 192)
        contrast = 8.0 * float(noise.std())
        out = bounded(noise + contrast * spot, torch.zeros_like(noise), pixel_mm)
        shares.append(mean_over(spot, out) / contrast)
    assert shares[0] == pytest.approx(shares[1], abs=0.15)


def test_any_size_is_bounded() -> None:
    for shape in ((1, 4, 4), (1, 7, 300), (2, 64, 3)):
        x = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 40
        assert torch.isfinite(bounded(x, torch.zeros(shape), PIXEL_MM)).all()


def test_inputs_are_in_units_of_the_noise() -> None:
    x = noise_image(4)
    doubled = dgdiff.inputs(2 * x[None], 3 * x[None], 4 * pair(x), torch.tensor(50.0))
    single = dgdiff.inputs(x[None], 1.5 * x[None], 2 * pair(x), torch.tensor(25.0))
    assert torch.allclose(doubled[:, 1:], single[:, 1:], atol=1e-4)
    assert np.isfinite(doubled.numpy()).all()


@pytest.mark.parametrize("axes", [(-1,), (-2,), (-2, -1)])
def test_a_mirrored_slice_gives_the_mirrored_answer(axes: tuple[int, ...]) -> None:
    """With all four mirrorings the stage is blind to handedness, whatever its weights."""
    torch.manual_seed(0)
    network = UNet(UNetShape(dgdiff.CHANNELS, (8, 8), dgdiff.CONDITIONS)).eval()
    nn.init.normal_(network.leave.weight, std=0.1)
    x = noise_image(5, side=64)
    with torch.inference_mode():
        straight = dgdiff.predict(network, x, x, pair(x), [START], mirrorings=4)
        turned = x.flip(axes)
        mirrored = dgdiff.predict(network, turned, turned, pair(turned), [START], mirrorings=4)
    assert float((straight - x).abs().max()) > 1.0
    assert torch.allclose(mirrored.flip(axes), straight, atol=0.5)
