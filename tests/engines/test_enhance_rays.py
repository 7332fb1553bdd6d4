"""From measured rays to slices: discs keep their HU at every dose, whatever the networks are."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dicomnode.engines.enhance_rays import MeasuredRays, enhance_rays, line_integrals
from dicomnode.engines.model_card import Beam, Limits, ModelCard, Network, RawMode, Schedule
from dicomnode.engines.need import dgdiff, raw, spdiff
from dicomnode.engines.need.engine import NeedEngine
from dicomnode.engines.need.poisson import EXTENDED, ShiftedPoisson
from dicomnode.engines.unet import UNet, UNetShape
from dicomnode.errors import NoRawMode
from dicomnode.physics.geometry import WATER_ATTENUATION_PER_MM, ParallelBeam
from dicomnode.physics.measured import from_parallel
from dicomnode.physics.noise import measure_added_noise
from dicomnode.physics.simulation import counted

BEAM = ParallelBeam(128, 180, 256, 0.75)
PIXEL_MM = 2.8
RADIUS_MM = 146.5
"""What the methods call 30 cm: 0.0036 come through the middle."""
PROCESS = ShiftedPoisson(EXTENDED)
DOSES = (1.0, 0.25, 0.1, 0.05)


def random_network(module: object, seed: int, size: float = 0.02) -> UNet:
    torch.manual_seed(seed)
    channels, conditions = module.CHANNELS, module.CONDITIONS  # type: ignore[attr-defined]
    made = UNet(UNetShape(channels, (8, 8), conditions)).eval().requires_grad_(False)
    torch.nn.init.normal_(made.leave.weight, std=size)
    return made


@pytest.fixture(scope="module")
def engine() -> NeedEngine:
    """Networks that know nothing: what holds with them holds by the chain alone."""
    named = Network(file="x", sha256="0", channels_in=1, widths=(8, 8), conditions=1, parameters=1)
    levels = Schedule(
        most_photons=EXTENDED.most_photons, least_photons=EXTENDED.least_photons, steps=EXTENDED.steps
    )
    card = ModelCard(
        id="random", version="0", engine="need", mode="image", licence="none", trained_on=(),
        beam=Beam(side_px=64, views=60, detectors=94, pitch_px=1.0), schedule=levels,
        projection_passes=2, image_passes=1, projection=named, image=named,
        raw=RawMode(network=named, schedule=levels, passes=2, photons=(5e3, 3e5)),
        limits=Limits(noise_hu=(6, 110), texture=(-0.2, 0.9), pixel_mm=(0.3, 3.0)),
    )  # fmt: skip
    networks = [random_network(module, seed) for seed, module in enumerate((spdiff, dgdiff, raw))]
    return NeedEngine(card, networks[0], networks[1], torch.device("cpu"), networks[2])


def disc(slices: int = 1) -> Tensor:
    """Transmissions of a water disc of 30 cm by formula, [slice, view, bin]."""
    offset = (torch.arange(BEAM.detectors) - 0.5 * (BEAM.detectors - 1)) * BEAM.pitch_px * PIXEL_MM
    chord_mm = 2.0 * (RADIUS_MM**2 - offset**2).clamp(min=0.0).sqrt()
    return torch.exp(-WATER_ATTENUATION_PER_MM * chord_mm).expand(slices, BEAM.views, -1).contiguous()


def measured(dose: float, slices: int = 1, seed: int = 0) -> MeasuredRays:
    photons = dose * 2.5e5
    rays = counted(disc(slices), photons, torch.Generator().manual_seed(seed))
    quanta = np.full((1, 1, BEAM.detectors), photons, np.float32)
    return MeasuredRays(rays.numpy(), quanta, photons, PIXEL_MM, image)


def image(rays: NDArray[np.float32]) -> NDArray[np.float32]:
    return from_parallel(rays, BEAM, PIXEL_MM)


def middle_hu(hounsfield: NDArray[np.float32], radius_px: float = 14.0) -> float:
    y, x = np.mgrid[:128, :128] - 63.5
    return float(hounsfield[:, np.hypot(x, y) < radius_px].mean())


def log_of(transmission: Tensor) -> NDArray[np.float32]:
    return line_integrals(transmission.numpy(), np.full((1, 1, 1), 1e9, np.float32))


def test_an_analytic_disc_has_the_hounsfield_units_of_water() -> None:
    assert middle_hu(image(log_of(disc()))) == pytest.approx(0.0, abs=1.0)
    assert middle_hu(image(log_of(disc())), 45.0) == pytest.approx(0.0, abs=1.0)


class Ideal(nn.Module):
    """What training makes of a network on discs, whose views are all alike: the mean of the views, unshifted.

    It takes away the shift of the states it was trained on, whether or not the one it sees has it.
    """

    def forward(self, x: Tensor, conditions: Tensor) -> Tensor:
        photons = 2.5e5 * float(conditions[0, 0].exp())
        states = torch.exp(-4.0 * x[:, 1])
        clean = states.mean(dim=1, keepdim=True) - PROCESS.electronic_variance / photons
        noise = raw.stabilised(states, photons) - raw.stabilised(clean, photons)
        return noise[:, None]


@pytest.mark.parametrize("dose", DOSES)
def test_no_shift_is_left_in_the_middle_of_a_disc_of_30_cm(dose: float) -> None:
    rays, draw = measured(dose, slices=8), torch.Generator().manual_seed(1)
    cleaned = raw.clean(Ideal(), PROCESS, torch.from_numpy(rays.transmission), rays.photons, draw)  # type: ignore[arg-type]
    assert middle_hu(image(log_of(cleaned))) == pytest.approx(0.0, abs=1.0 if dose > 0.05 else 2.0)


@pytest.mark.parametrize(("dose", "bias_hu"), [(1.0, -3.0), (0.25, -14.0), (0.1, -32.0), (0.05, -59.0)])
def test_a_shift_that_stays_is_the_bias_that_was_measured_of_the_published_code(
    dose: float, bias_hu: float
) -> None:
    """NEED 1.13; read in a middle of 14 pixels. The conservation of counts would take it away."""
    shifted = PROCESS.shifted(disc(), dose * 2.5e5)
    assert middle_hu(image(log_of(shifted))) == pytest.approx(bias_hu, rel=0.08, abs=1.0)
    kept = raw.conserved(disc(), shifted, dose * 2.5e5, sigma=4.0)  # 8 mm, as 8 bins of a scanner
    assert middle_hu(image(log_of(kept))) == pytest.approx(0.0, abs=1.5)


@pytest.mark.parametrize("dose", DOSES)
def test_tissue_keeps_its_mean_whatever_the_networks_answer(engine: NeedEngine, dose: float) -> None:
    found = enhance_rays(engine, measured(dose, slices=3), seed=0)
    noise_hu = {1.0: 1.0, 0.25: 1.0, 0.1: 2.0, 0.05: 3.0}[dose]
    assert middle_hu(found.hounsfield, 40.0) == pytest.approx(0.0, abs=noise_hu)
    assert np.isfinite(found.hounsfield).all()


def test_the_mean_is_that_of_the_counts_and_not_of_their_logarithms(engine: NeedEngine) -> None:
    """18 photons behind the disc: their logarithm is too large on average, their number is not."""
    found = enhance_rays(engine, measured(0.02, slices=4), seed=0)
    assert middle_hu(found.low_dose, 40.0) > 5.0
    assert middle_hu(found.hounsfield, 40.0) == pytest.approx(0.0, abs=3.0)


def test_normal_dose_is_reconstructed_and_nothing_else(engine: NeedEngine) -> None:
    rays = measured(1.0, slices=2)
    found = enhance_rays(engine, rays, seed=0)
    assert np.array_equal(found.hounsfield, image(line_integrals(rays.transmission, rays.quanta)))
    assert all(start.step == 0 for start in found.starts)


def test_a_slice_at_normal_dose_stays_and_its_neighbour_of_a_tenth_is_cleaned(engine: NeedEngine) -> None:
    """The current changed between two turns: neither goes by what most of the slices have."""
    good, bad = measured(1.0, slices=2), measured(0.1, slices=1)
    quanta = np.repeat([[[2.5e5]], [[2.5e5]], [[2.5e4]]], BEAM.detectors, axis=2).astype(np.float32)
    both = np.concatenate([good.transmission, bad.transmission])
    rays = MeasuredRays(both, quanta, 2.5e5, PIXEL_MM, image, (2.5e5, 2.5e5, 2.5e4))
    found = enhance_rays(engine, rays, seed=0)
    assert [start.step for start in found.starts] == [0, 0, 9]
    assert np.array_equal(found.hounsfield[:2], found.low_dose[:2])
    assert not np.array_equal(found.hounsfield[2], found.low_dose[2])
    assert middle_hu(found.hounsfield[2:], 40.0) == pytest.approx(0.0, abs=3.0)


def test_work_is_told_in_pieces_and_can_be_broken_off(engine: NeedEngine) -> None:
    """A node that stops must not wait for the whole stack, nor be taken for one that died."""
    told: list[tuple[str, int, int]] = []
    enhance_rays(engine, measured(0.1, slices=5), 0, lambda *one: told.append(one))
    cleaned = [done for part, done, _ in told if part == "clean"]
    assert cleaned == sorted(cleaned)
    assert len(cleaned) > 4, "two pieces in each of two passes"
    assert [done for part, done, _ in told if part == "refine"] == [*range(1, 6), 5]

    def stop(part: str, done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        enhance_rays(engine, measured(0.1, slices=1), 0, stop)


def test_the_image_stage_walks_its_own_schedule(engine: NeedEngine) -> None:
    """Ten steps of its own below twenty of the rays; with two passes it walks between them."""
    own = Schedule(most_photons=3e5, least_photons=2.5e4, steps=10)
    card = engine.card.model_copy(update={"schedule": own, "image_passes": 2})
    found = enhance_rays(replace(engine, card=card), measured(0.05), seed=0)
    assert found.starts[0].step == 19
    assert np.isfinite(found.hounsfield).all()


def test_the_same_seed_gives_the_same_slices(engine: NeedEngine) -> None:
    rays = measured(0.1, slices=3)
    one, same, other = (enhance_rays(engine, rays, seed).hounsfield for seed in (1, 1, 2))
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other), "photons are drawn between two passes"


@pytest.mark.parametrize("k", [1, 2, 10, 19])
def test_start_steps_walk(engine: NeedEngine, k: int) -> None:
    found = enhance_rays(engine, measured(float(EXTENDED.photons[k]) / 2.5e5), seed=0)
    assert found.starts[0].step == k
    assert np.isfinite(found.hounsfield).all()
    assert not np.array_equal(found.hounsfield, found.low_dose)


def test_the_image_stage_is_told_the_noise_that_the_rays_took_out(engine: NeedEngine) -> None:
    """With an ideal network on the rays that is all the noise of the slice."""
    ideal = replace(engine, raw=Ideal())  # type: ignore[arg-type]
    found = enhance_rays(ideal, measured(0.25, slices=3), seed=0)
    clean = image(log_of(disc(3)))
    own = measure_added_noise((found.low_dose - clean)[1:2], clean[1:2], PIXEL_MM)
    assert found.starts[1].noise_hu == pytest.approx(own.std_hu, rel=0.1)
    assert found.starts[1].texture == pytest.approx(own.texture, abs=0.05)
    assert found.starts[1].fraction == pytest.approx(0.25)
    loud = enhance_rays(ideal, measured(0.02, slices=1), seed=0).starts[0]
    assert loud.noise_hu == 110.0
    assert "outside what the model was trained for" in loud.outside[0]


def test_a_model_without_raw_weights_says_so(engine: NeedEngine) -> None:
    images_only = replace(engine, card=engine.card.model_copy(update={"raw": None}), raw=None)
    with pytest.raises(NoRawMode, match="reconstructed images only"):
        enhance_rays(images_only, measured(0.25), seed=0)


def test_a_ray_that_let_nothing_through_has_a_logarithm() -> None:
    rays = np.array([[[-0.01, 0.0, 0.5]]], np.float32)
    quanta = np.full((1, 1, 1), 1000.0, np.float32)
    faint = -np.log(raw.FAINTEST_QUANTA / 1000.0)
    assert line_integrals(rays, quanta).ravel() == pytest.approx([faint, faint, -np.log(0.5)])
