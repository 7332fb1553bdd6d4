"""From a model's id to an engine ready to work."""

import argparse
import re
from pathlib import Path

import torch
from safetensors.torch import load_file

from dicomnode.engines.model_card import Network, checked_weights, load_card
from dicomnode.engines.need.engine import NeedEngine
from dicomnode.engines.unet import UNet, placed
from dicomnode.errors import ModelError

SHIPPED = Path(__file__).resolve().parents[2] / "models"
"""The models of this source tree, from wherever a command is called."""


def load_engine(
    models_folder: Path, model_id: str, device: str = "auto", threads: int | None = None
) -> NeedEngine:
    """Load a model and check its digests. `device`: auto, cpu or cuda. Raises ModelError, WeightsMismatch."""
    folder = models_folder / model_id
    card = load_card(folder)
    place = chosen_device(device)
    if place.type == "cuda":  # the same pixels each time, and sums as exact as a processor's
        torch.backends.cudnn.deterministic = True
        torch.backends.cudnn.allow_tf32 = False
    if threads:
        torch.set_num_threads(threads)
    projection, image = (placed(_network(folder, part), place) for part in (card.projection, card.image))
    raw = placed(_network(folder, card.raw.network), place) if card.raw else None
    return NeedEngine(card, projection, image, place, raw)


def device_argument(text: str) -> str:
    """For a command line: the name of a device as `chosen_device` takes it."""
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", text):
        raise argparse.ArgumentTypeError(f"{text}: give auto, cpu, cuda or cuda:N")
    return text


def chosen_device(name: str) -> torch.device:
    """`auto`, `cpu` or `cuda` as a device. Raises ModelError where there is none of the kind."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0  # counted under old drivers, too
    if device.type == "cuda" and (device.index or 0) >= gpus:
        seen = f"{gpus} of them" if gpus else "no GPU"
        raise ModelError(
            f"engine.device is {name} (or --device), but torch sees {seen}: set it to auto or cpu"
        )
    return device


def _network(folder: Path, part: Network) -> UNet:
    network = UNet(part.shape)
    weights = {name: tensor.float() for name, tensor in load_file(checked_weights(folder, part)).items()}
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        raise ModelError(f"{folder / part.file} does not fit the shape its card gives: {error}") from error
    return network.eval().requires_grad_(False)
