"""Key Object Selections: what they name, and that nothing but our own objects can be withdrawn."""

import subprocess
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from pydicom import dcmread

from dicomnode.dicom.derived import Identity, Provenance, write_derived
from dicomnode.dicom.envelope import Reference, reference, references_in
from dicomnode.dicom.maps import write_removed_map
from dicomnode.dicom.marks import carries_own_marks
from dicomnode.dicom.report import write_report
from dicomnode.dicom.selection import write_key_objects, write_withdrawal
from dicomnode.dicom.series import CtSeries, read_series
from tests.makers import make_series

Errors = Callable[[Path], Counter[str]]


@pytest.fixture
def series(tmp_path: Path) -> CtSeries:
    return read_series(make_series(tmp_path / "s", slices=4))


@pytest.fixture
def images(series: CtSeries, tmp_path: Path, identity: Identity, provenance: Provenance) -> tuple[Path, ...]:
    return write_derived(series, series.hounsfield, identity, provenance, tmp_path / "derived")


def named_in(path: Path) -> tuple[str, list[str], set[str]]:
    """The title's code, the instances in the tree, and those in the evidence."""
    document = dcmread(path)
    tree = [item for item in document.ContentSequence if item.ValueType in ("IMAGE", "COMPOSITE")]
    evidence = {
        image.ReferencedSOPInstanceUID
        for study in document.CurrentRequestedProcedureEvidenceSequence
        for one in study.ReferencedSeriesSequence
        for image in one.ReferencedSOPSequence
    }
    title = document.ConceptNameCodeSequence[0].CodeValue
    return title, [item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID for item in tree], evidence


def test_key_objects_name_every_derived_image(
    series: CtSeries,
    images: tuple[Path, ...],
    tmp_path: Path,
    identity: Identity,
    provenance: Provenance,
    object_errors: Errors,
    program: Callable[[str], str],
) -> None:
    path = write_key_objects(series, images, identity, provenance, tmp_path / "k.dcm")
    uids = [dcmread(image).SOPInstanceUID for image in images]
    assert named_in(path) == ("113000", uids, set(uids))
    assert carries_own_marks(dcmread(path))
    assert dcmread(path).PatientID == "PHANTOM-1"
    again = write_key_objects(series, images, identity, provenance, tmp_path / "again.dcm")
    assert path.read_bytes() == again.read_bytes()
    assert object_errors(path) == Counter()
    read = subprocess.run([program("dsrdump"), str(path)], capture_output=True, text=True)
    assert read.returncode == 0
    assert read.stdout.count("<contains IMAGE") == 4
    assert "Of Interest" in read.stdout


def test_a_withdrawal_names_what_is_withdrawn_and_its_uid_follows_from_it(
    series: CtSeries,
    images: tuple[Path, ...],
    tmp_path: Path,
    identity: Identity,
    provenance: Provenance,
    object_errors: Errors,
    program: Callable[[str], str],
) -> None:
    facts = (identity, provenance)
    report = write_report(series, images, *facts, tmp_path / "r.dcm")
    maps = write_removed_map(series, images, *facts, tmp_path)
    held = [*references_in(images), *references_in([report]), *references_in(maps)]
    path = write_withdrawal(series, held, *facts, tmp_path / "w.dcm", 1)
    uids = [one.sop_instance_uid for one in held]
    assert named_in(path) == ("113001", uids, set(uids))
    assert object_errors(path) == Counter()
    fewer = write_withdrawal(series, held[:2], *facts, tmp_path / "f.dcm", 1)
    assert dcmread(fewer).SOPInstanceUID != dcmread(path).SOPInstanceUID
    again = write_withdrawal(series, held, *facts, tmp_path / "again.dcm", 1)
    assert again.read_bytes() == path.read_bytes()
    read = subprocess.run([program("dsrdump"), str(path)], capture_output=True, text=True)
    assert read.returncode == 0
    assert "Rejected for Quality Reasons" in read.stdout


def test_a_source_image_is_never_withdrawn(
    series: CtSeries, images: tuple[Path, ...], tmp_path: Path, identity: Identity, provenance: Provenance
) -> None:
    own = references_in(images)
    source = reference(series.headers[0])
    stranger = Reference(own[0].sop_class_uid, "1.2.3", "1.2.4", "1.2.5")
    for wrong in (source, stranger):
        with pytest.raises(ValueError, match="derived objects of the same study"):
            write_withdrawal(series, [*own, wrong], identity, provenance, tmp_path / "w.dcm", 1)
    assert not (tmp_path / "w.dcm").exists()
