"""What the plugin refuses the node would refuse too: the plugin never keeps back what could be enhanced."""

import itertools
import subprocess
import sys
from pathlib import Path

import pytest
from dicomnode_plugin import routing
from dicomnode_plugin.record import Record, fingerprint, read_record, write_record
from hypothesis import given
from hypothesis import strategies as st
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import CTImageStorage, EnhancedCTImageStorage, MRImageStorage

from dicomnode.dicom.admission import LOCALIZER_WORDS, MULTI_FRAME_CLASSES, admit
from dicomnode.dicom.marks import IMAGE_TYPE_TERM, MANUFACTURER, PRIVATE_SCHEME, carries_own_marks
from dicomnode.errors import SeriesRefused
from tests.makers import make_series
from tests.orthanc.orthancs import ROOT

PLUGIN = ROOT / "orthanc-plugin" / "python"


def as_told(data: Dataset) -> dict[str, object]:
    """A header as Orthanc's `tags?short` tells it."""
    told: dict[str, object] = {}
    for element in data:
        name = f"{element.tag.group:04x},{element.tag.element:04x}"
        if element.VR == "SQ":
            told[name] = [as_told(item) for item in element.value]
        elif element.VM > 1:
            told[name] = "\\".join(str(one) for one in element.value)
        elif not isinstance(element.value, bytes):
            told[name] = "" if element.value is None else str(element.value)
    return told


def header(**changed: object) -> Dataset:
    """A header that the node admits, with changes."""
    data = Dataset()
    data.SOPClassUID, data.Modality = CTImageStorage, "CT"
    data.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    data.Manufacturer, data.RescaleSlope, data.RescaleIntercept = "SIEMENS", 1, -1024
    for keyword, value in changed.items():
        setattr(data, keyword, value)
    return data


def admitted(data: Dataset) -> bool:
    try:
        admit(data)
    except SeriesRefused:
        return False
    return True


WORDS = (
    "AXIAL",
    "axial",
    "OTHER",
    "LOCALIZER",
    "CSA MPR",
    "MPR",
    "DERIVED",
    "SECONDARY",
    "PRIMARY",
    "ORIGINAL",
)
MORE_WORDS = (*WORDS, "AI_DENOISED", "CT_SOM5 TOP", "SCOUT VIEW", "3D", "MIP_5", "HELICAL", "NORM_MPR", "")


@given(
    image_type=st.lists(st.sampled_from(MORE_WORDS), max_size=6),
    options=st.sampled_from(["", "HELICAL MODE", "SCOUT MODE", "AXIAL"]),
    modality=st.sampled_from(["CT", "MR", ""]),
    sop_class=st.sampled_from([CTImageStorage, EnhancedCTImageStorage, MRImageStorage]),
    burned=st.sampled_from(["YES", "NO", "yes"]),
    maker=st.sampled_from(["SIEMENS", "dicomnode", "DicomNode", ""]),
)
def test_what_is_not_sent_the_node_would_not_take(
    image_type: list[str], options: str, modality: str, sop_class: str, burned: str, maker: str
) -> None:
    data = header(
        ImageType=image_type, ScanOptions=options, Modality=modality, SOPClassUID=sop_class,
        BurnedInAnnotation=burned, Manufacturer=maker,
    )  # fmt: skip
    verdict = routing.judge([as_told(data)], 60, 2)
    assert verdict.send or not admitted(data), verdict
    assert verdict.own == carries_own_marks(data)


@pytest.mark.parametrize(
    ("changed", "rule"),
    [
        ({"SOPClassUID": MRImageStorage}, "not-ct"),
        ({"Modality": "MR"}, "not-ct"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, "localizer"),
        ({"ScanOptions": "SURVIEW"}, "localizer"),
        ({"ImageType": ["DERIVED", "SECONDARY", "AXIAL"]}, "not-axial"),
        ({"ImageType": ["DERIVED", "PRIMARY", "AXIAL", "CSA MPR"]}, "not-axial"),
        ({"ImageType": ["ORIGINAL", "PRIMARY"]}, "not-axial"),
        ({"BurnedInAnnotation": "YES"}, "burned-in-text"),
        ({"ImageType": ["DERIVED", "PRIMARY", "AXIAL", "AI_DENOISED"]}, "already-enhanced"),
    ],
)
def test_the_rules_have_the_names_of_the_nodes_own(changed: dict[str, object], rule: str) -> None:
    data = header(**changed)
    assert routing.judge([as_told(data)], 60, 2).rule == rule
    with pytest.raises(SeriesRefused) as refused:
        admit(data)
    assert refused.value.rule == rule


