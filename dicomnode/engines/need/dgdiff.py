"""DGDiff: doubly guided diffusion on the image, at full resolution.

The forward process is the one a scanner runs: x_k = x_0 + noise of a scan with lambda_k photons, shaped by
the kernel. The reverse process starts from the low-dose image itself, at the step its noise matches, and is
guided twice: by the low-dose image, which each state still contains, and by the reconstruction of the cleaned
projections, a channel of the network. There is no super-resolution stage, which would draw every fine detail
from noise.
"""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from dicomnode.engines.need.spdiff import shared_step, thinned
from dicomnode.engines.start_step import PhotonSchedule, StartStep
from dicomnode.engines.unet import UNet, bf16_pays, condition_tensor, high_pass

CHANNELS, CONDITIONS = 5, 3
ALONE = 3
"""Channels of a network that sees no neighbours."""


def conditions(noise_hu: float, texture: float, fraction: float) -> tuple[float, ...]:
    """What steers the network: noise level, kernel texture, and the share of the noise that stays."""
    return (math.log(noise_hu / 25.0), texture, fraction)


def inputs(x: Tensor, prior: Tensor, neighbours: Tensor, noise_hu: Tensor) -> Tensor:
    """Channels [n, 5, row, column] of slices and their priors [n, 1, ...] and their neighbours [n, 2, ...].

    HU; its high frequencies, the prior's proposal and what the slices below and above have more, all in units
    of the noise. A slice stands in for a neighbour that is missing: nothing more.
    """
    fine = (high_pass(x) / noise_hu).clamp(-12.0, 12.0)
    more = ((torch.cat([prior, neighbours], dim=1) - x) / noise_hu).clamp(-12.0, 12.0)
    return torch.cat([x.clamp(-1100.0, 2000.0) / 500.0, fine, more], dim=1)


MIRRORINGS: tuple[tuple[int, ...], ...] = ((), (-1,), (-2,), (-2, -1))
"""Axes to turn about: as it is, left-right, up-down, both."""


def predict(
    network: UNet,
    x: Tensor,
    prior: Tensor,
    neighbours: Tensor,
    starts: Sequence[StartStep],
    mirrorings: int = 1,
) -> Tensor:
    """xhat_0: the slices at normal dose, HU [n, row, column], given state and prior of the same shape.

    `neighbours` [n, 2, row, column]: the slices below and above. With several `mirrorings` the mean of the
    answers to the mirrored slice: noise has no handedness, so what differs between them is the network's own
    error.
    """
    noise_hu = x.new_tensor([s.noise_hu for s in starts])[:, None, None, None]
    rows = [conditions(s.noise_hu, s.texture, s.fraction) for s in starts]
    with torch.autocast(x.device.type, torch.bfloat16, enabled=bf16_pays(x.device)):
        channels = inputs(x[:, None], prior[:, None], neighbours, noise_hu)[:, : network.shape.channels_in]
        steer = condition_tensor(rows, x)
        answers = [network(channels.flip(axes), steer).float().flip(axes) for axes in MIRRORINGS[:mirrorings]]
    return x - (torch.stack(answers).mean(dim=0) * noise_hu)[:, 0]


def refine(
    network: UNet,
    prior: Tensor,
    low_dose: Tensor,
    neighbours: Tensor,
    starts: Sequence[StartStep],
    schedule: PhotonSchedule,
    passes: int,
    mirrorings: int = 1,
) -> Tensor:
    """Reverse process of slices at one step, HU [slice, row, column]; the identity at step 0.

    `neighbours` [slice, 2, row, column] stay as they were measured (NEED 1.5).
    x_{k-1} = xhat_0 + (lambda_k / lambda_{k-1}) (x_k - xhat_0): the posterior mean of the forward process,
    the image-domain twin of SPDiff's refill.
    """
    x, states = low_dose, list(starts)
    steps = (*schedule.path(shared_step(starts), passes), 0)
    for k, following in pairwise(steps):
        xhat0 = predict(network, x, prior, neighbours, states, mirrorings)
        if following == 0:
            return xhat0
        ratio = float(schedule.photons[k] / schedule.photons[following])
        x = xhat0 + ratio * (x - xhat0)
        states = [thinned(state, ratio) for state in states]
    return x
