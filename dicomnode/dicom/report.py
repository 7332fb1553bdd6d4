"""The report that goes with a derived series: Comprehensive SR, TID 1500 Measurement Report (PS3.16).

What was measured before and after, the dose that was read and from where, how strong the engine worked and
what it changed. The observer is a device, and nobody has verified it.
"""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path

from highdicom import sr
from pydicom.sr.coding import Code
from pydicom.uid import UID

from dicomnode.dicom import concepts
from dicomnode.dicom.derived import plain_text
from dicomnode.dicom.envelope import (
    LONG_STRING,
    Envelope,
    Reference,
    device_observer,
    evidence_of,
    instances,
    private_scheme,
    reference,
    references_in,
)
from dicomnode.dicom.provenance import Identity, Provenance
from dicomnode.dicom.series import CtSeries


def write_report(
    series: CtSeries,
    derived_paths: Sequence[Path],
    identity: Identity,
    provenance: Provenance,
    path: Path,
    generation: int = 0,
) -> Path:
    """Write the report on `derived_paths`, the files of `write_derived`, to `path`, and return it.

    The same arguments give the same bytes. Values that are None or not finite are left out.

    :raises ValueError: `derived_paths` is empty.
    """
    if not derived_paths:
        raise ValueError("a report needs the derived images it reports on")
    envelope = Envelope(series, identity, provenance, generation)
    sources = [reference(*named) for named in zip(series.headers, series.frames, strict=True)]
    derived = references_in(derived_paths)
    named = [*_ends(sources), *_ends(derived)]
    groups = _Groups(envelope)
    content = sr.MeasurementReport(
        observation_context=sr.ObservationContext(observer_device_context=device_observer(identity)),
        procedure_reported=concepts.CT_PROCEDURE,
        imaging_measurements=list(groups.all(_ends(sources), _ends(derived))),
        title=concepts.REPORT_TITLE,
    )
    report = sr.ComprehensiveSR(
        evidence=[image.evidence() for image in instances(named)],
        content=content[0],
        sop_instance_uid=envelope.uid("report"),
        instance_number=1,
        is_complete=True,
        is_final=True,
        is_verified=False,
        coding_schemes=[private_scheme()],
        **envelope.said("report", "Report"),
    )
    report.CurrentRequestedProcedureEvidenceSequence = evidence_of([*sources, *derived])
    envelope.write(report, path)
    return path


