"""The computing part of the journey, with a small random engine and with the shipped one."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from dicomnode.engines.catalog import load_engine
from dicomnode.engines.enhance import STATIONS, enhance
from dicomnode.engines.model_card import Beam, Limits, ModelCard, Network, Schedule, load_card
from dicomnode.engines.need import dgdiff, spdiff
from dicomnode.engines.need.engine import NeedEngine
from dicomnode.engines.start_step import SliceFacts, StartStep
from dicomnode.engines.unet import UNet, UNetShape
from dicomnode.errors import ModelError
from dicomnode.physics.noise import measure_noise
from dicomnode.physics.simulation import Kernel, simulate_noise

MODELS = Path(__file__).resolve().parents[2] / "models"
START = StartStep(3, 60000.0, 0.25, 40.0, 0.5, "noise", None)


@pytest.fixture(scope="module")
def engine() -> NeedEngine:
    torch.manual_seed(0)
    networks = []
    for module in (spdiff, dgdiff):
        network = UNet(UNetShape(module.CHANNELS, (8, 8), module.CONDITIONS)).eval().requires_grad_(False)
        torch.nn.init.normal_(network.leave.weight, std=0.02)
        networks.append(network)
    files = [
        Network(
            file="x", sha256="0", channels_in=m.CHANNELS, widths=(8, 8), conditions=m.CONDITIONS, parameters=1
        )
        for m in (spdiff, dgdiff)
    ]
    card = ModelCard(
        id="random", version="0", engine="need", mode="image", licence="none", trained_on=(),
        beam=Beam(side_px=64, views=60, detectors=94, pitch_px=1.0),
        schedule=Schedule(most_photons=3e5, least_photons=2.5e4, steps=10),
        projection_passes=2, image_passes=2,
        limits=Limits(noise_hu=(6, 110), texture=(-0.2, 0.9), pixel_mm=(0.3, 1.2)),
        projection=files[0], image=files[1],
    )  # fmt: skip
    return NeedEngine(card, networks[0], networks[1], torch.device("cpu"))


def stack(slices: int = 5, side: int = 64) -> NDArray[np.float32]:
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    body = np.where(np.hypot(x, y) < 0.4 * side, 40.0, -1000.0)
    noise = np.random.default_rng(0).normal(0, 40, (slices, side, side))
    return (body + noise).astype(np.float32)


def test_same_input_same_seed_same_pixels_whatever_the_batch(engine: NeedEngine) -> None:
    x = stack()
    one = enhance(engine, x, 0.7, [START] * 5, seed=1).hounsfield
    again = enhance(engine, x, 0.7, [START] * 5, seed=1, batch=2).hounsfield
    assert one.shape == x.shape
    assert one.dtype == np.float32
    np.testing.assert_array_equal(one, again)
    assert np.abs(one - x).max() > 0.1


def test_normal_dose_comes_back_untouched(engine: NeedEngine) -> None:
    x = stack()
    normal = replace(START, step=0, fraction=1.0)
    np.testing.assert_array_equal(enhance(engine, x, 0.7, [normal] * 5, seed=1).hounsfield, x)


def test_one_normal_slice_among_low_ones_is_untouched(engine: NeedEngine) -> None:
    x = stack()
    starts = [START, START, replace(START, step=0, fraction=1.0), START, START]
    out = enhance(engine, x, 0.7, starts, seed=1).hounsfield
    np.testing.assert_allclose(out[2], x[2], atol=1e-3)


@pytest.mark.parametrize("shape", [(2, 40, 64), (2, 64, 40), (1, 16, 16), (1, 96, 96)])
def test_any_matrix(engine: NeedEngine, shape: tuple[int, int, int]) -> None:
    x = np.random.default_rng(0).normal(40, 40, shape).astype(np.float32)
    out = enhance(engine, x, 0.7, [START] * shape[0], seed=1).hounsfield
    assert out.shape == shape
    assert np.isfinite(out).all()
    assert np.abs(out - x).max() > 0.1


def test_mean_is_kept(engine: NeedEngine) -> None:
    """But for what is cut: these weights are drawn, and their correction is lopsided."""
    x = stack()
    out = enhance(engine, x, 0.7, [START] * 5, seed=1).hounsfield
    np.testing.assert_allclose((out - x).mean(axis=(1, 2)), 0.0, atol=1.0)


def test_padding_and_metal_keep_their_values(engine: NeedEngine) -> None:
    """Values outside what the virtual scanner sees are corrected like their neighbours, never clipped."""
    x = stack()
    x[:, 0, 0], x[:, 32, 32] = -3024.0, 9000.0
    out = enhance(engine, x, 0.7, [START] * 5, seed=1).hounsfield
    assert float(np.abs(out[:, 0, 0] + 3024.0).max()) < 200.0
    assert float(np.abs(out[:, 32, 32] - 9000.0).max()) < 600.0


def test_observer_hears_every_station(engine: NeedEngine) -> None:
    heard: list[tuple[str, int, int]] = []
    enhance(engine, stack(), 0.7, [START] * 5, seed=1, on_slice=lambda *news: heard.append(news))
    assert {news[0] for news in heard} == set(STATIONS)
    assert max(news[1] for news in heard) == 5


@pytest.mark.parametrize(("noise_hu", "told"), [(40.0, 0), (400.0, 1)])
def test_what_the_model_does_not_know_is_told_and_clamped(
    engine: NeedEngine, noise_hu: float, told: int
) -> None:
    facts = SliceFacts(3.0, 0.7, 250.0, 500.0, None, noise_hu, 0.4)
    start = engine.match(facts)
    assert start.step > 0
    assert len(start.outside) == told
    assert 6 <= start.noise_hu <= 110


def test_missing_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"engine\.model"):
        load_engine(tmp_path, "nothing", "cpu")


def test_shipped_card_is_honest_about_its_files() -> None:
    folders = [path.parent for path in MODELS.glob("*/card.yaml")]
    assert "need-small" in {folder.name for folder in folders}
    for folder in folders:
        card = load_card(folder)
        assert card.id == folder.name
        assert (folder / "README.md").exists()
        for network in (card.projection, card.image):
            assert network.parameters <= 2_100_000
            assert (folder / network.file).stat().st_size <= 16 * 2**20


@pytest.mark.slow
@pytest.mark.parametrize("cutoff", [0.4, 0.9])
def test_shipped_model_removes_noise_and_keeps_the_disc(cutoff: float) -> None:
    y, x = np.mgrid[:512, :512] - 255.5
    clean = np.where(np.hypot(x, y) < 190, 40.0, -1000.0).astype(np.float32)
    clean[np.hypot(x - 60, y) < 12] = 140.0
    clean = clean[None]
    rng = torch.Generator().manual_seed(0)
    noise = simulate_noise(torch.from_numpy(clean), 0.7, 8.0e4, Kernel(cutoff), rng).numpy()
    low_dose = clean + noise
    reading = measure_noise(low_dose, 0.7)
    assert reading is not None
    engine = load_engine(MODELS, "need-small", "cpu")
    start = StartStep(9, 8.0e4, 0.1, reading.std_hu, reading.texture, "noise", None)
    out = enhance(engine, low_dose, 0.7, [start], seed=0).hounsfield
    body = np.hypot(x, y) < 180
    assert (out - clean)[0][body].std() < 0.6 * noise[0][body].std()
    disc = np.hypot(x - 60, y) < 9
    assert abs(float((out - low_dose)[0][disc].mean())) < 3.0
