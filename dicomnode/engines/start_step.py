"""From photons to the step where the diffusion starts, and how much of the noise is to go."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import median
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from dicomnode.errors import DoseUnknown
from dicomnode.physics.photons import (
    NOISE_LAW_DIAMETER_MM,
    NOISE_LAW_PIXEL_MM,
    NORMAL_DOSE_PHOTONS,
    photons_from_dose,
    photons_from_noise,
    predicted_noise_hu,
)

AGREE = math.log(1.5)
DISAGREE = math.log(2.5)
"""ln of the factors between dose by tags and dose by noise up to which they agree, and beyond which they
contradict each other; between them both count, with a warning."""

LEAST_FRACTION = 0.02
LEAST_BY_NOISE_ALONE = 0.25
"""Dose fraction that noise is believed down to where no tag confirms it: a sharp kernel, a wrong size or
streaks look like a lower dose, too. A quarter of normal dose is what the field calls low."""
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

    `step`: k* of the schedule; 0 means nothing to do. `photons`: quanta per reference ray that this slice
    looks like. `fraction`: theirs over those of the normal dose for this patient and thickness, which is the
    share of the noise variance that stays; `fraction_by_tags`, `fraction_by_noise`: what each says.
    `noise_hu`, `texture`: measured, or predicted from the photons. `decided_by`: who decided the strength,
    `tags`, `noise` or `both`. `log_ratio`: ln(photons by tags / photons by noise), None where
    one is missing. `verdict`: how the two compare, see `Verdict`. `outside`: sentences on what the model was
    not trained for and was told as its nearest.
    """

    step: int
    photons: float
    fraction: float
    noise_hu: float
    texture: float
    decided_by: str
    log_ratio: float | None
    outside: tuple[str, ...] = ()
    verdict: "Verdict" = "agree"
    fraction_by_tags: float | None = None
    fraction_by_noise: float | None = None

    @property
    def dose_fraction(self) -> float:
        """Its dose over normal dose: an image cleaner than its tags tells what was done to it instead."""
        by_tags = self.fraction_by_tags
        return self.fraction if by_tags is None or self.dose_decided_by != "tags" else by_tags

    @property
    def dose_decided_by(self) -> str:
        """Who decided `dose_fraction`: `tags`, `noise` or `both`."""
        return "tags" if self.verdict in ("cleaner", "iterative") else self.decided_by


Verdict = Literal[
    "agree", "warn", "noisier", "cleaner", "iterative", "cut off", "sharp", "tags alone", "noise alone"
]
"""`agree` and `warn`: within a factor 1.5 and 2.5, both count.
`noisier` than the tags by more: the noise wins (simulated low dose, wrong phantom, mAs of one thin slice).
`cleaner` by more: the noise wins, so the strength is less (already denoised, averaged slices).
`iterative`: known to be reconstructed iteratively, and cleaner at all: the noise wins, because only the noise
that is left can be removed.
`cut off`, `sharp`: noisier than the tags, but the patient goes on beyond the image and his size is unknown,
or the kernel lifts noise: what it says is only the least that the dose can be, and the tags decide."""


@dataclass(frozen=True)
class SliceFacts:
    """What is known of one slice before the decision; None where nothing is.

    `ctdivol_mgy` and `normal_ctdivol_mgy`, what a normal dose would be for this patient, refer to the 32 cm
    phantom; their ratio is the dose fraction. `noise_hu`, `texture`, `law_texture` as in
    `physics.noise.NoiseReading`.
    `iterative`: not plain filtered back-projection. `overstated`: why the noise may tell too low a dose, if
    anything does. `region`, `region_by` and `flags` are for the record:
    which row of the reference table applied, what named it, and what is odd about the size.
    """

    thickness_mm: float
    pixel_mm: float
    diameter_mm: float
    normal_ctdivol_mgy: float
    ctdivol_mgy: float | None
    noise_hu: float | None
    texture: float | None
    iterative: bool = False
    overstated: Literal["", "cut off", "sharp"] = ""
    law_texture: float | None = None
    region: str = ""
    region_by: str = ""
    flags: tuple[str, ...] = ()


