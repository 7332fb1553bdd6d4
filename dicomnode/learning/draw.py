"""Training batches: crops of the corpus with noise mixed to a drawn strength."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dicomnode.engines.need import dgdiff, spdiff
from dicomnode.engines.start_step import StartStep
from dicomnode.learning.corpus import PackedExample
from dicomnode.learning.objects import draw_objects
from dicomnode.learning.recipe import Stage

MISSING = 0.2
"""How often a slice is shown without the neighbour on one side: series end, and stacks may be one slice."""
MOST_SHARED = 0.7
"""Correlation of the noise of neighbours that overlap by half of their thickness, and a little more."""


@dataclass(frozen=True)
class Mix:
    """How noisy an example is made.

    `added_hu`: level of all added noise; `kept`: the share of its variance that belongs to the target;
    `swap`: which of the two draws is which.
    """

    added_hu: float
    kept: float
    swap: bool

    @property
    def kept_hu(self) -> float:
        return float(self.added_hu * self.kept**0.5)

    @property
    def removed_hu(self) -> float:
        return float(self.added_hu * (1.0 - self.kept) ** 0.5)


def draw_mix(stage: Stage, rng: np.random.Generator) -> Mix:
    """A strength, log-uniform; in `second_noise` of the cases a target that is noisy itself."""
    low, high = np.log(stage.noise_hu)
    kept = float(rng.uniform(0.0, 0.7)) if rng.random() < stage.second_noise else 0.0
    return Mix(float(np.exp(rng.uniform(low, high))), kept, bool(rng.random() < 0.5))


def state_of(example: PackedExample, mix: Mix, rng: np.random.Generator | None = None) -> StartStep:
    """What the node would read in such a slice; with `rng` as unsure as a reading is."""
    noise_hu = (example.own_noise_hu**2 + mix.added_hu**2) ** 0.5
    fraction = (example.own_noise_hu**2 + mix.kept_hu**2) / noise_hu**2
    photons, texture = example.unit_photons / noise_hu**2, example.texture
    if rng is not None:
        noise_hu *= float(np.exp(rng.normal(0.0, 0.08)))
        photons *= float(np.exp(rng.normal(0.0, 0.15)))
        texture += float(rng.normal(0.0, 0.05))
    return StartStep(9, photons, fraction, noise_hu, texture, "noise", None)


@dataclass(frozen=True, eq=False)
class Batch:
    """`inputs` [n, channels, y, x], `conditions` [n, c] and `target` [n, 1, y, x] in units of the noise."""

    inputs: Tensor
    conditions: Tensor
    target: Tensor


def projection_batch(examples: Sequence[PackedExample], stage: Stage, rng: np.random.Generator) -> Batch:
    """Crops of reprojected noisy sinograms, and the noise to remove."""
    sinograms, targets, scales, rows = [], [], [], []
    for _ in range(stage.batch):
        example = examples[int(rng.integers(len(examples)))]
        mix = draw_mix(stage, rng)
        where = window(example.arrays["sinogram"].shape, stage.patch_px, rng)
        clean = example.crop("sinogram", where)
        kept, removed = _ordered(example.crop("noise_sinogram", where), mix)
        state = state_of(example, mix, rng)
        noisy, target = turned([clean + kept + removed, removed], rng, transpose=False)
        sinograms.append(noisy)
        targets.append(target)
        scales.append(spdiff.sinogram_noise(state.noise_hu, example.pixel_mm))
        rows.append(spdiff.conditions(state.noise_hu, state.texture, state.fraction, state.photons))
    scale = torch.tensor(scales, dtype=torch.float32)[:, None, None, None]
    target_t = torch.from_numpy(np.stack(targets))[:, None] / scale
    return Batch(spdiff.inputs(torch.from_numpy(np.stack(sinograms)), scale), torch.tensor(rows), target_t)


def image_batch(
    examples: Sequence[PackedExample], priors: Sequence["Prior"], stage: Stage, rng: np.random.Generator
) -> Batch:
    """Crops of noisy slices with the proposal of the projections, and the noise to remove."""
    states, proposals, neighbours, targets, noise, rows = [], [], [], [], [], []
    for _ in range(stage.batch):
        prior = priors[int(rng.integers(len(priors)))] if priors else None
        alone = prior is None or rng.random() < stage.prior_dropout
        example = examples[int(rng.integers(len(examples))) if prior is None or alone else prior.example]
        mix = draw_mix(stage, rng) if prior is None or alone else prior.mix
        where = window(example.arrays["slice_hu"].shape, stage.patch_px, rng)
        kept, removed = _ordered(example.crop("noise", where), mix)
        proposal = np.zeros_like(removed) if prior is None or alone else prior.crop(where)
        objects = _objects(stage, rng)
        clean = example.crop("slice_hu", where) + objects
        noisy = clean + kept + removed
        beside = _beside(example, where, mix, noisy, noisy - clean, objects, rng)
        noisy, proposal, target, *beside = turned([noisy, proposal, removed, *beside], rng, transpose=True)
        state = state_of(example, mix, rng)
        states.append(noisy)
        proposals.append(noisy + proposal)
        neighbours.append(np.stack(beside))
        targets.append(target)
        noise.append(state.noise_hu)
        rows.append(dgdiff.conditions(state.noise_hu, state.texture, state.fraction))
    scale = torch.tensor(noise, dtype=torch.float32)[:, None, None, None]
    x, prior_x = (torch.from_numpy(np.stack(a))[:, None] for a in (states, proposals))
    target_t = torch.from_numpy(np.stack(targets))[:, None] / scale
    channels = dgdiff.inputs(x, prior_x, torch.from_numpy(np.stack(neighbours)), scale)
    return Batch(channels, torch.tensor(rows), target_t)


def crop_pair(
    example: PackedExample, mix: Mix, stage: Stage, rng: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """A crop with all noise of a mix, and the same without, HU; turned alike, with objects where asked."""
    where = window(example.arrays["slice_hu"].shape, stage.patch_px, rng)
    kept, removed = _ordered(example.crop("noise", where), mix)
    clean = example.crop("slice_hu", where) + _objects(stage, rng)
    noisy, clean = turned([clean + kept + removed, clean], rng, transpose=True)
    return noisy, clean


def _beside(
    example: PackedExample,
    where: tuple[slice, slice],
    mix: Mix,
    noisy: NDArray[np.float32],
    noise: NDArray[np.float32],
    objects: NDArray[np.float32],
    rng: np.random.Generator,
) -> list[NDArray[np.float32]]:
    """The crops below and above, as noisy as the one between, or that one itself where there is none.

    In half of the cases they share noise with it, as slices that overlap do. What was drawn into the slice
    goes on into its neighbours, fainter.
    """
    clean, own = example.crop("beside_hu", where), example.crop("beside_noise", where) * mix.added_hu
    shared = float(rng.uniform(0.0, MOST_SHARED)) if rng.random() < 0.5 else 0.0
    missing, faint = rng.random(2) < MISSING, rng.random(2)
    return [
        noisy if gone else image + left * objects + shared * noise + (1.0 - shared**2) ** 0.5 * draw
        for gone, left, image, draw in zip(missing, faint.tolist(), clean, own, strict=True)
    ]


def _objects(stage: Stage, rng: np.random.Generator) -> NDArray[np.float32]:
    """What is drawn into a crop: nothing, or small objects in a share `objects` of them."""
    if rng.random() < stage.objects:
        return draw_objects(stage.patch_px, rng)
    return np.zeros((stage.patch_px, stage.patch_px), np.float32)


@dataclass(frozen=True, eq=False)
class Prior:
    """What SPDiff proposes for example number `example` mixed as `mix`: the correction in HU, packed."""

    example: int
    mix: Mix
    correction: NDArray[np.int16]
    step: float

    def crop(self, where: tuple[slice, slice]) -> NDArray[np.float32]:
        return self.correction[where].astype(np.float32) * self.step

    def save(self, path: Path) -> None:
        numbers = np.array([self.example, self.mix.added_hu, self.mix.kept, self.mix.swap, self.step])
        part = path.with_suffix(".part")
        with part.open("wb") as file:
            np.savez(file, numbers=numbers, correction=self.correction)
        part.rename(path)


def load_prior(path: Path) -> Prior:
    """Read back what `Prior.save` wrote."""
    with np.load(path) as file:
        example, added, kept, swap, step = file["numbers"]
        return Prior(
            int(example), Mix(float(added), float(kept), bool(swap)), file["correction"], float(step)
        )


def mixed_noise(example: PackedExample, name: str, mix: Mix) -> NDArray[np.float32]:
    """All the noise of a mix over the whole array `name` (`noise` or `noise_sinogram`)."""
    everything = (slice(None), slice(None))
    kept, removed = _ordered(example.crop(name, everything), mix)
    return kept + removed


def _ordered(draws: NDArray[np.float32], mix: Mix) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    first, second = (draws[1], draws[0]) if mix.swap else (draws[0], draws[1])
    return first * mix.kept_hu, second * mix.removed_hu


def window(shape: tuple[int, ...], patch_px: int, rng: np.random.Generator) -> tuple[slice, slice]:
    """A square of `patch_px` at a random place of an array [..., y, x]."""
    tops = [int(rng.integers(0, max(1, side - patch_px + 1))) for side in shape[-2:]]
    return slice(tops[0], tops[0] + patch_px), slice(tops[1], tops[1] + patch_px)


def turned(
    arrays: list[NDArray[np.float32]], rng: np.random.Generator, *, transpose: bool
) -> list[NDArray[np.float32]]:
    """The same flips (and transposition) for all: eight views of a slice, four of a sinogram."""
    flip_y, flip_x, turn = rng.random(3) < 0.5
    out = []
    for array in arrays:
        a = array[::-1] if flip_y else array
        a = a[:, ::-1] if flip_x else a
        out.append(np.ascontiguousarray(a.T if turn and transpose else a))
    return out
