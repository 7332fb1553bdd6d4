"""Training: the draws add up, a resumed run is the unbroken run, and what is published loads again."""

import json
import multiprocessing
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.image import imread
from rich.console import Console
from safetensors.torch import save_file

from dicomnode.engines.catalog import load_engine
from dicomnode.engines.need import spdiff
from dicomnode.engines.unet import UNetShape
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
from dicomnode.learning.plans import dgdiff_task, spdiff_task
from dicomnode.learning.publish import publish
from dicomnode.learning.recipe import Corpus, Recipe, Stage, UNetRecipe, load_recipe
from dicomnode.learning.session import Session
from dicomnode.learning.trainer import Task, Trainer, drawn
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
        for batch in (
            draw.projection_batch([example], stage, rng),
            draw.image_batch([example], [], stage, rng),
        ):
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


def projection_task(example: PackedExample, stage: Stage = TINY) -> Task:
    shape = UNetShape(spdiff.CHANNELS, stage.widths, spdiff.CONDITIONS)
    return Task("projection", stage, shape, lambda rng: draw.projection_batch([example], stage, rng))


@pytest.fixture
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("one_thread")
def test_resumed_run_is_the_unbroken_run_bit_for_bit(example: PackedExample, tmp_path: Path) -> None:
    stage = TINY.model_copy(update={"steps": 120, "patch_px": 16})

    def trainer(name: str) -> Trainer:
        (tmp_path / name).mkdir(exist_ok=True)
        return Trainer(projection_task(example, stage), tmp_path / name, torch.device("cpu"), seed=5)

    whole = trainer("whole")
    assert whole.fit(float("inf"), lambda step, loss: None)
    broken = trainer("broken")
    assert not broken.fit(0.0, lambda step, loss: None)  # the deadline is over after one step
    assert broken.step == 1
    while not (resumed := trainer("broken")).fit(time.monotonic() + 0.2, lambda step, loss: None):
        assert 1 < resumed.step < stage.steps
    last = [torch.load(tmp_path / name / "projection.pt") for name in ("whole", "broken")]
    for part in ("network", "ema"):
        assert all(torch.equal(value, last[1][part][name]) for name, value in last[0][part].items())
    for one, other in zip(*(state["optimizer"]["state"].values() for state in last), strict=True):
        assert torch.equal(one["exp_avg_sq"], other["exp_avg_sq"])
    assert last[0]["smooth"] == last[1]["smooth"]
    curves = [(tmp_path / name / "projection.jsonl").read_text() for name in ("whole", "broken")]
    assert curves[0] == curves[1]
    assert curves[0].count("\n") == 3  # at 50, at 100 and at the end


def test_a_killed_run_leaves_no_line_twice(example: PackedExample, tmp_path: Path) -> None:
    """It told of steps it had not saved; what follows tells of them again."""
    cpu = torch.device("cpu")
    trainer = Trainer(projection_task(example), tmp_path, cpu, seed=5)
    assert trainer.fit(float("inf"), lambda step, loss: None)
    log = tmp_path / "projection.jsonl"
    log.write_text(log.read_text() + '{"step": 9, "loss": 1.0, "learning_rate": 0.1}\n{"step": 1')
    assert Trainer(projection_task(example), tmp_path, cpu, seed=5).step == 8
    assert [json.loads(line)["step"] for line in log.read_text().splitlines()] == [8]


def test_another_network_is_not_gone_on_with(example: PackedExample, tmp_path: Path) -> None:
    Trainer(projection_task(example), tmp_path, torch.device("cpu"), seed=5)._save()
    wider = projection_task(example, TINY.model_copy(update={"widths": (8, 16)}))
    with pytest.raises(TrainingError, match="another network"):
        Trainer(wider, tmp_path, torch.device("cpu"), seed=5)


def test_a_run_goes_on_with_its_own_seed_and_recipe_and_with_more_steps(
    example: PackedExample, tmp_path: Path
) -> None:
    cpu = torch.device("cpu")
    Trainer(projection_task(example), tmp_path, cpu, seed=5)._save()
    with pytest.raises(TrainingError, match="begun with another seed"):
        Trainer(projection_task(example), tmp_path, cpu, seed=6)
    louder = TINY.model_copy(update={"noise_hu": (50.0, 60.0)})
    with pytest.raises(TrainingError, match="begun with another noise_hu"):
        Trainer(projection_task(example, louder), tmp_path, cpu, seed=5)
    longer = TINY.model_copy(update={"steps": TINY.steps + 1})
    assert Trainer(projection_task(example, longer), tmp_path, cpu, seed=5).step == 0


def test_a_training_that_blows_up_ends_and_leaves_what_was_sound(
    example: PackedExample, tmp_path: Path
) -> None:
    """A batch that is no number must not become the weights of a model."""
    whole = projection_task(example)
    drawn_before = []

    def broken(rng: np.random.Generator) -> draw.Batch:
        batch = whole.draw(rng)
        drawn_before.append(batch)
        return batch if len(drawn_before) < 4 else replace(batch, target=batch.target * float("nan"))

    trainer = Trainer(replace(whole, draw=broken), tmp_path, torch.device("cpu"), seed=5)
    trainer._save()
    with pytest.raises(TrainingError, match="step 4: loss nan"):
        trainer.fit(float("inf"), lambda step, loss: None)
    kept = torch.load(tmp_path / "projection.pt")
    assert all(torch.isfinite(value).all() for part in ("network", "ema") for value in kept[part].values())


