"""Training of the raw mode: counts are those of the process, and crops are sinograms of other scanners."""

from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from dicomnode.engines.catalog import load_engine
from dicomnode.engines.need import raw
from dicomnode.engines.need.poisson import EXTENDED
from dicomnode.errors import NoRawMode
from dicomnode.learning import counts
from dicomnode.learning.corpus import ARRAYS, PackedExample
from dicomnode.learning.draw import Batch
from dicomnode.learning.plans import STAGES, dgdiff_task, plan, raw_task, spdiff_task
from dicomnode.learning.publish import publish
from dicomnode.learning.recipe import Corpus, RawStage, Recipe, Stage
from dicomnode.learning.session import Session
from dicomnode.learning.trainer import Trainer
from dicomnode.physics.geometry import ParallelBeam
from dicomnode.physics.photons import photons_per_bin

STAGE = RawStage(widths=(8, 8), steps=4, batch=6, patch_px=32)
TINY = Stage(widths=(8, 8), steps=8, batch=2, patch_px=32)
BEAM = ParallelBeam(512, 90, 140, 1.0)


def example() -> PackedExample:
    """Sinograms of smooth hills, other ones for the neighbours; what the raw mode does not read is empty."""
    view, bin_ = np.mgrid[:90, :140]
    hills = [2.0 + np.sin(view / 9 + shift) * np.cos(bin_ / 11 - shift) for shift in (0.0, 0.4, 0.8)]
    values = {name: np.zeros((2, 2, 2)) for name in ARRAYS}
    values |= {"sinogram": hills[1], "beside_sinogram": np.stack([hills[0], hills[2]])}
    values["slice_hu"] = np.zeros((512, 512))
    arrays = {name: np.rint(one / 1e-4).astype(np.int16) for name, one in values.items()}
    return PackedExample(arrays, dict.fromkeys(ARRAYS, 1e-4), 0.8, 8.0, 0.4, 2.5e5)


def session_in(folder: Path, deadline: float = float("inf")) -> Session:
    """Of that one example."""
    session = Session(folder, folder / "corpus", 1, torch.device("cpu"), deadline, Console(quiet=True))
    session.examples = (example(),)
    return session


def publish_untrained(recipe: Recipe, folder: Path, spread: float = 0.0) -> None:
    """Into `folder`/models, of networks that know nothing; with `spread` they do not say 0 everywhere."""
    session = session_in(folder)
    for task in (
        spdiff_task(recipe, session),
        dgdiff_task(recipe, session),
        raw_task(recipe, STAGE, session),
    ):
        trainer = Trainer(task, folder, session.device, seed=1)
        if spread:
            torch.nn.init.normal_(trainer.ema.get_parameter("leave.weight"), std=spread)
        trainer._save()
    publish(recipe, folder, folder / "models")


def batch(seed: int, stage: RawStage = STAGE) -> Batch:
    return counts.raw_batch([example()], BEAM, stage, np.random.default_rng(seed))


def test_same_seed_same_batch() -> None:
    one, same, other = batch(1), batch(1), batch(2)
    assert torch.equal(one.inputs, same.inputs)
    assert torch.equal(one.target, same.target)
    assert not torch.equal(one.inputs, other.inputs)
    assert one.inputs.shape == (6, raw.CHANNELS, 32, 32)
    assert one.target.shape == (6, 1, 32, 32)
    assert one.conditions.shape == (6, raw.CONDITIONS)


