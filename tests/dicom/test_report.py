import subprocess
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from highdicom import sr
from pydicom import dcmread
from pydicom.dataset import Dataset

from dicomnode import errors
from dicomnode.dicom.derived import Identity, Provenance, write_derived
from dicomnode.dicom.dose import read_dose
from dicomnode.dicom.marks import carries_own_marks
from dicomnode.dicom.report import write_report
from dicomnode.dicom.series import read_series
from dicomnode.quality import TISSUES_HU
from tests.makers import make_series
from tests.processor import within

Errors = Callable[[Path], Counter[str]]


def report_on(paths: list[Path], identity: Identity, provenance: Provenance, folder: Path) -> Path:
    series = read_series(paths)
    derived = write_derived(series, series.hounsfield, identity, provenance, folder / "derived")
    return write_report(series, derived, identity, provenance, folder / "report.dcm")


def content(path: Path) -> list[Dataset]:
    """All content items of the tree."""
    found: list[Dataset] = []

    def walk(item: Dataset) -> None:
        for child in item.get("ContentSequence", []):
            found.append(child)
            walk(child)

    walk(dcmread(path))
    return found


def measured(path: Path) -> dict[str, float]:
    """Numbers by the code of their concept; those of the noise groups by group name."""
    values = {}
    report = sr.srread(path)
    for group in report.content.get_image_measurement_groups():
        name = group.tracking_identifier
        for one in group.get_measurements():
            values[f"{name}/{one.name.value}"] = one.value
    return values


def test_the_numbers_of_the_report(tmp_path: Path, identity: Identity, provenance: Provenance) -> None:
    path = report_on(make_series(tmp_path / "s"), identity, provenance, tmp_path)
    assert measured(path) == {
        "Noise before/112031": 31.4,
        "Noise after/112031": 12.2,
        "Dose/113733": 120,
        "Dose/113736": 40,
        "Dose/113830": 2.5,
        "Dose/113980": 281,
        "Dose/113930": 3.4,
        "Enhancement/LDCT001": 0.25,
        "Enhancement/LDCT002": 12,
        "Enhancement/LDCT004": 50,
        "Enhancement/LDCT003": 81234.5,
        "Enhancement/LDCT006": 140,
        "Change in air/LDCT005": 0.1,
        "Change in fat/LDCT005": -0.4,
        "Change in soft/LDCT005": 0.2,
    }


def test_every_tissue_that_the_gate_measures_is_in_the_report(
    tmp_path: Path, identity: Identity, provenance: Provenance
) -> None:
    bias_hu = {tissue: 0.1 * number for number, tissue in enumerate(TISSUES_HU, 1)}
    facts = replace(provenance, bias_hu=bias_hu)
    path = report_on(make_series(tmp_path / "s", slices=2), identity, facts, tmp_path)
    found = {name: value for name, value in measured(path).items() if name.endswith("/LDCT005")}
    assert found == {f"Change in {tissue}/LDCT005": pytest.approx(hu) for tissue, hu in bias_hu.items()}


def test_what_the_report_is(tmp_path: Path, identity: Identity, provenance: Provenance) -> None:
    path = report_on(make_series(tmp_path / "s"), identity, provenance, tmp_path)
    report = dcmread(path)
    assert report.SOPClassUID == "1.2.840.10008.5.1.4.1.1.88.33"
    assert report.ContentTemplateSequence[0].TemplateIdentifier == "1500"
    assert (report.CompletionFlag, report.PreliminaryFlag) == ("COMPLETE", "FINAL")
    assert report.VerificationFlag == "UNVERIFIED"
    assert report.CodingSchemeIdentificationSequence[0].CodingSchemeDesignator == "99LDCT"
    assert report.ContentQualification == "RESEARCH"
    assert report.PatientID == "PHANTOM-1"
    assert carries_own_marks(report)
    assert path.read_bytes()[:128] == b"\0" * 128
    said = [str(item.get("TextValue", "")) for item in content(path)]
    assert f"weights sha256={'ab' * 32}" in said
    assert "start step=12 of 50" in said
    assert "dose source=ctdivol-tag flags=PHANTOM_INFERRED" in said
    observers = [item.UID for item in content(path) if item.ValueType == "UIDREF"]
    assert identity.device_uid in observers


def test_every_image_is_evidence(tmp_path: Path, identity: Identity, provenance: Provenance) -> None:
    path = report_on(make_series(tmp_path / "s"), identity, provenance, tmp_path)
    report = dcmread(path)
    referenced = {
        image.ReferencedSOPInstanceUID
        for study in report.CurrentRequestedProcedureEvidenceSequence
        for one in study.ReferencedSeriesSequence
        for image in one.ReferencedSOPSequence
    }
    images = [*(tmp_path / "s").iterdir(), *(tmp_path / "derived").iterdir()]
    assert referenced == {dcmread(image).SOPInstanceUID for image in images}


def test_same_arguments_same_bytes(tmp_path: Path, identity: Identity, provenance: Provenance) -> None:
    paths = make_series(tmp_path / "s")
    one = report_on(paths, identity, provenance, tmp_path / "a").read_bytes()
    assert report_on(paths, identity, provenance, tmp_path / "b").read_bytes() == one


