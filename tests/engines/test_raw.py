"""SPDiff on measured projections: units, symmetry, and what an ideal network would do with it."""

import pytest
import torch

from dicomnode.engines.need import raw
from dicomnode.engines.need.poisson import ShiftedPoisson
from dicomnode.engines.start_step import PhotonSchedule
from dicomnode.engines.unet import UNet, UNetShape

PROCESS = ShiftedPoisson(PhotonSchedule())


def network(seed: int = 0, random: bool = False) -> UNet:
    torch.manual_seed(seed)
    made = UNet(UNetShape(raw.CHANNELS, (8, 8), raw.CONDITIONS)).eval()
    if random:
        torch.nn.init.normal_(made.leave.weight, std=0.02)
    return made


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("photons", [2.5e4, 3e5])
@pytest.mark.parametrize("y0", [0.0036, 0.05, 0.9])
def test_stabilised_noise_has_variance_one_at_every_photon_level(photons: float, y0: float) -> None:
    counts = torch.poisson(torch.full((200_000,), photons * y0 + 10.0), generator=rng())
    assert raw.stabilised(counts / photons, photons).var().item() == pytest.approx(1.0, abs=0.02)


def test_stabilising_is_undone() -> None:
    y = torch.linspace(0.0, 1.0, 1001)
    assert torch.allclose(raw.transmission(raw.stabilised(y, 3e4), 3e4), y, atol=1e-6)


def test_a_network_that_answers_with_the_noise_gives_the_clean_rays() -> None:
    clean = torch.rand(2, 16, 16, generator=rng()) * 0.5 + 0.01
    photons = float(PROCESS.schedule.photons[9])
    state = PROCESS.forward(clean, 9, rng(1))
    noise = raw.noise_of(state, clean, photons)[:, 0]
    back = raw.transmission(raw.stabilised(state, photons) - noise, photons)
    assert torch.allclose(back, clean, atol=1e-6)


def test_neighbours_are_below_and_above_and_the_ends_stand_in_for_themselves() -> None:
    stack = torch.arange(4.0)[:, None, None].expand(4, 2, 2)
    assert raw.with_neighbours(stack)[:, :, 0, 0].tolist() == [[0, 0, 1], [0, 1, 2], [1, 2, 3], [2, 3, 3]]


def test_neighbours_count_and_take_part_in_the_walk() -> None:
    """Other noise in the slice above changes the answer for the slice; so they are updated together."""
    made = network(random=True)
    stack = PROCESS.forward(torch.full((3, 16, 16), 0.1), 9, rng())
    other = stack.clone()
    other[2] = PROCESS.forward(torch.full((16, 16), 0.1), 9, rng(1))
    one, two = (raw.clean(made, PROCESS, s, 2.5e4, rng(2)) for s in (stack, other))
    assert not torch.allclose(one[1], two[1])


def test_normal_dose_comes_back_as_it_is() -> None:
    measured = torch.rand(2, 8, 8, generator=rng())
    assert torch.equal(raw.clean(network(random=True), PROCESS, measured, 3e5), measured)


@pytest.mark.parametrize("k", range(1, 10))
def test_every_start_step_ends_within_zero_and_one_and_repeats(k: int) -> None:
    photons = float(PROCESS.schedule.photons[k])
    measured = PROCESS.forward(torch.full((2, 16, 16), 0.01), k, rng()) - 10.0 / photons
    one, same = (raw.clean(network(random=True), PROCESS, measured, photons, rng(4)) for _ in range(2))
    assert torch.equal(one, same)
    assert one.min() >= 0.0
    assert one.max() <= 1.0
    assert torch.isfinite(one).all()
