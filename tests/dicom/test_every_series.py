"""Every series at hand that the node accepts, from whatever maker: what is made of it, judged by others.

One row a series. The table is printed (`pytest -s`), and written to the file that EVERY_SERIES names.
"""

import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pydicom.data
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import (
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from dicomnode.dicom.derived import write_derived
from dicomnode.dicom.provenance import Identity, Provenance
from dicomnode.dicom.report import write_report
from dicomnode.dicom.series import read_series
from dicomnode.dicom.stacks import sort_into_stacks
from dicomnode.errors import SeriesRefused
from tests.dicom.judged import Row, judge
from tests.makers import make_series, make_uid
from tests.multiframe_makers import make_enhanced, make_legacy

Source = tuple[str, list[Path]]
PROGRAMS = ("dciodvfy", "dcentvfy", "dsrdump", "dcmdump", "dcmdrle", "dcmdjpeg", "dcmdjpls")
DEMO = Path.home() / ".cache" / "dicomnode" / "lidc-idri-0001"
REPORT_SECONDS, REPORT_BYTES = 1.0, 300_000


def by_series(root: Path, files: Iterable[Path]) -> Iterator[Source]:
    """The stacks of each series, as the node sorts them."""
    found: dict[str, list[Path]] = defaultdict(list)
    for path in sorted(files):
        try:
            header = dcmread(path, stop_before_pixels=True, specific_tags=["SeriesInstanceUID"])
        except (InvalidDicomError, OSError, EOFError):
            continue
        folder = str(path.parent.relative_to(root))
        found[f"{folder} {header.get('SeriesInstanceUID', '')[-12:]}"].append(path)
    for name, paths in found.items():
        for number, stack in enumerate(sort_into_stacks(paths)):
            yield f"{name} {number}", list(stack.paths)


def singly(root: Path, files: Iterable[Path]) -> Iterator[Source]:
    """Each file a series of its own: copies of one image share their UIDs."""
    for path in sorted(files):
        yield str(path.relative_to(root)), [path]


def multi_frame(folder: Path) -> Iterator[Source]:
    """Enhanced and Legacy Converted CT in every encoding, and of odd pixels."""
    plain = make_series(folder / "plain", slices=4)
    syntaxes = ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian
    for syntax in (*syntaxes, RLELossless, JPEG2000Lossless, JPEGLSLossless):
        path = folder / f"enhanced-{syntax[-6:]}.dcm"
        yield path.name, [make_enhanced(path, plain, transfer_syntax=syntax)]
    for padding, form in ((-2000, {"signed": True, "bits_stored": 16, "intercept": 0}), (9, {})):
        odd = make_series(folder / f"odd{padding}", slices=4, padding=padding, vendor="canon", **form)
        yield f"enhanced-padding{padding}.dcm", [make_enhanced(folder / f"enhanced{padding}.dcm", odd)]
        yield f"legacy-padding{padding}.dcm", [make_legacy(folder / f"legacy{padding}.dcm", odd)]
    fine = make_series(folder / "fine", slices=4, slope=0.5, intercept=-8192, bits_stored=16)
    yield "enhanced-half-slope.dcm", [make_enhanced(folder / "enhanced-half.dcm", fine)]
    yield "legacy.dcm", [make_legacy(folder / "legacy.dcm", plain)]


def _patient(data: Dataset) -> None:
    """What hospitals, archives and trials say of a patient beside name and number."""
    data.PatientAge, data.PatientSize, data.PatientWeight, data.StudyDescription = "064Y", "", "80", ""
    data.OtherPatientIDs, data.EthnicGroup, data.AdditionalPatientHistory = ["A", "B"], "x", "none"
    data.ClinicalTrialSponsorName, data.ClinicalTrialProtocolID = "S", "P"
    data.ClinicalTrialProtocolName = data.ClinicalTrialSiteID = data.ClinicalTrialSiteName = ""
    data.ClinicalTrialSubjectID = "1"
    data.PregnancyStatus, data.ReferencedStudySequence = 4, DicomSequence()
    data.PhysiciansOfRecord, data.AdmissionID, data.Allergies, data.PatientComments = "C^D", "A1", "a", "c"


def _nobody(data: Dataset) -> None:
    """What careless de-identification leaves."""
    for keyword in (
        "PatientName",
        "PatientID",
        "PatientBirthDate",
        "PatientSex",
        "AccessionNumber",
        "StudyID",
    ):
        delattr(data, keyword)
    for keyword in ("StudyDate", "StudyTime", "ReferringPhysicianName", "SeriesNumber", "PatientPosition"):
        delattr(data, keyword)
    for keyword in ("PositionReferenceIndicator", "AcquisitionNumber", "KVP", "Manufacturer"):
        delattr(data, keyword)


def _long(data: Dataset) -> None:
    data.SeriesDescription, data.StudyDescription, data.StationName = "x" * 300, "y" * 200, "z" * 30
    for keyword in ("SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "FrameOfReferenceUID"):
        uid = make_uid(keyword, data.InstanceNumber if keyword == "SOPInstanceUID" else 0)
        setattr(data, keyword, (uid + "1" * 64)[:64])


def _values_of_both_signs(data: Dataset) -> None:
    data.SmallestImagePixelValue, data.LargestImagePixelValue = 3, 4000
    table = Dataset()
    table.LUTDescriptor, table.LUTExplanation = [4, 0, 16], "x"
    table.add_new("LUTData", "US", [1, 2, 3, 4])
    data.VOILUTSequence = DicomSequence([table])
    data.add_new("PixelPaddingRangeLimit", "US", 0)


def _overlays(data: Dataset) -> None:
    """One in a plane of its own, one in an unused bit of the pixels."""
    for group, bits, place in ((0x6000, 1, 0), (0x6002, 16, 12)):
        for element, vr, value in (
            (0x10, "US", 64),
            (0x11, "US", 64),
            (0x40, "CS", "G"),
            (0x50, "SS", [1, 1]),
            (0x100, "US", bits),
            (0x102, "US", place),
        ):
            data.add_new((group << 16) + element, vr, value)
    data.add_new(0x60003000, "OW", b"\1\0" * 256)
    pixels = np.frombuffer(data.PixelData, "<u2").copy()
    pixels[:200] |= 0x1000
    data.PixelData = pixels.tobytes()


def _private(data: Dataset) -> None:
    block = data.private_block(0x0029, "SIEMENS CSA HEADER", create=True)
    block.add_new(0x10, "OB", b"\1" * 400_000)
    block.add_new(0x20, "SQ", DicomSequence([Dataset() for _ in range(300)]))
    data.add_new("ICCProfile", "OB", b"\0" * 600)
    data.add_new(0x00080000, "UL", 400)


def _lie(position: str) -> Callable[[Dataset], None]:
    def change(data: Dataset) -> None:
        data.PatientPosition = position

    return change


def _name(terms: str | list[str], name: str) -> Callable[[Dataset], None]:
    def change(data: Dataset) -> None:
        data.SpecificCharacterSet = terms
        data.PatientName = data.InstitutionName = name
        data.SeriesDescription = data.StudyDescription = name.replace("=", " ")

    return change


def _as_it_is(data: Dataset) -> None:
    pass


SIGNED = {"signed": True, "bits_stored": 16, "intercept": 0}
ODD: dict[str, tuple[Callable[[Dataset], None], dict[str, Any]]] = {
    "patient": (_patient, {}),
    "nobody": (_nobody, {}),
    "long": (_long, {}),
    "ambiguous-little": (_values_of_both_signs, {"padding": 9, "transfer_syntax": ImplicitVRLittleEndian}),
    "ambiguous-big": (_values_of_both_signs, {"padding": 9, "transfer_syntax": ExplicitVRBigEndian}),
    "overlays": (_overlays, {}),
    "private": (_private, {}),
    "half-slope": (_as_it_is, {"slope": 0.5, "intercept": -8192, "bits_stored": 16, "padding": 0}),
    "unsigned-16": (_as_it_is, {"intercept": -32768, "bits_stored": 16, "padding": 65535}),
    "signed-12": (_as_it_is, {"signed": True, "bits_stored": 12, "intercept": 0}),
    "padding-of-the-other-sign": (
        lambda data: data.add_new("PixelPaddingValue", "US", 63536),
        {**SIGNED, "padding": -2000},
    ),
    "feet-first": (_lie("FFS"), {"orientation": (-1, 0, 0, 0, 1, 0)}),
    "prone": (_lie("HFP"), {"orientation": (-1, 0, 0, 0, -1, 0)}),
    "decubitus": (_lie("HFDR"), {"orientation": (0, 1, 0, -1, 0, 0)}),
    "japanese": (_name(["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎=やまだ^たろう"), {}),
    "half-width": (_name(["ISO_IR 13", "ISO 2022 IR 87"], "ﾔﾏﾀﾞ^ﾀﾛｳ=山田^太郎=やまだ^たろう"), {}),
    "korean": (_name(["", "ISO 2022 IR 149"], "Hong^Gildong=洪^吉洞=홍^길동"), {}),
    "chinese": (_name("GB18030", "王^小东"), {}),
    "arabic": (_name("ISO_IR 127", "قباني^لنزار"), {}),
    "utf-8": (_name("ISO_IR 192", "Łódź^Ünal=王^小东"), {}),
    "utf-8-misspelt": (_name("UTF-8", "Łódź^Ünal=王^小东"), {}),
    "latin-misspelt": (_name("iso_ir 100", "Müller^Jörg"), {}),
}
"""What scanners and archives write that this project's own test series do not have."""


def odd(folder: Path) -> Iterator[Source]:
    for name, (change, form) in ODD.items():
        yield (
            name,
            make_series(folder / name, slices=3, change=lambda data, _, change=change: change(data), **form),
        )


def judged(sources: Iterable[Source], identity: Identity, provenance: Provenance, folder: Path) -> list[Row]:
    """One row for each series that is accepted."""
    rows = []
    for number, (name, paths) in enumerate(sources):
        try:
            rows.append(judge(name, paths, identity, provenance, folder / str(number)))
        except SeriesRefused:
            continue
        print(rows[-1], flush=True)
    if "EVERY_SERIES" in os.environ:
        with Path(os.environ["EVERY_SERIES"]).open("a") as table:
            table.writelines(f"{row}\n" for row in rows)
    return rows


def check(rows: list[Row], at_least: int) -> None:
    assert len(rows) >= at_least
    assert [str(row) for row in rows if row.wrong] == []
    assert max(row.report_seconds for row in rows) < REPORT_SECONDS
    assert max(row.report_bytes for row in rows) < REPORT_BYTES


@pytest.fixture(autouse=True)
def _programs(program: Callable[[str], str]) -> None:
    for name in PROGRAMS:
        program(name)


@pytest.fixture(autouse=True)
def _tables(tmp_path: Path, identity: Identity, provenance: Provenance) -> None:
    """The first SR of a process loads highdicom's tables of the standard, half a second: no report's cost."""
    series = read_series(make_series(tmp_path / "first", slices=1))
    images = write_derived(series, series.hounsfield, identity, provenance, tmp_path / "first-images")
    write_report(series, images, identity, provenance, tmp_path / "first.dcm")


@pytest.mark.slow
def test_the_zoo(shared_data: Path, tmp_path: Path, identity: Identity, provenance: Provenance) -> None:
    files = (path for path in (shared_data / "zoo").rglob("*") if path.is_file())
    check(judged(singly(shared_data, files), identity, provenance, tmp_path), 25)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_real_series(shared_data: Path, tmp_path: Path, identity: Identity, provenance: Provenance) -> None:
    files = (path for kind in ("ct", "pairs") for path in (shared_data / kind).rglob("*.dcm"))
    check(judged(by_series(shared_data, files), identity, provenance, tmp_path), 10)


@pytest.mark.slow
def test_files_that_come_with_pydicom(tmp_path: Path, identity: Identity, provenance: Provenance) -> None:
    root = Path(pydicom.data.__file__).parent / "test_files"
    files = (path for path in root.rglob("*") if path.is_file())
    check(judged(singly(root, files), identity, provenance, tmp_path), 2)


@pytest.mark.slow
def test_multi_frame_objects(tmp_path: Path, identity: Identity, provenance: Provenance) -> None:
    check(judged(multi_frame(tmp_path / "made"), identity, provenance, tmp_path), 12)


@pytest.mark.slow
def test_odd_series(tmp_path: Path, identity: Identity, provenance: Provenance) -> None:
    check(judged(odd(tmp_path / "made"), identity, provenance, tmp_path), len(ODD))


@pytest.mark.slow
def test_the_series_of_the_demonstration(tmp_path: Path, identity: Identity, provenance: Provenance) -> None:
    if not (DEMO / "complete").exists():
        pytest.skip("the series of the demonstration is not here: `dicomnode demo` fetches it")
    check(judged(by_series(DEMO, DEMO.glob("*.dcm")), identity, provenance, tmp_path), 1)
