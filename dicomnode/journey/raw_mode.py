"""A series as the node takes it up: images, or measured projections that an engine with a raw mode cleans.

Of projections the stations get two things. One is the series of images that a plain reconstruction makes of
them: its dose is read, its noise measured, the result is judged against it. The other is the rays themselves,
each with its own photons and none interpolated, which the engine works on.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median, median_low
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dicomnode.dicom.projections import MeasuredProjections, read_projections
from dicomnode.dicom.reconstructed_series import Reconstruction, reconstructed_series
from dicomnode.dicom.series import CtSeries, read_series
from dicomnode.engines.enhance_rays import MeasuredRays
from dicomnode.engines.need.engine import NeedEngine
from dicomnode.engines.need.raw import FAINTEST_QUANTA
from dicomnode.engines.start_step import SliceFacts, StartStep, told
from dicomnode.errors import InconsistentProjections, ProjectionSeries
from dicomnode.journey.matching import match_all
from dicomnode.journey.projections import reconstruct_views, refuse, views_of_slices
from dicomnode.physics.photons import ELECTRONIC_VARIANCE, photons_to_quanta
from dicomnode.physics.simulation import STANDARD
from dicomnode.settings import Dose

KERNEL_NAME: Final = "COSINE"
"""Convolution Kernel (0018,1210) of what `physics.simulation.STANDARD` reconstructs."""

SAME_LEVEL: Final = 1.2
"""Up to this factor slices start alike, or two neighbours would on either side of the edge of a step."""


@dataclass(frozen=True, eq=False)
class Taken:
    """Images, and the projections they were reconstructed from where it was these that came.

    `photons` per reference ray of each slice; None where the projections do not tell.
    """

    series: CtSeries
    projections: MeasuredProjections | None = None
    photons: tuple[float, ...] | None = None

    def steps(self, engine: NeedEngine) -> int:
        """Steps of the schedule that the series is matched to."""
        if self.projections is None or engine.card.raw is None:
            return engine.card.schedule.steps
        return engine.card.raw.schedule.steps

    @property
    def views(self) -> int:
        """Measured views a slice; 0 of images."""
        return 0 if self.projections is None else len(views_of_slices(self.projections)[0][0])


def take_up(
    paths: Sequence[Path], engine: NeedEngine, side_px: int = 512, *, enhanced: bool = False
) -> Taken:
    """Read one stack of images, or the projections of an axial scan to be images of `side_px`.

    `enhanced`: the rays were cleaned before, maybe by another engine than the present one.

    :raises SeriesRefused: as `read_series` and `read_projections`; NoRawMode for projections where the engine
        works on images alone.
    """
    try:
        return Taken(read_series(paths))
    except ProjectionSeries:
        if engine.raw is None and not enhanced:
            refuse(paths)
    projections = read_projections(paths)
    plain = reconstruct_views(_unbiased(projections), STANDARD, side_px)
    made = Reconstruction(
        hounsfield=plain.hounsfield,
        position_mm=plain.position_mm,
        orientation=plain.orientation,
        pixel_mm=plain.pixel_mm,
        thickness_mm=plain.thickness_mm,
        views=tuple(int(views[row]) for views, row in views_of_slices(projections)),
        mas=plain.mas,
        seen=plain.seen,
        kernel=KERNEL_NAME,
    )
    return Taken(reconstructed_series(made, paths), projections, plain.photons)


def measured_rays(
    projections: MeasuredProjections, photons: Sequence[float], series: CtSeries
) -> MeasuredRays:
    """The rays of every slice [slice, view, column] for `enhance_rays`, with their incident quanta.

    `photons` per reference ray of each slice. `series`: the plain reconstruction, whose matrix the result
    has. Where the files do not tell the quanta, every ray has what `photons` make of it.
    """
    slices = views_of_slices(projections)
    if len({len(views) for views, _ in slices}) > 1:
        raise InconsistentProjections("the turns of the scan have different numbers of views")
    integrals, stated = projections.line_integrals, projections.incident_quanta
    if stated is None:
        usual = [_usual_quanta(projections, one, len(slices[0][0])) for one in photons]
        quanta = np.array(usual, np.float32)[:, None, None]
    else:
        quanta = np.stack([stated[views] for views, _ in slices])
    counted = projections.transmission()
    transmission = np.stack([counted[views, row] for views, row in slices])

    def slices_of(rays: NDArray[np.float32]) -> NDArray[np.float32]:
        cleaned = integrals.copy()
        for (views, row), one in zip(slices, rays, strict=True):
            cleaned[views, row] = one
        scanned = replace(projections, line_integrals=cleaned)
        return reconstruct_views(scanned, STANDARD, side_px).hounsfield

    side_px, pixel_mm = series.hounsfield.shape[-1], series.pixel_spacing_mm[0]
    return MeasuredRays(transmission, quanta, median(photons), pixel_mm, slices_of, tuple(photons))


def match_taken(
    taken: Taken, facts: Sequence[SliceFacts], dose: Dose, engine: NeedEngine
) -> tuple[list[StartStep], str]:
    """A start step a slice, and the sentence that says who decided.

    Slices of projections start by the photons that the files tell of each, else all from one step: by what
    tags and noise of the plain reconstruction tell, and then these have decided. Raises DoseUnknown as
    `match_all`.
    """
    if taken.photons is not None:
        levels = _levels(taken.photons)
        span = " to ".join(dict.fromkeys(f"{end:.3g}" for end in (min(levels), max(levels))))
        sentence = f"the projections tell {span} photons a reference ray; 2.5e5 are normal"
        starts = [engine.match_photons(level, one) for level, one in zip(levels, facts, strict=True)]
        return starts, sentence + _starved(taken)
    starts = match_all(facts, dose, engine)
    sentence = told(starts)
    if taken.projections is None:
        return starts, sentence
    photons = median_low([start.photons for start in starts])
    alike = engine.match_photons(photons, facts[0])
    return [replace(one, step=alike.step, photons=photons, outside=alike.outside) for one in starts], sentence


def _levels(photons: Sequence[float]) -> list[float]:
    """Photons of each slice: the median, but for slices that differ by more than a current that wavers."""
    usual = median(photons)
    return [usual if 1 / SAME_LEVEL < one / usual < SAME_LEVEL else one for one in photons]


def _starved(taken: Taken) -> str:
    share = 0.0 if taken.projections is None else taken.projections.starved
    return f"; {100.0 * share:.2g} % of the readings held less than one quantum" if share else ""


def _unbiased(projections: MeasuredProjections) -> MeasuredProjections:
    """With logarithms that are right on average: ln of (c + sqrt(c^2 + 2s)) / 2 where c = C + 1/2.

    C counts photons and electronics of variance s (NEED 1.3). E ln C is too small by 1 / 2C of the photons
    and s / 2C^2 of the electronics: several HU behind a large patient at a low dose, which the gate would
    hold against the result, whose mean is that of counts. This is ln C + 1 / 2C + s / 2C^2 where C is large,
    has a value for every reading, and is right to 0.02 down to 10 counts.
    """
    if projections.incident_quanta is None:
        return projections
    quanta = projections.incident_quanta[:, None, :]
    counts = projections.transmission() * quanta + 0.5
    above = 0.5 * (counts + np.sqrt(counts * counts + 2.0 * ELECTRONIC_VARIANCE))
    integrals = np.log(quanta / np.maximum(above, FAINTEST_QUANTA))
    return replace(projections, line_integrals=integrals.astype(np.float32))


def _usual_quanta(projections: MeasuredProjections, photons: float, views: int) -> float:
    detector = projections.acquisition.detector
    source_mm = float(projections.focal_centre.radial_mm.mean())
    bin_mm = detector.column_spacing_mm * source_mm / detector.distance_mm
    return photons_to_quanta(photons, views, bin_mm)