def test_marks_are_those_of_the_node() -> None:
    assert (routing.OWN_TERM, routing.OWN_SCHEME, routing.OWN_MAKER) == (
        IMAGE_TYPE_TERM,
        PRIVATE_SCHEME,
        MANUFACTURER,
    )
    assert set(routing.MULTI_FRAME) == MULTI_FRAME_CLASSES
    assert routing.LOCALIZER_WORDS == LOCALIZER_WORDS
    code, purpose, equipment = Dataset(), Dataset(), Dataset()
    code.CodingSchemeDesignator = PRIVATE_SCHEME
    assert routing.judge([as_told(header(DerivationCodeSequence=DicomSequence([code])))], 9, 2).own
    purpose.CodeValue = "109102"
    equipment.Manufacturer = MANUFACTURER
    equipment.PurposeOfReferenceCodeSequence = DicomSequence([purpose])
    assert routing.judge(
        [as_told(header(ContributingEquipmentSequence=DicomSequence([equipment])))], 9, 2
    ).own


def test_in_doubt_it_is_sent(tmp_path: Path) -> None:
    (path, *_) = make_series(tmp_path)
    good, bad = (
        as_told(dcmread(path)),
        {**as_told(dcmread(path)), "0008,0008": "ORIGINAL\\PRIMARY\\LOCALIZER"},
    )
    assert routing.judge([bad, good, bad], 60, 2).send, "a mixed series"
    assert routing.judge([{**bad, "7029,0010": "x"}], 60, 2).send, "measured projections"
    assert routing.judge([], 60, 2).send, "nothing could be read"
    assert not routing.judge([good], 1, 2).send
    frames = {**good, "0008,0016": str(EnhancedCTImageStorage), "0028,0008": "40"}
    assert routing.judge([frames], 1, 8).send, "its frames count"


def test_samples_are_spread_over_the_series() -> None:
    for count, most in itertools.product(range(1, 40), range(2, 6)):
        names = [str(index) for index in range(count)]
        found = routing.sample(names, most)
        assert len(set(found)) == len(found) == min(count, most)
        assert (found[0], found[-1]) == (names[0], names[-1])


@given(st.lists(st.text("0123456789abcdef-", min_size=1), unique=True), st.data())
def test_a_fingerprint_names_a_set(names: list[str], data: st.DataObject) -> None:
    shuffled = data.draw(st.permutations(names))
    assert fingerprint(names) == fingerprint(shuffled)
    assert fingerprint([*names, "one more"]) != fingerprint(names)


@given(
    st.builds(
        Record,
        phase=st.sampled_from(["rest", "waiting", "sending", "following"]),
        words=st.text(),
        progress=st.floats(0, 1),
        due=st.floats(0, 1e10),
        attempts=st.integers(0, 9999),
        by_hand=st.booleans(),
        rule=st.none() | st.text(),
        results=st.lists(st.text()).map(tuple),
    )
)
def test_a_record_comes_back_as_it_was_written(record: Record) -> None:
    assert read_record(write_record(record)) == record


@given(st.text() | st.sampled_from(["[]", '{"progress": "x", "results": 3, "rule": 1, "phase": null}', "{"]))
def test_a_broken_record_is_a_series_never_seen(text: str) -> None:
    assert read_record(text) == Record()


@given(st.lists(st.floats(0, 1), min_size=1))
def test_progress_never_falls_while_the_images_stay_the_same(told: list[float]) -> None:
    record, shown = Record(), []
    for share in told:
        record = record.but(progress=share)
        shown.append(record.progress)
    assert shown == sorted(shown)
    assert record.but(progress=0.0, sending="others").progress == 0.0


def test_only_the_entry_script_imports_orthanc_and_nothing_imports_the_node() -> None:
    """And all of it parses as Python 3.8 and needs the standard library alone."""
    import ast

    allowed = set(sys.stdlib_module_names) | {"dicomnode_plugin"}
    for path in PLUGIN.rglob("*.py"):
        tree = ast.parse(path.read_text(), feature_version=(3, 8))
        imported = {
            name.split(".")[0]
            for node in ast.walk(tree)
            for name in (
                [alias.name for alias in node.names]
                if isinstance(node, ast.Import)
                else [node.module]
                if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module
                else []
            )
        }
        extra = {"orthanc"} if path.name == "dicomnode_orthanc.py" else set()
        assert imported <= allowed | extra, path


def test_the_modules_load_without_the_tests_environment() -> None:
    """In the system's own Python, isolated: as inside Orthanc."""
    modules = ", ".join(
        f"dicomnode_plugin.{path.stem}" for path in (PLUGIN / "dicomnode_plugin").glob("[a-z]*.py")
    )
    code = f"import sys; sys.path.insert(0, {str(PLUGIN)!r}); import {modules}"
    ended = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], capture_output=True, timeout=60, check=False
    )
    assert ended.returncode == 0, ended.stderr
