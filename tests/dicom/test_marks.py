"""Our own marks on derived images."""

from pathlib import Path

from pydicom import dcmread
from pydicom.dataset import Dataset

from dicomnode.dicom.derived import Identity, Provenance
from dicomnode.dicom.marks import carries_own_marks
from tests.dicom.rewritten import write
from tests.makers import make_series


def test_marks_survive_de_identification(tmp_path: Path, identity: Identity, provenance: Provenance) -> None:
    _, images = write(make_series(tmp_path / "s", slices=1), identity, provenance, tmp_path / "d")
    image = images[0]
    # PS3.15 table E.1-1, Basic Profile: removed or replaced.
    for keyword in (
        "DerivationDescription",
        "SeriesDescription",
        "ImageComments",
        "SourceImageSequence",
        "DeviceUID",
        "InstanceCreatorUID",
        "ReferencedSeriesSequence",
    ):
        delattr(image, keyword)
    image.SOPInstanceUID, image.SeriesInstanceUID, image.StudyInstanceUID = "1.2.3", "1.2.4", "1.2.5"
    for item in image.ContributingEquipmentSequence:
        for keyword in ("ContributionDescription", "ContributionDateTime", "StationName"):
            if keyword in item:
                delattr(item, keyword)
    assert carries_own_marks(image)
    # Each kept mark is enough alone.
    for kept in ("ImageType", "DerivationCodeSequence", "ContributingEquipmentSequence"):
        alone = Dataset()
        alone[kept] = image[kept]
        assert carries_own_marks(alone), kept


def test_others_are_not_own(ct_series: list[Path]) -> None:
    header = dcmread(ct_series[0])
    assert not carries_own_marks(header)
    assert not carries_own_marks(Dataset())
    header.SOPInstanceUID = "2.25.12345"
    assert not carries_own_marks(header), "2.25 is everybody's root"
