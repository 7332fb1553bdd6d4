"""The published SPDiff: shifted Poisson diffusion on measured transmissions (raw mode).

A ray that lets the share y_0 of its photons through is counted as C ~ Poisson(lambda y_0) + N(0, s), with
s the variance of the electronics in photons squared. C + s has mean and variance lambda y_0 + s, so it is
treated as Poisson(lambda y_0 + s) (NEED 1.3). The states of the diffusion are such counts at the photon
levels of the schedule:

    y_k = Poisson(lambda_k y_0 + s) / lambda_k          k = 1 .. T-1;   y_0 itself at k = 0           (1.4)
    y_{k-1} = (lambda_k y_k + tau) / lambda_{k-1},  tau ~ Poisson((lambda_{k-1} - lambda_k) yhat_0)   (1.5)

`counted` and `refilled` are the two for any photon levels, also such that differ from ray to ray.

The reverse step is exact: independent photons added to photons give the counts of step k-1, shift included.
The mean shift s / lambda_k stays in the state on purpose; the network takes it away with the noise. What is
measured is shifted before it enters, or the network would take away a shift that is not there: -3 to -59 HU
in the middle of a patient (1.13).
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from dicomnode.engines.start_step import PhotonSchedule
from dicomnode.physics.photons import ELECTRONIC_VARIANCE

Predict = Callable[[Tensor, int], Tensor]
"""(states y_k, k) -> yhat_0, of the same shape."""


Photons = float | Tensor
"""Photons incident on each ray: one number, or a tensor that broadcasts to the rays."""

PUBLISHED = PhotonSchedule()
_PUBLISHED_RANGE = PUBLISHED.most_photons / PUBLISHED.least_photons
EXTENDED = PhotonSchedule(
    PUBLISHED.most_photons, PUBLISHED.most_photons / (1 + 19 / 9 * (_PUBLISHED_RANGE - 1)), steps=20
)
"""Ten more steps of the published width, down to 12 385 photons a ray, so that 5 % of the dose has a step of
its own (the last, 19). The first ten are the published ones: down to 10 % the table of NEED 1.6 holds."""


@dataclass(frozen=True)
class ShiftedPoisson:
    """The process on transmissions, any shape, each value a ray that is measured on its own.

    `schedule` counts photons a ray. `electronic_variance`: of one reading, in photons squared.
    """

    schedule: PhotonSchedule
    electronic_variance: float = ELECTRONIC_VARIANCE

    def forward(self, y0: Tensor, k: int, rng: torch.Generator | None = None) -> Tensor:
        """y_k of clean transmissions y_0 (NEED 1.4); y_0 itself at k = 0."""
        if k == 0:
            return y0
        return self.counted(y0, float(self.schedule.photons[k]), rng)

    def counted(self, y0: Tensor, photons: Photons, rng: torch.Generator | None = None) -> Tensor:
        """A state at any photon level: Poisson(photons y_0 + s) / photons (NEED 1.4)."""
        return torch.poisson(photons * y0 + self.electronic_variance, generator=rng) / photons

    def shifted(self, transmission: Tensor, photons: Photons) -> Tensor:
        """What is measured with `photons` incident a ray, as a state of the process: y + s / photons."""
        return transmission + self.electronic_variance / photons

    def reverse(self, y: Tensor, yhat0: Tensor, k: int, rng: torch.Generator | None = None) -> Tensor:
        """y_{k-1} of y_k, given the prediction of y_0 (NEED 1.5); from k = 1 on that prediction."""
        if k <= 1:
            return yhat0
        now, then = (float(self.schedule.photons[step]) for step in (k, k - 1))
        return self.refilled(y, yhat0, now, then, rng)

    def refilled(
        self, y: Tensor, yhat0: Tensor, now: Photons, then: Photons, rng: torch.Generator | None = None
    ) -> Tensor:
        """The state at `then` > `now` photons of the one at `now`, given the prediction of y_0 (NEED 1.5).

        Without `rng` the refilled photons are their mean. A prediction below zero, of which the published
        code draws all the same, refills nothing.
        """
        mean = (then - now) * yhat0.clamp(min=0.0)
        tau = mean if rng is None else torch.poisson(mean, generator=rng)
        return (now * y + tau) / then

    def sample(self, predict: Predict, y: Tensor, k: int, rng: torch.Generator | None = None) -> Tensor:
        """From the measurement, a state of step `k` = k*, to the clean transmission in [0, 1].

        One prediction a step, the last one at k = 0 (the near-identity of the paper): k* + 1 in all.
        """
        for step in range(k, -1, -1):
            y = self.reverse(y, predict(y, step), step, rng)
        return y.clamp(0.0, 1.0)
