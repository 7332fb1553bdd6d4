"""SPDiff as published, on measured projections: the network that predicts the clean transmission.

What it sees is stabilised, z = 2 sqrt(counts + 3/8) (Anscombe 1948): every ray then has noise of variance 1,
behind bone as in air, at every photon level, and a mistake weighs what it weighs against that noise. It sees
a ray's neighbours in view, bin and slice, and answers with the noise to take away, electronic shift included,
in the same units. Three slices walk the process together: the neighbours are as noisy as the slice between
them, in training and at every step (the reference leaves them as measured).
"""

import math
from functools import partial

import torch
from torch import Tensor

from dicomnode.engines.need.poisson import ShiftedPoisson
from dicomnode.engines.unet import UNet, bf16_pays, condition_tensor, high_pass

CONTEXT = 3
CHANNELS, CONDITIONS = 2 * CONTEXT, 1
OPAQUE = 1e-6
"""Least transmission a logarithm is taken of: 14 attenuation lengths, which no ray comes through."""


def stabilised(transmission: Tensor, photons: float) -> Tensor:
    """z = 2 sqrt(photons y + 3/8) of transmissions y, any shape."""
    return 2.0 * (photons * transmission + 0.375).clamp(min=0.0).sqrt()


def transmission(z: Tensor, photons: float) -> Tensor:
    """The inverse of `stabilised`; a little below zero where nothing came through."""
    return ((z.clamp(min=0.0) / 2.0) ** 2 - 0.375) / photons


def with_neighbours(stack: Tensor) -> Tensor:
    """[slice, y, x] -> [slice, 3, y, x]: below, itself, above; at the ends itself for what is missing."""
    below, above = torch.cat([stack[:1], stack[:-1]]), torch.cat([stack[1:], stack[-1:]])
    return torch.stack([below, stack, above], dim=1)


def conditions(photons: float) -> tuple[float, ...]:
    """What steers the network: the photon level of the step."""
    return (math.log(photons / 2.5e5),)


def inputs(windows: Tensor, photons: float) -> Tensor:
    """States [n, 3, view, bin] -> channels [n, 6, view, bin]: attenuation and fine part of z of each."""
    attenuation = -torch.log(windows.clamp(min=OPAQUE)) / 4.0
    n, _, views, bins = windows.shape
    z = stabilised(windows, photons).reshape(n * CONTEXT, 1, views, bins)
    fine = high_pass(z).reshape(windows.shape).clamp(-12.0, 12.0)
    return torch.cat([attenuation, fine], dim=1)


def noise_of(states: Tensor, clean: Tensor, photons: float) -> Tensor:
    """What the network is asked for, [n, 1, view, bin]: z of the states less z of the clean transmissions."""
    return (stabilised(states, photons) - stabilised(clean, photons))[:, None]


def predict(network: UNet, states: Tensor, photons: float) -> Tensor:
    """yhat_0 of a stack of states at one photon level, [slice, view, bin]."""
    with torch.autocast(states.device.type, torch.bfloat16, enabled=bf16_pays(states.device)):
        steer = condition_tensor([conditions(photons)] * len(states), states)
        noise: Tensor = network(inputs(with_neighbours(states), photons), steer)
    return transmission(stabilised(states, photons) - noise.float()[:, 0], photons)


def clean(
    network: UNet,
    process: ShiftedPoisson,
    measured: Tensor,
    photons: float,
    rng: torch.Generator | None = None,
) -> Tensor:
    """Measured transmissions at normal dose: [slice, view, bin] in and out, neighbouring slices in order.

    `photons` incident a ray give the start step (NEED 1.6); the measurement is shifted by the electronics.
    At step 0, normal dose, it is returned as it is. With `rng` the refilled photons are drawn.
    """
    schedule = process.schedule
    start = schedule.nearest(photons)
    if start == 0:
        return measured
    answer = partial(_answer, network, process)
    return process.sample(answer, process.shifted(measured, photons), start, rng)


def _answer(network: UNet, process: ShiftedPoisson, states: Tensor, k: int) -> Tensor:
    """The state of k = 0 is clean already: no photon level is its own, and nothing is asked of it."""
    return states if k == 0 else predict(network, states, float(process.schedule.photons[k]))
