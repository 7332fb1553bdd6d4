"""Scans of a body of which every part is known: slices, pixel size, rays, the start step of a slice."""

import numpy as np
import torch
from numpy.typing import NDArray

from dicomnode.engines.start_step import StartStep
from dicomnode.learning.recipe import Corpus
from dicomnode.physics.simulation import Kernel, simulate_noise

PIXEL_MM = 1.2
RAW_CORPUS = Corpus(sources=(), views=60, detectors=140)
Volume = NDArray[np.float32]


def body(slices: int = 4, side: int = 256, noise_hu: float = 12.0) -> Volume:
    """An even body with two lungs, fat and a spine in noise of a scanner; HU [slice, row, column]."""
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    image = np.full((side, side), -1000.0, np.float32)
    image[np.hypot(x, y) < 112] = -100.0
    image[np.hypot(x, y) < 100] = 50.0
    for middle in (-45, 45):
        image[((x - middle) / 24) ** 2 + ((y + 48) / 26) ** 2 < 1] = -800.0
    image[np.hypot(x, y - 78) < 14] = 450.0
    stack = np.stack([image] * slices)
    noise = simulate_noise(
        torch.from_numpy(stack), PIXEL_MM, 2e5, Kernel(0.6), torch.Generator().manual_seed(0)
    ).numpy()
    inside = noise[:, np.hypot(x, y) < 95]
    return np.asarray(stack + noise * (noise_hu / inside.std()), np.float32)


def start(number: int) -> StartStep:
    return StartStep(number, 1e5, 0.5, 20.0, 0.4, "both", None)
