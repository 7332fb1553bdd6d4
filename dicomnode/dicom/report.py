"""The report that goes with a derived series: Comprehensive SR, TID 1500 Measurement Report (PS3.16).

What was measured before and after, the dose that was read and from where, how strong the engine worked and
what it changed. The observer is a device, and nobody has verified it.
"""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from highdicom import sr
from highdicom.coding_schemes import CodingSchemeIdentificationItem
from pydicom import dcmread
from pydicom.datadict import keyword_for_tag
from pydicom.dataset import Dataset
from pydicom.filewriter import dcmwrite
from pydicom.sequence import Sequence as DicomSequence
from pydicom.sr.coding import Code
from pydicom.tag import BaseTag
from pydicom.uid import UID

from dicomnode.dicom import concepts
from dicomnode.dicom.derived import contributing_equipment, derived_series_number, local_moment, plain_text
from dicomnode.dicom.marks import PRIVATE_SCHEME
from dicomnode.dicom.provenance import (
    IMPLEMENTATION_CLASS_UID,
    IMPLEMENTATION_VERSION_NAME,
    Identity,
    Provenance,
    derived_uid,
)
from dicomnode.dicom.series import CtSeries
from dicomnode.dicom.values import text
from dicomnode.dicom.verbatim import copy_elements, decode_header

LONG_STRING: Final = 64
PATIENT_AND_STUDY: Final = frozenset(
    {"SpecificCharacterSet", "TimezoneOffsetFromUTC", "PatientName", "PatientID", "IssuerOfPatientID"}
    | {"PatientBirthDate", "PatientSex", "OtherPatientIDsSequence", "StudyDate", "StudyTime", "StudyID"}
    | {"AccessionNumber", "IssuerOfAccessionNumberSequence", "ReferringPhysicianName", "StudyDescription"}
    | {"PatientIdentityRemoved", "DeidentificationMethod", "DeidentificationMethodCodeSequence"}
    | {"LongitudinalTemporalInformationModified", "ClinicalTrialSponsorName", "ClinicalTrialProtocolID"}
    | {"ClinicalTrialProtocolName", "ClinicalTrialSiteID", "ClinicalTrialSiteName"}
    | {"ClinicalTrialSubjectID", "ClinicalTrialSubjectReadingID"}
)
"""Copied byte for byte, so that the report files under the same patient and study as the images."""

TYPE_2: Final = (
    "PatientID",
    "PatientName",
    "PatientBirthDate",
    "PatientSex",
    "AccessionNumber",
    "StudyID",
    "StudyDate",
    "StudyTime",
)


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
    source = decode_header(series.encoded_headers[0])
    sources = list({text(header, "SOPInstanceUID"): _evidence(header) for header in series.headers}.values())
    derived = [_evidence(dcmread(one, stop_before_pixels=True)) for one in derived_paths]
    groups = _Groups(series, identity, provenance, generation)
    content = sr.MeasurementReport(
        observation_context=_observer(identity),
        procedure_reported=concepts.CT_PROCEDURE,
        imaging_measurements=list(groups.all(_named_sources(series), _named(derived))),
        title=concepts.REPORT_TITLE,
    )
    moment = local_moment(source, provenance.processed_at)
    pipeline = provenance.pipeline_digest
    number = derived_series_number(source, identity) + identity.series_number_offset
    report = sr.ComprehensiveSR(
        evidence=[*sources, *derived],
        content=content[0],
        series_instance_uid=derived_uid(
            identity, "report-series", series.series_instance_uid, pipeline, generation
        ),
        series_number=max(1, number),
        sop_instance_uid=derived_uid(identity, "report", series.series_instance_uid, pipeline, generation),
        instance_number=1,
        manufacturer=plain_text(identity.manufacturer, LONG_STRING),
        is_complete=True,
        is_final=True,
        is_verified=False,
        manufacturer_model_name=plain_text(identity.model_name, LONG_STRING),
        software_versions=plain_text(identity.software_version, LONG_STRING),
        device_serial_number=identity.device_uid[:LONG_STRING],
        content_qualification=identity.content_qualification,
        series_description=plain_text(f"{identity.series_description_prefix}Report", LONG_STRING),
        series_date=moment.date(),
        series_time=moment.time().replace(microsecond=0, tzinfo=None),
        content_date=moment.date(),
        content_time=moment.time().replace(microsecond=0, tzinfo=None),
        coding_schemes=[_private_scheme()],
    )
    _finish(report, source, identity, contributing_equipment(source, identity, provenance, moment))
    path.parent.mkdir(parents=True, exist_ok=True)
    dcmwrite(path, report, implicit_vr=False, little_endian=True, enforce_file_format=True)
    return path


