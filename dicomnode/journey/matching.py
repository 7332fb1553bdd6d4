"""What the header and the image say of each slice, put side by side: here both worlds meet."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from dicomnode.dicom.dose import SSDE_DIAMETER_MM, DoseReading, ssde_mgy
from dicomnode.dicom.dose_vector import smoothed
from dicomnode.dicom.kernels import lifts_edges
from dicomnode.dicom.region import stated_diameter_mm, stated_region
from dicomnode.dicom.series import CtSeries
from dicomnode.dose_reference import DoseReference, Region, RegionReference
from dicomnode.engines.need.engine import NeedEngine
from dicomnode.engines.start_step import SliceFacts, StartStep
from dicomnode.errors import DoseUnknown
from dicomnode.physics.anatomy import look_at, regions_along
from dicomnode.physics.noise import measure_noise_along
from dicomnode.physics.size import SliceSize, measure_sizes
from dicomnode.settings import Dose

SSDE_OF_HEADS = (1.9852, 0.0486)
"""f = a exp(-b Dw[cm]) for heads and CTDIvol on the 16 cm phantom: AAPM Report 293 (2019), its fit as others
quote it; at 17.5 cm 0.85, where the trunk's table of Report 204 has 0.95."""

UNKNOWN_SIZE = "SIZE_UNKNOWN"
SIZE_TOLERANCE = 0.1
"""How far WaterEquivalentDiameter may be from the measured one before that is recorded."""


@dataclass(frozen=True)
class SliceBody:
    """The patient in one slice: region and water-equivalent diameter, and what they are known from.

    `region_by`: `image`, `tags`, `guess` (by size alone), `phantom` (of CTDIvol) or `default`. `flags`:
    FOV_TRUNCATED, and DIAMETER_OF_NEIGHBOURS, DIAMETER_FROM_TAG or SIZE_UNKNOWN (at least the reference's)
    where the diameter is not just the lower bound that the image gives; DIAMETER_TAG_DISAGREES.
    """

    region: Region
    region_by: str
    diameter_mm: float
    flags: tuple[str, ...]


def slice_facts(series: CtSeries, dose: DoseReading, reference: DoseReference) -> tuple[SliceFacts, ...]:
    """Facts of every slice for `engines.start_step.match`.

    Region, size, normal dose, dose by tags, noise measured. Both doses are CTDIvol on the 32 cm phantom that
    tells the size-specific dose of this slice: their ratio is SSDE / SSDE_ref, whatever the phantoms.
    """
    noise = measure_noise_along(series.hounsfield, series.pixel_spacing_mm[0])
    iterative = "ITERATIVE_RECONSTRUCTION" in dose.flags
    ctdivol_mgy = smoothed(dose.ctdivol_mgy, series.slice_spacing_mm)
    sharp = lifts_edges(series.headers[0])
    return tuple(
        SliceFacts(
            thickness_mm=series.slice_thickness_mm,
            pixel_mm=series.pixel_spacing_mm[0],
            diameter_mm=body.diameter_mm,
            normal_ctdivol_mgy=normal_mgy(reference.row(body.region), body.diameter_mm),
            ctdivol_mgy=None
            if ctdivol is None
            else on_body_phantom(ctdivol, dose.phantom_cm, body.diameter_mm),
            noise_hu=reading.std_hu if reading else None,
            texture=reading.texture if reading else None,
            law_texture=reading.law_texture if reading else None,
            iterative=iterative,
            region=body.region,
            region_by=body.region_by,
            flags=body.flags,
            overstated="cut off" if UNKNOWN_SIZE in body.flags else "sharp" if sharp else "",
        )
        for body, ctdivol, reading in zip(bodies(series, dose, reference), ctdivol_mgy, noise, strict=True)
    )


def match_all(facts: Sequence[SliceFacts], dose: Dose, engine: NeedEngine) -> list[StartStep]:
    """A start step a slice; DoseUnknown where one tells neither dose nor noise, or may not go by noise."""
    if dose.without_dose == "refuse" and any(one.ctdivol_mgy is None for one in facts):
        raise DoseUnknown(
            "neither the headers nor a dose report tell a usable dose, and dose.without_dose is 'refuse'"
        )
    return [engine.match(one) for one in facts]


def bodies(series: CtSeries, dose: DoseReading, reference: DoseReference) -> tuple[SliceBody, ...]:
    """Region and size of every slice: from the image, and from the header what the image leaves open."""
    hounsfield, padding, pixel_mm = _coarse(series)
    sizes = measure_sizes(hounsfield, pixel_mm, series.slice_spacing_mm, padding)
    seen = look_at(
        hounsfield,
        pixel_mm,
        [size.diameter_mm for size in sizes],
        [size.source == "unknown" for size in sizes],
    )
    regions, clear = regions_along(seen, series.slice_spacing_mm)
    return tuple(
        _body(size, _region(region, clear, stated_region(header), dose.phantom_cm), header, reference)
        for region, size, header in zip(regions, sizes, series.headers, strict=True)
    )