def match(facts: SliceFacts, schedule: PhotonSchedule) -> StartStep:
    """Decide the photons of a slice from its tags and its noise, and the step that fits.

    The two are independent. Within a factor 2.5 both count (geometric mean); beyond it the image is believed:
    a noisier one because headers repeat what was planned (a simulated quarter-dose file says full dose), a
    cleaner one because noise that is not there cannot be removed; tags never raise the strength above what
    fits the noise by more than the square root of 2.5. Noise alone makes no more strength than a quarter of
    normal dose. Raises DoseUnknown when there is neither: normal dose is never assumed.

    Iterative reconstruction leaves less noise than the law of `physics.photons` says. The noise then stands
    for more photons than there were: an upper bound. Below the tags it contradicts them all the more, and the
    rules above hold; above them it alone decides.
    """
    tags, noise = _photons_by_tags(facts), _photons_by_noise(facts)
    log_ratio = math.log(tags / noise) if tags is not None and noise is not None else None
    photons, decided_by, verdict = _decide(tags, noise, facts)
    normal = photons_from_dose(facts.normal_ctdivol_mgy, facts.thickness_mm)
    if verdict == "noise alone":
        photons = max(photons, LEAST_BY_NOISE_ALONE * normal)
    by_tags, by_noise = (None if one is None else _fraction(one, normal) for one in (tags, noise))
    fraction = _fraction(photons, normal)
    # the schedule counts from normal dose, whatever the thickness: k* depends on the fraction alone
    step = schedule.nearest(fraction * NORMAL_DOSE_PHOTONS)
    texture = TYPICAL_TEXTURE if facts.texture is None else facts.texture
    noise_hu = facts.noise_hu or predicted_noise_hu(
        photons, facts.diameter_mm, facts.pixel_mm, _law_texture(facts)
    )
    return StartStep(
        step,
        photons,
        fraction,
        noise_hu,
        texture,
        decided_by,
        log_ratio,
        verdict=verdict,
        fraction_by_tags=by_tags,
        fraction_by_noise=by_noise,
    )


def _fraction(photons: float, normal: float) -> float:
    return min(max(photons / normal, LEAST_FRACTION), 1.0)


def told(starts: Sequence[StartStep]) -> str:
    """One sentence for people: who decided the dose in how many of the slices, and by what factor."""
    verdict, count = Counter(start.verdict for start in starts).most_common(1)[0]
    ratios = [s.log_ratio for s in starts if s.verdict == verdict and s.log_ratio is not None]
    factor = math.exp(abs(median(ratios))) if ratios else 1.0
    return _SENTENCES[verdict].format(slices=f"{count} of {len(starts)} slices", factor=f"{factor:.2g}")


_SENTENCES: dict[Verdict, str] = {
    "agree": "tags and image noise agree within a factor {factor} in {slices}: both count",
    "warn": "tags and image noise differ by a factor {factor} in {slices}: both count, with a warning",
    "noisier": "noise won in {slices}: noisier than the tags say, a dose lower by a factor {factor}",
    "cleaner": "noise won in {slices}: cleaner than the tags say by a factor {factor} in dose, "
    "strength lowered to what fits the noise",
    "iterative": "noise won in {slices}: reconstructed iteratively, cleaner than the tags say by a factor "
    "{factor} in dose, strength lowered to what fits the noise",
    "cut off": "tags decided in {slices}: noisier than they say by a factor {factor} in dose, but the "
    "patient goes on beyond the image and his size is unknown",
    "sharp": "tags decided in {slices}: noisier than they say by a factor {factor} in dose, as a kernel that "
    "lifts edges is",
    "tags alone": "tags decided in {slices}: no noise could be measured, or none that tells a dose",
    "noise alone": "noise decided in {slices}: the tags tell no dose, so that the strength is at most that "
    "of a quarter of normal dose",
}


def _decide(tags: float | None, noise: float | None, facts: SliceFacts) -> tuple[float, str, Verdict]:
    """Photons, who decided, and how tags and noise compare."""
    if tags is None and noise is None:
        raise DoseUnknown(
            "no CTDIvol or mAs in the header and no soft tissue to measure noise in: the dose is unknown"
        )
    if tags is None or noise is None:
        return (tags, "tags", "tags alone") if tags is not None else (noise or 0.0, "noise", "noise alone")
    log_ratio = math.log(tags / noise)
    if facts.iterative and log_ratio < 0.0:
        return noise, "noise", "iterative"
    if facts.overstated and log_ratio > 0.0:
        return tags, "tags", facts.overstated
    if abs(log_ratio) < DISAGREE:
        return math.sqrt(tags * noise), "both", "agree" if abs(log_ratio) < AGREE else "warn"
    return noise, "noise", "noisier" if log_ratio > 0 else "cleaner"


def _photons_by_tags(facts: SliceFacts) -> float | None:
    return None if facts.ctdivol_mgy is None else photons_from_dose(facts.ctdivol_mgy, facts.thickness_mm)


def _photons_by_noise(facts: SliceFacts) -> float | None:
    if facts.noise_hu is None or facts.texture is None or not _law_holds(facts):
        return None
    return photons_from_noise(facts.noise_hu, facts.diameter_mm, facts.pixel_mm, _law_texture(facts))


def _law_texture(facts: SliceFacts) -> float:
    known = facts.texture if facts.law_texture is None else facts.law_texture
    return TYPICAL_TEXTURE if known is None else known


def _law_holds(facts: SliceFacts) -> bool:
    """Whether noise tells a dose here; a slice without a body has no diameter that could speak against it."""
    fine = NOISE_LAW_PIXEL_MM[0] <= facts.pixel_mm <= NOISE_LAW_PIXEL_MM[1]
    low, high = NOISE_LAW_DIAMETER_MM
    return fine and (facts.diameter_mm <= 0 or low <= facts.diameter_mm <= high)
