"""From checkpoints to a model folder: weights in half precision, and the card that vouches for them."""

from hashlib import sha256
from pathlib import Path

import torch
from safetensors.torch import save_file

from dicomnode.engines.model_card import Beam, Limits, ModelCard, Network, RawMode, Schedule
from dicomnode.engines.need.poisson import EXTENDED
from dicomnode.engines.seen import Seen
from dicomnode.engines.start_step import PhotonSchedule
from dicomnode.learning.provenance import card_text
from dicomnode.learning.recipe import Recipe


def publish(recipe: Recipe, run: Path, models: Path, seen: Seen | None = None) -> Path:
    """Write `models/<id>/`: the safetensors files and card.yaml, with digests of what was `seen`."""
    folder = models / recipe.model_id
    folder.mkdir(parents=True, exist_ok=True)
    projection = _export(run / "projection.pt", folder / "spdiff.safetensors")
    image = _export(run / "image.pt", folder / "dgdiff.safetensors")
    raw = _export(run / "raw.pt", folder / "spdiff-raw.safetensors") if recipe.raw else None
    card = card_of(recipe, projection, image, raw)
    (folder / "card.yaml").write_text(card_text(card.model_copy(update={"seen": seen or None})))
    return folder


def card_of(recipe: Recipe, projection: Network, image: Network, raw: Network | None = None) -> ModelCard:
    """The card of a recipe's model with these networks; without `raw` it has no raw mode."""
    corpus = recipe.corpus
    return ModelCard(
        id=recipe.model_id,
        version=recipe.version,
        engine="need",
        mode="image",
        licence="GPL-3.0-or-later",
        trained_on=corpus.trained_on,
        beam=Beam(side_px=512, views=corpus.views, detectors=corpus.detectors, pitch_px=corpus.pitch_px),
        schedule=_schedule(PhotonSchedule()),
        projection_passes=recipe.projection_passes,
        image_passes=recipe.image_passes,
        refill=recipe.refill,
        mirrorings=recipe.mirrorings,
        limits=Limits(noise_hu=recipe.image.noise_hu, texture=(-0.2, 0.9), pixel_mm=(0.3, 1.2)),
        projection=projection,
        image=image,
        raw=_raw_mode(recipe, raw),
        recipe={"seed": str(recipe.seed), "optimizer": "AdamW, cosine, EMA", **recipe.card},
    )


def _raw_mode(recipe: Recipe, network: Network | None) -> RawMode | None:
    if recipe.raw is None or network is None:
        return None
    return RawMode(
        network=network,
        schedule=_schedule(EXTENDED),
        passes=recipe.raw_passes,
        refill=recipe.raw_refill,
        photons=recipe.raw.photons,
    )


def _schedule(schedule: PhotonSchedule) -> Schedule:
    return Schedule(
        most_photons=schedule.most_photons, least_photons=schedule.least_photons, steps=schedule.steps
    )


def _export(checkpoint: Path, target: Path) -> Network:
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)
    weights = {name: tensor.half().contiguous() for name, tensor in state["ema"].items()}
    save_file(weights, target)
    channels, widths, conditions, *_ = state["shape"]
    return Network(
        file=target.name,
        sha256=sha256(target.read_bytes()).hexdigest(),
        channels_in=channels,
        widths=tuple(widths),
        conditions=conditions,
        parameters=sum(t.numel() for t in weights.values()),
    )
