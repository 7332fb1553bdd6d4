"""Training: the draws add up, a resumed run is the unbroken run, and what is published loads again."""

from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from dicomnode.engines.catalog import load_engine
from dicomnode.errors import TrainingError, WeightsMismatch
from dicomnode.learning import draw
from dicomnode.learning.corpus import (
    ARRAYS,
    PackedExample,
    Slice,
    build,
    load_example,
    make_example,
    random_fine_gain,
    random_kernel,
)
from dicomnode.learning.publish import publish
from dicomnode.learning.recipe import Corpus, Recipe, Stage, load_recipe
from dicomnode.learning.train import Trainer
from dicomnode.physics.geometry import ParallelBeam

SIDE = 96
ROOT = Path(__file__).resolve().parents[2]
TINY = Stage(widths=(8, 8), steps=8, batch=2, patch_px=32)
CORPUS = Corpus(sources=(), views=60, detectors=140)


def phantom() -> Slice:
    y, x = np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2
    image = np.where(np.hypot(x, y) < 40, 40.0, -1000.0).astype(np.float32)
    above = np.where(np.hypot(x, y) < 36, 40.0, -1000.0).astype(np.float32)
    return Slice(image, 3.0, "made", np.stack([image, above]))


@pytest.fixture(scope="module")
def example() -> PackedExample:
    rng = np.random.default_rng(0)
    made = make_example(phantom(), CORPUS, ParallelBeam(SIDE, 60, 140, 1.0), rng)
    steps = {name: float(np.abs(getattr(made, name)).max()) / 32000 for name in ARRAYS}
    arrays = {name: np.rint(getattr(made, name) / steps[name]).astype(np.int16) for name in ARRAYS}
    return PackedExample(arrays, steps, made.pixel_mm, made.own_noise_hu, made.texture, made.unit_photons)


def test_noise_has_unit_level_and_projects_linearly(example: PackedExample) -> None:
    everything = (slice(None), slice(None))
    noise = example.crop("noise", everything)
    body = example.crop("slice_hu", everything) > 0
    assert noise[0][body].std() == pytest.approx(1.0, rel=0.35)
    assert abs(np.corrcoef(noise[0][body], noise[1][body])[0, 1]) < 0.1


def test_what_stays_and_what_goes_add_up() -> None:
    rng = np.random.default_rng(1)
    for _ in range(50):
        mix = draw.draw_mix(TINY, rng)
        assert mix.kept_hu**2 + mix.removed_hu**2 == pytest.approx(mix.added_hu**2)
        assert TINY.noise_hu[0] <= mix.added_hu <= TINY.noise_hu[1]


def test_state_is_what_the_node_would_read(example: PackedExample) -> None:
    state = draw.state_of(example, draw.Mix(40.0, 0.25, False))
    assert state.noise_hu**2 == pytest.approx(example.own_noise_hu**2 + 1600.0)
    assert state.fraction * state.noise_hu**2 == pytest.approx(example.own_noise_hu**2 + 400.0)


def test_input_minus_target_is_the_slice(example: PackedExample) -> None:
    """With no noise in the target, what is to be removed is all that stands between input and slice."""
    stage = TINY.model_copy(update={"second_noise": 0.0, "batch": 8})
    batch = draw.image_batch([example], [], stage, np.random.default_rng(3))
    noise_hu = 25.0 * torch.exp(batch.conditions[:, 0])[:, None, None]
    noisy = 500.0 * batch.inputs[:, 0]
    slice_hu = noisy - batch.target[:, 0] * noise_hu
    unclipped = (noisy > -1090.0) & (noisy < 1990.0)
    off = torch.minimum((slice_hu - 40.0).abs(), (slice_hu + 1000.0).abs())[unclipped]
    assert int(unclipped.sum()) > 1000
    assert float(off.max()) < 0.5
    assert float((noisy - slice_hu).abs().max()) > 5.0


def test_batches_are_in_single_precision(example: PackedExample) -> None:
    """A double anywhere makes inputs that no network of floats takes."""
    stage = TINY.model_copy(update={"objects": 0.5})
    for seed in range(4):
        rng = np.random.default_rng(seed)
        projections = draw.projection_batch([example], stage, rng)
        for batch in (projections, draw.image_batch([example], [], stage, rng)):
            assert {batch.inputs.dtype, batch.conditions.dtype, batch.target.dtype} == {torch.float32}


def test_same_seed_same_batch(example: PackedExample) -> None:
    batch = draw.projection_batch([example], TINY, np.random.default_rng(2))
    assert batch.inputs.shape == (2, 2, 32, 32)
    assert batch.target.shape == (2, 1, 32, 32)
    again = draw.projection_batch([example], TINY, np.random.default_rng(2))
    assert torch.equal(batch.inputs, again.inputs)
    assert torch.equal(batch.target, again.target)


