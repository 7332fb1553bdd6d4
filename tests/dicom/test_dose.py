"""The dose of a series: CTDIvol on its phantom, from tags or from mAs, and nothing made up."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import dcmread
from pydicom.dataset import Dataset

from dicomnode.dicom.dose import DoseReading, read_dose, ssde_mgy
from dicomnode.dicom.exposure import read_exposure
from dicomnode.dicom.series import read_headers
from tests.dicom.dose_headers import PHILIPS, header, scan, siemens

# --- CTDIvol ---------------------------------------------------------------------------


def test_the_tag_wins_with_its_phantom() -> None:
    reading = read_dose([siemens(6.4), siemens(6.6)])
    assert reading == DoseReading(120, (100, 100), (6.4, 6.6), 32, "ctdivol-tag", ())
    assert reading.mean_ctdivol_mgy == pytest.approx(6.5)


@pytest.mark.parametrize(("ctdivol", "phantom"), [(7.1, 32), (12.8, 16), (15.1, 16), (10.0, None)])
def test_phantom_inferred_from_dose_per_mas(ctdivol: float, phantom: int | None) -> None:
    data = scan(PHILIPS, 200, 500, 100, rotation=0.5, pitch=1.0)
    data.CTDIvol = ctdivol
    reading = read_dose([data])
    assert reading.phantom_cm == phantom
    assert reading.flags == ("PHANTOM_INFERRED" if phantom else "PHANTOM_UNKNOWN",)


def test_a_localizers_ctdivol_does_not_fit_its_mas() -> None:
    assert "CTDIVOL_MAS_MISMATCH" in read_dose([siemens(0.29)]).flags


@pytest.mark.parametrize("odd", [0.0, 0.01, 4000.0])
def test_an_insane_ctdivol_is_dropped_and_computed(odd: float) -> None:
    reading = read_dose([siemens(odd)])
    assert reading.source == "computed-from-mas"
    assert reading.ctdivol_mgy[0] == pytest.approx(6.4)
    assert {"CTDIVOL_OUT_OF_RANGE", "CTDIVOL_COMPUTED"} <= set(reading.flags)


def test_computed_dose_of_a_head_is_on_the_head_phantom() -> None:
    body, head = siemens(None), siemens(None, BodyPartExamined="HEAD")
    assert read_dose([body]).phantom_cm == 32
    assert read_dose([head]).phantom_cm == 16
    assert read_dose([head]).mean_ctdivol_mgy == pytest.approx(16.3)


@pytest.mark.parametrize(
    "headers", [[], [Dataset()], [Dataset(), Dataset()], [header(Exposure=100)], [header(XRayTubeCurrent="")]]
)
def test_nothing_readable_is_never_a_normal_dose(headers: Sequence[Dataset]) -> None:
    reading = read_dose(headers)
    assert reading.source == "none"
    assert reading.phantom_cm is None
    assert reading.mean_ctdivol_mgy is None
    assert reading.ctdivol_mgy == reading.mas == (None,) * len(headers)


def test_few_missing_slices_are_filled_many_are_not() -> None:
    values = [5.0, 5.2, None, 5.6, 5.8, 6.0]
    reading = read_dose([siemens(value) for value in values])
    assert reading.ctdivol_mgy[2] == pytest.approx(5.4)
    assert reading.flags == ("CTDIVOL_INTERPOLATED",)
    half = read_dose([siemens(5.0 if index % 2 else None) for index in range(6)])
    assert half.source == "computed-from-mas"
    assert "CTDIVOL_INCOMPLETE" in half.flags


def test_one_outlier_is_replaced_a_step_is_kept() -> None:
    smooth = [5.0 + 0.1 * index for index in range(9)]
    typo = [*smooth]
    typo[4] = 54.0
    reading = read_dose([siemens(value) for value in typo])
    assert reading.ctdivol_mgy == pytest.approx(smooth)
    assert reading.flags == ("CTDIVOL_OUTLIER_REPLACED",)
    step = [5.0, 5.1, 5.0, 5.1, 9.0, 9.1, 9.0, 9.1]
    assert read_dose([siemens(value) for value in step]).ctdivol_mgy == pytest.approx(step)


def test_a_mean_ctdivol_is_spread_by_the_tube_current() -> None:
    currents = [100, 150, 200, 250, 300]
    headers = [siemens(8.0, XRayTubeCurrent=one, Exposure=one // 2) for one in currents]
    reading = read_dose(headers)
    assert reading.mean_ctdivol_mgy == pytest.approx(8.0)
    assert reading.ctdivol_mgy == pytest.approx([4, 6, 8, 10, 12])
    assert reading.flags == ("CTDIVOL_SPREAD_BY_CURRENT",)


def test_two_scans_in_one_series_are_flagged() -> None:
    headers = [siemens(5.0, AcquisitionNumber=1)] * 4 + [siemens(15.0, AcquisitionNumber=2)] * 4
    assert "ACQUISITIONS_DIFFER" in read_dose(headers).flags


@pytest.mark.parametrize(("kvp", "read"), [("120", 120), ("50", None), ("", None), ("0", None)])
def test_tube_voltage(kvp: str, read: float | None) -> None:
    assert read_dose([siemens(6.4, KVP=kvp)]).kvp == read


def test_two_tube_voltages_or_doses_in_one_image_are_none() -> None:
    """The first of them would be a dose misread by a factor of up to five."""
    reading = read_dose([siemens(6.4, KVP=["80", "140"])])
    assert (reading.kvp, reading.flags) == (None, ("KVP_UNREADABLE",))
    several = siemens(6.4)
    several["CTDIvol"].value = [6.4, 19.2]
    reading = read_dose([several])
    assert "CTDIVOL_UNREADABLE" in reading.flags
    assert reading.source == "computed-from-mas"


# --- real headers ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "ctdivol", "phantom", "source"),
    [
        ("pairs/mayo/L192_B30f_3mm_z-184.6_full.dcm", 11.126, 32, "ctdivol-tag"),
        ("ct/adit-fruit/*1001*H42s*00009.dcm", 38.256, 16, "ctdivol-tag"),
        ("ct/dcm-qa-ct/In__Philips__S21570__S2010__I10.dcm", 18.367, 16, "ctdivol-tag"),
        ("ct/covid19-ny-sbu/*A046441__axial__19010101-23.dcm", 2.8, 32, "ctdivol-tag"),
        ("ct/tcga-de-a4ma/1-080.dcm", 0.832, 32, "computed-from-mas"),
        ("ct/cmb-crc-01068-lung-kernel/1-040.dcm", 5.18, 32, "computed-from-mas"),
        ("ct/rider-011/1-001.dcm", None, None, "none"),
    ],
)
def test_real_headers(
    shared_data: Path, pattern: str, ctdivol: float | None, phantom: int | None, source: str
) -> None:
    path = next(shared_data.glob(pattern))
    reading = read_dose([dcmread(path, stop_before_pixels=True)])
    assert reading.mean_ctdivol_mgy == (None if ctdivol is None else pytest.approx(ctdivol, rel=1e-3))
    assert (reading.phantom_cm, reading.source) == (phantom, source)


# Every scanner there is a real header of: its mAs worked out by hand from mA, times, pitch and collimation.
SCANNERS = [
    ("SOMATOM Definition AS", "ct/adit-fruit/*10002*H70h__00000155", 128 * 1.0 / 0.55, None),
    ("SOMATOM Definition AS+", "pairs/mayo/L192_B30f_3mm_z-184.6_full.dcm", 452 * 0.5 / 0.8, None),
    ("Biograph 64", "zoo/tcia_singles/lungdx_A0170_siemens_B70f.dcm", 166 * 0.5 / 1.0, None),
    ("Biograph 40", "ct/tcga-de-a4ma/1-076.dcm", 27 * 0.5, None),
    ("Sensation 10", "ct/lung-dx-a0002/1-01.dcm", 73, "PITCH_IMPLIED"),
    ("Ingenuity CT", "ct/dcm-qa-ct/In__Philips__S21570__S2010__I10.dcm", 112 * 1.277, None),
    ("iCT 256", "zoo/orthanc-tests/elscint1-private-syntax.dcm", 306 * 0.588, None),
    ("BrightSpeed", "zoo/orthanc-tests/SignedCT.dcm", 164 * 0.6 / 1.75, "GE_SLICE_SCALED_EXPOSURE"),
    ("Optima CT520 Series", "zoo/fo-dicom/GH1308.dcm", 79 * 0.8, "GE_SLICE_SCALED_EXPOSURE"),
    (
        "LightSpeed VCT",
        "ct/cmb-crc-01068-lung-kernel/1-040.dcm",
        120 * 0.5 / 0.984,
        "GE_SLICE_SCALED_EXPOSURE",
    ),
    ("", "zoo/pydicom/693_J2KI.dcm", 170 * 2.0, "GE_SLICE_SCALED_EXPOSURE"),
    ("LightSpeed Plus", "zoo/pydicom/tiny16x16_17106.dcm", 210 * 2.0, None),
    ("LightSpeed Ultra", "zoo/pydicom/tiny16x16_2062.dcm", 300 * 0.326, None),
    ("RHAPSODE", "zoo/nema_wg04/CT1_J2KI.dcm", 170 * 1.0 / 1.0, None),
    ("HiSpeed CT/i", "zoo/cornerstone/CTImage.dcm", 200 * 0.8 / 1.3, "EXPOSURE_IGNORED"),
    ("HiSpeed Dual", "ct/dcm-qa-ct/In__GE__01.dcm", 180 * 2.0, "EXPOSURE_COMPUTED"),
    ("Discovery LS", "ct/acrin-flt-001/1-040.dcm", 150 * 0.8 / 1.375, "EXPOSURE_IGNORED"),
    (
        "Aquilion ONE",
        "ct/covid19-ny-sbu/*A046441__axial__19010101-23.dcm",
        123 * 0.35 / 1.388,
        "EXPOSURE_NOT_PER_PITCH",
    ),
    ("Sensation 64", "zoo/tcia_singles/stageII-colorectal_005_siemens.dcm", 42, "PITCH_IMPLIED"),
    ("LightSpeed RT16", "zoo/monai-deploy/rando_breast_0.dcm", None, "EXPOSURE_INCONSISTENT"),
    ("LightSpeed16", "ct/rider-011/1-001.dcm", None, "EXPOSURE_INCONSISTENT"),
]


@pytest.mark.parametrize(("model", "pattern", "mas", "flag"), SCANNERS)
def test_the_mas_of_every_scanner_at_hand(
    shared_data: Path, model: str, pattern: str, mas: float | None, flag: str | None
) -> None:
    """Where rotation or pitch is nowhere to be found the reading is flagged and not made up."""
    data = dcmread(next(shared_data.glob(pattern)), stop_before_pixels=True)
    assert (data.get("ManufacturerModelName") or "") == model
    exposure = read_exposure(data)
    assert exposure.mas == (None if mas is None else pytest.approx(mas, rel=0.01, abs=1.0))
    assert exposure.flags == ({flag} if flag else set())


@pytest.mark.parametrize(
    ("model", "pattern", "kvp", "phantom", "mgy_per_mas"),
    [
        ("SOMATOM Definition AS", "ct/adit-fruit/*10002*H70h__00000155", 120, 16, 0.163),
        ("SOMATOM Definition AS+", "pairs/mayo/L192_B30f_3mm_z-58.6_full.dcm", 100, 32, 0.0398),
        ("Ingenuity CT", "ct/dcm-qa-ct/In__Philips__S21570__S2010__I10.dcm", 120, 16, 0.128),
        ("iCT 256", "zoo/orthanc-tests/elscint1-private-syntax.dcm", 120, 32, 0.0732),
        ("Aquilion ONE", "ct/covid19-ny-sbu/*A046441__axial__19010101-23.dcm", 120, 32, 0.090),
    ],
)
def test_dose_and_mas_of_real_headers_belong_together(
    shared_data: Path, model: str, pattern: str, kvp: int, phantom: int, mgy_per_mas: float
) -> None:
    """CTDIvol / effective mAs is a constant of scanner, phantom, kV and collimation."""
    reading = read_dose([dcmread(next(shared_data.glob(pattern)), stop_before_pixels=True)])
    assert (reading.kvp, reading.phantom_cm) == (kvp, phantom)
    assert reading.mean_ctdivol_mgy == pytest.approx(mgy_per_mas * (reading.mean_mas or 0.0), rel=0.01)


def test_modulation_survives_as_a_vector(shared_data: Path) -> None:
    paths = sorted((shared_data / "ct" / "tcga-de-a4ma").glob("*.dcm"))[:40]
    reading = read_dose(read_headers(paths))
    known = [value for value in reading.mas if value is not None]
    assert len(known) == 40
    assert max(known) > 1.3 * min(known)


# --- size-specific dose ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("diameter_mm", "body", "head"),
    [(150, 2.14, 1.05), (200, 1.78, 0.86), (300, 1.23, 0.59), (400, 0.85, 0.40)],
)
def test_ssde_factors_of_report_204(diameter_mm: float, body: float, head: float) -> None:
    assert ssde_mgy(1.0, 32, diameter_mm) == pytest.approx(body, abs=0.006)
    assert ssde_mgy(1.0, 16, diameter_mm) == pytest.approx(head, abs=0.006)


@pytest.mark.parametrize(
    "arguments", [(None, 32, 300.0), (5.0, None, 300.0), (5.0, 32, None), (5.0, 32, 60.0), (5.0, 32, 500.0)]
)
def test_ssde_is_not_guessed(arguments: tuple[float | None, int | None, float | None]) -> None:
    assert ssde_mgy(*arguments) is None


TEXT = st.one_of(st.none(), st.sampled_from(["", "0", "120", "1e400", "nan", "12,5", "120k", "-3", "7.5"]))


@given(st.dictionaries(st.sampled_from(["KVP", "SliceThickness"]), TEXT), st.lists(TEXT, max_size=3), TEXT)
def test_any_text_in_numbers_is_read_or_ignored(
    decimals: dict[str, str | None], exposures: list[str | None], current: str | None
) -> None:
    headers = []
    for exposure in exposures:
        data = Dataset()
        for keyword, value in decimals.items():
            data.add_new(keyword, "LO", value)
        data.add_new("Exposure", "LO", exposure)
        data.add_new("XRayTubeCurrent", "LO", current)
        data.add_new("ExposureTime", "LO", "500")
        headers.append(data)
    reading = read_dose(headers)
    assert len(reading.mas) == len(exposures)
    assert all(value is None or 0.5 <= value <= 5000 for value in reading.mas)
