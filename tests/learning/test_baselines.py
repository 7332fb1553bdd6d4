"""Baselines: the pairs have the variance they claim, the networks the form, and what is written is read."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from dicomnode.engines.catalog import SHIPPED
from dicomnode.engines.start_step import StartStep
from dicomnode.errors import ModelError, TrainingError, WeightsMismatch
from dicomnode.learning import draw
from dicomnode.learning.baselines import (
    UNIT_HU,
    WEIGHTS,
    alone_batch,
    fixed_dose_batch,
    load_baseline,
    publish_baseline,
    task,
)
from dicomnode.learning.corpus import PackedExample
from dicomnode.learning.recipe import BaselineRecipe, Corpus, RedCnnRecipe, Stage, UNetRecipe, load_recipe
from dicomnode.learning.red_cnn import RedCnn, RedCnnShape
from dicomnode.learning.trainer import Trainer

SIDE = 128
CPU = torch.device("cpu")
CORPUS = Corpus(sources=())
STAGE = Stage(widths=(6, 6, 6), steps=8, batch=4, patch_px=32, second_noise=0.0)
START = StartStep(3, 6e4, 0.25, 30.0, 0.4, "noise", None)


def made(own_noise_hu: float, seed: int = 0) -> PackedExample:
    """A slice of water with its own noise, and independent noise of unit level."""
    rng = np.random.default_rng(seed)
    arrays = {
        "slice_hu": rng.normal(0.0, own_noise_hu, (SIDE, SIDE)),
        "noise": rng.normal(0.0, 1.0, (2, SIDE, SIDE)),
        "beside_hu": np.zeros((2, SIDE, SIDE)),
        "beside_noise": rng.normal(0.0, 1.0, (2, SIDE, SIDE)),
    }
    steps = {name: float(np.abs(a).max()) / 32000 + 1e-9 for name, a in arrays.items()}
    packed = {name: np.rint(a / steps[name]).astype(np.int16) for name, a in arrays.items()}
    return PackedExample(packed, steps, 0.7, own_noise_hu, 0.4, 1e5)


def trained(recipe: BaselineRecipe, folder: Path) -> Trainer:
    folder.mkdir(exist_ok=True)
    trainer = Trainer(task(recipe, [made(12.0)]), folder, CPU, recipe.seed)
    assert trainer.fit(float("inf"), lambda step, loss: None)
    return trainer


def recipe_of(kind: str) -> BaselineRecipe:
    common = {"model_id": kind, "version": "1", "corpus": CORPUS, "image": STAGE, "engine": kind}
    return (RedCnnRecipe if kind == "red-cnn" else UNetRecipe).model_validate(common)


@pytest.mark.parametrize("dose", [0.5, 0.25, 0.1])
@pytest.mark.parametrize("own_noise_hu", [8.0, 20.0])
def test_variance_goes_with_one_over_dose(dose: float, own_noise_hu: float) -> None:
    stage = STAGE.model_copy(update={"batch": 64, "patch_px": 96})
    batch = fixed_dose_batch([made(own_noise_hu)], stage, dose, np.random.default_rng(1))
    low, slice_hu = batch.inputs * UNIT_HU, batch.target * UNIT_HU
    assert float(slice_hu.var()) == pytest.approx(own_noise_hu**2, rel=0.03)
    assert float(low.var()) == pytest.approx(own_noise_hu**2 / dose, rel=0.03)
    added = low - slice_hu
    assert float(added.var()) == pytest.approx(own_noise_hu**2 * (1 / dose - 1), rel=0.03)
    assert abs(float((added * slice_hu).mean())) < 0.03 * float(low.var())


def test_a_quarter_is_root_three_of_its_own(tmp_path: Path) -> None:
    stage = STAGE.model_copy(update={"batch": 1, "patch_px": SIDE})
    batch = fixed_dose_batch([made(10.0)], stage, 0.25, np.random.default_rng(1))
    assert float((batch.inputs - batch.target).std() * UNIT_HU) == pytest.approx(10.0 * 3**0.5, rel=0.02)


def test_the_plain_network_sees_the_slice_alone() -> None:
    """Neither neighbours nor the share that stays are in what it is given; the rest is DGDiff's."""
    one, other = made(12.0), made(12.0)
    other.arrays["beside_hu"] = other.arrays["beside_hu"] + 100
    batches = [alone_batch([example], STAGE, np.random.default_rng(2)) for example in (one, other)]
    assert torch.equal(batches[0].inputs, batches[1].inputs)
    whole = draw.image_batch([one], [], STAGE, np.random.default_rng(2))
    assert torch.equal(batches[0].inputs, whole.inputs[:, :2])
    assert torch.equal(batches[0].conditions, whole.conditions[:, :2])
    assert torch.equal(batches[0].target, whole.target)