def test_weights_depend_on_name_and_seed_alone(example: PackedExample, tmp_path: Path) -> None:
    def weights(seed: int) -> torch.Tensor:
        torch.rand(3)  # whatever else was drawn before
        trainer = Trainer(projection_task(example), tmp_path, torch.device("cpu"), seed)
        return trainer.network.get_parameter("enter.weight")

    assert torch.equal(weights(5), weights(5))
    assert not torch.equal(weights(5), weights(6))


def test_drawing_processes_draw_the_same(example: PackedExample) -> None:
    task = projection_task(example)
    alone = list(drawn(task.draw, 3, range(4, 11)))
    together = list(drawn(task.draw, 3, range(4, 11), workers=2))
    assert len(alone) == len(together) == 7
    for one, other in zip(alone, together, strict=True):
        assert torch.equal(one.inputs, other.inputs)
        assert torch.equal(one.conditions, other.conditions)
        assert torch.equal(one.target, other.target)


def test_drawing_ends_with_the_training(example: PackedExample) -> None:
    batches = drawn(projection_task(example).draw, 3, range(10**6), workers=2)
    next(batches)
    assert len(multiprocessing.active_children()) == 2
    batches.close()
    assert not multiprocessing.active_children()


def test_a_curve_is_drawn_at_every_stop(example: PackedExample, tmp_path: Path) -> None:
    stage = TINY.model_copy(update={"steps": 51, "patch_px": 16})
    trainer = Trainer(projection_task(example, stage), tmp_path, torch.device("cpu"), seed=5)
    assert trainer.fit(float("inf"), lambda step, loss: None)
    picture = imread(tmp_path / "projection.png")
    assert picture.shape[:2] == (450, 800)
    assert np.ptp(picture[..., :3]) > 0.5


def test_published_model_loads_and_is_checked(example: PackedExample, tmp_path: Path) -> None:
    recipe = Recipe(model_id="tiny", version="0", corpus=CORPUS, projection=TINY, image=TINY)
    cpu = torch.device("cpu")
    session = Session(tmp_path, tmp_path / "corpus", 1, cpu, float("inf"), Console(quiet=True))
    for task in (spdiff_task(recipe, session), dgdiff_task(recipe, session)):
        Trainer(task, tmp_path, cpu, seed=1)._save()
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


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("train-*.yaml")), ids=lambda path: path.stem)
def test_shipped_recipes_read_and_stay_off_what_is_tested_on(path: Path) -> None:
    recipe = load_recipe(path)
    assert path.stem.startswith(f"train-{recipe.model_id.removesuffix('-base')}")
    names = " ".join(str(source.path) for source in recipe.corpus.sources)
    assert "mayo" not in names
    assert "lidc" not in names.lower()


def test_every_recipe_is_explained() -> None:
    told = (ROOT / "configs" / "README.md").read_text()
    for path in (ROOT / "configs").glob("train-*.yaml"):
        assert f"`{path.name}`" in told


def test_shipped_recipes_share_one_corpus() -> None:
    paths = sorted((ROOT / "configs").glob("train-*.yaml"))
    recipes = [load_recipe(path) for path in paths]
    assert len(recipes) == 4
    assert len({(recipe.corpus.model_dump_json(), recipe.seed) for recipe in recipes}) == 1


def test_the_plain_network_has_size_and_time_of_dgdiff() -> None:
    need, unet = (load_recipe(ROOT / "configs" / f"train-{name}.yaml") for name in ("need-small", "unet"))
    for key in ("widths", "steps", "batch", "patch_px", "learning_rate", "noise_hu", "objects"):
        assert getattr(need.image, key) == getattr(unet.image, key)
    assert isinstance(need, Recipe)
    assert isinstance(unet, UNetRecipe)
    assert need.mirrorings == unet.mirrorings


def test_weights_of_the_large_model_fit_into_16_mb(tmp_path: Path) -> None:
    recipe = load_recipe(ROOT / "configs" / "train-need.yaml")
    assert isinstance(recipe, Recipe)
    cpu = torch.device("cpu")
    session = Session(tmp_path, tmp_path / "corpus", 1, cpu, float("inf"), Console(quiet=True))
    for task in (spdiff_task(recipe, session), dgdiff_task(recipe, session)):
        weights = {name: value.half() for name, value in task.shape.build().state_dict().items()}
        save_file(weights, tmp_path / "weights.safetensors")
        assert 6e6 < (tmp_path / "weights.safetensors").stat().st_size < 16e6


def test_a_recipe_of_no_known_kind_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("engine: magic\n")
    with pytest.raises(TrainingError, match="known are need, red-cnn, unet"):
        load_recipe(path)
    path.write_text("- 1\n")
    with pytest.raises(TrainingError, match="must be a mapping"):
        load_recipe(path)
