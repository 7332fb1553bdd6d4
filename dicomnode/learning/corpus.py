"""Normal-dose slices made into examples: the slice, noise as a scanner would add it, and both projected.

An example keeps two independent draws of the same noise, so that training can ask for a target that is
itself a real normal-dose image, noise and all. Noise and slice are stored apart; because reconstruction and
projection are linear, any strength is mixed later at no cost.
"""

import gzip
import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress

from dicomnode.dicom.series import read_series
from dicomnode.engines.seen import Seen, series_digest, slice_digests, study_digest
from dicomnode.errors import HeldOutScan, SeriesRefused, TrainingError
from dicomnode.learning.recipe import Corpus, HeldOut, Source
from dicomnode.physics.geometry import WATER_ATTENUATION_PER_MM, ParallelBeam
from dicomnode.physics.noise import measure_added_noise, measure_noise
from dicomnode.physics.projection import project
from dicomnode.physics.simulation import Kernel, simulate_noise
from dicomnode.physics.size import body_mask
from dicomnode.physics.spectrum import with_gain

NOTE = "seen.json"
"""Beside the examples: digests of what they were made from."""
_HU_STEP = 1.0 / 8.0
_HIGHEST_HU = 3071.0

ARRAYS = (
    "slice_hu",
    "noise",
    "sinogram",
    "noise_sinogram",
    "beside_hu",
    "beside_noise",
    "beside_sinogram",
)
"""The arrays of an example."""


@dataclass(frozen=True, eq=False)
class Slice:
    """One normal-dose slice: `hounsfield` float32 [row, column], pixel in mm, the source it is from.

    `beside` [2, row, column]: the slices below and above, the slice itself where there is none.
    `study_uid`, `series_uid`: its Instance UIDs, empty where it came without.
    """

    hounsfield: NDArray[np.float32]
    pixel_mm: float
    source: str
    beside: NDArray[np.float32]
    study_uid: str = ""
    series_uid: str = ""


@dataclass(frozen=True, eq=False)
class Example:
    """A slice and its noise at unit strength.

    `slice_hu` [row, column]; `noise` [2, row, column] with a global level of 1; `sinogram` [view, detector]
    attenuation of the slice; `noise_sinogram` [2, view, detector] attenuation for 1 HU of noise level.
    `beside_hu`, `beside_noise` [2, row, column] and `beside_sinogram` [2, view, detector]: the slices below
    and above, one draw of the same noise for each, and their clean projections.
    `own_noise_hu`: the noise the slice has itself. `texture`: of the added noise. `unit_photons`: quanta per
    reference ray at which the noise has a level of 1 HU.
    """

    slice_hu: NDArray[np.float32]
    noise: NDArray[np.float32]
    sinogram: NDArray[np.float32]
    noise_sinogram: NDArray[np.float32]
    beside_hu: NDArray[np.float32]
    beside_noise: NDArray[np.float32]
    beside_sinogram: NDArray[np.float32]
    pixel_mm: float
    own_noise_hu: float
    texture: float
    unit_photons: float


def read_slices(source: Source) -> Iterator[Slice]:
    """The usable slices of a source, every `every`-th, one by one (a refused slice is left out)."""
    if not source.path.exists():
        raise TrainingError(
            f"source {source.name}: {source.path} is missing; see configs/README.md for where it comes from"
        )
    if source.kind == "nrrd":
        volume, pixel_mm = _read_nrrd(source.path)
        for k in range(0, len(volume), source.every):
            beside = volume[[max(k - 1, 0), min(k + 1, len(volume) - 1)]]
            yield Slice(volume[k], pixel_mm, source.name, beside)
        return
    paths = sorted(p for p in source.path.rglob("*") if p.is_file())
    stacks = _stacks(paths)
    for path in paths[:: source.every]:
        if path in stacks:
            stack = stacks[path]
            k = next(k for k, one in enumerate(stack) if one.path == path)
            placed, beside = stack[k], _beside(stack, k)
            yield Slice(
                placed.hounsfield, placed.pixel_mm, source.name, beside, placed.study_uid, placed.series_uid
            )


