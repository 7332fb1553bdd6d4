"""SPDiff as published, on measured projections: the network that predicts the clean transmission.

What it sees is stabilised, z = 2 sqrt(counts + 3/8) (Anscombe 1948): every ray then has noise of variance 1,
behind bone as in air, at every photon level, and a mistake weighs what it weighs against that noise. It sees
a ray's neighbours in view, bin and slice, and answers with the noise to take away, electronic shift included,
in the same units. Three slices walk the process together: the neighbours are as noisy as the slice between
them, in training and at every step (the reference leaves them as measured, NEED 1.5).

The rays are those that were measured, each with its own incident photons; they are cleaned before anything is
interpolated between them, because what is interpolated is not Poisson any more. The process starts at the
photons there were, not at the nearest step of the schedule (1.6): only its further steps are those.
"""

import math
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional

from dicomnode.engines.need.poisson import Photons, ShiftedPoisson
from dicomnode.engines.unet import UNet, bf16_pays, condition_tensor, high_pass
from dicomnode.physics.photons import ELECTRONIC_VARIANCE

CONTEXT = 3
CHANNELS, CONDITIONS = 2 * CONTEXT, 1
OPAQUE = 1e-6
"""Least transmission a logarithm is taken of: 14 attenuation lengths, which no ray comes through."""
FAINTEST_QUANTA = 0.1
"""What a ray is taken to have let through at least, so that it has a logarithm and a share."""
NOISE_AT_MOST = 6.0
"""Deviations of one reading: sqrt(counts + s). The same upwards and downwards, or the mean would move."""
LEAST_HEARD = 0.05
SLICES_AT_ONCE = 4

Told = Callable[[float], object]
"""Told the share of the work that is done; may raise to break it off."""


def stabilised(transmission: Tensor, photons: Photons) -> Tensor:
    """z = 2 sqrt(photons y + 3/8) of transmissions y, any shape."""
    return 2.0 * (photons * transmission + 0.375).clamp(min=0.0).sqrt()


def transmission(z: Tensor, photons: Photons) -> Tensor:
    """The inverse of `stabilised`; a little below zero where nothing came through."""
    return ((z.clamp(min=0.0) / 2.0) ** 2 - 0.375) / photons


def with_neighbours(stack: Tensor) -> Tensor:
    """[slice, y, x] -> [slice, 3, y, x]: below, itself, above; at the ends itself for what is missing."""
    below, above = torch.cat([stack[:1], stack[:-1]]), torch.cat([stack[1:], stack[-1:]])
    return torch.stack([below, stack, above], dim=1)


def conditions(photons: float) -> tuple[float, ...]:
    """What steers the network: the photon level of the step, of a typical ray."""
    return (math.log(photons / 2.5e5),)


def inputs(windows: Tensor, photons: Photons) -> Tensor:
    """States [n, 3, view, bin] -> channels [n, 6, view, bin]: attenuation and fine part of z of each."""
    attenuation = -torch.log(windows.clamp(min=OPAQUE)) / 4.0
    n, _, views, bins = windows.shape
    z = stabilised(windows, photons).reshape(n * CONTEXT, 1, views, bins)
    fine = high_pass(z).reshape(windows.shape).clamp(-12.0, 12.0)
    return torch.cat([attenuation, fine], dim=1)


def noise_of(states: Tensor, clean: Tensor, photons: Photons) -> Tensor:
    """What the network is asked for, [n, 1, view, bin]: z of the states less z of the clean transmissions."""
    return (stabilised(states, photons) - stabilised(clean, photons))[:, None]


def predict(network: UNet, states: Tensor, photons: Photons, tell: Told | None = None) -> Tensor:
    """yhat_0 of a stack of states, [slice, view, bin]. `photons` of a ray: a number or of the same shape."""
    counts = torch.as_tensor(photons, dtype=states.dtype, device=states.device).expand(states.shape)
    answers = []
    for first in range(0, len(states), SLICES_AT_ONCE):
        some = slice(first, first + SLICES_AT_ONCE)
        around = slice(max(first - 1, 0), first + SLICES_AT_ONCE + 1)
        middle = slice(first - around.start, first - around.start + SLICES_AT_ONCE)
        windows, levels = (with_neighbours(one[around])[middle] for one in (states, counts))
        typical = [float(level.median()) for level in counts[some]]
        with torch.autocast(states.device.type, torch.bfloat16, enabled=bf16_pays(states.device)):
            steer = condition_tensor([conditions(level) for level in typical], states)
            noise: Tensor = network(inputs(windows, levels), steer)
        z = stabilised(states[some], counts[some]) - noise.float()[:, 0]
        answers.append(transmission(z, counts[some]))
        if tell:
            tell(min((first + SLICES_AT_ONCE) / len(states), 1.0))
    return torch.cat(answers)