def test_the_plain_network_has_one_answer_to_learn() -> None:
    with pytest.raises(ValueError, match="second_noise must be 0"):
        UNetRecipe(engine="unet", model_id="u", version="1", corpus=CORPUS, image=Stage(widths=(8,), steps=1))


@pytest.mark.parametrize("height", [1, 5, 20, 21, 37, 64])
@pytest.mark.parametrize("width", [3, 21, 50])
def test_red_cnn_keeps_any_shape_and_starts_as_the_identity(height: int, width: int) -> None:
    network = RedCnnShape((8,) * 5).build()
    x = torch.randn(2, 1, height, width)
    assert torch.equal(network(x), x)


def test_red_cnn_has_the_published_form() -> None:
    network = RedCnnShape().build()
    middle, ends = 96 * 96 * 25 + 96, 96 * 25
    assert sum(p.numel() for p in network.parameters()) == 8 * middle + (ends + 96) + (ends + 1)
    assert RedCnnShape().least_side_px == 21


def lively() -> RedCnn:
    torch.manual_seed(0)
    network = RedCnnShape((8,) * 5).build()
    torch.nn.init.normal_(network.decode[-1].get_parameter("weight"), std=0.1)
    return network


def test_red_cnn_is_the_same_everywhere() -> None:
    """Away from the border the answer moves with the slice, and comes from 41 pixels around."""
    network, x = lively(), torch.randn(1, 1, 96, 96)
    moved = torch.roll(x, (3, 5), (2, 3))
    inner = (..., slice(30, 66), slice(30, 66))
    torch.testing.assert_close(
        torch.roll(network(x), (3, 5), (2, 3))[inner], network(moved)[inner], atol=1e-5, rtol=1e-4
    )
    x.requires_grad_(True)
    network(x)[0, 0, 48, 48].backward()
    assert x.grad is not None
    rows = torch.nonzero(x.grad[0, 0].abs().sum(dim=1)).ravel()
    assert int(rows.min()) >= 48 - 20
    assert int(rows.max()) <= 48 + 20


def test_red_cnn_has_three_ways_around() -> None:
    """Without the first four transposes only the shortcuts carry anything."""
    network, x = lively(), torch.randn(1, 1, 40, 40)
    for layer in network.decode[:-1]:
        torch.nn.init.zeros_(layer.get_parameter("weight"))
    with torch.no_grad():
        assert torch.equal(network(x), x)  # the fourth has no shortcut of its own
    torch.nn.init.normal_(network.decode[3].get_parameter("weight"), std=0.1)
    with torch.no_grad():
        assert not torch.equal(network(x), x)  # fed by the second convolution, past the layers between


@pytest.mark.parametrize("kind", ["red-cnn", "unet"])
def test_what_is_published_answers_as_it_was_trained(kind: str, tmp_path: Path) -> None:
    trainer = trained(recipe_of(kind), tmp_path)
    folder = publish_baseline(recipe_of(kind), tmp_path)
    baseline = load_baseline(folder, CPU)
    assert baseline.name == kind
    assert baseline.card.dose == (0.25 if kind == "red-cnn" else None)
    assert baseline.card.steps == STAGE.steps
    for name, value in trainer.ema.state_dict().items():
        torch.testing.assert_close(baseline.network.state_dict()[name], value, atol=1e-3, rtol=1e-3)
    stack = np.random.default_rng(3).normal(0.0, 30.0, (3, 50, 44)).astype(np.float32)
    out = baseline(stack, [START] * 3)
    assert out.shape == stack.shape
    assert out.dtype == np.float32
    assert 0.0 < float(np.abs(out - stack).max()) < 100.0
    np.testing.assert_array_equal(baseline(stack[1:2], [START])[0], out[1])


def test_the_plain_network_is_told_the_noise_and_red_cnn_is_not(tmp_path: Path) -> None:
    stack = np.random.default_rng(3).normal(0.0, 30.0, (1, 40, 40)).astype(np.float32)
    louder = StartStep(3, 6e4, 0.25, 60.0, 0.4, "noise", None)
    for kind, same in (("red-cnn", True), ("unet", False)):
        trained(recipe_of(kind), tmp_path / kind)
        baseline = load_baseline(publish_baseline(recipe_of(kind), tmp_path / kind), CPU)
        assert np.array_equal(baseline(stack, [START]), baseline(stack, [louder])) is same


def test_the_mean_over_mirrorings_has_no_handedness(tmp_path: Path) -> None:
    """As NEED's own answers; without it a network does as it happens to have learned."""
    stack = np.random.default_rng(3).normal(0.0, 30.0, (1, 40, 40)).astype(np.float32)
    for mirrorings, same in ((1, False), (2, True)):
        recipe = UNetRecipe.model_validate({**recipe_of("unet").model_dump(), "mirrorings": mirrorings})
        trained(recipe, tmp_path / str(mirrorings))
        baseline = load_baseline(publish_baseline(recipe, tmp_path / str(mirrorings)), CPU)
        turned = baseline(np.ascontiguousarray(stack[..., ::-1]), [START])[..., ::-1]
        assert (float(np.abs(turned - baseline(stack, [START])).max()) < 1e-3) is same
        assert ("mirrorings" in baseline.told) is same