def read_all(corpus: Corpus) -> Iterator[tuple[Slice, Seen]]:
    """The usable slices of all sources, each with the digests of all that it shows.

    :raises HeldOutScan: a source has a slice of what the recipe holds out.
    """
    for source in corpus.sources:
        for piece in read_slices(source):
            seen = Seen.of(
                [study_digest(piece.study_uid)] if piece.study_uid else (),
                [series_digest(piece.series_uid)] if piece.series_uid else (),
                slice_digests([piece.hounsfield, *piece.beside]),
            )
            refuse_held_out(f"source {source.name} ({source.path})", seen, corpus.held_out)
            yield piece, seen


def refuse_held_out(what: str, seen: Seen, held_out: Sequence[HeldOut]) -> None:
    """HeldOutScan where something is of a scan that nothing is trained on."""
    for scan in held_out:
        if scan & seen:
            raise HeldOutScan(
                f"{what} holds {scan.name}, which is held out to measure models on (corpus.held_out of the "
                "recipe): take it out of there"
            )


@dataclass(frozen=True, eq=False)
class _Placed:
    """A slice and its height along the normal of its stack."""

    path: Path
    hounsfield: NDArray[np.float32]
    pixel_mm: float
    height_mm: float
    study_uid: str
    series_uid: str


def _stacks(paths: Sequence[Path]) -> dict[Path, list[_Placed]]:
    """The slices that can be used, each with all of its series, sorted by height."""
    series: dict[tuple[object, ...], list[_Placed]] = defaultdict(list)
    for path in paths:
        try:
            one = read_series([path])
        except SeriesRefused:
            continue
        header, image = one.headers[0], one.hounsfield[0]
        x, y = np.array(header.ImageOrientationPatient, float).reshape(2, 3)
        height_mm = float(np.cross(x, y) @ np.array(header.ImagePositionPatient, float))
        key = (header.SeriesInstanceUID, one.convolution_kernel, image.shape, one.pixel_spacing_mm)
        uids = one.study_instance_uid, one.series_instance_uid
        series[key].append(_Placed(path, image, one.pixel_spacing_mm[0], height_mm, *uids))
    for stack in series.values():
        stack.sort(key=lambda placed: placed.height_mm)
    return {placed.path: stack for stack in series.values() for placed in stack}


def _beside(stack: Sequence[_Placed], k: int) -> NDArray[np.float32]:
    """The slices below and above number k; itself at the ends and next to a hole in the stack."""
    heights = [placed.height_mm for placed in stack]
    usual_mm = float(np.median(np.diff(heights))) if len(stack) > 1 else 0.0
    found = []
    for step in (-1, 1):
        inside = 0 <= k + step < len(stack)
        near = inside and 0.0 < abs(heights[k + step] - heights[k]) < 1.5 * usual_mm
        found.append(stack[k + step if near else k].hounsfield)
    return np.stack(found)


def random_kernel(rng: np.random.Generator, cutoff_per_px: tuple[float, float]) -> Kernel:
    """A reconstruction kernel as scanners have them.

    Very smooth to sharper than the ramp, smooth ones more often.
    """
    low, high = np.log(cutoff_per_px)
    boosted = rng.random() < 0.25
    return Kernel(
        cutoff_per_px=float(np.exp(low + (high - low) * rng.random() ** 1.7)),
        power=float(rng.uniform(0.4, 1.6)),
        boost=float(rng.uniform(0.0, 1.2)) if boosted else 0.0,
        peak_per_px=float(rng.uniform(0.2, 0.5)),
        lift=float(rng.uniform(0.0, 1.2)) if rng.random() < 0.5 else 0.0,
    )


def random_scanner(rng: np.random.Generator, side_px: int) -> ParallelBeam:
    """A scanner whose rays are never those of the virtual one: other views, bins and first angle."""
    views = int(rng.integers(800, 1160))
    pitch_px = float(rng.uniform(0.46, 0.58))
    detectors = 2 * int(np.ceil(0.72 * side_px / pitch_px))
    return ParallelBeam(side_px, views, detectors, pitch_px, start_rad=float(rng.uniform(0.0, np.pi / views)))


def random_fine_gain(rng: np.random.Generator) -> NDArray[np.float64]:
    """By how much the fine grain of the noise grows towards one side of the slice, [32, 32].

    As in a fan that uses less than a turn: up to five times at the rim, or, in a third of the cases, evenly.
    """
    y, x = np.mgrid[:32, :32] / 15.5 - 1.0
    towards = rng.uniform(0.0, 2.0 * np.pi)
    side = 0.5 + 0.5 * np.cos(np.arctan2(y, x) - towards)
    most = max(0.0, float(rng.uniform(-0.8, 1.6)))
    gain: NDArray[np.float64] = np.exp(most * np.minimum(np.hypot(x, y), 1.0) ** 2 * side)
    return gain