def clean(
    network: UNet,
    process: ShiftedPoisson,
    measured: Tensor,
    photons: float,
    rng: torch.Generator | None = None,
    share: Photons = 1.0,
    passes: int | None = None,
    tell: Told | None = None,
) -> Tensor:
    """Measured transmissions at normal dose: [slice, view, bin] in and out, neighbouring slices in order.

    `photons` a reference ray give the start step (NEED 1.6); a ray has `share` of them, a number or a tensor
    that broadcasts to the rays. The measurement is shifted by the electronics. At step 0, normal dose, it is
    returned as it is. With `rng` the refilled photons are drawn. At most `passes` predictions, evenly spread
    over the steps down to 1; by default one a step, as published but for the last one at k = 0, which the
    paper calls near-identity and this network is not trained for.
    """
    schedule = process.schedule
    start = schedule.nearest(photons)
    if start == 0:
        return measured
    further = schedule.path(start, start if passes is None else passes)[1:]
    levels = [photons, *(float(schedule.photons[k]) for k in further)]
    y = process.shifted(measured, share * photons)
    so_far = [_from(tell, number, len(levels)) for number in range(len(levels))]
    for (now, then), heard in zip(pairwise(levels), so_far, strict=False):
        y = process.refilled(y, predict(network, y, share * now, heard), share * now, share * then, rng)
    return predict(network, y, share * levels[-1], so_far[-1]).clamp(0.0, 1.0)


def _from(tell: Told | None, number: int, passes: int) -> Told | None:
    """Told of one pass of several, as the share of all."""
    return None if tell is None else lambda share: tell((number + share) / passes)


def conserved(measured: Tensor, cleaned: Tensor, quanta: Photons, sigma: float = 8.0) -> Tensor:
    """The cleaned rays, scaled so that every neighbourhood keeps the photons that were counted in it.

    [slice, view, bin], with `quanta` incident on each ray; a neighbourhood is a Gaussian of deviation `sigma`
    views and bins. Counts are an unbiased measurement at every dose, their logarithm is not: so no network
    and no shift that stayed can move the mean of a tissue by much, and what is left of the noise is that of
    some 800 rays together. Each ray counts in units of what the rays close to it let through, or bright ones
    would speak for the dark ones beside them; not in units of its own cleaned share, whose left-over noise is
    that of the very reading: the mean of their ratio is too low by the product of both. Rays that differ by
    more than noise does, at edges, do not speak.
    """
    incident = torch.as_tensor(quanta, dtype=measured.dtype, device=measured.device)
    deviation = (cleaned.clamp(min=0.0) / incident + ELECTRONIC_VARIANCE / incident**2).sqrt()
    heard = ((measured - cleaned).abs() < NOISE_AT_MOST * deviation).to(measured)
    weight = heard / _smooth(cleaned, sigma / 2.0).maximum(FAINTEST_QUANTA / incident)
    ratio = _smooth(weight * measured, sigma) / _smooth(weight * cleaned, sigma).clamp(min=OPAQUE)
    return torch.where(_smooth(heard, sigma) > LEAST_HEARD, cleaned * ratio.clamp(0.5, 2.0), cleaned)


def _smooth(rays: Tensor, sigma: float) -> Tensor:
    reach = int(3 * sigma)
    taps = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, device=rays.device) / sigma) ** 2)
    taps = (taps / taps.sum()).to(rays)
    x = functional.pad(rays[:, None], (reach,) * 4, mode="replicate")
    x = functional.conv2d(x, taps[None, None, None, :])
    return functional.conv2d(x, taps[None, None, :, None])[:, 0]
