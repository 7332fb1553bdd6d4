"""What the header and the image say of each slice, put side by side: here both worlds meet."""

from collections.abc import Sequence

from dicomnode.dicom.dose import HEAD_TO_BODY_PHANTOM, DoseReading
from dicomnode.dicom.series import CtSeries
from dicomnode.engines.need.engine import NeedEngine
from dicomnode.engines.start_step import SliceFacts, StartStep
from dicomnode.errors import DoseUnknown
from dicomnode.physics.noise import measure_noise_along
from dicomnode.physics.photons import normal_ctdivol_mgy
from dicomnode.physics.size import water_equivalent_diameter_mm
from dicomnode.settings import Dose, DoseReference


def slice_facts(series: CtSeries, dose: DoseReading, reference: DoseReference) -> tuple[SliceFacts, ...]:
    """Facts of every slice for `engines.start_step.match`.

    Size, normal dose, dose by tags, noise measured.
    """
    pixel_mm = series.pixel_spacing_mm[0]
    diameters = water_equivalent_diameter_mm(series.hounsfield, pixel_mm)
    noise = measure_noise_along(series.hounsfield, pixel_mm)
    to_body = HEAD_TO_BODY_PHANTOM if dose.phantom_cm == 16 else 1.0
    return tuple(
        SliceFacts(
            thickness_mm=series.slice_thickness_mm,
            pixel_mm=pixel_mm,
            diameter_mm=float(diameter),
            normal_ctdivol_mgy=_normal_mgy(dose, reference, float(diameter)),
            ctdivol_mgy=None if ctdivol is None else ctdivol * to_body,
            noise_hu=reading.std_hu if reading else None,
            texture=reading.texture if reading else None,
        )
        for diameter, ctdivol, reading in zip(diameters, dose.ctdivol_mgy, noise, strict=True)
    )


def match_all(facts: Sequence[SliceFacts], dose: Dose, engine: NeedEngine) -> list[StartStep]:
    """A start step a slice; DoseUnknown where one tells neither dose nor noise, or may not go by noise."""
    if dose.without_dose == "refuse" and any(one.ctdivol_mgy is None for one in facts):
        raise DoseUnknown(
            "neither the headers nor a dose report tell a usable dose, and dose.without_dose is 'refuse'"
        )
    return [engine.match(one) for one in facts]


def _normal_mgy(dose: DoseReading, reference: DoseReference, diameter_mm: float) -> float:
    """Heads hardly differ in size, and their protocols are reported on the 16 cm phantom; bodies differ."""
    if dose.phantom_cm == 16:
        return reference.head_ctdivol_mgy * HEAD_TO_BODY_PHANTOM
    return normal_ctdivol_mgy(reference.body_ctdivol_mgy, diameter_mm)
