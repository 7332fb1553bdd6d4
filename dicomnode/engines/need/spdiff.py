"""SPDiff: shifted Poisson diffusion on projections, in its reprojection-aware form.

The published process thins and refills photon counts. What a PACS sends is an image, and its noise,
projected again, is correlated and far weaker than Poisson noise of the same dose: the published rule from
dose to step would then smooth too much or do nothing. So the network here is trained on reprojected noise of
known photon level and kernel, the step comes from the true photons, and the refill keeps its form with the
mean in place of the drawn photons, or drawn (`refill` of the card). How many passes the path from the start
step is walked in stands in the card too; with one pass the first answer is the last, and nothing is refilled.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import torch
from torch import Tensor

from dicomnode.engines.start_step import PhotonSchedule, StartStep
from dicomnode.engines.unet import UNet, bf16_pays, condition_tensor, high_pass
from dicomnode.physics.geometry import WATER_ATTENUATION_PER_MM

CHANNELS, CONDITIONS = 2, 4
_REPROJECTED = 60.0
"""Noise of a sinogram over the noise of its slice times one pixel of water: 47 (ramp) to 86 (soft kernel)."""


def sinogram_noise(noise_hu: float, pixel_mm: float) -> float:
    """Scale of the noise in the sinogram of a slice with `noise_hu`: attenuation, dimensionless."""
    return _REPROJECTED * WATER_ATTENUATION_PER_MM * pixel_mm * noise_hu / 1000.0


def conditions(noise_hu: float, texture: float, fraction: float, photons: float) -> tuple[float, ...]:
    """What steers the network: noise level, kernel texture, share that stays, photon level (the step)."""
    return (math.log(noise_hu / 25.0), texture, fraction, math.log(photons / 2.5e5))


def inputs(sinograms: Tensor, scales: Tensor) -> Tensor:
    """Channels [n, 2, view, detector]: attenuation, and its high frequencies in units of the noise."""
    y = sinograms[:, None]
    return torch.cat([y / 4.0, (high_pass(y) / scales).clamp(-12.0, 12.0)], dim=1)


def predict(network: UNet, sinograms: Tensor, starts: Sequence[StartStep], pixel_mm: float) -> Tensor:
    """yhat_0: the projections at normal dose, [n, view, detector], attenuation."""
    scales = sinograms.new_tensor([sinogram_noise(s.noise_hu, pixel_mm) for s in starts])[:, None, None, None]
    rows = [conditions(s.noise_hu, s.texture, s.fraction, s.photons) for s in starts]
    with torch.autocast(sinograms.device.type, torch.bfloat16, enabled=bf16_pays(sinograms.device)):
        noise: Tensor = network(inputs(sinograms, scales), condition_tensor(rows, sinograms))
    return sinograms - (noise.float() * scales)[:, 0]


def refill(
    y: Tensor, yhat0: Tensor, now: Tensor | float, then: Tensor | float, rng: torch.Generator | None = None
) -> Tensor:
    """One reverse step from `now` to `then` > `now` photons; attenuation in and out (NEED 1.5).

    y_{k-1} = (lambda_k y_k + tau) / lambda_{k-1} on transmissions,
    tau ~ Poisson((lambda_{k-1} - lambda_k) yhat_0). With independent photons this yields the
    marginal of step k-1 exactly. Without `rng` tau is its mean. Photons are a number, or broadcast to y.
    """
    now, then = torch.as_tensor(now).to(y), torch.as_tensor(then).to(y)
    added = (then - now) * torch.exp(-yhat0)
    tau = added if rng is None else torch.poisson(added, generator=rng)
    counts = now * torch.exp(-y) + tau
    return -torch.log((counts / then).maximum(1.0 / then))


def clean(
    network: UNet,
    sinograms: Tensor,
    starts: Sequence[StartStep],
    schedule: PhotonSchedule,
    passes: int,
    pixel_mm: float,
    rng: torch.Generator | None = None,
) -> Tensor:
    """Reverse process of slices at one step k*: attenuation [slice, view, detector] to normal dose.

    At step 0 (normal dose) or with no passes it is the identity. With `rng` refilled photons are drawn.
    """
    y, states = sinograms, list(starts)
    steps = (*schedule.path(shared_step(starts), passes), 0)
    for k, following in pairwise(steps):
        yhat0 = predict(network, y, states, pixel_mm)
        if following == 0:
            return yhat0
        ratio = float(schedule.photons[k] / schedule.photons[following])
        photons = y.new_tensor([state.photons for state in states])[:, None, None]
        y = refill(y, yhat0, photons, photons / ratio, rng)
        states = [thinned(state, ratio) for state in states]
    return y


def shared_step(starts: Sequence[StartStep]) -> int:
    """The step of slices that walk together. ValueError where they have several."""
    steps = {start.step for start in starts}
    if len(steps) != 1:
        raise ValueError(f"slices at several steps cannot walk together: {sorted(steps)}")
    return steps.pop()


def thinned(state: StartStep, ratio: float) -> StartStep:
    """What is left of the noise when the part that must go is scaled by `ratio` < 1."""
    kept = state.fraction + (1.0 - state.fraction) * ratio**2
    return replace(
        state,
        photons=state.photons / kept,
        fraction=min(1.0, state.fraction / kept),
        noise_hu=state.noise_hu * math.sqrt(kept),
    )
