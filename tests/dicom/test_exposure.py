"""Exposure: which mAs a header stands for, maker by maker."""

from pathlib import Path

import pytest
from pydicom.dataset import Dataset

from dicomnode.dicom.dose import read_dose
from dicomnode.dicom.exposure import read_exposure
from dicomnode.dicom.series import read_headers
from tests.dicom.dose_headers import GE, PHILIPS, SIEMENS, header, scan
from tests.makers import make_series

# The table of what (0018,1152) means, row by row: header, mAs it stands for, flag.
MEANINGS = [
    pytest.param(
        scan(SIEMENS, 136, 1000, 247, pitch=0.55, thickness=5, collimation=19.2),
        247,
        None,
        id="Siemens Definition AS",
    ),
    pytest.param(
        scan(SIEMENS, 172, 500, 71, pitch=1.2, thickness=5, collimation=38.4),
        71,
        None,
        id="Siemens Definition AS+",
    ),
    pytest.param(scan(SIEMENS, 173, 1500, 130), 130, "PITCH_IMPLIED", id="Siemens Emotion"),
    pytest.param(scan(SIEMENS, 81, 1000, 90), 90, "PITCH_IMPLIED", id="Siemens Sensation"),
    pytest.param(
        scan(PHILIPS, 112, 1277, 143, rotation=0.5, pitch=0.391, thickness=1, collimation=40),
        143,
        None,
        id="Philips Ingenuity helix",
    ),
    pytest.param(
        scan(PHILIPS, 343, 875, 300, rotation=0.75, thickness=2.5, collimation=10, options="AXIAL"),
        300,
        None,
        id="Philips Ingenuity axial",
    ),
    pytest.param(
        scan(PHILIPS, 306, 588, 180, rotation=0.75, pitch=1.273, thickness=1, collimation=40),
        180,
        None,
        id="Philips iCT",
    ),
    pytest.param(
        scan(GE, 250, 1320, 53, rotation=0.8, pitch=0.9375, thickness=2.5, collimation=10),
        213.3,
        "GE_SLICE_SCALED_EXPOSURE",
        id="GE BrightSpeed 2.5 mm",
    ),
    pytest.param(
        scan(GE, 164, 501, 3, rotation=0.6, pitch=1.75, thickness=1.25, collimation=20),
        56.2,
        "GE_SLICE_SCALED_EXPOSURE",
        id="GE BrightSpeed 1.25 mm",
    ),
    pytest.param(
        scan("", 170, 2000, 85, rotation=2.0, thickness=5, collimation=20, options="AXIAL MODE"),
        340,
        "GE_SLICE_SCALED_EXPOSURE",
        id="maker blanked, GE-type software",
    ),
    pytest.param(scan(GE, 210, 2000, 420, options="AXIAL MODE"), 420, None, id="GE LightSpeed Plus axial"),
    pytest.param(scan(GE, 300, 326, 98, options="CINE MODE"), 98, None, id="GE LightSpeed Ultra cine"),
    pytest.param(scan("TOSHIBA", 250, 1500, 380, thickness=10), 380, None, id="Toshiba Xpress"),
    pytest.param(scan("ELSCINT", 150, 51100, 150, thickness=1), None, "EXPOSURE_INCONSISTENT", id="Elscint"),
    pytest.param(
        scan(GE, 170, 1601, 900, options="HELICAL MODE"),
        None,
        "EXPOSURE_INCONSISTENT",
        id="GE RHAPSODE without rotation and pitch",
    ),
]


@pytest.mark.parametrize(("data", "mas", "flag"), MEANINGS)
def test_what_exposure_means(data: Dataset, mas: float | None, flag: str | None) -> None:
    exposure = read_exposure(data)
    assert exposure.mas == (None if mas is None else pytest.approx(mas, rel=0.002))
    assert exposure.flags == ({flag} if flag else set())


def test_thin_slices_of_ge_are_not_low_dose(tmp_path: Path) -> None:
    doses = []
    for thickness in (5.0, 1.25):
        paths = make_series(
            tmp_path / str(thickness), vendor="ge", slice_thickness_mm=thickness, effective_mas=80
        )
        doses.append(read_dose(read_headers(paths)).mean_ctdivol_mgy)
    assert doses[0] == pytest.approx(doses[1])


@pytest.mark.parametrize(
    ("values", "mas", "flags"),
    [
        ({"Exposure": 100, "ExposureInuAs": 100_000}, 100, set()),
        ({"Exposure": 100, "ExposureInuAs": 100}, 100, set()),
        ({"Exposure": 100, "ExposureInuAs": 7_000}, 100, {"EXPOSURE_UAS_CONFLICT"}),
        ({"ExposureInuAs": 100_000}, 100, set()),
        ({}, 100, {"EXPOSURE_COMPUTED"}),
        ({"Exposure": "text"}, 100, {"EXPOSURE_COMPUTED"}),
        ({"Exposure": 100, "RevolutionTime": 500.0}, 100, set()),
        ({"XRayTubeCurrent": 2, "Exposure": 100}, None, {"EXPOSURE_INCONSISTENT"}),
    ],
)
def test_units_and_odd_values(values: dict[str, object], mas: float | None, flags: set[str]) -> None:
    data = header(Manufacturer="X", XRayTubeCurrent=200, ExposureTime=500)
    for keyword, value in values.items():
        data.add_new(keyword, "LO", value) if value == "text" else setattr(data, keyword, value)
    exposure = read_exposure(data)
    assert exposure.mas == (None if mas is None else pytest.approx(mas))
    assert exposure.flags == flags


@pytest.mark.parametrize("maker", ["GE MEDICAL SYSTEMS", "ELSCINT", "SIEMENS", ""])
@pytest.mark.parametrize("option", ["HELICAL MODE", "AXIAL MODE", None])
@pytest.mark.parametrize("exposure", [1800, None])
def test_the_time_of_a_whole_scan_makes_no_mas(maker: str, option: str | None, exposure: int | None) -> None:
    """300 mA for 6 s are 1800 mAs of all slices together: no rotation takes that long."""
    one = header(
        Manufacturer=maker,
        ScanOptions=option,
        XRayTubeCurrent=300,
        ExposureTime=6000,
        Exposure=exposure,
        KVP=120,
    )
    assert read_exposure(one).mas is None
    assert read_dose([one]).source == "none"


def test_a_long_rotation_over_a_small_pitch_is_still_one_slices() -> None:
    gated = header(
        Manufacturer="Philips",
        ScanOptions="HELIX",
        XRayTubeCurrent=100,
        ExposureTime=8000,
        SpiralPitchFactor=0.06,
        Exposure=800,
    )
    assert read_exposure(gated).mas == 800


def test_rotation_and_pitch_from_private_blocks() -> None:
    data = scan(GE, 150, 1186, 10268, thickness=5, options="HELICAL MODE")
    data.private_block(0x0019, "GEMS_ACQU_01", create=True).add_new(0x27, "DS", "0.8")
    data.private_block(0x0043, "GEMS_PARM_01", create=True).add_new(0x27, "SH", "1.375:1")
    exposure = read_exposure(data)
    assert exposure.mas == pytest.approx(150 * 0.8 / 1.375)
    assert exposure.flags == {"EXPOSURE_IGNORED"}


def test_the_second_tube_adds() -> None:
    data = scan(SIEMENS, 172, 500, 71, pitch=1.2)
    tube = Dataset()
    tube.ExposureInmAs = 29.0
    data.CTAdditionalXRaySourceSequence = [tube]
    assert read_exposure(data).mas == 100
    assert read_exposure(data).flags == {"SECOND_TUBE"}
