"""From measured rays to slices: clean, reconstruct, refine, bound. The raw mode of NEED.

The published chain reconstructs with a generic filter and backprojection, without the cosine weight and with
1/U in place of 1/U^2 (NEED 1.8): that is 10 to 48 HU too low on water discs of 20 to 34 cm, which its metrics
do not see because their targets are reconstructed alike. Here whoever measured the rays says how slices are
made of them, exactly: FBP of a parallel beam, or of a fan after its rays were sorted into one
(`physics.fan`); analytic discs come out within 1 HU.

The image stage matches itself (1.9.1): its noise is what the cleaned rays took out of the slice,
r = x_ld - x_init, measured where there is soft tissue and not over air and table (3.4). It starts from the
low-dose slice and is guided by both slices. The published weights w1, w2 of the two guides are not used: the
image network sees both and was trained to weigh them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import median

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dicomnode.engines.batches import all_at_once, in_batches, usual_batch
from dicomnode.engines.bounds import bounded, slow_part
from dicomnode.engines.enhance import HIGHEST_HU, Clock, Observer, neighbours_of, tell_station
from dicomnode.engines.need.engine import NeedEngine
from dicomnode.engines.need.raw import FAINTEST_QUANTA
from dicomnode.engines.start_step import LEAST_FRACTION, StartStep
from dicomnode.physics.noise import measure_added_noise
from dicomnode.physics.photons import NORMAL_DOSE_PHOTONS

STARVED_QUANTA = 1.0
"""What a measured ray is taken to have counted at least, for an image of it: a tenth would only be noise."""
RAY_STATIONS = ("clean", "reconstruct", "refine")

Rays = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class MeasuredRays:
    """The rays of a stack of slices as they were measured, neighbours in order.

    `transmission` float32 [slice, view, ray]: counted over incident quanta; below zero is possible.
    `quanta` float32, broadcasts to it: incident on each ray, from which the noise of a ray follows.
    `photons`: of a typical slice, per reference ray (`physics.photons`). `reconstruct`: line integrals
    [slice, view, ray] -> HU [slice, row, column] with pixels of `pixel_mm`. `by_slice`: photons of each
    slice, where the tube current changed between them; empty where all have `photons`.
    """

    transmission: Rays
    quanta: Rays
    photons: float
    pixel_mm: float
    reconstruct: Callable[[Rays], NDArray[np.float32]]
    by_slice: tuple[float, ...] = ()

    @property
    def levels(self) -> tuple[float, ...]:
        """Photons per reference ray of each slice."""
        return self.by_slice or (self.photons,) * len(self.transmission)


@dataclass(frozen=True, eq=False)
class EnhancedRays:
    """HU float32 [slice, row, column]: the result, the slices of the cleaned rays, of the measured ones.

    `starts`: one a slice. `seconds` that each station took.
    """

    hounsfield: NDArray[np.float32]
    prior: NDArray[np.float32]
    low_dose: NDArray[np.float32]
    starts: tuple[StartStep, ...]
    seconds: dict[str, float]


def enhance_rays(
    engine: NeedEngine, rays: MeasuredRays, seed: int, on_slice: Observer | None = None
) -> EnhancedRays:
    """Slices at normal dose of measured rays. The same input, engine and seed give the same pixels.

    A slice at normal dose (k* = 0) is that of the measured rays as they are, whatever its neighbours have.
    :raises NoRawMode: the model has none.
    """
    count, schedule = len(rays.transmission), engine.process.schedule
    steps = [schedule.nearest(photons) for photons in rays.levels]
    seconds = dict.fromkeys(RAY_STATIONS, 0.0)
    clock = Clock(seconds, partial(tell_station, on_slice, count, count), engine.device)
    cleaned = _cleaned(engine, rays, steps, seed, on_slice) if any(steps) else rays.transmission
    clock.lap("clean")
    low_dose = rays.reconstruct(line_integrals(rays.transmission, rays.quanta, STARVED_QUANTA))
    prior = rays.reconstruct(line_integrals(cleaned, rays.quanta)) if any(steps) else low_dose
    clock.lap("reconstruct")
    starts = tuple(
        _matched(engine, rays, index, low_dose[index], prior[index]) for index in range(len(low_dose))
    )
    hounsfield = _refined(engine, low_dose, prior, starts, rays.pixel_mm, on_slice)
    clock.lap("refine")
    return EnhancedRays(hounsfield, prior, low_dose, starts, seconds)


def line_integrals(transmission: Rays, quanta: Rays, least: float = FAINTEST_QUANTA) -> Rays:
    """P = -ln y; where fewer quanta than `least` were counted, of that many."""
    found: Rays = -np.log(np.maximum(transmission, least / quanta)).astype(np.float32)
    return found


def _cleaned(
    engine: NeedEngine, rays: MeasuredRays, steps: Sequence[int], seed: int, on_slice: Observer | None
) -> Rays:
    """All slices walk together, each from its own photons; those at normal dose stay as measured."""
    count, typical = len(steps), median(one for one, k in zip(rays.levels, steps, strict=True) if k > 0)
    rng = torch.Generator(device=engine.device).manual_seed(seed)
    with all_at_once():
        measured, quanta = (
            torch.from_numpy(one).to(engine.device, torch.float32) for one in (rays.transmission, rays.quanta)
        )
        answer = engine.clean_counts(
            measured,
            typical,
            quanta / typical,
            rng,
            lambda share: tell_station(on_slice, int(share * count), count, "clean"),
        )
        found: Rays = answer.cpu().numpy()
    kept = np.array(steps) == 0
    found[kept] = rays.transmission[kept]
    return found


def _matched(engine: NeedEngine, rays: MeasuredRays, index: int, low_dose: Rays, prior: Rays) -> StartStep:
    """Noise and texture of what the rays took out; the share that stays is what a normal dose would have."""
    photons = rays.levels[index]
    fraction = min(max(photons / NORMAL_DOSE_PHOTONS, LEAST_FRACTION), 1.0)
    reading = measure_added_noise((low_dose - prior)[None], prior[None], rays.pixel_mm)
    step = engine.process.schedule.nearest(photons)
    start = StartStep(step, photons, fraction, reading.std_hu, reading.texture, "tags", None)
    return engine.within_limits(start, rays.pixel_mm)


def _refined(
    engine: NeedEngine,
    low_dose: NDArray[np.float32],
    prior: NDArray[np.float32],
    starts: tuple[StartStep, ...],
    pixel_mm: float,
    on_slice: Observer | None,
) -> NDArray[np.float32]:
    """DGDiff from the low-dose slices, and its correction bounded as in image mode.

    The logarithm of few photons is too large on average, so the mean of a tissue is taken from the slices of
    the cleaned rays, which conserve counts, and everything finer from the measured ones. The image stage has
    a schedule of its own, down to another dose than that of the rays.
    """
    on_processor = engine.device.type == "cpu"  # which is slow: every slice is told
    batch = 1 if on_processor else usual_batch(engine.device)
    proposal = torch.from_numpy(prior).clamp(max=HIGHEST_HU)
    measured = torch.from_numpy(low_dose).clamp(max=HIGHEST_HU)

    def levelled(slices: list[int]) -> Tensor:
        here, there = measured[slices].to(engine.device), proposal[slices].to(engine.device)
        return (here + slow_part(there - here, pixel_mm)).cpu()

    x = torch.cat(list(in_batches(range(len(measured)), batch, levelled)))
    beside = torch.from_numpy(neighbours_of(x.numpy(), 0, len(x)))
    own = [replace(one, step=max(engine.schedule.nearest(one.photons), 1)) for one in starts]
    out = low_dose.copy()

    def work(slices: list[int]) -> int:
        here, there, near = (one[slices].to(engine.device) for one in (x, proposal, beside))
        proposed = engine.refine(there, here, near, [own[index] for index in slices])
        refined = bounded(here, proposed, pixel_mm).cpu().numpy()
        out[slices] = refined + np.maximum(low_dose[slices] - HIGHEST_HU, 0.0)
        return slices[-1] + 1

    lowered = [index for index, start in enumerate(starts) if start.step > 0]
    for done in in_batches(lowered, batch, work):
        tell_station(on_slice, done, len(starts), "refine")
    return out
