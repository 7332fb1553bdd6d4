"""What every object that goes with the images has in common: patient, study, equipment, time and numbers."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Final, NamedTuple

from highdicom import sr
from highdicom.coding_schemes import CodingSchemeIdentificationItem
from pydicom import dcmread
from pydicom.datadict import keyword_for_tag
from pydicom.dataset import Dataset
from pydicom.filewriter import dcmwrite
from pydicom.sequence import Sequence as DicomSequence
from pydicom.tag import BaseTag
from pydicom.uid import UID

from dicomnode.dicom import concepts
from dicomnode.dicom.derived import (
    LARGEST_INTEGER_STRING,
    contributing_equipment,
    derived_series_number,
    local_moment,
    plain_text,
    revision_text,
)
from dicomnode.dicom.marks import PRIVATE_SCHEME
from dicomnode.dicom.parsing import read_meta
from dicomnode.dicom.policy import is_kept
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
STUDY: Final = frozenset(
    {"SpecificCharacterSet", "TimezoneOffsetFromUTC", "StudyDate", "StudyTime", "StudyID", "AccessionNumber"}
    | {"IssuerOfAccessionNumberSequence", "StudyDescription", "ProcedureCodeSequence", "RequestingService"}
    | {"RequestingServiceCodeSequence", "ReferencedStudySequence", "ReferencedPatientSequence"}
    | {"ReferringPhysicianName", "ReferringPhysicianIdentificationSequence", "ConsultingPhysicianName"}
    | {"ConsultingPhysicianIdentificationSequence", "PhysiciansOfRecord"}
    | {"PhysiciansOfRecordIdentificationSequence", "NameOfPhysiciansReadingStudy"}
    | {"PhysiciansReadingStudyIdentificationSequence", "ReasonForPerformedProcedureCodeSequence"}
    | {"AdmittingDiagnosesDescription", "AdmittingDiagnosesCodeSequence", "ReasonForVisit"}
    | {"ReasonForVisitCodeSequence", "AdmissionID", "IssuerOfAdmissionIDSequence", "ServiceEpisodeID"}
    | {"ServiceEpisodeDescription", "IssuerOfServiceEpisodeIDSequence", "PatientState"}
    | {"LongitudinalTemporalInformationModified"}
)
"""General Study and Patient Study modules (PS3.3 C.7.2), as far as they stand outside the groups below."""
PATIENT_GROUPS: Final = (0x0010, 0x0012)
"""Patient and clinical trial; but for what is said of a series there."""
OF_SERIES: Final = frozenset(
    {"ClinicalTrialCoordinatingCenterName", "ClinicalTrialSeriesID", "ClinicalTrialSeriesDescription"}
    | {"IssuerOfClinicalTrialSeriesID"}
)

TYPE_2: Final = (
    "PatientID",
    "PatientName",
    "PatientBirthDate",
    "PatientSex",
    "AccessionNumber",
    "StudyID",
    "StudyDate",
    "StudyTime",
    "ReferringPhysicianName",
)
"""What highdicom asks of every image, and writes also where it is empty."""

PLACES: Final = {"report": 1, "removed-map": 2, "uncertainty-map": 3, "key-objects": 4, "withdrawal": 5}
"""How many offsets behind the derived series the series of each kind of object is numbered."""


@dataclass(frozen=True, eq=False)
class Envelope:
    """One result and who made it: what the constructors of highdicom ask for, and what they leave out."""

    series: CtSeries
    identity: Identity
    provenance: Provenance
    generation: int = 0

    @cached_property
    def source(self) -> Dataset:
        """The first source image, as it arrived."""
        return decode_header(self.series.encoded_headers[0])

    @cached_property
    def moment(self) -> datetime:
        """The time of processing, in the zone of the source."""
        return local_moment(self.source, self.provenance.processed_at)

    def uid(self, kind: str) -> str:
        """The UID of a kind of object made from this series."""
        return derived_uid(
            self.identity,
            kind,
            self.series.source_uid,
            self.provenance.pipeline_digest,
            self.generation,
        )

    def said(self, kind: str, description: str) -> dict[str, Any]:
        """Keyword arguments that every SOP class of highdicom takes, for the series of a `kind`."""
        identity, moment = self.identity, self.moment
        number = derived_series_number(self.source, identity, self.series.stack_number)
        number += PLACES[kind] * identity.series_number_offset
        time = moment.time().replace(microsecond=0, tzinfo=None)
        return {
            "series_instance_uid": self.uid(f"{kind}-series"),
            "series_number": min(max(1, number), LARGEST_INTEGER_STRING),
            "manufacturer": plain_text(identity.manufacturer, LONG_STRING),
            "manufacturer_model_name": plain_text(identity.model_name, LONG_STRING),
            "software_versions": plain_text(identity.software_version, LONG_STRING),
            "device_serial_number": identity.device_uid[:LONG_STRING],
            "content_qualification": identity.content_qualification,
            "series_description": plain_text(
                f"{identity.series_description_prefix}{description}{revision_text(self.provenance)}",
                LONG_STRING,
            ),
            "series_date": moment.date(),
            "series_time": time,
            "content_date": moment.date(),
            "content_time": time,
        }

    def write(self, made: Dataset, path: Path) -> None:
        """Put patient, study, equipment and our marks into an object of highdicom, and write it."""
        for keyword in TYPE_2:
            made.pop(keyword, None)
        for tag, element in _patient_and_study(self.source).items():
            made[tag] = element
        made.InstanceCreationDate = made.ContentDate
        made.InstanceCreationTime = made.ContentTime
        made.InstanceCreatorUID = self.identity.device_uid
        made.DeviceUID = self.identity.device_uid
        # The library's own item carries the time of the call.
        made.ContributingEquipmentSequence = contributing_equipment(
            self.source, self.identity, self.provenance, self.moment
        )
        meta = made.file_meta
        meta.ImplementationClassUID = UID(IMPLEMENTATION_CLASS_UID)
        meta.ImplementationVersionName = IMPLEMENTATION_VERSION_NAME
        meta.SourceApplicationEntityTitle = self.identity.ae_title
        made.preamble = b"\0" * 128
        # As in `verbatim`: encoded names must be written as they are.
        made.set_original_encoding(False, True, made._character_set)
        path.parent.mkdir(parents=True, exist_ok=True)
        dcmwrite(path, made, implicit_vr=False, little_endian=True, enforce_file_format=True)


def device_observer(identity: Identity) -> sr.ObserverContext:
    """Who observed: this device (TID 1004). Nobody has verified it."""
    device = sr.DeviceObserverIdentifyingAttributes(
        uid=identity.device_uid,
        name=plain_text(identity.ae_title, LONG_STRING),
        manufacturer_name=plain_text(identity.manufacturer, LONG_STRING),
        model_name=plain_text(identity.model_name, LONG_STRING),
    )
    return sr.ObserverContext(
        observer_type=sr.CodedConcept.from_code(concepts.DEVICE_OBSERVER),
        observer_identifying_attributes=device,
    )


def private_scheme() -> CodingSchemeIdentificationItem:
    """What `99LDCT` stands for, for an object that uses a code of it."""
    return CodingSchemeIdentificationItem(
        designator=PRIVATE_SCHEME,
        name="dicomnode low-dose CT enhancement",
        version="1",
        responsible_organization="dicomnode",
    )


class Reference(NamedTuple):
    """One image, as other objects name it: an instance, or a frame of one (counted from 1)."""

    sop_class_uid: str
    sop_instance_uid: str
    series_instance_uid: str
    study_instance_uid: str
    frame: int | None = None

    def item(self) -> Dataset:
        """An item of a sequence of references."""
        item = Dataset()
        item.add_new("ReferencedSOPClassUID", "UI", self.sop_class_uid)
        item.add_new("ReferencedSOPInstanceUID", "UI", self.sop_instance_uid)
        if self.frame is not None:
            item.add_new("ReferencedFrameNumber", "IS", self.frame)
        return item

    def evidence(self) -> Dataset:
        """What highdicom wants to know of an image; patient and study are copied afterwards, as bytes."""
        image = Dataset()
        image.SOPClassUID, image.SOPInstanceUID = self.sop_class_uid, self.sop_instance_uid
        image.SeriesInstanceUID = self.series_instance_uid
        image.StudyInstanceUID = self.study_instance_uid
        for keyword in TYPE_2:
            setattr(image, keyword, "")
        image.Modality = "CT"
        return image


_NAMES: Final = ("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID")


def reference(header: Dataset, frame: int | None = None) -> Reference:
    """How an image is named."""
    sop_class, sop_instance, series, study = (text(header, keyword) for keyword in _NAMES)
    return Reference(sop_class, sop_instance, series, study, frame)


def instances(references: Iterable[Reference]) -> list[Reference]:
    """Every instance once, without its frames."""
    return list({one.sop_instance_uid: one._replace(frame=None) for one in references}.values())


def references_in(paths: Sequence[Path]) -> list[Reference]:
    """The same of the files of one series; only the first is read beyond its file meta information."""
    first = reference(dcmread(paths[0], stop_before_pixels=True, specific_tags=[*_NAMES]))
    metas = (read_meta(path) for path in paths)
    return [
        first._replace(
            sop_class_uid=text(meta, "MediaStorageSOPClassUID"),
            sop_instance_uid=text(meta, "MediaStorageSOPInstanceUID"),
        )
        for meta in metas
    ]


def evidence_of(references: Iterable[Reference]) -> list[Dataset]:
    """Every instance once, under its series and study: Current Requested Procedure Evidence (C.17.2)."""
    studies: dict[str, dict[str, list[Dataset]]] = {}
    for one in instances(references):
        series = studies.setdefault(one.study_instance_uid, {})
        series.setdefault(one.series_instance_uid, []).append(one.item())
    return [_study_item(uid, series) for uid, series in studies.items()]


def _study_item(study_uid: str, series: dict[str, list[Dataset]]) -> Dataset:
    study = Dataset()
    study.StudyInstanceUID = study_uid
    study.ReferencedSeriesSequence = DicomSequence()
    for series_uid, items in series.items():
        item = Dataset()
        item.SeriesInstanceUID = series_uid
        item.ReferencedSOPSequence = DicomSequence(items)
        study.ReferencedSeriesSequence.append(item)
    return study


def _patient_and_study(source: Dataset) -> Dataset:
    """Copied byte for byte, what is empty or missing included: the images of the study say the same."""

    def keep(tag: BaseTag) -> bool:
        keyword = keyword_for_tag(tag)
        if keyword == "SpecificCharacterSet" and not text(source, keyword):
            return False
        of_patient = tag.group in PATIENT_GROUPS and keyword not in OF_SERIES
        return is_kept(tag, keep_equipment=False) and (of_patient or keyword in STUDY)

    return copy_elements(source, keep)