def test_the_plain_network_may_be_told_the_dose_as_dgdiff_is(tmp_path: Path) -> None:
    stack = np.random.default_rng(3).normal(0.0, 30.0, (1, 40, 40)).astype(np.float32)
    half = StartStep(3, 6e4, 0.5, 30.0, 0.4, "noise", None)
    batch = alone_batch([made(12.0)], STAGE, np.random.default_rng(2), 3)
    whole = draw.image_batch([made(12.0)], [], STAGE, np.random.default_rng(2))
    assert torch.equal(batch.conditions, whole.conditions[:, :3])
    for told in (False, True):
        recipe = UNetRecipe.model_validate({**recipe_of("unet").model_dump(), "told_dose": told})
        trained(recipe, tmp_path / str(told))
        baseline = load_baseline(publish_baseline(recipe, tmp_path / str(told)), CPU)
        torch.manual_seed(0)
        for parameter in baseline.network.parameters():  # eight steps teach it next to nothing of its steer
            torch.nn.init.normal_(parameter, std=0.2)
        assert np.array_equal(baseline(stack, [START]), baseline(stack, [half])) is not told


def test_a_run_at_one_dose_is_not_gone_on_with_at_another(tmp_path: Path) -> None:
    """The card would name a dose that the network never saw alone."""
    recipe = recipe_of("red-cnn")
    trained(recipe, tmp_path)
    tenth = RedCnnRecipe.model_validate({**recipe.model_dump(), "dose": 0.1})
    with pytest.raises(TrainingError, match="begun with another dose"):
        Trainer(task(tenth, [made(12.0)]), tmp_path, CPU, recipe.seed)


def test_what_its_answers_depend_on_is_told(tmp_path: Path) -> None:
    """Weights and limits; not what it was trained on."""
    recipe = recipe_of("unet")
    trained(recipe, tmp_path)
    baseline = load_baseline(publish_baseline(recipe, tmp_path), CPU)

    def made_by(**other: object) -> str:
        return replace(baseline, card=baseline.card.model_copy(update=other)).made_by

    assert made_by() == made_by(trained_on=("nothing",)) == made_by(seen=None)
    others = [
        made_by(sha256="0" * 64),
        made_by(noise_hu=(1.0, 2.0)),
        made_by(conditions=3),
        made_by(mirrorings=4),
    ]
    assert len({made_by(), *others}) == 5


@pytest.mark.slow
def test_a_little_training_denoises(tmp_path: Path) -> None:
    """On flat water 150 steps are enough to leave less noise than there was."""
    stage = STAGE.model_copy(update={"steps": 150, "learning_rate": 2e-3})
    recipe = recipe_of("red-cnn").model_copy(update={"image": stage})
    trained(recipe, tmp_path)
    baseline = load_baseline(publish_baseline(recipe, tmp_path), CPU)
    stack = np.random.default_rng(4).normal(0.0, 24.0, (1, 64, 64)).astype(np.float32)
    assert baseline(stack, [START]).std() < 0.7 * stack.std()


def test_a_baseline_that_is_not_there_or_damaged_is_told(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no baseline"):
        load_baseline(tmp_path, CPU)
    trained(recipe_of("unet"), tmp_path)
    publish_baseline(recipe_of("unet"), tmp_path)
    damaged = bytearray((tmp_path / WEIGHTS).read_bytes())
    damaged[-1] ^= 1
    (tmp_path / WEIGHTS).write_bytes(damaged)
    with pytest.raises(WeightsMismatch, match="train it again"):
        load_baseline(tmp_path, CPU)


def test_a_recipe_may_take_the_corpus_of_another(tmp_path: Path) -> None:
    source = {"name": "made", "path": "data/made", "licence": "none"}
    other = {"model_id": "n", "version": "1", "corpus": {"sources": [source], "views": 99}}
    (tmp_path / "other.yaml").write_text(yaml.safe_dump(other))
    own = {**other, "engine": "red-cnn", "corpus": "other.yaml", "image": {"widths": [8], "steps": 1}}
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(own))
    assert load_recipe(tmp_path / "own.yaml").corpus.views == 99
    (tmp_path / "own.yaml").write_text(yaml.safe_dump({**own, "corpus": "nowhere.yaml"}))
    with pytest.raises(TrainingError, match=r"nowhere\.yaml"):
        load_recipe(tmp_path / "own.yaml")


def test_a_need_model_is_told_how_it_is_measured() -> None:
    with pytest.raises(ModelError) as refused:
        load_baseline(SHIPPED / "need-small", CPU)
    assert f"no baseline: measure it with --model need-small --models {SHIPPED}" in str(refused.value)
    assert "validation error" not in str(refused.value)
