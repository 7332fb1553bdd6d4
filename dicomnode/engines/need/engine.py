"""The engine NEED: three verbs over two networks for images, and one more for measured projections."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dicomnode.engines.model_card import ModelCard, RawMode
from dicomnode.engines.need import dgdiff, raw, spdiff
from dicomnode.engines.need.poisson import ShiftedPoisson
from dicomnode.engines.need.raw import Told
from dicomnode.engines.start_step import (
    LEAST_FRACTION,
    TYPICAL_TEXTURE,
    PhotonSchedule,
    SliceFacts,
    StartStep,
    match,
)
from dicomnode.engines.unet import UNet
from dicomnode.errors import NoRawMode
from dicomnode.physics.geometry import ParallelBeam
from dicomnode.physics.photons import NORMAL_DOSE_PHOTONS


@dataclass(frozen=True, eq=False)
class NeedEngine:
    """Networks on a device, with the card they came with."""

    card: ModelCard
    projection: UNet
    image: UNet
    device: torch.device
    raw: UNet | None = None

    @property
    def schedule(self) -> PhotonSchedule:
        s = self.card.schedule
        return PhotonSchedule(s.most_photons, s.least_photons, s.steps)

    @property
    def weights_digest(self) -> str:
        """SHA-256 over all weights, hexadecimal."""
        return self.card.weights_digest

    def beam(self, side_px: int) -> ParallelBeam:
        """The virtual scanner for slices of this matrix."""
        return self.card.beam.build().for_side(side_px)

    def match(self, facts: SliceFacts) -> StartStep:
        """Dose and noise of a slice -> its start step. DoseUnknown where neither can be had.

        What lies outside the limits of the card is told to the networks as the nearest they know.
        """
        return self.within_limits(match(facts, self.schedule), facts.pixel_mm)

    def match_photons(self, photons: float, facts: SliceFacts) -> StartStep:
        """The start step of measured projections, whose photons per reference ray are known.

        k* goes by incident photons alone (NEED 1.6): the size of the patient is in the rays already.
        """
        fraction = min(max(photons / NORMAL_DOSE_PHOTONS, LEAST_FRACTION), 1.0)
        step, (low, high) = self.process.schedule.nearest(photons), self._raw_mode.photons
        outside = f"photons {photons:.3g} are outside what the model was trained for, {low:g} to {high:g}"
        return StartStep(
            step=step,
            photons=photons,
            fraction=fraction,
            noise_hu=facts.noise_hu or self.card.limits.noise_hu[1],
            texture=TYPICAL_TEXTURE if facts.texture is None else facts.texture,
            decided_by="tags",
            log_ratio=None,
            outside=() if step == 0 or low <= photons <= high else (outside,),
            verdict="tags alone",
            fraction_by_tags=fraction,
        )

    def within_limits(self, start: StartStep, pixel_mm: float) -> StartStep:
        """The start step as the image network is told it, and what it was not trained for."""
        limits = self.card.limits
        noise_hu, texture = _within(start.noise_hu, limits.noise_hu), _within(start.texture, limits.texture)
        outside = [
            f"{name} {value:.3g} is outside what the model was trained for, {low:g} to {high:g}"
            for name, value, (low, high) in (
                ("noise (HU)", start.noise_hu, limits.noise_hu),
                ("noise texture", start.texture, limits.texture),
                ("pixel (mm)", pixel_mm, limits.pixel_mm),
            )
            if start.step > 0 and not low <= value <= high
        ]
        return replace(start, noise_hu=noise_hu, texture=texture, outside=tuple(outside))

    @torch.inference_mode()
    def clean(
        self,
        sinograms: Tensor,
        starts: Sequence[StartStep],
        pixel_mm: float,
        rng: torch.Generator | None = None,
    ) -> Tensor:
        """Projections at normal dose: attenuation [slice, view, detector] in and out.

        `rng` draws the photons between two passes where the card says `refill: drawn`.
        """
        passes = self.card.projection_passes
        rng = rng if self.card.refill == "drawn" else None
        cleaned = torch.empty_like(sinograms)
        for members, shared in self._together(starts):
            cleaned[members] = spdiff.clean(
                self.projection, sinograms[members], shared, self.schedule, passes, pixel_mm, rng
            )
        return cleaned

    @property
    def process(self) -> ShiftedPoisson:
        """The shifted Poisson process of the raw mode. NoRawMode where the model has none."""
        s = self._raw_mode.schedule
        return ShiftedPoisson(PhotonSchedule(s.most_photons, s.least_photons, s.steps))

    @property
    def _raw_mode(self) -> RawMode:
        if self.card.raw is None or self.raw is None:
            raise NoRawMode(
                f"model {self.card.id} has no raw mode: it enhances reconstructed images only; name another "
                "model, or send the reconstructed series"
            )
        return self.card.raw

    @torch.inference_mode()
    def clean_counts(
        self,
        transmissions: Tensor,
        photons: float,
        share: float | Tensor = 1.0,
        rng: torch.Generator | None = None,
        tell: Told | None = None,
    ) -> Tensor:
        """Measured transmissions at normal dose, [slice, view, ray] in and out, as `raw.clean`.

        Every neighbourhood keeps the photons counted in it. NoRawMode where the model has no raw mode.
        """
        mode = self._raw_mode
        if self.raw is None or self.process.schedule.nearest(photons) == 0:
            return transmissions
        rng = rng if mode.refill == "drawn" else None
        cleaned = raw.clean(self.raw, self.process, transmissions, photons, rng, share, mode.passes, tell)
        incident = torch.as_tensor(share * photons, device=cleaned.device).expand_as(cleaned)
        for first in range(0, len(cleaned), raw.SLICES_AT_ONCE):  # it takes ten times the memory of its rays
            some = slice(first, first + raw.SLICES_AT_ONCE)
            cleaned[some] = raw.conserved(transmissions[some], cleaned[some], incident[some])
        return cleaned

    @torch.inference_mode()
    def refine(
        self, prior: Tensor, low_dose: Tensor, neighbours: Tensor, starts: Sequence[StartStep]
    ) -> Tensor:
        """Slices at normal dose: HU [slice, row, column] in and out.

        `neighbours` [slice, 2, row, column]: the slices below and above each, itself where there is none.
        """
        card, refined = self.card, torch.empty_like(low_dose)
        for members, shared in self._together(starts):
            refined[members] = dgdiff.refine(
                self.image,
                prior[members],
                low_dose[members],
                neighbours[members],
                shared,
                self.schedule,
                card.image_passes,
                card.mirrorings,
            )
        return refined

    def _together(self, starts: Sequence[StartStep]) -> Iterator[tuple[list[int], list[StartStep]]]:
        """Which slices walk together, and their starts: those at one step; on a processor each alone.

        A GPU is kept busy by a batch; a processor's caches hold one slice better than four.
        """
        groups: dict[tuple[int, int], list[int]] = defaultdict(list)
        for number, start in enumerate(starts):
            groups[start.step, 0 if self.device.type != "cpu" else number].append(number)
        for members in groups.values():
            yield members, [starts[number] for number in members]


def _within(value: float, limits: tuple[float, float]) -> float:
    return min(max(value, limits[0]), limits[1])
