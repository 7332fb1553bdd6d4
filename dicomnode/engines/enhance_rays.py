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

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dicomnode.engines.bounds import bounded, slow_part
from dicomnode.engines.enhance import HIGHEST_HU, Clock, Observer, neighbours_of, tell_station
from dicomnode.engines.need.engine import NeedEngine
from dicomnode.engines.need.raw import FAINTEST_QUANTA
from dicomnode.engines.start_step import LEAST_FRACTION, StartStep
from dicomnode.physics.noise import measure_added_noise
from dicomnode.physics.photons import NORMAL_DOSE_PHOTONS

RAY_STATIONS = ("clean", "reconstruct", "refine")

Rays = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class MeasuredRays:
    """The rays of a stack of slices as they were measured, neighbours in order.

    `transmission` float32 [slice, view, ray]: counted over incident quanta; below zero is possible.
    `quanta` float32, broadcasts to it: incident on each ray, from which the noise of a ray follows.
    `photons`: of the whole stack, per reference ray (`physics.photons`). `reconstruct`: line integrals
    [slice, view, ray] -> HU [slice, row, column] with pixels of `pixel_mm`.
    """

    transmission: Rays
    quanta: Rays
    photons: float
    pixel_mm: float
    reconstruct: Callable[[Rays], NDArray[np.float32]]


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

    At normal dose (k* = 0) the slices are those of the measured rays as they are.
    :raises NoRawMode: the model has none.
    """
    count, step = len(rays.transmission), engine.process.schedule.nearest(rays.photons)
    seconds = dict.fromkeys(RAY_STATIONS, 0.0)
    clock = Clock(seconds, partial(tell_station, on_slice, count, count), engine.device)
    cleaned = rays.transmission if step == 0 else _cleaned(engine, rays, seed)
    clock.lap("clean")
    low_dose = rays.reconstruct(line_integrals(rays.transmission, rays.quanta))
    prior = low_dose if step == 0 else rays.reconstruct(line_integrals(cleaned, rays.quanta))
    clock.lap("reconstruct")
    starts = tuple(_matched(engine, rays, step, low, init) for low, init in zip(low_dose, prior, strict=True))
    hounsfield = low_dose if step == 0 else _refined(engine, low_dose, prior, starts, rays.pixel_mm)
    clock.lap("refine")
    return EnhancedRays(hounsfield, prior, low_dose, starts, seconds)


def line_integrals(transmission: Rays, quanta: Rays) -> Rays:
    """P = -ln y; where next to nothing was counted, of `FAINTEST_QUANTA`."""
    found: Rays = -np.log(np.maximum(transmission, FAINTEST_QUANTA / quanta)).astype(np.float32)
    return found


def _cleaned(engine: NeedEngine, rays: MeasuredRays, seed: int) -> Rays:
    rng = torch.Generator(device=engine.device).manual_seed(seed)
    measured, quanta = (
        torch.from_numpy(one).to(engine.device, torch.float32) for one in (rays.transmission, rays.quanta)
    )
    found: Rays = engine.clean_counts(measured, rays.photons, quanta / rays.photons, rng).cpu().numpy()
    return found


def _matched(engine: NeedEngine, rays: MeasuredRays, step: int, low_dose: Rays, prior: Rays) -> StartStep:
    """Noise and texture of what the rays took out; the share that stays is what a normal dose would have."""
    fraction = min(max(rays.photons / NORMAL_DOSE_PHOTONS, LEAST_FRACTION), 1.0)
    reading = measure_added_noise((low_dose - prior)[None], prior[None], rays.pixel_mm)
    start = StartStep(step, rays.photons, fraction, reading.std_hu, reading.texture, "tags", None)
    return engine.within_limits(start, rays.pixel_mm)


def _refined(
    engine: NeedEngine,
    low_dose: NDArray[np.float32],
    prior: NDArray[np.float32],
    starts: tuple[StartStep, ...],
    pixel_mm: float,
) -> NDArray[np.float32]:
    """DGDiff from the low-dose slices, and its correction bounded as in image mode.

    The logarithm of few photons is too large on average, so the mean of a tissue is taken from the slices of
    the cleaned rays, which conserve counts, and everything finer from the measured ones.
    """
    x, proposal = (torch.from_numpy(a).to(engine.device).clamp(max=HIGHEST_HU) for a in (low_dose, prior))
    x = x + slow_part(proposal - x, pixel_mm)
    beside = torch.from_numpy(neighbours_of(x.cpu().numpy(), 0, len(x))).to(engine.device)
    refined: Tensor = bounded(x, engine.refine(proposal, x, beside, starts), pixel_mm)
    metal = np.maximum(low_dose - HIGHEST_HU, 0.0)
    out: NDArray[np.float32] = (refined.cpu().numpy() + metal).astype(np.float32)
    return out