def build(corpus: Corpus, folder: Path, seed: int, console: Console) -> list[Path]:
    """Write one file an example into `folder`, going on where an earlier run stopped."""
    folder.mkdir(parents=True, exist_ok=True)
    _same_recipe(corpus, folder, seed)
    whole = folder / "complete"
    if whole.exists():
        return sorted(folder.glob("*.npz"))
    slices, seen = [], []
    for piece, its in read_all(corpus):
        seen.append(its)
        if _usable(piece, corpus):
            slices.append(piece)
    if not slices:
        raise TrainingError("no usable slice in any source")
    note_seen(folder, Seen.together(seen))
    # in a fixed random order: a run that is cut short still has seen every source
    order = np.random.default_rng(seed).permutation(len(slices))[: corpus.most_examples]
    slices = [slices[k] for k in order]
    beam = ParallelBeam(512, corpus.views, corpus.detectors, corpus.pitch_px)
    paths = [folder / f"{k:05d}.npz" for k in range(len(slices))]
    with Progress(console=console) as progress:
        task = progress.add_task("corpus", total=len(slices))
        for k, (piece, path) in enumerate(zip(slices, paths, strict=True)):
            if not path.exists():
                rng = np.random.default_rng([seed, k])
                _save(make_example(piece, corpus, beam, rng), path)
            progress.advance(task)
    whole.touch()
    return paths


def note_seen(folder: Path, seen: Seen) -> None:
    """Write `seen.json` of a corpus."""
    part = folder / f"{NOTE}.part"
    part.write_text(seen.model_dump_json())
    part.rename(folder / NOTE)


def _same_recipe(corpus: Corpus, folder: Path, seed: int) -> None:
    """Note what a corpus is made of; TrainingError where it was begun from something else."""
    # a checkout elsewhere has the same sources under another path, from wherever it got them
    sources = [source.model_dump(exclude={"path", "fetch"}) for source in corpus.sources]
    note = folder / "recipe.json"
    recipe = corpus.model_dump(mode="json", exclude={"held_out"})
    made_of = json.dumps({"seed": seed, **recipe, "sources": sources})
    if not note.exists():
        if any(folder.glob("*.npz")):
            raise TrainingError(f"{folder} does not say what it was made of: choose another --corpus")
        part = note.with_suffix(".part")
        part.write_text(made_of)
        part.rename(note)
    elif note.read_text() != made_of:
        raise TrainingError(f"{folder} was made from another recipe: choose another --corpus, or remove it")


def make_example(piece: Slice, corpus: Corpus, beam: ParallelBeam, rng: np.random.Generator) -> Example:
    """Draw kernel, photons and fine grain, add noise to slice (twice) and neighbours, project everything."""
    stack = np.concatenate([piece.hounsfield[None], piece.beside])
    image, *beside = torch.from_numpy(np.clip(stack, -1000.0, _HIGHEST_HU))[:, None].contiguous()
    beam = beam.for_side(image.shape[-1])
    kernel = random_kernel(rng, corpus.cutoff_per_px)
    photons = float(np.exp(rng.uniform(*np.log(corpus.photons))))
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    scanner = random_scanner(rng, image.shape[-1])
    draws = [
        simulate_noise(one, piece.pixel_mm, photons, kernel, generator, scanner=scanner)
        for one in (image, image, *beside)
    ]
    gain, edge = random_fine_gain(rng), float(rng.uniform(0.45, 0.65)) * min(kernel.cutoff_per_px, 0.75)
    band = (0.85 * edge, 1.3 * edge)
    noise = torch.from_numpy(np.stack([with_gain(draw[0].numpy(), gain, band) for draw in draws]))
    level = measure_added_noise(noise[:1].numpy(), image.numpy(), piece.pixel_mm)
    noise = noise / level.std_hu
    per_pixel = WATER_ATTENUATION_PER_MM * piece.pixel_mm
    own = measure_noise(image.numpy(), piece.pixel_mm)
    return Example(
        slice_hu=image[0].numpy(),
        noise=noise[:2].numpy(),
        sinogram=(project((1.0 + image / 1000.0).clamp(min=0.0), beam)[0] * per_pixel).numpy(),
        noise_sinogram=(project(noise[:2] / 1000.0, beam) * per_pixel).numpy(),
        beside_hu=torch.cat(beside).numpy(),
        beside_noise=noise[2:].numpy(),
        beside_sinogram=(
            project((1.0 + torch.cat(beside) / 1000.0).clamp(min=0.0), beam) * per_pixel
        ).numpy(),
        pixel_mm=piece.pixel_mm,
        own_noise_hu=own.std_hu if own else 10.0,
        texture=level.texture,
        unit_photons=photons * level.std_hu**2,
    )


