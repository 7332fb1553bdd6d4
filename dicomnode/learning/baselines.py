"""The baselines trained by the same command: RED-CNN on quarter dose alone, and a plain U-Net on all doses.

A baseline is one network in the run folder, `weights.safetensors` in half precision beside `card.yaml`.
Neither is bounded, nor told to leave normal dose alone: they answer as they have learned.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from dicomnode.engines.need import dgdiff
from dicomnode.engines.seen import Seen
from dicomnode.engines.start_step import StartStep
from dicomnode.engines.unet import UNetShape, bf16_pays, condition_tensor, placed
from dicomnode.errors import ModelError, WeightsMismatch
from dicomnode.learning.corpus import PackedExample
from dicomnode.learning.draw import Batch, Mix, crop_pair, image_batch
from dicomnode.learning.provenance import card_text
from dicomnode.learning.recipe import BaselineRecipe, RedCnnRecipe, Stage, UNetRecipe
from dicomnode.learning.red_cnn import RedCnnShape
from dicomnode.learning.trainer import Shape, Task

UNIT_HU = 500.0
"""Of a slice as RED-CNN sees it, from air at -2 to bone at 3."""
CHANNELS = 2
"""Of the plain U-Net: the slice and its fine part."""
CONDITIONS, WITH_DOSE = 2, 3
"""Of the plain U-Net: noise level and texture; and the share of normal dose, as DGDiff is told."""
WEIGHTS = "weights.safetensors"
HIGHEST_HU = 3071.0

Image = NDArray[np.float32]


class BaselineCard(BaseModel):
    """`card.yaml` of a run folder. `dose`: the only one it was trained at, None for all.

    `mirrorings`: how many mirrored slices its answer is the mean of, as in NEED's model card. `conditions`:
    how many numbers the plain U-Net is told. `seen`: digests of what it was trained on.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    engine: Literal["red-cnn", "unet"]
    widths: tuple[int, ...]
    parameters: int
    sha256: str
    dose: float | None
    noise_hu: tuple[float, float]
    licence: str
    trained_on: tuple[str, ...]
    steps: int
    seed: int
    mirrorings: Annotated[int, Field(ge=1, le=len(dgdiff.MIRRORINGS))] = 1
    conditions: Annotated[int, Field(ge=CONDITIONS, le=WITH_DOSE)] = CONDITIONS
    seen: Seen | None = None

    @property
    def shape(self) -> Shape:
        return _shape(self.engine, self.widths, self.conditions)


def task(recipe: BaselineRecipe, examples: Sequence[PackedExample]) -> Task:
    """What is to be trained for a baseline's recipe."""
    stage, conditions = recipe.image, _conditions(recipe)
    shape = _shape(recipe.engine, recipe.image.widths, conditions)
    if isinstance(recipe, RedCnnRecipe):
        dose = recipe.dose
        return Task(
            "image", stage, shape, lambda rng: fixed_dose_batch(examples, stage, dose, rng), f"{dose:g}"
        )
    return Task("image", stage, shape, lambda rng: alone_batch(examples, stage, rng, conditions))


def fixed_dose_batch(
    examples: Sequence[PackedExample], stage: Stage, dose: float, rng: np.random.Generator
) -> Batch:
    """Pairs at one dose: slices made as noisy as `dose` makes them, and the slices themselves; in UNIT_HU.

    Variance goes with one over dose: to its own noise each slice gets sqrt(1 / dose - 1) times as much.
    """
    noisy, clean = [], []
    for _ in range(stage.batch):
        example = examples[int(rng.integers(len(examples)))]
        mix = Mix(added_at_dose_hu(example, dose), 0.0, bool(rng.random() < 0.5))
        low, slice_hu = crop_pair(example, mix, stage, rng)
        noisy.append(low)
        clean.append(slice_hu)
    x, target = (torch.from_numpy(np.stack(crops))[:, None] / UNIT_HU for crops in (noisy, clean))
    return Batch(x, x.new_zeros((len(x), 0)), target)


def added_at_dose_hu(example: PackedExample, dose: float) -> float:
    """Level of the noise that makes a slice one of `dose` times its own."""
    return example.own_noise_hu * math.sqrt(1.0 / dose - 1.0)


def alone_batch(
    examples: Sequence[PackedExample],
    stage: Stage,
    rng: np.random.Generator,
    conditions: int = CONDITIONS,
) -> Batch:
    """DGDiff's batches, less the proposal of the projections, the neighbours and the share that stays."""
    batch = image_batch(examples, [], stage, rng)
    return Batch(batch.inputs[:, :CHANNELS], batch.conditions[:, :conditions], batch.target)