def test_unknown_values_are_left_out(
    tmp_path: Path, identity: Identity, provenance: Provenance, object_errors: Errors
) -> None:
    silent = replace(
        provenance,
        dose=read_dose([Dataset()]),
        ssde_mgy=None,
        water_equivalent_diameter_mm=None,
        noise_before_hu=None,
        noise_after_hu=float("nan"),
        bias_hu={},
        verdict="label",
        verdict_reasons=("texture",),
    )
    path = report_on(make_series(tmp_path / "s"), identity, silent, tmp_path)
    assert {name.split("/")[0] for name in measured(path)} == {"Enhancement"}
    codes = [item.ConceptCodeSequence[0].CodeValue for item in content(path) if item.ValueType == "CODE"]
    assert {"LDCT010", "LDCT032"} <= set(codes)
    assert object_errors(path) == Counter()


def test_sources_without_type_2_attributes(
    tmp_path: Path,
    identity: Identity,
    provenance: Provenance,
    object_errors: Errors,
    program: Callable[[str], str],
) -> None:
    def change(data: Dataset, index: int) -> None:
        for keyword in (
            "PatientName",
            "PatientID",
            "PatientBirthDate",
            "PatientSex",
            "AccessionNumber",
            "StudyID",
            "StudyDate",
            "StudyTime",
            "ReferringPhysicianName",
            "SeriesNumber",
        ):
            delattr(data, keyword)
        data.SpecificCharacterSet = ""

    paths = make_series(tmp_path / "s", slices=2, change=change)
    path = report_on(paths, identity, provenance, tmp_path)
    assert object_errors(path) - object_errors(paths[0]) == Counter()
    said = subprocess.run([program("dcentvfy"), *map(str, [*paths, path])], capture_output=True, text=True)
    assert said.stdout + said.stderr == ""


def test_odd_patients_are_copied_as_they_are(
    tmp_path: Path, identity: Identity, provenance: Provenance
) -> None:
    def change(data: Dataset, index: int) -> None:
        data.SpecificCharacterSet = "ISO_IR 144"
        data.PatientName = "Люкceмбypг"
        data.add_new("PatientSex", "CS", "X")
        data.add_new("PatientBirthDate", "DA", "1 May 1960")
        data.add_new("StudyTime", "TM", "noon")

    path = report_on(make_series(tmp_path / "s", slices=2, change=change), identity, provenance, tmp_path)
    report = dcmread(path)
    assert report.PatientName == "Люкceмбypг"
    assert (report.PatientSex, report.StudyTime) == ("X", "noon")


@pytest.mark.slow
def test_a_report_on_800_slices_costs_under_a_second_and_300_kb(
    tmp_path: Path, identity: Identity, provenance: Provenance, object_errors: Errors
) -> None:
    series = read_series(make_series(tmp_path / "s", slices=800))
    derived = write_derived(series, series.hounsfield, identity, provenance, tmp_path / "derived")
    path = within(1.0, lambda: write_report(series, derived, identity, provenance, tmp_path / "report.dcm"))
    assert path.stat().st_size < 300_000
    report = dcmread(path)
    (study,) = report.CurrentRequestedProcedureEvidenceSequence
    assert [len(one.ReferencedSOPSequence) for one in study.ReferencedSeriesSequence] == [800, 800]
    assert object_errors(path) == Counter()


def test_a_report_needs_images(tmp_path: Path, identity: Identity, provenance: Provenance) -> None:
    series = read_series(make_series(tmp_path / "s"))
    with pytest.raises(ValueError, match="derived images"):
        write_report(series, (), identity, provenance, tmp_path / "report.dcm")


@pytest.mark.parametrize("vendor", ["siemens", "philips", "ge", "none"])
def test_no_errors(
    tmp_path: Path, identity: Identity, provenance: Provenance, object_errors: Errors, vendor
) -> None:
    path = report_on(make_series(tmp_path / "s", slices=2, vendor=vendor), identity, provenance, tmp_path)
    assert object_errors(path) == Counter()


def test_dsrdump_reads_it(
    tmp_path: Path, identity: Identity, provenance: Provenance, program: Callable[[str], str]
) -> None:
    path = report_on(make_series(tmp_path / "s"), identity, provenance, tmp_path)
    run = subprocess.run([program("dsrdump"), str(path)], capture_output=True, text=True)
    assert run.returncode == 0
    assert run.stderr == ""
    assert "Mean CTDIvol" in run.stdout


def test_who_won_and_by_which_rows_is_in_the_report(
    tmp_path: Path, identity: Identity, provenance: Provenance
) -> None:
    path = report_on(make_series(tmp_path / "s"), identity, provenance, tmp_path)
    said = path.read_bytes()
    assert b"dose decision=noise won in 3 of 3 slices: noisier than the tags say" in said
    assert b"dose reference=a-table-3 regions=chest by image 2, abdomen-pelvis by tags 1" in said
    assert b"size flags=FOV_TRUNCATED" in said


@pytest.mark.parametrize("pattern", ["zoo/pydicom/*.dcm", "zoo/tcia_singles/*.dcm", "pairs/mayo/*z-58.6_*"])
def test_reports_on_real_images(
    shared_data: Path,
    tmp_path: Path,
    identity: Identity,
    provenance: Provenance,
    object_errors: Errors,
    pattern: str,
) -> None:
    for number, source in enumerate(sorted(shared_data.glob(pattern))):
        try:
            path = report_on([source], identity, provenance, tmp_path / str(number))
        except errors.SeriesRefused:
            continue
        assert object_errors(path) - object_errors(source) == Counter(), source.name
