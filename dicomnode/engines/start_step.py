"""From photons to the step where the diffusion starts, and how much of the noise is to go."""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from dicomnode.errors import DoseUnknown
from dicomnode.physics.photons import (
    NORMAL_DOSE_PHOTONS,
    photons_from_dose,
    photons_from_noise,
    predicted_noise_hu,
)

DISAGREE = math.log(2.5)
"""ln of the factor beyond which header and image contradict each other."""

LEAST_FRACTION = 0.02
TYPICAL_TEXTURE = 0.45
"""Texture of a standard soft-tissue kernel, for slices without enough soft tissue to measure it."""


@dataclass(frozen=True)
class PhotonSchedule:
    """lambda_k = lambda_0 / (1 + k/(T-1) (lambda_0/lambda_{T-1} - 1)): equal steps of noise variance.

    NEED, section 1.4 of its code: lambda_0 = 3e5, lambda_{T-1} = 2.5e4, T = 10.
    """

    most_photons: float = 3.0e5
    least_photons: float = 2.5e4
    steps: int = 10

    @cached_property
    def photons(self) -> NDArray[np.float64]:
        """lambda_k, [step], falling."""
        k = np.arange(self.steps) / (self.steps - 1)
        return self.most_photons / (1.0 + k * (self.most_photons / self.least_photons - 1.0))

    def path(self, step: int, passes: int) -> tuple[int, ...]:
        """At most `passes` steps from `step` down towards 0, evenly spread, `step` first."""
        count = min(passes, step)
        return tuple(round(step * (count - j) / count) for j in range(count))

    def nearest(self, photons: float) -> int:
        """k* = argmin |lambda_k - photons| (NEED 1.6)."""
        return int(np.argmin(np.abs(self.photons - photons)))


@dataclass(frozen=True)
class StartStep:
    """Where the reverse process starts for one slice.

    `step`: k* of the schedule; 0 means normal dose, nothing to do. `photons`: quanta per reference ray of
    this slice. `fraction`: its dose over the normal dose for this patient and thickness, which is the share
    of the noise variance that stays. `noise_hu`, `texture`: measured, or predicted from the photons.
    `decided_by`: `tags`, `noise` or `both`. `log_ratio`: ln(photons by tags / photons by noise), None where
    one is missing. `outside`: sentences on what the model was not trained for and was told as its nearest.
    """

    step: int
    photons: float
    fraction: float
    noise_hu: float
    texture: float
    decided_by: str
    log_ratio: float | None
    outside: tuple[str, ...] = ()


@dataclass(frozen=True)
class SliceFacts:
    """What is known of one slice before the decision; None where nothing is.

    `ctdivol_mgy` and `normal_ctdivol_mgy`, what a normal dose would be for this patient, refer to the 32 cm
    phantom. `noise_hu` and `texture` as in `physics.noise.NoiseReading`.
    """

    thickness_mm: float
    pixel_mm: float
    diameter_mm: float
    normal_ctdivol_mgy: float
    ctdivol_mgy: float | None
    noise_hu: float | None
    texture: float | None


def match(facts: SliceFacts, schedule: PhotonSchedule) -> StartStep:
    """Decide the photons of a slice from its tags and its noise, and the step that fits.

    The two are independent. Within a factor 2.5 both count (geometric mean); beyond it the image is believed,
    because headers repeat what was planned (a simulated quarter-dose file says full dose). Raises DoseUnknown
    when there is neither: normal dose is never assumed.
    """
    tags, noise = _photons_by_tags(facts), _photons_by_noise(facts)
    if tags is None and noise is None:
        raise DoseUnknown(
            "no CTDIvol or mAs in the header and no soft tissue to measure noise in: the dose is unknown"
        )
    log_ratio = math.log(tags / noise) if tags is not None and noise is not None else None
    if noise is None or tags is None:
        photons, decided_by = (tags, "tags") if noise is None else (noise, "noise")
    elif log_ratio is not None and abs(log_ratio) < DISAGREE:
        photons, decided_by = math.sqrt(tags * noise), "both"
    else:
        photons, decided_by = noise, "noise"
    assert photons is not None
    normal = photons_from_dose(facts.normal_ctdivol_mgy, facts.thickness_mm)
    fraction = min(max(photons / normal, LEAST_FRACTION), 1.0)
    # the schedule counts from normal dose, whatever the thickness: k* depends on the fraction alone
    step = schedule.nearest(fraction * NORMAL_DOSE_PHOTONS)
    texture = TYPICAL_TEXTURE if facts.texture is None else facts.texture
    noise_hu = facts.noise_hu or predicted_noise_hu(photons, facts.diameter_mm, facts.pixel_mm, texture)
    return StartStep(step, photons, fraction, noise_hu, texture, decided_by, log_ratio)


def _photons_by_tags(facts: SliceFacts) -> float | None:
    return None if facts.ctdivol_mgy is None else photons_from_dose(facts.ctdivol_mgy, facts.thickness_mm)


def _photons_by_noise(facts: SliceFacts) -> float | None:
    if facts.noise_hu is None or facts.texture is None:
        return None
    return photons_from_noise(facts.noise_hu, facts.diameter_mm, facts.pixel_mm, facts.texture)
