"""The model card.

It says what a folder of weights is, in which scanner geometry it thinks, and what it may be asked.
"""

from hashlib import sha256
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dicomnode.engines.seen import Seen
from dicomnode.engines.unet import UNetShape
from dicomnode.errors import ModelError, WeightsMismatch
from dicomnode.physics.geometry import ParallelBeam


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Network(_Part):
    """One file of weights: its name, its digest and the shape of the network in it."""

    file: str
    sha256: str
    channels_in: int
    widths: tuple[int, ...]
    conditions: int
    parameters: int

    @property
    def shape(self) -> UNetShape:
        return UNetShape(self.channels_in, self.widths, self.conditions)


class Beam(_Part):
    """Virtual parallel beam, as `physics.geometry.ParallelBeam`."""

    side_px: int
    views: int
    detectors: int
    pitch_px: float

    def build(self) -> ParallelBeam:
        return ParallelBeam(self.side_px, self.views, self.detectors, self.pitch_px)


class Schedule(_Part):
    """Photon levels of the diffusion: reciprocal-linear from `most` to `least` in `steps` (NEED 1.4)."""

    most_photons: float
    least_photons: float
    steps: Annotated[int, Field(ge=2)]


class RawMode(_Part):
    """SPDiff on measured projections, where a model has it.

    `schedule` as above, down to a lower dose than the published one. `passes`: predictions from the measured
    dose to normal dose; by default one a step of the schedule. `photons`: what the network was trained for.
    """

    network: Network
    schedule: Schedule
    passes: Annotated[int, Field(ge=1)] | None = None
    refill: Literal["mean", "drawn"] = "drawn"
    photons: tuple[float, float]


class Limits(_Part):
    """What the model was trained for; outside it the node clamps and says so."""

    noise_hu: tuple[float, float]
    texture: tuple[float, float]
    pixel_mm: tuple[float, float]


class ModelCard(_Part):
    """`card.yaml` of a model folder.

    `trained_on`: the sources with their licences. `seen`: digests of what was in them; cards from before
    there were any have none.
    """

    id: str
    version: str
    engine: Literal["need"]
    mode: Literal["image"]
    licence: str
    trained_on: tuple[str, ...]
    beam: Beam
    schedule: Schedule
    projection_passes: Annotated[int, Field(ge=0)]
    image_passes: Annotated[int, Field(ge=1)]
    refill: Literal["mean", "drawn"] = "mean"
    mirrorings: Annotated[int, Field(ge=1, le=4)] = 1
    limits: Limits
    projection: Network
    image: Network
    raw: RawMode | None = None
    recipe: dict[str, str] = {}
    seen: Seen | None = None

    @property
    def weights_digest(self) -> str:
        """One SHA-256 for all weights of the model, as written into reports and derived images."""
        raw = self.raw.network.sha256 if self.raw else ""
        return sha256((self.projection.sha256 + self.image.sha256 + raw).encode()).hexdigest()


def load_card(folder: Path) -> ModelCard:
    """Read `card.yaml` of a model folder; ModelError says what is wrong with it."""
    path = folder / "card.yaml"
    try:
        return ModelCard.model_validate(yaml.safe_load(path.read_text()))
    except FileNotFoundError as error:
        raise ModelError(
            f"no model in {folder}: {path.name} is missing; check its name (engine.model, or --model)"
        ) from error
    except (yaml.YAMLError, ValidationError) as error:
        raise ModelError(f"{path}: {error}") from error


def checked_weights(folder: Path, network: Network) -> Path:
    """The weights file of a network, after its digest was compared with the card's."""
    path = folder / network.file
    if not path.is_file():
        raise ModelError(f"{path} is missing: fetch the model again")
    digest = sha256(path.read_bytes()).hexdigest()
    if digest != network.sha256:
        raise WeightsMismatch(
            f"{path}: sha256 {digest[:12]}... is not the card's {network.sha256[:12]}...: "
            "fetch the model again"
        )
    return path