@pytest.mark.parametrize("seed", range(20))
def test_kernels_are_finite_and_pass_low_frequencies(seed: int) -> None:
    window = random_kernel(np.random.default_rng(seed), (0.28, 2.0)).window(ParallelBeam(SIDE, 60, 140, 1.0))
    assert bool(torch.isfinite(window).all())
    assert float(window[0]) >= 1.0


def test_a_corpus_of_another_recipe_is_not_gone_on_with(tmp_path: Path) -> None:
    folder = tmp_path / "corpus"
    folder.mkdir()
    (folder / "recipe.json").write_text('{"seed": 1}')
    with pytest.raises(TrainingError, match="another recipe"):
        build(Corpus(sources=()), folder, 2, Console(quiet=True))
    (folder / "recipe.json").unlink()
    (folder / "00000.npz").touch()
    with pytest.raises(TrainingError, match="does not say"):
        build(Corpus(sources=()), folder, 2, Console(quiet=True))


def test_fine_grain_grows_to_one_side_or_not_at_all() -> None:
    gains = [random_fine_gain(np.random.default_rng(seed)) for seed in range(60)]
    assert all(gain.min() >= 0.999 and gain.max() <= 5.0 for gain in gains)
    even = sum(float(np.ptp(gain)) == 0.0 for gain in gains)
    assert 10 <= even <= 30
    rim = [(gain[16, 0], gain[0, 16], gain[16, -1], gain[-1, 16]) for gain in gains]
    assert max(max(ends) / min(ends) for ends in rim) > 2.5
    assert all(gain[15:17, 15:17].max() < 1.02 for gain in gains)


def test_resumed_run_is_the_unbroken_run(example: PackedExample, tmp_path: Path) -> None:
    def trainer(name: str) -> Trainer:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        torch.manual_seed(0)
        return Trainer("projection", TINY, folder, torch.device("cpu"), seed=5)

    def batch(rng: np.random.Generator) -> draw.Batch:
        return draw.projection_batch([example], TINY, rng)

    whole = trainer("whole")
    assert whole.fit(batch, float("inf"), lambda step, loss: None)
    broken = trainer("broken")
    assert not broken.fit(batch, 0.0, lambda step, loss: None)  # the deadline is over after one step
    assert broken.step == 1
    resumed = trainer("broken")
    assert resumed.step == 1
    assert resumed.fit(batch, float("inf"), lambda step, loss: None)
    for a, b in zip(whole.ema.parameters(), resumed.ema.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-6)


def test_published_model_loads_and_is_checked(example: PackedExample, tmp_path: Path) -> None:
    for name in ("projection", "image"):
        Trainer(name, TINY, tmp_path, torch.device("cpu"), seed=1)._save()
    recipe = Recipe(model_id="tiny", version="0", corpus=CORPUS, projection=TINY, image=TINY)
    folder = publish(recipe, tmp_path, tmp_path / "models")
    engine = load_engine(tmp_path / "models", "tiny", "cpu")
    assert len(engine.weights_digest) == 64
    weights = folder / "dgdiff.safetensors"
    damaged = bytearray(weights.read_bytes())
    damaged[-1] ^= 1
    weights.write_bytes(damaged)
    with pytest.raises(WeightsMismatch, match="fetch the model again"):
        load_engine(tmp_path / "models", "tiny", "cpu")


@pytest.mark.slow
def test_corpus_from_dicom_goes_on_where_it_stopped(tmp_path: Path) -> None:

    from dicomnode.learning.recipe import Source
    from tests.makers import make_series

    make_series(tmp_path / "series", slices=2)
    source = Source(name="made", path=tmp_path / "series", licence="none")
    corpus = CORPUS.model_copy(update={"sources": (source,)})
    first = build(corpus, tmp_path / "corpus", 1, Console(quiet=True))
    stamps = [path.stat().st_mtime_ns for path in first]
    (tmp_path / "corpus" / "complete").unlink()
    again = build(corpus, tmp_path / "corpus", 1, Console(quiet=True))
    assert [path.stat().st_mtime_ns for path in again] == stamps
    assert load_example(first[0]).arrays["noise"].shape[0] == 2


def test_shipped_recipe_reads() -> None:
    recipe = load_recipe(ROOT / "configs" / "train-need-small.yaml")
    names = " ".join(str(source.path) for source in recipe.corpus.sources)
    assert "mayo" not in names
    assert "lidc" not in names.lower()
