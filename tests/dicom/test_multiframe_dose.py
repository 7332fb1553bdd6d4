"""The dose of multi-frame CT objects, frame by frame and of several X-ray paths."""

from pathlib import Path

import pytest
from pydicom.datadict import DicomDictionary
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as DicomSequence

from dicomnode.dicom.dose import read_dose
from dicomnode.dicom.multiframe import read_multi_frame
from dicomnode.dicom.series import read_series
from tests.dicom.frames import CTDIVOL_MGY, MAS
from tests.makers import make_series
from tests.multiframe_makers import Change, make_enhanced, make_legacy
from tests.processor import within


def private_pitch(data: Dataset, index: int) -> None:
    """What GE writes in place of the standard elements."""
    del data.SpiralPitchFactor
    data.ScanOptions = "HELICAL MODE"
    data.private_block(0x0043, "GEMS_PARM_01", create=True).add_new(0x27, "SH", "0.8:1")


def test_modulated_exposure_is_read_frame_by_frame(tmp_path: Path, classic: list[Path]) -> None:
    dose = read_dose(read_series([make_enhanced(tmp_path / "m.dcm", classic)]).headers)
    assert dose.mas == pytest.approx(MAS)
    assert dose.ctdivol_mgy == pytest.approx(CTDIVOL_MGY)
    assert (dose.kvp, dose.phantom_cm, dose.source, dose.flags) == (120.0, 32, "ctdivol-tag", ())
    constant = read_dose(read_series([make_enhanced(tmp_path / "c.dcm", classic, modulated=False)]).headers)
    assert constant.mas == pytest.approx([MAS[0]] * 6)


@pytest.mark.parametrize("vendor", ["siemens", "philips", "ge", "canon", "none"])
def test_a_converted_object_has_the_dose_of_its_classic_series(tmp_path: Path, vendor) -> None:
    change = private_pitch if vendor == "ge" else None
    paths = make_series(
        tmp_path / "s", vendor=vendor, effective_mas=MAS, ctdivol_mgy=CTDIVOL_MGY, change=change
    )
    plain = read_dose(read_series(paths).headers)
    assert read_dose(read_series([make_legacy(tmp_path / "m.dcm", paths)]).headers) == plain
    assert (plain.source == "none") == (vendor == "none")


def test_exposure_time_of_a_spiral_frame_is_divided_by_the_pitch_once(tmp_path: Path) -> None:
    def time_only(data: Dataset) -> None:
        del data.SharedFunctionalGroupsSequence[0].CTAcquisitionDetailsSequence
        for group in data.PerFrameFunctionalGroupsSequence:
            del group.CTExposureSequence[0].ExposureInmAs

    paths = make_series(tmp_path / "s", effective_mas=MAS, ctdivol_mgy=CTDIVOL_MGY)
    dose = read_dose(read_series([make_enhanced(tmp_path / "m.dcm", paths, change=time_only)]).headers)
    assert dose.mas == pytest.approx(MAS)
    assert dose.flags == ("EXPOSURE_COMPUTED",)


def test_shares_of_several_x_ray_paths_are_not_taken_for_the_dose(
    tmp_path: Path, classic: list[Path]
) -> None:
    def two_paths(data: Dataset) -> None:
        shared = data.SharedFunctionalGroupsSequence[0]
        data.MultienergyCTAcquisition = "YES"
        for group, keyword in ((shared, "CTXRayDetailsSequence"), (shared, "CTExposureSequence")):
            first, second = (Dataset(), Dataset())
            first.update(group[keyword].value[0])
            second.update(group[keyword].value[0])
            first.ReferencedPathIndex, second.ReferencedPathIndex = 1, 2
            if keyword == "CTXRayDetailsSequence":
                first.add_new("KVP", "DS", "80")
                second.add_new("KVP", "DS", "140")
                data.add_new("KVP", "DS", "120")
            else:
                for item, phantom in ((first, "113691"), (second, "113690")):
                    code = Dataset()
                    code.CodeValue = phantom
                    item.add_new("CTDIPhantomTypeCodeSequence", "SQ", [code])
            setattr(group, keyword, DicomSequence([first, second]))

    series = read_series([make_enhanced(tmp_path / "m.dcm", classic, modulated=False, change=two_paths)])
    dose = read_dose(series.headers)
    assert (dose.kvp, dose.source, dose.mean_mas) == (None, "none", None)
    assert series.headers[0].FilterType == "WEDGE"
    assert "CTDIPhantomTypeCodeSequence" not in series.headers[0]


def multienergy(technique: str, *sources: int) -> Change:
    """Two X-ray paths that say the same of kV and exposure, of these sources."""

    def change(data: Dataset) -> None:
        data.MultienergyCTAcquisition = "YES"
        scan = Dataset()
        scan.MultienergyCTXRaySourceSequence = DicomSequence()
        scan.MultienergyCTPathSequence = DicomSequence()
        for index in sorted(set(sources)):
            source = Dataset()
            source.XRaySourceIndex, source.MultienergySourceTechnique = index, technique
            scan.MultienergyCTXRaySourceSequence.append(source)
        for index, source_index in enumerate(sources, start=1):
            path = Dataset()
            path.MultienergyCTPathIndex, path.ReferencedXRaySourceIndex = index, source_index
            scan.MultienergyCTPathSequence.append(path)
        shared = data.SharedFunctionalGroupsSequence[0]
        shared.MultienergyCTAcquisitionSequence = DicomSequence([scan])
        for group in (shared, *data.PerFrameFunctionalGroupsSequence):
            for keyword in {"CTXRayDetailsSequence", "CTExposureSequence"} & set(group.dir()):
                setattr(group, keyword, DicomSequence([group[keyword].value[0]] * 2))

    return change


@pytest.mark.parametrize(
    ("technique", "sources", "whole"),
    [
        ("CONSTANT_SOURCE", (1, 1), True),
        ("CONSTANT_SOURCE", (1, 2), False),
        ("SWITCHING_SOURCE", (1, 2), False),
        ("SWITCHING_SOURCE", (1, 1), False),
    ],
)
def test_what_a_detector_tells_apart_is_one_beam(
    tmp_path: Path, classic: list[Path], technique: str, sources: tuple[int, ...], whole: bool
) -> None:
    """Photon counting and two layers: each path repeats the exposure; of two tubes each has its share."""
    path = make_enhanced(tmp_path / "m.dcm", classic, change=multienergy(technique, *sources))
    dose = read_dose(read_series([path]).headers)
    assert dose.kvp == 120.0
    assert dose.ctdivol_mgy == (pytest.approx(CTDIVOL_MGY) if whole else (None,) * 6)
    assert dose.mas == (pytest.approx(MAS) if whole else (None,) * 6)


def test_many_items_of_one_group_take_time_in_proportion(tmp_path: Path, classic: list[Path]) -> None:
    """Not every element for every item."""

    def change(data: Dataset) -> None:
        wide = Dataset()
        for tag in [tag for tag, (vr, *_) in DicomDictionary.items() if vr == "LO" and tag > 0x00180000][
            :200
        ]:
            wide.add_new(tag, "LO", "A")
        items = [wide, *(Dataset() for _ in range(2000))]
        data.SharedFunctionalGroupsSequence[0].CTExposureSequence = DicomSequence(items)

    path = make_enhanced(tmp_path / "m.dcm", classic, modulated=False, change=change)
    assert len(within(1.5, lambda: read_multi_frame(path).headers)) == len(classic)