class _Groups:
    """The measurement groups (TID 1501), all with the same algorithm identification (TID 4019)."""

    def __init__(self, envelope: Envelope) -> None:
        self._envelope = envelope
        self._identity = envelope.identity
        self._provenance = envelope.provenance

    def all(
        self,
        sources: list[Reference],
        derived: list[Reference],
    ) -> Iterable[sr.MeasurementsAndQualitativeEvaluations]:
        """Every group, on the first and the last image of what it is about.

        Each name costs milliseconds and kilobytes; all images stand in the list of evidence.
        """
        provenance = self._provenance
        for name, noise_hu, images in (
            ("Noise before", provenance.noise_before_hu, sources),
            ("Noise after", provenance.noise_after_hu, derived),
        ):
            noise = _measured(
                concepts.ATTENUATION, noise_hu, concepts.HOUNSFIELD, concepts.STANDARD_DEVIATION
            )
            if noise:
                yield self._group(name, images, noise)
        yield self._group("Dose", sources, self._dose(), self._dose_source())
        verdict = sr.QualitativeEvaluation(concepts.VERDICT, concepts.VERDICTS[provenance.verdict])
        yield self._group("Enhancement", derived, self._enhancement(), [verdict])
        for tissue, bias_hu in sorted(provenance.bias_hu.items()):
            bias = _measured(concepts.MEAN_CHANGE, bias_hu, concepts.HOUNSFIELD, concepts.MEAN)
            if bias and tissue in concepts.TISSUES:
                where = sr.QualitativeEvaluation(concepts.TISSUE, concepts.TISSUES[tissue])
                yield self._group(f"Change in {tissue}", derived, bias, [where])

    def _group(
        self,
        name: str,
        images: list[Reference],
        measurements: list[sr.Measurement],
        evaluations: Sequence[sr.QualitativeEvaluation] = (),
    ) -> sr.MeasurementsAndQualitativeEvaluations:
        uid = self._envelope.uid(f"tracking {name}")
        return sr.MeasurementsAndQualitativeEvaluations(
            tracking_identifier=sr.TrackingIdentifier(uid=uid, identifier=name),
            finding_type=concepts.IMAGE_QUALITY,
            algorithm_id=self._algorithm(),
            measurements=measurements or None,
            qualitative_evaluations=list(evaluations) or None,
            source_images=_named(images),
        )

    def _algorithm(self) -> sr.AlgorithmIdentification:
        provenance = self._provenance
        flags = " ".join(provenance.dose.flags) or "none"
        reasons = "; ".join(provenance.verdict_reasons) or "none"
        views = provenance.measured_views
        parameters = (
            f"engine={provenance.engine}",
            f"weights sha256={provenance.weights_digest}",
            f"configuration sha256={provenance.configuration_digest}",
            f"pipeline sha256={provenance.pipeline_digest}",
            f"start step={provenance.start_step} of {provenance.steps}",
            f"seed={provenance.seed}",
            f"photons={provenance.photons:.6g}",
            f"dose fraction={provenance.dose_fraction:.6g} decided by {provenance.dose_decided_by}",
            f"dose decision={provenance.dose_decision or 'none'}",
            f"dose reference={provenance.dose_reference} regions={provenance.regions or 'unknown'}",
            f"size flags={' '.join(provenance.size_flags) or 'none'}",
            f"dose source={provenance.dose.source} flags={flags}",
            *(f"dose report={uid}" for uid in provenance.dose.report_uids),
            *([f"measured views a slice={views}"] if views else []),
            f"verdict={provenance.verdict} reasons={reasons}",
        )
        return sr.AlgorithmIdentification(
            name=plain_text(provenance.model_id, LONG_STRING),
            version=plain_text(provenance.model_version, LONG_STRING),
            parameters=[plain_text(one, 1024) for one in parameters],
            family=concepts.ARTIFICIAL_INTELLIGENCE,
            manufacturer=plain_text(self._identity.manufacturer, LONG_STRING),
        )

    def _dose(self) -> list[sr.Measurement]:
        provenance, dose = self._provenance, self._provenance.dose
        diameter_mm = provenance.water_equivalent_diameter_mm
        return [
            *_measured(concepts.KVP, dose.kvp, concepts.KILOVOLT),
            *_measured(concepts.EXPOSURE, dose.mean_mas, concepts.MILLIAMPERE_SECOND),
            *_measured(concepts.MEAN_CTDIVOL, dose.mean_ctdivol_mgy, concepts.MILLIGRAY),
            *_measured(
                concepts.WATER_EQUIVALENT_DIAMETER, diameter_mm, concepts.MILLIMETRE, method=concepts.AAPM_220
            ),
            *_measured(concepts.SSDE, provenance.ssde_mgy, concepts.MILLIGRAY, method=concepts.SSDE_AVERAGE),
        ]

    def _dose_source(self) -> list[sr.QualitativeEvaluation]:
        dose = self._provenance.dose
        origin = {
            "ctdivol-tag": concepts.COPIED_FROM_IMAGES,
            "radiation-dose-report": concepts.AUTOMATED_COLLECTION,
            "computed-from-mas": concepts.COMPUTED_FROM_IMAGES,
        }.get(dose.source, concepts.DOSE_NOT_READABLE)
        said = [sr.QualitativeEvaluation(concepts.SOURCE_OF_DOSE, origin)]
        if dose.phantom_cm is not None:
            phantom = concepts.HEAD_PHANTOM if dose.phantom_cm == 16 else concepts.BODY_PHANTOM
            said.append(sr.QualitativeEvaluation(concepts.PHANTOM_TYPE, phantom))
        return said

    def _enhancement(self) -> list[sr.Measurement]:
        provenance = self._provenance
        return [
            *_measured(concepts.DOSE_FRACTION, provenance.dose_fraction, concepts.RATIO),
            *_measured(concepts.START_STEP, provenance.start_step, concepts.NO_UNITS),
            *_measured(concepts.STEPS, provenance.steps, concepts.NO_UNITS),
            *_measured(concepts.PHOTONS, provenance.photons, concepts.NO_UNITS),
            *_measured(
                concepts.LARGEST_CHANGE, provenance.max_change_hu, concepts.HOUNSFIELD, concepts.MAXIMUM
            ),
        ]


def _measured(
    name: Code, value: float | None, unit: Code, derivation: Code | None = None, method: Code | None = None
) -> list[sr.Measurement]:
    """One measurement, or none where there is no finite value."""
    if value is None or not math.isfinite(value):
        return []
    # NumericValue (DS) has 16 characters; six digits are more than any of these is known to.
    rounded = float(f"{value:.6g}")
    return [sr.Measurement(name=name, value=rounded, unit=unit, derivation=derivation, method=method)]


def _named(images: Sequence[Reference]) -> list[sr.SourceImageForMeasurementGroup]:
    """Each instance once, with the numbers of its frames where it has several."""
    frames = {
        one: [image.frame for image in images if image._replace(frame=None) == one and image.frame]
        for one in instances(images)
    }
    return [
        sr.SourceImageForMeasurementGroup(
            UID(one.sop_class_uid), UID(one.sop_instance_uid), referenced_frame_numbers=numbers or None
        )
        for one, numbers in frames.items()
    ]


def _ends(images: Sequence[Reference]) -> list[Reference]:
    return list(images) if len(images) < 3 else [images[0], images[-1]]
