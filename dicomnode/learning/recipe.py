"""The training recipe: configs/train-*.yaml, checked."""

from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dicomnode.errors import TrainingError


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Source(_Section):
    """A folder of DICOM slices, or one NRRD volume, of normal-dose CT."""

    name: str
    path: Path
    licence: str
    kind: Literal["dicom", "nrrd"] = "dicom"
    every: Annotated[int, Field(ge=1)] = 1


class Corpus(_Section):
    """How slices become training examples."""

    sources: tuple[Source, ...]
    views: int = 720
    detectors: int = 736
    pitch_px: float = 1.0
    photons: tuple[float, float] = (2.0e4, 3.0e5)
    cutoff_per_px: tuple[float, float] = (0.26, 2.0)
    least_body_share: float = 0.08
    most_examples: int = 200


class Stage(_Section):
    """One network and how it is trained."""

    widths: tuple[int, ...]
    steps: Annotated[int, Field(ge=1)]
    batch: int = 16
    patch_px: int = 64
    learning_rate: float = 4e-4
    weight_decay: float = 1e-4
    ema: float = 0.999
    noise_hu: tuple[float, float] = (6.0, 110.0)
    second_noise: float = 0.5
    prior_dropout: float = 0.25
    objects: Annotated[float, Field(ge=0, le=1)] = 0.0


class RawStage(Stage):
    """SPDiff on measured projections, and the photons a reference ray that it is trained for."""

    photons: tuple[float, float] = (5.0e3, 3.0e5)


class Recipe(_Section):
    """Everything `dicomnode train` needs; `card` goes into the model card as it stands.

    Without `raw` the model has no raw mode. `raw_passes`: predictions from the measured dose to normal dose;
    by default one a step of the schedule, as published, with photons drawn between them (`raw_refill`).
    """

    model_id: str
    version: str
    seed: int = 1
    corpus: Corpus
    projection: Stage
    image: Stage
    raw: RawStage | None = None
    raw_passes: Annotated[int, Field(ge=1)] | None = None
    raw_refill: Literal["mean", "drawn"] = "drawn"
    projection_passes: int = 2
    image_passes: int = 1
    refill: Literal["mean", "drawn"] = "mean"
    mirrorings: int = 1
    prior_variants: int = 2
    prior_passes: int = 1
    card: dict[str, str] = {}


def load_recipe(path: Path) -> Recipe:
    """Read and check a recipe; relative source paths are taken from the folder the command runs in."""
    try:
        return Recipe.model_validate(yaml.safe_load(path.read_text()))
    except (OSError, yaml.YAMLError, ValidationError) as error:
        raise TrainingError(f"{path}: {error}") from error