@dataclass(frozen=True, eq=False)
class Baseline:
    """A trained network on a device; calling it denoises a stack."""

    card: BaselineCard
    network: nn.Module
    device: torch.device

    @property
    def name(self) -> str:
        return self.card.name

    @property
    def told(self) -> str:
        """What a reader of its figures needs to know of it."""
        card = self.card
        dose = "all doses" if card.dose is None else f"{100 * card.dose:g} % dose alone"
        mirrored = f", mean of {card.mirrorings} mirrorings" if card.mirrorings > 1 else ""
        return (
            f"{card.engine}, {card.parameters} parameters, {card.steps} steps at {dose}{mirrored}; weights "
            f"{card.sha256[:12]}; trained on {', '.join(card.trained_on) or 'nothing named'}"
        )

    @property
    def made_by(self) -> str:
        """All that its answers depend on: weights, and what the card says of them."""
        return self.card.model_dump_json(exclude={"seen", "trained_on"})

    @property
    def seen(self) -> Seen | None:
        """Digests of what it was trained on; None where its card has none."""
        return self.card.seen

    @torch.inference_mode()
    def __call__(self, hounsfield: Image, starts: Sequence[StartStep]) -> Image:
        """HU float32 [slice, row, column] in and out, one start step a slice; RED-CNN looks at none."""
        out = np.empty_like(hounsfield)
        for k, (image, start) in enumerate(zip(hounsfield, starts, strict=True)):
            low = torch.from_numpy(image).to(self.device)[None, None]
            x = low.clamp(-1000.0, HIGHEST_HU)
            with torch.autocast(self.device.type, torch.bfloat16, enabled=bf16_pays(self.device)):
                change = self._red_cnn(x) if self.card.engine == "red-cnn" else self._unet(x, start)
            out[k] = (low + change)[0, 0].cpu().numpy()
        return out

    def _red_cnn(self, x: Tensor) -> Tensor:
        answer: Tensor = self.network(x / UNIT_HU)
        return answer * UNIT_HU - x

    def _unet(self, x: Tensor, start: StartStep) -> Tensor:
        low, high = self.card.noise_hu
        noise_hu = min(max(start.noise_hu, low), high)
        scale = x.new_tensor(noise_hu)
        channels = dgdiff.inputs(x, x, x.expand(-1, 2, -1, -1), scale)[:, :CHANNELS]
        steer = dgdiff.conditions(noise_hu, start.texture, start.fraction)[: self.card.conditions]
        steered = condition_tensor([steer], x)
        answers = [
            self.network(channels.flip(axes), steered).float().flip(axes)
            for axes in dgdiff.MIRRORINGS[: self.card.mirrorings]
        ]
        return -torch.stack(answers).mean(dim=0) * scale


def load_baseline(folder: Path, device: torch.device) -> Baseline:
    """The baseline of a run folder. Raises ModelError, WeightsMismatch."""
    path = folder / "card.yaml"
    try:
        read = yaml.safe_load(path.read_text())
        if isinstance(read, dict) and read.get("engine") == "need":
            whole = folder.resolve()
            raise ModelError(
                f"{folder} holds a NEED model, no baseline: measure it with "
                f"--model {whole.name} --models {whole.parent}"
            )
        card = BaselineCard.model_validate(read)
    except FileNotFoundError as error:
        raise ModelError(f"no baseline in {folder}: no {path.name}; was it trained to its end?") from error
    except (yaml.YAMLError, ValidationError) as error:
        raise ModelError(f"{path}: {error}") from error
    weights = folder / WEIGHTS
    if not weights.is_file() or sha256(weights.read_bytes()).hexdigest() != card.sha256:
        raise WeightsMismatch(f"{weights} is not what its card names: train it again")
    network = placed(card.shape.build(), device)
    network.load_state_dict({name: tensor.float() for name, tensor in load_file(weights).items()})
    return Baseline(card, network.eval().requires_grad_(False), device)


def publish_baseline(recipe: BaselineRecipe, run: Path, seen: Seen | None = None) -> Path:
    """Write weights and card of a trained baseline into its run folder, with digests of what was `seen`."""
    state = torch.load(run / "image.pt", map_location="cpu", weights_only=True)
    weights = {name: tensor.half().contiguous() for name, tensor in state["ema"].items()}
    save_file(weights, run / WEIGHTS)
    card = BaselineCard(
        name=recipe.model_id,
        engine=recipe.engine,
        widths=recipe.image.widths,
        parameters=sum(tensor.numel() for tensor in weights.values()),
        sha256=sha256((run / WEIGHTS).read_bytes()).hexdigest(),
        dose=recipe.dose if isinstance(recipe, RedCnnRecipe) else None,
        noise_hu=recipe.image.noise_hu,
        licence="GPL-3.0-or-later",
        trained_on=recipe.corpus.trained_on,
        steps=state["step"],
        seed=recipe.seed,
        mirrorings=1 if isinstance(recipe, RedCnnRecipe) else recipe.mirrorings,
        conditions=_conditions(recipe),
        seen=seen or None,
    )
    (run / "card.yaml").write_text(card_text(card))
    return run


def _conditions(recipe: BaselineRecipe) -> int:
    return WITH_DOSE if isinstance(recipe, UNetRecipe) and recipe.told_dose else CONDITIONS


def _shape(engine: Literal["red-cnn", "unet"], widths: tuple[int, ...], conditions: int) -> Shape:
    return RedCnnShape(widths) if engine == "red-cnn" else UNetShape(CHANNELS, widths, conditions)
