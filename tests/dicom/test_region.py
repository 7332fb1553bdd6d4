"""What headers call the part of the body."""

import pytest
from pydicom.dataset import Dataset

from dicomnode.dicom.region import CODES, WORDS, stated_diameter_mm, stated_region


def header(**values: object) -> Dataset:
    data = Dataset()
    for keyword, value in values.items():
        setattr(data, keyword, value)
    return data


def coded(value: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, "SCT", "a region"
    return header(AnatomicRegionSequence=[item])


@pytest.mark.parametrize(
    ("values", "region"),
    [
        ({"BodyPartExamined": "CHEST"}, "chest"),
        ({"BodyPartExamined": "BRAIN"}, "head"),
        ({"BodyPartExamined": "", "ProtocolName": "Schaedel_nativ_1"}, "head"),
        ({"ProtocolName": "6.1 ABD/PEL ROUTINE"}, "abdomen-pelvis"),
        ({"ProtocolName": "5.3 CHEST/ABD/PEL (NON CONTRAST)"}, None),
        ({"ProtocolName": "PETCT_Skull_To_Thigh"}, None),
        ({"ProtocolName": "5.10 PE>200 LBS"}, "chest"),
        ({"BodyPartExamined": "KNEE"}, "extremity"),
        ({"SeriesDescription": "NECK ROUTINE"}, "neck"),
        ({"ProtocolName": "HEADPHONES"}, None),
        ({}, None),
    ],
)
def test_one_region_or_none(values: dict[str, str], region: str | None) -> None:
    assert stated_region(header(**values)) == region


def test_the_code_is_asked_first() -> None:
    data = coded("51185008")
    data.BodyPartExamined = "HEAD"
    assert stated_region(data) == "chest"
    data.AnatomicRegionSequence[0].CodeValue = "999"
    assert stated_region(data) == "head"


def test_no_word_stands_for_two_regions() -> None:
    words = [word for found in WORDS.values() for word in found]
    assert len(words) == len(set(words))
    assert set(CODES.values()) == set(WORDS)


@pytest.mark.parametrize(("value", "told"), [(255.5, 255.5), (0.0, None), (25.0, None), (2550.0, None)])
def test_a_diameter_that_no_patient_has_is_none(value: float, told: float | None) -> None:
    assert stated_diameter_mm(header(WaterEquivalentDiameter=value)) == told
    assert stated_diameter_mm(header()) is None