def _usable(piece: Slice, corpus: Corpus) -> bool:
    if piece.hounsfield.shape[0] != piece.hounsfield.shape[1]:
        return False
    return float(body_mask(piece.hounsfield[None]).mean()) >= corpus.least_body_share


def _save(example: Example, path: Path) -> None:
    """Store as 16-bit steps far below the noise; written aside and renamed, so a file is whole or absent."""
    arrays = {name: _pack(getattr(example, name), _HU_STEP) for name in ("slice_hu", "beside_hu")}
    for name in set(ARRAYS) - set(arrays):
        values = getattr(example, name)
        arrays[name] = _pack(values, float(np.abs(values).max()) / 32000.0)
    numbers = np.array([example.pixel_mm, example.own_noise_hu, example.texture, example.unit_photons])
    part = path.with_suffix(".part")
    savez: Callable[..., None] = np.savez  # its stub takes no arrays by computed names
    with part.open("wb") as file:
        savez(
            file,
            numbers=numbers,
            **{f"{k}_step": v[1] for k, v in arrays.items()},
            **{k: v[0] for k, v in arrays.items()},
        )
    part.rename(path)


def _pack(values: NDArray[np.float32], step: float) -> tuple[NDArray[np.int16], NDArray[np.float32]]:
    return np.rint(values / step).astype(np.int16), np.array(step, np.float32)


@dataclass(frozen=True, eq=False)
class PackedExample:
    """An example as stored; `crop` unpacks just the piece that is asked for."""

    arrays: dict[str, NDArray[np.int16]]
    steps: dict[str, float]
    pixel_mm: float
    own_noise_hu: float
    texture: float
    unit_photons: float

    def crop(self, name: str, where: tuple[slice, slice]) -> NDArray[np.float32]:
        """Float32 values of [..., y, x] of the array `name`."""
        return self.arrays[name][(..., *where)].astype(np.float32) * self.steps[name]


def load_example(path: Path) -> PackedExample:
    """Read back what `build` wrote."""
    with np.load(path) as file:
        pixel_mm, own, texture, photons = (float(v) for v in file["numbers"])
        return PackedExample(
            {n: file[n] for n in ARRAYS},
            {n: float(file[f"{n}_step"]) for n in ARRAYS},
            pixel_mm,
            own,
            texture,
            photons,
        )


def load_slices(path: Path) -> NDArray[np.float32]:
    """The slice of a stored example and the two beside it, HU [slice, row, column]; nothing else is read."""
    with np.load(path) as file:
        stack = [file["slice_hu"][None], file["beside_hu"]]
        steps = [np.float32(file[f"{name}_hu_step"]) for name in ("slice", "beside")]
    return np.concatenate([part * step for part, step in zip(stack, steps, strict=True)])


def _read_nrrd(path: Path) -> tuple[NDArray[np.float32], float]:
    """A gzip-packed 16-bit NRRD volume -> HU [slice, row, column] and the pixel in mm."""
    raw = path.read_bytes()
    header, _, body = raw.partition(b"\n\n")
    fields = dict(
        line.split(": ", 1) for line in header.decode("ascii", "replace").splitlines() if ": " in line
    )
    if fields.get("encoding") != "gzip" or fields.get("type") not in ("short", "int16"):
        raise TrainingError(f"{path}: only gzip-packed 16-bit NRRD volumes are read")
    columns, rows, slices = (int(n) for n in fields["sizes"].split())
    volume = np.frombuffer(gzip.decompress(body), "<i2").reshape(slices, rows, columns)
    pixel_mm = float(fields["space directions"].split(")")[0].strip("(").split(",")[0])
    return volume.astype(np.float32), pixel_mm