class _Groups:
    """The measurement groups (TID 1501), all with the same algorithm identification (TID 4019)."""

    def __init__(self, series: CtSeries, identity: Identity, provenance: Provenance, generation: int) -> None:
        self._series = series
        self._identity = identity
        self._provenance = provenance
        self._generation = generation

    def all(
        self,
        sources: list[sr.SourceImageForMeasurementGroup],
        derived: list[sr.SourceImageForMeasurementGroup],
    ) -> Iterable[sr.MeasurementsAndQualitativeEvaluations]:
        """Every image is named once: the sources by the dose, the derived by the enhancement.

        The other groups name the first and the last, because each name costs milliseconds and kilobytes.
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
                yield self._group(name, _ends(images), noise)
        yield self._group("Dose", sources, self._dose(), self._dose_source())
        verdict = sr.QualitativeEvaluation(concepts.VERDICT, concepts.VERDICTS[provenance.verdict])
        yield self._group("Enhancement", derived, self._enhancement(), [verdict])
        for tissue, bias_hu in sorted(provenance.bias_hu.items()):
            bias = _measured(concepts.MEAN_CHANGE, bias_hu, concepts.HOUNSFIELD, concepts.MEAN)
            if bias and tissue in concepts.TISSUES:
                where = sr.QualitativeEvaluation(concepts.TISSUE, concepts.TISSUES[tissue])
                yield self._group(f"Change in {tissue}", _ends(derived), bias, [where])

    def _group(
        self,
        name: str,
        images: list[sr.SourceImageForMeasurementGroup],
        measurements: list[sr.Measurement],
        evaluations: Sequence[sr.QualitativeEvaluation] = (),
    ) -> sr.MeasurementsAndQualitativeEvaluations:
        uid = derived_uid(
            self._identity,
            f"tracking {name}",
            self._series.series_instance_uid,
            self._provenance.pipeline_digest,
            self._generation,
        )
        return sr.MeasurementsAndQualitativeEvaluations(
            tracking_identifier=sr.TrackingIdentifier(uid=uid, identifier=name),
            finding_type=concepts.IMAGE_QUALITY,
            algorithm_id=self._algorithm(),
            measurements=measurements or None,
            qualitative_evaluations=list(evaluations) or None,
            source_images=images,
        )

    def _algorithm(self) -> sr.AlgorithmIdentification:
        provenance = self._provenance
        flags = " ".join(provenance.dose.flags) or "none"
        reasons = "; ".join(provenance.verdict_reasons) or "none"
        parameters = (
            f"engine={provenance.engine}",
            f"weights sha256={provenance.weights_digest}",
            f"configuration sha256={provenance.configuration_digest}",
            f"pipeline sha256={provenance.pipeline_digest}",
            f"start step={provenance.start_step} of {provenance.steps}",
            f"seed={provenance.seed}",
            f"photons={provenance.photons:.6g}",
            f"dose fraction={provenance.dose_fraction:.6g} decided by {provenance.dose_decided_by}",
            f"dose reference={provenance.dose_reference}",
            f"dose source={provenance.dose.source} flags={flags}",
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


def _observer(identity: Identity) -> sr.ObservationContext:
    device = sr.DeviceObserverIdentifyingAttributes(
        uid=identity.device_uid,
        name=plain_text(identity.ae_title, LONG_STRING),
        manufacturer_name=plain_text(identity.manufacturer, LONG_STRING),
        model_name=plain_text(identity.model_name, LONG_STRING),
    )
    return sr.ObservationContext(
        observer_device_context=sr.ObserverContext(
            observer_type=sr.CodedConcept.from_code(concepts.DEVICE_OBSERVER),
            observer_identifying_attributes=device,
        )
    )


def _private_scheme() -> CodingSchemeIdentificationItem:
    return CodingSchemeIdentificationItem(
        designator=PRIVATE_SCHEME,
        name="dicomnode low-dose CT enhancement",
        version="1",
        responsible_organization="dicomnode",
    )


def _evidence(header: Dataset) -> Dataset:
    """What the report needs to know of an image; patient and study are copied afterwards, as bytes."""
    image = Dataset()
    for keyword in ("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID"):
        setattr(image, keyword, text(header, keyword))
    for keyword in TYPE_2:
        setattr(image, keyword, "")
    image.Modality = "CT"
    return image


def _named(images: Sequence[Dataset]) -> list[sr.SourceImageForMeasurementGroup]:
    return [
        sr.SourceImageForMeasurementGroup(UID(one.SOPClassUID), UID(one.SOPInstanceUID)) for one in images
    ]


def _named_sources(series: CtSeries) -> list[sr.SourceImageForMeasurementGroup]:
    """Each source object once, with the numbers of its frames where it has several."""
    frames: dict[tuple[str, str], list[int]] = {}
    for header, frame in zip(series.headers, series.frames, strict=True):
        named = frames.setdefault((text(header, "SOPClassUID"), text(header, "SOPInstanceUID")), [])
        if frame is not None:
            named.append(frame)
    return [
        sr.SourceImageForMeasurementGroup(UID(sop_class), UID(uid), referenced_frame_numbers=named or None)
        for (sop_class, uid), named in frames.items()
    ]


def _ends(
    images: list[sr.SourceImageForMeasurementGroup],
) -> list[sr.SourceImageForMeasurementGroup]:
    return images if len(images) < 3 else [images[0], images[-1]]


def _finish(report: Dataset, source: Dataset, identity: Identity, equipment: DicomSequence) -> None:
    for tag, element in _patient_and_study(source).items():
        report[tag] = element
    report.InstanceCreationDate = report.ContentDate
    report.InstanceCreationTime = report.ContentTime
    report.InstanceCreatorUID = identity.device_uid
    report.DeviceUID = identity.device_uid
    # The library's own item carries the time of the call.
    report.ContributingEquipmentSequence = equipment
    meta = report.file_meta
    meta.ImplementationClassUID = UID(IMPLEMENTATION_CLASS_UID)
    meta.ImplementationVersionName = IMPLEMENTATION_VERSION_NAME
    meta.SourceApplicationEntityTitle = identity.ae_title
    report.preamble = b"\0" * 128
    # As in `verbatim`: encoded names must be written as they are.
    report.set_original_encoding(False, True, report._character_set)


def _patient_and_study(source: Dataset) -> Dataset:
    def keep(tag: BaseTag) -> bool:
        keyword = keyword_for_tag(tag)
        return keyword in PATIENT_AND_STUDY and (keyword in TYPE_2 or bool(text(source, keyword)))

    return copy_elements(source, keep)
