"""SPDiff on measured projections: units, symmetry, and what an ideal network would do with it."""

import pytest
import torch
from torch import Tensor, nn

from dicomnode.engines.need import raw
from dicomnode.engines.need.poisson import EXTENDED, ShiftedPoisson
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
    """Other noise in the slice above changes the answer for the slice, and what is two slices away with it.

    Nothing is drawn: other rays would take other draws, and change the slice that way. Two slices away only
    the second step sees, through a neighbour that the first one updated.
    """
    made = network(random=True)
    stack = PROCESS.forward(torch.full((3, 16, 16), 0.1), 9, rng())
    other = stack.clone()
    other[2] = PROCESS.forward(torch.full((16, 16), 0.1), 9, rng(1))
    one, two = (raw.clean(made, PROCESS, s, 2.5e4) for s in (stack, other))
    assert not torch.equal(one[1], two[1])
    assert not torch.equal(one[0], two[0])
    single, another = (raw.clean(made, PROCESS, s, 2.5e4, passes=1) for s in (stack, other))
    assert torch.equal(single[0], another[0])


def test_the_stack_is_cleaned_alike_in_one_piece_and_in_several(monkeypatch: pytest.MonkeyPatch) -> None:
    made, stack = network(random=True), PROCESS.forward(torch.full((7, 16, 16), 0.1), 9, rng())
    whole = raw.predict(made, stack, 2.5e4)
    monkeypatch.setattr(raw, "SLICES_AT_ONCE", 2)
    assert torch.allclose(raw.predict(made, stack, 2.5e4), whole, atol=1e-6)


def test_normal_dose_comes_back_as_it_is() -> None:
    measured = torch.rand(2, 8, 8, generator=rng())
    assert torch.equal(raw.clean(network(random=True), PROCESS, measured, 3e5), measured)


@pytest.mark.parametrize("k", range(1, 20))
def test_every_start_step_ends_within_zero_and_one_and_repeats(k: int) -> None:
    process = ShiftedPoisson(EXTENDED)
    photons = float(EXTENDED.photons[k])
    measured = process.forward(torch.full((2, 16, 16), 0.01), k, rng()) - 10.0 / photons
    one, same = (raw.clean(network(random=True), process, measured, photons, rng(4)) for _ in range(2))
    assert torch.equal(one, same)
    assert one.min() >= 0.0
    assert one.max() <= 1.0
    assert torch.isfinite(one).all()


class Asked(nn.Module):
    """A network that takes nothing away and notes the photon level it was asked at."""

    def __init__(self) -> None:
        super().__init__()
        self.levels: list[float] = []

    def forward(self, x: Tensor, conditions: Tensor) -> Tensor:
        self.levels.append(2.5e5 * float(conditions[0, 0].exp()))
        return torch.zeros_like(x[:, :1])


@pytest.mark.parametrize("passes", [1, 2, 3, 9, None])
def test_it_starts_at_the_photons_there_were_and_passes_are_counted(passes: int | None) -> None:
    asked, measured = Asked(), torch.full((2, 16, 16), 0.1)
    raw.clean(asked, PROCESS, measured, 26_000.0, rng(), passes=passes)  # type: ignore[arg-type]
    assert len(asked.levels) == (9 if passes is None else passes)
    assert asked.levels[0] == pytest.approx(26_000.0, rel=1e-4)
    if passes is None:
        assert asked.levels[1:] == pytest.approx(list(PROCESS.schedule.photons[8:0:-1]), rel=1e-4)


def test_a_ray_counts_by_its_own_photons() -> None:
    """A bow-tie that leaves a third: the network sees noise of variance 1 on both sides of it."""
    share = torch.cat([torch.full((64,), 1 / 3), torch.ones(64)])
    clean, seen = torch.full((1, 400, 128), 0.05), []

    class Looks(nn.Module):
        def forward(self, x: Tensor, conditions: Tensor) -> Tensor:
            seen.append(x)
            return torch.zeros_like(x[:, :1])

    state = PROCESS.counted(clean, share * 25_000.0, rng())
    raw.predict(Looks(), state, (share * 25_000.0).expand(state.shape))  # type: ignore[arg-type]
    fine = seen[0][0, 4, 8:-8]
    for side in (fine[:, 8:56], fine[:, 72:120]):
        assert side.var().item() == pytest.approx(1.0 - 1 / 81, abs=0.03), "less what a box of 9 x 9 explains"


def test_the_photons_of_a_neighbourhood_stay_whatever_the_network_says() -> None:
    """Answers too bright by a fiftieth everywhere, with an edge from air to a hundredth beside it."""
    clean = torch.full((1, 96, 128), 1.0)
    clean[..., 64:] = 0.01
    measured = torch.poisson(20_000.0 * clean, generator=rng()) / 20_000.0
    away = raw.conserved(measured, 1.02 * clean, 20_000.0) / clean - 1.0
    assert float(away[:, 24:-24, :-24].abs().max()) < 0.012, (
        "of rays with 200 photons some 800 are one reading"
    )
    assert float(away[..., 80:].mean().abs()) < 2e-3
    assert torch.allclose(raw.conserved(clean, clean, 20_000.0), clean)


@pytest.mark.parametrize("counts", [10.0, 20.0, 50.0])
@pytest.mark.parametrize("left", [0.0, 0.25, 0.5])
def test_photons_stay_when_few_are_counted_and_noise_is_left(counts: float, left: float) -> None:
    """A network that takes some of the noise: what it leaves is part of the very reading it is held against.

    A hundredth of the counts is 2 HU behind 30 cm of water.
    """
    draw, shape = rng(), (3, 128, 128)
    readings = torch.poisson(torch.full(shape, counts), generator=draw)
    readings += PROCESS.electronic_variance**0.5 * torch.randn(shape, generator=draw)
    cleaned = (counts + left * (readings - counts)).clamp(min=0.0) / 1000.0
    kept = 1000.0 * raw.conserved(readings / 1000.0, cleaned, 1000.0)
    assert float(kept.mean()) / counts == pytest.approx(1.0, abs=0.006)


def test_an_edge_that_the_network_blurs_does_not_speak_for_the_rays_beside_it() -> None:
    clean = torch.full((1, 96, 128), 1.0)
    clean[..., 64:] = 0.01
    blurred = torch.nn.functional.avg_pool2d(clean, (1, 9), 1, (0, 4), count_include_pad=False)
    kept = raw.conserved(clean, blurred, 20_000.0)
    assert torch.allclose(kept[..., 70:], clean[..., 70:], rtol=1e-3)
    assert torch.allclose(kept[..., :58], clean[..., :58], rtol=1e-3)
