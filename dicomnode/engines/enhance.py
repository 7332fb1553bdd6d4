"""The part of the journey that computes: project, clean, reconstruct, refine, bound."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from dicomnode.engines.batches import in_batches, usual_batch
from dicomnode.engines.bounds import bounded
from dicomnode.engines.need.engine import NeedEngine
from dicomnode.engines.start_step import StartStep
from dicomnode.errors import ModelError
from dicomnode.physics.geometry import WATER_ATTENUATION_PER_MM
from dicomnode.physics.projection import filtered_backprojection, project

STATIONS = ("project", "clean", "reconstruct", "refine", "bound")
HIGHEST_HU = 3071.0

Observer = Callable[[str, int, int], None]
"""Told (station, slices done, slices in all) whenever a station has finished a slice."""


@dataclass(frozen=True, eq=False)
class Enhanced:
    """`hounsfield` float32 [slice, row, column] and the seconds each station took."""

    hounsfield: NDArray[np.float32]
    seconds: dict[str, float]


def enhance(
    engine: NeedEngine,
    hounsfield: NDArray[np.float32],
    pixel_mm: float,
    starts: Sequence[StartStep],
    seed: int,
    on_slice: Observer | None = None,
    batch: int | None = None,
    part: slice = slice(None),
) -> Enhanced:
    """Enhance a stack of slices, HU [slice, row, column] in and out, one start step a slice.

    Each slice is seen with its neighbours; with `part` only those come back that it takes of the stack.
    `batch` slices are worked at once, by default as many as suit the device.

    The output is the input plus a bounded correction, never the round trip through the virtual scanner.
    Slices at step 0 come back as they are. The same input, engine and seed give the same pixels; the seed
    matters where the card has photons drawn (`refill: drawn`).
    """
    seconds = dict.fromkeys(STATIONS, 0.0)
    rng = torch.Generator(device=engine.device).manual_seed(seed)
    states: dict[int, torch.Tensor] = {}
    start, stop, _ = part.indices(len(hounsfield))

    def work(slices: list[int]) -> NDArray[np.float32]:
        first, finished = slices[0], slices[-1] + 1
        low_dose = torch.from_numpy(hounsfield[first:finished]).to(engine.device)
        neighbours = torch.from_numpy(neighbours_of(hounsfield, first, finished)).to(engine.device)
        here = starts[first:finished]
        rng.set_state(states.setdefault(first, rng.get_state()))  # tried again with fewer, it draws the same
        clock = Clock(seconds, partial(tell_station, on_slice, finished - start, stop - start), engine.device)
        result = _enhance_batch(engine, low_dose, neighbours, pixel_mm, here, rng, clock)
        found: NDArray[np.float32] = result.cpu().numpy()
        return found

    done = list(in_batches(range(start, stop), batch or usual_batch(engine.device), work))
    return Enhanced(np.concatenate(done) if done else hounsfield[part].copy(), seconds)


def try_out(engine: NeedEngine) -> None:
    """One small slice through image mode: what the device cannot do at all is known before a series comes.

    :raises ModelError: it cannot.
    """
    step = min(3, engine.schedule.steps - 1)
    start = StartStep(step, 6e4, 0.25, noise_hu=30.0, texture=0.45, decided_by="tags", log_ratio=None)
    try:
        enhance(engine, np.zeros((1, 64, 64), np.float32), 1.0, [start], seed=0)
    except RuntimeError as error:
        raise ModelError(f"model {engine.card.id} cannot work on {engine.device}: {error}") from error


def neighbours_of(hounsfield: NDArray[np.float32], first: int, last: int) -> NDArray[np.float32]:
    """The slices below and above each from `first` to before `last`, [slice, 2, row, column]."""
    at = np.arange(first, last)
    beside = np.stack([np.maximum(at - 1, 0), np.minimum(at + 1, len(hounsfield) - 1)], axis=1)
    found: NDArray[np.float32] = hounsfield[beside]
    return found


def tell_station(on_slice: Observer | None, done: int, total: int, station: str) -> None:
    if on_slice:
        on_slice(station, done, total)


def _enhance_batch(
    engine: NeedEngine,
    low_dose: torch.Tensor,
    neighbours: torch.Tensor,
    pixel_mm: float,
    starts: Sequence[StartStep],
    rng: torch.Generator,
    clock: "Clock",
) -> torch.Tensor:
    x = low_dose.clamp(-1000.0, HIGHEST_HU)
    if all(start.step == 0 for start in starts):
        for station in STATIONS:
            clock.lap(station)
        return low_dose
    rows, columns = x.shape[-2:]
    beam = engine.beam(max(rows, columns))
    per_pixel = WATER_ATTENUATION_PER_MM * pixel_mm
    sinograms = project(_squared(1.0 + x / 1000.0), beam) * per_pixel
    clock.lap("project")
    correction = engine.clean(sinograms, starts, pixel_mm, rng) - sinograms
    clock.lap("clean")
    removed = filtered_backprojection(correction, beam) * (1000.0 / per_pixel)
    prior = x + removed[..., :rows, :columns]
    clock.lap("reconstruct")
    beside = neighbours.clamp(-1000.0, HIGHEST_HU)
    proposed = engine.refine(prior, x, beside, starts)
    clock.lap("refine")
    refined = bounded(x, proposed, pixel_mm)
    clock.lap("bound")
    return low_dose + (refined - x)


def _squared(attenuation: torch.Tensor) -> torch.Tensor:
    """Slices with air added below or to the right until they are square, as the scanner's field is."""
    rows, columns = attenuation.shape[-2:]
    side = max(rows, columns)
    return torch.nn.functional.pad(attenuation, (0, side - columns, 0, side - rows)).contiguous()


class Clock:
    """Adds the time since the last lap to a station and tells the observer."""

    def __init__(
        self, seconds: dict[str, float], tell: Callable[[str], object], device: torch.device
    ) -> None:
        self._seconds, self._tell, self._device = seconds, tell, device
        self._since = time.perf_counter()

    def lap(self, station: str) -> None:
        if self._device.type == "cuda":  # its work is only queued when a call returns
            torch.cuda.synchronize(self._device)
        now = time.perf_counter()
        self._seconds[station] += now - self._since
        self._since = now
        self._tell(station)
