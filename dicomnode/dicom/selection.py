"""Key Object Selection documents (TID 2010, PS3.16): point to a derived series, or withdraw one.

A withdrawal has the title `Rejected for Quality Reasons`, by which an archive that knows IHE Imaging Object
Change Management hides the instances it names. It never names a source image.
"""

from collections.abc import Sequence
from pathlib import Path

from highdicom.ko import KeyObjectSelection, KeyObjectSelectionDocument
from highdicom.sr import CodedConcept
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code
from pydicom.uid import CTImageStorage, ParametricMapStorage

from dicomnode.dicom import concepts
from dicomnode.dicom.envelope import Envelope, Reference, device_observer, evidence_of, references_in
from dicomnode.dicom.provenance import Identity, Provenance
from dicomnode.dicom.series import CtSeries


def write_key_objects(
    series: CtSeries,
    derived_paths: Sequence[Path],
    identity: Identity,
    provenance: Provenance,
    path: Path,
    generation: int = 0,
) -> Path:
    """Write a selection `Of Interest` of all derived images, the files of `write_derived`."""
    envelope = Envelope(series, identity, provenance, generation)
    told = "Enhanced by AI: noise reduced. Read together with the series they were made from."
    images = references_in(derived_paths)
    return _write(envelope, "key-objects", "Enhanced images", concepts.OF_INTEREST, told, images, path)


def write_withdrawal(
    series: CtSeries,
    withdrawn: Sequence[Reference],
    identity: Identity,
    provenance: Provenance,
    path: Path,
    generation: int,
) -> Path:
    """Write a selection that withdraws instances of an earlier generation, in favour of `generation`.

    Its UID follows from what it names: withdrawals of different instances are different objects.

    :raises ValueError: an instance of the source series, or of another study, is to be withdrawn.
    """
    sources = {series.series_instance_uid}
    if any(
        one.series_instance_uid in sources or one.study_instance_uid != series.study_instance_uid
        for one in withdrawn
    ):
        raise ValueError("only derived objects of the same study can be withdrawn")
    envelope = Envelope(series, identity, provenance, generation)
    told = (
        "Superseded: more images of the source series arrived, and all were enhanced again as another series."
    )
    title = concepts.REJECTED_FOR_QUALITY
    return _write(envelope, "withdrawal", "Withdrawn", title, told, withdrawn, path)


def _write(
    envelope: Envelope,
    kind: str,
    description: str,
    title: Code,
    told: str,
    selected: Sequence[Reference],
    path: Path,
) -> Path:
    content = KeyObjectSelection(
        document_title=CodedConcept.from_code(title),
        referenced_objects=[_selected(one) for one in selected],
        observer_device_context=device_observer(envelope.identity),
        description=told,
    )
    named = "" if kind == "key-objects" else " " + " ".join(one.sop_instance_uid for one in selected)
    document = KeyObjectSelectionDocument(
        evidence=[one.evidence() for one in selected],
        content=content,
        sop_instance_uid=envelope.uid(f"{kind}{named}"),
        instance_number=1,
        **envelope.said(kind, description),
    )
    document.CurrentRequestedProcedureEvidenceSequence = evidence_of(selected)
    envelope.write(document, path)
    return path


def _selected(one: Reference) -> Dataset:
    """highdicom makes an IMAGE item of what has rows and columns, and a COMPOSITE item of the rest."""
    selected = one.evidence()
    if one.sop_class_uid in (CTImageStorage, ParametricMapStorage):
        selected.Rows = selected.Columns = 1
    return selected
