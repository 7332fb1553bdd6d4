"""The attribute policy, row by row."""

from collections import Counter
from pathlib import Path

from pydicom import dcmread
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataset import Dataset

from dicomnode.dicom.derived import Identity, Provenance
from dicomnode.dicom.policy import MUST_STAND, TABLE
from tests.dicom.rewritten import write
from tests.makers import make_series


def test_every_row_of_the_policy_names_an_attribute_once() -> None:
    keywords = [row.keyword for row in TABLE]
    assert [keyword for keyword in keywords if tag_for_keyword(keyword) is None] == []
    assert [keyword for keyword, count in Counter(keywords).items() if count > 1] == []
    assert all(row.why for row in TABLE)


ANY_VALUE = {
    **dict.fromkeys(["AE", "CS", "LO", "LT", "SH", "ST", "UC", "UR", "UT"], "X"),
    **dict.fromkeys(["US", "UL", "SS", "SL", "IS", "UV"], 1),
    **dict.fromkeys(["DS", "FD", "FL"], 1.5),
    **dict.fromkeys(["OB", "OW", "OV"], b"\0" * 8),
    "UI": "1.2.3",
    "DA": "19990101",
    "TM": "1111",
    "DT": "19990101111111",
    "PN": "X^Y",
}


def test_every_remove_row_is_gone(tmp_path: Path, identity: Identity, provenance: Provenance) -> None:
    """But for what the scanner's item of ContributingEquipmentSequence takes over."""
    removed = [row.keyword for row in TABLE if row.action.startswith("remove")]

    def everything(data: Dataset, index: int) -> None:
        for keyword in removed:
            vr = dictionary_VR(keyword)
            value = [Dataset()] if vr == "SQ" else ANY_VALUE[vr.split(" ")[0]]
            data.add_new(keyword, vr.split(" ")[0], value)

    paths = make_series(tmp_path / "s", slices=1, change=everything)
    assert [keyword for keyword in removed if keyword not in dcmread(paths[0])] == []
    _, (image,) = write(paths, identity, provenance, tmp_path / "d")
    ours = {"Manufacturer", "ManufacturerModelName", "SoftwareVersions", "DeviceUID"}
    assert {keyword for keyword in removed if keyword in image} == ours
    assert not [keyword for keyword in ours if image[keyword].value == ANY_VALUE[dictionary_VR(keyword)]]
    assert image.ContributingEquipmentSequence[0].StationName == "X"


def test_every_set_row_is_written(tmp_path: Path, identity: Identity, provenance: Provenance) -> None:
    _, images = write(make_series(tmp_path / "s", slices=1), identity, provenance, tmp_path / "d")
    assert [row.keyword for row in TABLE if row.action == "set" and row.keyword not in images[0]] == []


def test_type_2_attributes_that_the_source_lacks_stand_there_empty(
    tmp_path: Path, identity: Identity, provenance: Provenance
) -> None:
    paths = make_series(tmp_path / "source", slices=2)
    for path in paths:
        data = dcmread(path)
        for keyword in ("AcquisitionNumber", "PatientPosition", "PositionReferenceIndicator"):
            delattr(data, keyword)
        data.save_as(path)
    for image in write(paths, identity, provenance, tmp_path / "out")[1]:
        assert all(keyword in image for keyword in MUST_STAND)
        assert image.AcquisitionNumber is None