def _coarse(series: CtSeries) -> tuple[NDArray[np.float32], NDArray[np.bool_] | None, float]:
    """HU, padding, pixel in mm; of 2048 pixels a side every second one tells the outlines of a body."""
    _, rows, columns = series.hounsfield.shape
    step = max(1, math.isqrt(rows * columns) // 1024)
    thinned = series.hounsfield[:, ::step, ::step]
    padding = None if series.padding is None else series.padding[:, ::step, ::step]
    return thinned, padding, step * series.pixel_spacing_mm[0]


def _body(
    size: SliceSize, region: tuple[Region, str], header: Dataset, reference: DoseReference
) -> SliceBody:
    """A slice cut off by the field of view takes the scanner's own diameter, which is from the localizer.

    Without it, and with most of the patient beyond the image, he counts as one of the reference size.
    """
    told_mm, diameter_mm, flags = stated_diameter_mm(header), size.diameter_mm, _flags(size)
    if size.source in ("lower-bound", "unknown") and told_mm is not None and told_mm > diameter_mm:
        return SliceBody(*region, told_mm, (*flags, "DIAMETER_FROM_TAG"))
    if size.source == "unknown":
        diameter_mm = max(diameter_mm, reference.row(region[0]).diameter_mm)
        return SliceBody(*region, diameter_mm, (*flags, UNKNOWN_SIZE))
    if told_mm is not None and abs(told_mm - diameter_mm) > SIZE_TOLERANCE * told_mm:
        flags = (*flags, "DIAMETER_TAG_DISAGREES")
    return SliceBody(*region, diameter_mm, flags)


def _region(
    seen: Region | None, clear: bool, stated: Region | None, phantom_cm: int | None
) -> tuple[Region, str]:
    if seen is not None and clear:
        return seen, "image"
    if stated is not None:
        return stated, "tags"
    if seen is not None:
        return seen, "guess"
    if phantom_cm is not None:
        return ("head" if phantom_cm == 16 else "abdomen-pelvis"), "phantom"
    return "abdomen-pelvis", "default"


def _flags(size: SliceSize) -> tuple[str, ...]:
    if size.source == "neighbours":
        return ("FOV_TRUNCATED", "DIAMETER_OF_NEIGHBOURS")
    return () if size.source == "measured" else ("FOV_TRUNCATED",)


# --- doses in one currency -----------------------------------------------------------------------


def on_body_phantom(ctdivol_mgy: float, phantom_cm: int | None, diameter_mm: float) -> float:
    """CTDIvol on the 32 cm phantom that tells the same SSDE for this size as `ctdivol_mgy` on its own.

    16 cm reads about 2.1 times as much (AAPM 204, both tables). An unknown phantom counts as 32 cm.
    """
    if phantom_cm != 16:
        return ctdivol_mgy
    return ctdivol_mgy * _size_factor(16, diameter_mm) / _size_factor(32, diameter_mm)


def normal_mgy(row: RegionReference, diameter_mm: float) -> float:
    """CTDIvol on the 32 cm phantom of a normal dose for this size: SSDE_ref(Dw) / f32(Dw).

    SSDE_ref(Dw) = CTDIvol_ref f(Dw_ref) exp(k (Dw - Dw_ref)), f for the row's phantom and region. A slice
    without a body counts as one of the reference size; sizes end where the tables of AAPM 204 do.
    """
    diameter_mm = _known(diameter_mm or row.diameter_mm)
    grown = math.exp(row.growth_per_cm * (diameter_mm - row.diameter_mm) / 10.0)
    factors = [_size_factor(row.phantom_cm, mm, row.region) for mm in (row.diameter_mm, diameter_mm)]
    return on_body_phantom(row.ctdivol_mgy * grown * factors[0] / factors[1], row.phantom_cm, diameter_mm)


def mean_diameter_mm(facts: Sequence[SliceFacts]) -> float | None:
    """Water-equivalent diameter, the mean over the slices whose size is known; None where none is."""
    known = [one.diameter_mm for one in facts if one.diameter_mm > 0 and UNKNOWN_SIZE not in one.flags]
    return fmean(known) if known else None


def slice_ssde_mgy(
    ctdivol_mgy: float | None, phantom_cm: int | None, diameter_mm: float, region: str
) -> float | None:
    """SSDE of one slice, mGy: AAPM 204 and 220, for a head told on the 16 cm phantom AAPM 293.

    None where an input is unknown or the diameter is outside 80..450 mm.
    """
    if ssde_mgy(ctdivol_mgy, phantom_cm, diameter_mm) is None or ctdivol_mgy is None or phantom_cm is None:
        return None
    return ctdivol_mgy * _size_factor(phantom_cm, diameter_mm, region)


def mean_ssde_mgy(dose: DoseReading, facts: Sequence[SliceFacts]) -> float | None:
    """The arithmetic mean of SSDE(z) over the slices that have one (DCM 113989); none of a guessed size."""
    told = [
        slice_ssde_mgy(ctdivol, dose.phantom_cm, one.diameter_mm, one.region)
        for ctdivol, one in zip(dose.ctdivol_mgy, facts, strict=False)
        if UNKNOWN_SIZE not in one.flags
    ]
    known = [value for value in told if value is not None]
    return fmean(known) if known else None


def _size_factor(phantom_cm: int, diameter_mm: float, region: str = "") -> float:
    if region == "head" and phantom_cm == 16:
        scale, decay_per_cm = SSDE_OF_HEADS
        return scale * math.exp(-decay_per_cm * _known(diameter_mm) / 10.0)
    factor = ssde_mgy(1.0, phantom_cm, _known(diameter_mm))
    assert factor is not None
    return factor


def _known(diameter_mm: float) -> float:
    low, high = SSDE_DIAMETER_MM
    return min(max(diameter_mm, low), high)


# --- for people --------------------------------------------------------------------------------------


def regions_told(facts: Sequence[SliceFacts]) -> str:
    """How many slices went by which region and why: `chest by image 29, abdomen-pelvis by image 120`."""
    counts = Counter(f"{one.region} by {one.region_by}" for one in facts)
    return ", ".join(f"{what} {count}" for what, count in counts.items())