def test_what_is_asked_for_is_poisson_noise_of_the_level_that_is_told() -> None:
    """Taken out of the state that is shown it leaves a smooth sinogram; its variance is 1 at every level."""
    found = batch(3, STAGE.model_copy(update={"batch": 64}))
    photons = 2.5e5 * torch.exp(found.conditions[:, :1, None, None])
    low, high = (photons_per_bin(level, BEAM, 0.8) for level in STAGE.photons)
    assert 0.9 * low < float(photons.min()) < 2 * low
    assert high / 2 < float(photons.max()) < 1.1 * high
    state = torch.exp(-4.0 * found.inputs[:, 1:2])
    clean = raw.transmission(raw.stabilised(state, photons) - found.target, photons)
    attenuation = -torch.log(clean)
    assert float(attenuation.min()) > 0.98
    assert float(attenuation.max()) < 3.02
    rough = attenuation[..., 1:-1] - 0.5 * (attenuation[..., :-2] + attenuation[..., 2:])
    assert float(rough.abs().max()) < 0.02, "no noise is left"
    expected = 2 * ((photons * clean + 10.375).sqrt() - (photons * clean + 0.375).sqrt())
    assert float((found.target - expected).var()) == pytest.approx(1.0, abs=0.03)
    assert float((found.target - expected).mean()) == pytest.approx(0.0, abs=0.02)


def test_another_grid_reads_the_same_function_elsewhere() -> None:
    """A linear ramp over views and bins, read with other steps, is the ramp of those steps."""
    view, bin_ = np.mgrid[:90, :90].astype(np.float32)
    grid = counts.Grid(views=1.25, bins=0.8, shear=0.27)
    found = counts.resampled(0.03 * view + 0.02 * bin_, grid, 32)
    assert grid.margin(32) <= 90
    assert np.allclose(np.diff(found, axis=0), 0.03 * 1.25, atol=1e-5)
    assert np.allclose(np.diff(found, axis=1), 0.03 * 0.27 + 0.02 * 0.8, atol=1e-5)
    assert float(found.mean()) == pytest.approx(0.05 * 44.5, abs=1e-4), "about the same middle"


def test_half_of_the_crops_are_the_rays_of_the_corpus() -> None:
    grids = [counts.draw_grid(np.random.default_rng(seed)) for seed in range(200)]
    assert 70 < sum(grid == counts.Grid() for grid in grids) < 130


def test_a_model_has_a_raw_mode_if_its_recipe_has_one(tmp_path: Path) -> None:
    corpus = Corpus(sources=(), views=60, detectors=140)
    recipe = Recipe(model_id="without", version="0", corpus=corpus, projection=TINY, image=TINY)
    publish_untrained(recipe, tmp_path)
    without = load_engine(tmp_path / "models", "without", "cpu")
    with pytest.raises(NoRawMode, match="without has no raw mode"):
        without.clean_counts(torch.ones(1, 8, 8), 2.5e4)
    both = recipe.model_copy(update={"model_id": "both", "raw": STAGE, "raw_passes": 2, "raw_refill": "mean"})
    publish(both, tmp_path, tmp_path / "models")
    engine = load_engine(tmp_path / "models", "both", "cpu")
    assert np.allclose(engine.process.schedule.photons, EXTENDED.photons)
    assert engine.card.raw is not None
    mode = engine.card.raw
    assert (mode.passes, mode.refill, mode.photons) == (2, "mean", STAGE.photons)
    assert engine.weights_digest != without.weights_digest


def test_the_stage_is_trained_and_goes_on_where_it_stopped_and_is_passed_by_without_one(
    tmp_path: Path,
) -> None:
    recipe = Recipe(
        model_id="x", version="0", corpus=Corpus(sources=(), views=90, detectors=140),
        projection=TINY, image=TINY, raw=STAGE,
    )  # fmt: skip

    def train(recipe: Recipe, folder: Path, deadline: float = float("inf")) -> bool:
        folder.mkdir(exist_ok=True)
        return plan(recipe, session_in(folder, deadline), tmp_path)["raw"]()

    assert STAGES.index("raw") < STAGES.index("publish")
    assert train(recipe, tmp_path / "whole")
    assert not train(recipe, tmp_path / "broken", deadline=0.0)
    assert train(recipe, tmp_path / "broken")
    whole, broken = (torch.load(tmp_path / run / "raw.pt")["ema"] for run in ("whole", "broken"))
    assert all(torch.allclose(whole[name], broken[name], atol=1e-6) for name in whole)
    assert train(recipe.model_copy(update={"raw": None}), tmp_path / "without")
    assert not (tmp_path / "without" / "raw.pt").exists()
