"""Values that other software wrote are read, or are not there; nothing is raised."""

import pytest
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.tag import Tag

from dicomnode.dicom.values import number, text, texts

SOFTWARE = Tag(0x0018, 0x1020)


@pytest.mark.parametrize(
    ("written", "read"),
    [("one", ("one",)), (["one ", "", "\0two"], ("one", "", "two")), ("", ()), (None, ()), (["", ""], ())],
)
def test_texts(written: object, read: tuple[str, ...]) -> None:
    data = Dataset()
    data.SoftwareVersions = written
    assert texts(data, "SoftwareVersions") == read
    assert text(data, "SoftwareVersions") == "\\".join(read)


def test_a_sequence_where_text_should_be_is_no_text() -> None:
    """Its items may not even print: one element here has a VR that does not exist."""
    item = Dataset()
    item[0x00080104] = RawDataElement(Tag(0x0008, 0x0104), "NO", 2, b"ab", 0, False, True)  # type: ignore[assignment]
    data = Dataset()
    data[SOFTWARE] = DataElement(SOFTWARE, "SQ", Sequence([item]))
    assert texts(data, "SoftwareVersions") == ()
    assert text(data, "SoftwareVersions") == ""
    assert number(data, "SoftwareVersions") is None


@pytest.mark.parametrize(
    ("written", "read"),
    [("120", 120), ("120,5", 120.5), ("1,200.5", None), ("120k", None), ("80\\140", None), ("80\\80.0", 80)],
)
def test_a_number_is_one_number(written: str, read: float | None) -> None:
    """With a decimal comma too; several that differ are no answer, least of all the first of them."""
    data = Dataset()
    data.SoftwareVersions = written
    assert number(data, "SoftwareVersions") == read
