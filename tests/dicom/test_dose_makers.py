"""What each maker writes in its own way: reconstruction, pitch, private elements, phantoms, filters."""

import io
import struct
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.filewriter import dcmwrite
from pydicom.uid import (
    UID,
    CTImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from dicomnode.dicom.dose import read_dose
from dicomnode.dicom.dose_vector import repaired, smoothed
from dicomnode.dicom.exposure import (
    Exposure,
    read_exposure,
    rotation_seconds,
    spiral_pitch,
    total_collimation_mm,
)
from dicomnode.dicom.private_elements import PrivateElement, private_number, private_text
from dicomnode.dicom.reconstruction import is_iterative
from tests.dicom.dose_headers import GE, PHILIPS, SIEMENS, header, scan, siemens, with_phantom

CANON = "CANON_MEC"
Private = tuple[int, str, int, str, object]


def with_private(data: Dataset, *elements: Private) -> Dataset:
    for group, creator, offset, vr, value in elements:
        data.private_block(group, creator, create=True).add_new(offset, vr, value)
    return data


def travelled(data: Dataset, syntax: str) -> Dataset:
    """The data set after it was written in a transfer syntax and read again."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CTImageStorage, UID("1.2.3")
    meta.TransferSyntaxUID = UID(syntax)
    stream = io.BytesIO()
    file = FileDataset(stream, data, preamble=b"\0" * 128, file_meta=meta)
    big = syntax == ExplicitVRBigEndian
    dcmwrite(stream, file, implicit_vr=syntax == ImplicitVRLittleEndian, little_endian=not big)
    stream.seek(0)
    return dcmread(stream)


# --- reconstruction --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "element", "iterative"),
    [
        ({"Manufacturer": SIEMENS, "ConvolutionKernel": ["I70f", "3"]}, None, True),
        ({"Manufacturer": SIEMENS, "ConvolutionKernel": "J30s"}, None, True),
        ({"Manufacturer": SIEMENS, "ConvolutionKernel": ["Br40d", "3"]}, None, True),
        ({"Manufacturer": SIEMENS, "ConvolutionKernel": ["Qr40f", "2"]}, None, True),
        ({"Manufacturer": SIEMENS, "ConvolutionKernel": "Br40d"}, None, False),
        ({"Manufacturer": SIEMENS, "ConvolutionKernel": "B30f"}, None, False),
        ({"Manufacturer": GE, "ConvolutionKernel": "STANDARD"}, None, False),
        ({"Manufacturer": GE}, (0x0053, "GEHC_CT_ADVAPP_001", 0x43, "SH", "40"), True),
        ({"Manufacturer": GE}, (0x0053, "GEHC_CT_ADVAPP_001", 0x43, "SH", "HIGH"), True),
        ({"Manufacturer": GE}, (0x0053, "GEHC_CT_ADVAPP_001", 0x42, "LO", "DLIR-H"), True),
        ({"Manufacturer": GE}, (0x0053, "GEHC_CT_ADVAPP_001", 0x40, "SH", "AR50"), True),
        ({"Manufacturer": GE}, (0x0053, "GEHC_CT_ADVAPP_001", 0x42, "LO", "SS00:Slice"), False),
        ({"Manufacturer": GE}, (0x0053, "GEHC_CT_ADVAPP_001", 0x43, "SH", "0"), False),
        ({"Manufacturer": GE}, (0x0045, "GEMS_HELIOS_01", 0x3B, "LO", ""), False),
        ({"Manufacturer": GE}, (0x0045, "GEMS_HELIOS_01", 0x3B, "LO", "NEURO 2"), True),
        ({"Manufacturer": CANON}, (0x7005, "TOSHIBA_MEC_CT3", 0x0B, "SH", "AIDR 3D STD"), True),
        ({"Manufacturer": CANON}, (0x7005, "TOSHIBA_MEC_CT3", 0x0B, "SH", "AiCE Body"), True),
        ({"Manufacturer": CANON}, (0x7005, "TOSHIBA_MEC_CT3", 0x0B, "SH", "ORG"), False),
        ({"Manufacturer": PHILIPS}, (0x01F7, "ELSCINT1", 0x9B, "IS", "2"), True),
        ({"Manufacturer": PHILIPS}, (0x01F7, "ELSCINT1", 0x9B, "UN", b"3 "), True),
        ({"Manufacturer": PHILIPS}, (0x01F7, "ELSCINT1", 0x9B, "IS", None), False),
        ({"Manufacturer": PHILIPS, "ConvolutionKernel": "IMR1,Routine"}, None, True),
        ({"Manufacturer": PHILIPS, "ConvolutionKernel": "B"}, None, False),
        ({"Manufacturer": CANON, "ReconstructionAlgorithm": "ITERATIVE"}, None, True),
        ({"Manufacturer": CANON, "ReconstructionAlgorithm": "FILTER_BACK_PROJ"}, None, False),
    ],
)
def test_reconstruction_is_told_by_every_maker_in_its_own_way(
    values: dict[str, object], element: Private | None, iterative: bool
) -> None:
    data = with_private(header(**values), *((element,) if element else ()))
    assert is_iterative(data) is iterative
    assert ("ITERATIVE_RECONSTRUCTION" in read_dose([data]).flags) is iterative


@pytest.mark.parametrize(
    ("pattern", "iterative"),
    [
        ("ct/covid19-ny-sbu/*A046441__axial__19010101-23.dcm", True),
        ("ct/covid19-ny-sbu/*A046441__axial__19001111-045.dcm", True),
        ("zoo/orthanc-tests/elscint1-private-syntax.dcm", True),
        ("zoo/orthanc-tests/SignedCT.dcm", False),
        ("ct/dcm-qa-ct/In__Philips__S21570__S2010__I10.dcm", False),
        ("pairs/mayo/L192_B30f_3mm_z-58.6_full.dcm", False),
        ("ct/rider-011/1-001.dcm", False),
    ],
)
def test_reconstruction_of_real_scanners(shared_data: Path, pattern: str, iterative: bool) -> None:
    data = dcmread(next(shared_data.glob(pattern)), stop_before_pixels=True)
    assert is_iterative(data) is iterative


# --- pitch and mAs -----------------------------------------------------------------------


@pytest.mark.parametrize("pitch", [0.637, 0.9, 1.388])
def test_plain_mas_of_a_spiral_is_divided_by_the_pitch(pitch: float) -> None:
    """Canon writes mA x rotation whatever the pitch; the dose goes with mA x rotation / pitch."""
    data = scan(CANON, 400, 350, 140, rotation=0.35, pitch=pitch, options="HELICAL_CT")
    exposure = read_exposure(data)
    assert exposure.mas == pytest.approx(140 / pitch)
    assert exposure.flags == {"EXPOSURE_NOT_PER_PITCH"}
    del data.RevolutionTime
    assert read_exposure(data) == exposure, "ExposureTime is the rotation"


@pytest.mark.parametrize("stated", [None, 2400])
@pytest.mark.parametrize("maker", ["", GE, SIEMENS, "Varian Medical Systems"])
def test_the_time_of_the_whole_scan_is_no_rotation(maker: str, stated: int | None) -> None:
    """200 mA for 12 s are 2400 mAs for all slices together: taken for one, a low dose would look normal."""
    reading = read_dose([scan(maker, 200, 12_000, stated)])
    assert (reading.mean_mas, reading.mean_ctdivol_mgy, reading.source) == (None, None, "none")


def test_a_rotation_over_a_low_pitch_may_take_long() -> None:
    gated = scan(PHILIPS, 100, 8_000, 800, options="HELIX")
    assert read_exposure(gated).mas == 800


def test_effective_mas_is_left_alone() -> None:
    assert read_exposure(scan(SIEMENS, 172, 500, 71, rotation=0.5, pitch=1.2)).flags == set()
    philips = scan(PHILIPS, 306, 588, 180, pitch=1.273, options="HELIX")
    assert read_exposure(philips).mas == 180


@pytest.mark.parametrize(
    "values",
    [
        {"ScanOptions": "AXIAL MODE"},
        {"ScanOptions": "CINE MODE"},
        {"AcquisitionType": "SEQUENCED"},
        {"ImageType": ["ORIGINAL", "PRIMARY", "AXIAL", "CT_SOM5 SEQ"]},
    ],
)
def test_a_scan_at_rest_has_no_pitch(values: dict[str, object]) -> None:
    data = scan("X", 200, 500, None, rotation=0.5, pitch=0.5)
    data.TableFeedPerRotation, data.TotalCollimationWidth = 10.0, 40.0
    assert read_exposure(data).mas == pytest.approx(200)
    for keyword, value in values.items():
        setattr(data, keyword, value)
    assert spiral_pitch(data) is None
    assert read_exposure(data).mas == pytest.approx(100)


def test_a_slice_scaled_exposure_of_an_axial_scan_with_a_pitch_tag() -> None:
    data = scan(GE, 200, 1000, 50, rotation=1.0, pitch=0.5, thickness=5, collimation=20, options="AXIAL MODE")
    exposure = read_exposure(data)
    assert exposure == Exposure(200, frozenset({"GE_SLICE_SCALED_EXPOSURE"}))


def test_a_siemens_spiral_without_pitch_is_not_computed_as_if_it_were_one() -> None:
    data = header(Manufacturer=SIEMENS, XRayTubeCurrent=200, ExposureTime=500, RevolutionTime=0.5)
    assert read_exposure(data).mas == pytest.approx(100)
    data.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL", "CT_SOM5 SPI"]
    assert read_exposure(data).mas is None


@pytest.mark.parametrize("micro", [100_000, 100, 100_000_000])
def test_microampere_seconds_alone_are_read_in_the_unit_that_fits(micro: int) -> None:
    exposure = read_exposure(header(XRayTubeCurrent=200, ExposureTime=500, ExposureInuAs=micro))
    assert exposure.mas == pytest.approx(100)
    assert not exposure.flags


def test_a_hitachi_that_comes_with_pydicom() -> None:
    path = get_testdata_file("J2K_pixelrep_mismatch.dcm", download=False)
    assert path is not None
    data = dcmread(path, stop_before_pixels=True)
    assert data.ManufacturerModelName == "Supria"
    assert read_exposure(data).mas == pytest.approx(230 * 2.0)


# --- private elements --------------------------------------------------------------------


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian])
def test_private_numbers_survive_the_loss_of_their_vr(syntax: str) -> None:
    order = ">" if syntax == ExplicitVRBigEndian else "<"
    data = travelled(
        with_private(
            header(),
            (0x7005, "TOSHIBA_MEC_CT3", 0x63, "UN", struct.pack(order + "d", 7.5)),
            (0x0045, "GEMS_HELIOS_01", 0x02, "UN", struct.pack(order + "f", 0.625)),
            (0x0045, "GEMS_HELIOS_01", 0x01, "UN", struct.pack(order + "h", 64)),
            (0x0053, "GEHC_CT_ADVAPP_001", 0x40, "UN", b"12.5"),
            (0x0045, "GEMS_HELIOS_01", 0x3B, "UN", b"HIGH"),
        ),
        syntax,
    )
    assert private_number(data, PrivateElement.CANON_CTDIVOL) == 7.5
    numbers = PrivateElement.GE_ROW_WIDTH, PrivateElement.GE_ROWS, PrivateElement.GE_ANNOTATION
    assert [private_number(data, one) for one in numbers] == [0.625, 64, 12.5]
    assert private_number(data, PrivateElement.GE_IMAGE_FILTER) is None
    assert private_text(data, PrivateElement.GE_IMAGE_FILTER) == "HIGH"
    assert read_dose([data]).ctdivol_mgy == (7.5,)


def test_a_private_element_of_another_kind_says_nothing() -> None:
    sequence = (0x0053, "GEHC_CT_ADVAPP_001", 0x43, "SQ", [header(Exposure=5)])
    huge = (0x0045, "GEMS_HELIOS_01", 0x3B, "UN", b"A" * 20_000)
    several = (0x7005, "TOSHIBA_MEC_CT3", 0x63, "FD", [1.0, 2.0])
    data = travelled(with_private(header(), sequence, huge, several), ExplicitVRLittleEndian)
    told = PrivateElement.GE_LEVEL, PrivateElement.GE_IMAGE_FILTER, PrivateElement.CANON_CTDIVOL
    assert [private_text(data, one) for one in told] == ["", "", "1.0\\2.0"]
    assert private_number(data, PrivateElement.CANON_CTDIVOL) is None
    assert not is_iterative(data)


def test_canons_own_ctdivol_without_a_dictionary() -> None:
    data = with_private(header(Manufacturer=CANON), (0x7005, "TOSHIBA_MEC_CT3", 0x63, "FD", 7.5))
    assert read_dose([travelled(data, ImplicitVRLittleEndian)]).ctdivol_mgy == (7.5,)


@pytest.mark.parametrize(
    ("elements", "collimation_mm"),
    [
        ([(0x0045, "GEMS_HELIOS_01", 1, "SS", 64), (0x0045, "GEMS_HELIOS_01", 2, "FL", 0.625)], 40),
        ([(0x0045, "GEMS_HELIOS_01", 1, "SS", 64), (0x0045, "GEMS_HELIOS_01", 2, "FL", 1.4e-45)], None),
        ([(0x01F1, "ELSCINT1", 0x4B, "SH", "64x0.625")], 40),
        (
            [
                (0x7005, "TOSHIBA_MEC_CT3", 0x08, "DS", "0.5"),
                (0x7005, "TOSHIBA_MEC_CT3", 0x09, "LO", "0011" * 10 + "1" * 20),
            ],
            20,
        ),
        ([(0x7005, "TOSHIBA_MEC_CT3", 0x41, "SH", "0.5x80")], 40),
    ],
)
def test_collimation_from_private_blocks(elements: list[Private], collimation_mm: float | None) -> None:
    assert total_collimation_mm(with_private(header(), *elements)) == (
        None if collimation_mm is None else pytest.approx(collimation_mm)
    )


def test_ges_table_speed_stands_in_for_its_pitch() -> None:
    data = scan(GE, 100, 900, None, rotation=0.5, collimation=40, options="HELICAL MODE")
    with_private(data, (0x0019, "GEMS_ACQU_01", 0x23, "DS", "55.0"))
    assert spiral_pitch(data) == pytest.approx(1.375)
    assert read_exposure(data).mas == pytest.approx(100 * 0.5 / 1.375)


def test_a_planned_mas_is_the_last_resort() -> None:
    planned = (0x01F1, "ELSCINT1", 0x49, "DS", "150")
    exposure = read_exposure(with_private(header(Manufacturer=PHILIPS), planned))
    assert exposure == Exposure(150, frozenset({"MAS_PLANNED"}))
    told = read_exposure(with_private(scan(PHILIPS, 200, 500, 100), planned))
    assert told == Exposure(100, frozenset())


def test_real_private_blocks_agree_with_the_standard_attributes(shared_data: Path) -> None:
    for pattern in ("zoo/orthanc-tests/elscint1*.dcm", "ct/covid19-ny-sbu/*A046441__axial__19010101-23.dcm"):
        data = dcmread(next(shared_data.glob(pattern)), stop_before_pixels=True)
        told = rotation_seconds(data), spiral_pitch(data), total_collimation_mm(data)
        del data.SpiralPitchFactor, data.TotalCollimationWidth
        if data.Manufacturer == "Philips":
            del data.RevolutionTime
        assert (rotation_seconds(data), spiral_pitch(data), total_collimation_mm(data)) == pytest.approx(told)


# --- phantoms and filters ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("maker", "body", "between", "head"),
    [
        (SIEMENS, 0.09, 0.1, 0.11),
        (PHILIPS, 0.09, 0.1, 0.11),
        (GE, 0.10, 0.115, 0.18),
        (CANON, 0.115, 0.13, 0.2),
        ("TOSHIBA", 0.115, 0.13, 0.2),
    ],
)
def test_phantoms_lie_where_the_makers_scanners_put_them(
    maker: str, body: float, between: float, head: float
) -> None:
    found = []
    for per_mas in (body, between, head):
        data = scan(maker, 200, 500, 100, rotation=0.5, pitch=1.0)
        data.CTDIvol = 100 * per_mas
        found.append(read_dose([data]).phantom_cm)
    assert found == [32, None, 16]


@pytest.mark.parametrize(
    ("element", "phantom"),
    [
        ((0x01E1, "ELSCINT1", 0x26, "LO", "16 CM"), 16),
        ((0x01E1, "ELSCINT1", 0x26, "LO", "32 CM"), 32),
        ((0x01F1, "ELSCINT1", 0x4E, "SH", "Brain"), 16),
        ((0x01F1, "ELSCINT1", 0x4E, "SH", "Spine"), 32),
        ((0x01F1, "ELSCINT1", 0x4E, "SH", "Any"), None),
    ],
)
def test_philips_says_the_phantom_in_its_own_blocks(element: Private, phantom: int | None) -> None:
    data = with_private(header(Manufacturer=PHILIPS, CTDIvol=30.0), element)
    assert read_dose([data]).phantom_cm == phantom


def test_slices_on_two_phantoms_are_brought_to_one() -> None:
    head = [with_phantom(siemens(14.0), "113690") for _ in range(4)]
    reading = read_dose([*head, *(siemens(6.0) for _ in range(4))])
    assert reading.ctdivol_mgy == pytest.approx([7.0] * 4 + [6.0] * 4)
    assert (reading.phantom_cm, reading.flags) == (32, ("PHANTOMS_DIFFER",))


def test_one_slice_may_state_the_phantom_for_all() -> None:
    silent = siemens(10.0)
    del silent.CTDIPhantomTypeCodeSequence
    assert read_dose([silent, siemens(10.0)]).phantom_cm == 32
    without_scheme = siemens(10.0)
    del without_scheme.CTDIPhantomTypeCodeSequence[0].CodingSchemeDesignator
    assert read_dose([without_scheme]).phantom_cm == 32


def test_behind_a_tin_filter_no_dose_is_computed_from_mas() -> None:
    assert read_dose([siemens(None, FilterMaterial="TIN")]).source == "none"
    stated = read_dose([siemens(0.3, FilterMaterial="TIN", KVP="100")])
    assert (stated.source, stated.flags) == ("ctdivol-tag", ("TIN_FILTER",))


# --- the vector --------------------------------------------------------------------------


def test_a_peak_that_its_flanks_lead_up_to_is_no_outlier() -> None:
    shoulders = [60.0, 62, 66, 75, 98, 150, 190, 140, 100, 80, 70, 66]
    flags: set[str] = set()
    assert repaired(shoulders, "MAS", flags) == pytest.approx(shoulders)
    assert not flags


@pytest.mark.parametrize("at", range(8))
@pytest.mark.parametrize("factor", [0.1, 10.0])
def test_a_typing_error_is_replaced_wherever_it_is(at: int, factor: float) -> None:
    smooth = [60.0 + index for index in range(8)]
    typo = [*smooth]
    typo[at] *= factor
    flags: set[str] = set()
    assert repaired(typo, "MAS", flags) == pytest.approx(smooth, abs=1.01)
    assert flags == {"MAS_OUTLIER_REPLACED"}


@pytest.mark.parametrize(("spacing_mm", "width"), [(5.0, 1), (3.0, 1), (1.25, 3), (1.0, 5), (0.625, 7)])
def test_the_vector_is_smoothed_over_five_millimetres(spacing_mm: float, width: int) -> None:
    impulse = [0.0] * 20 + [1.0] + [0.0] * 20
    found = smoothed(impulse, spacing_mm)
    assert sum(value or 0 for value in found) == pytest.approx(1.0)
    assert sum(bool(value) for value in found) == width
    assert max(value or 0 for value in found) == pytest.approx(1 / width)


def test_smoothing_keeps_a_constant_and_gaps() -> None:
    assert smoothed([7.0] * 3, 0.5) == pytest.approx([7.0] * 3)
    assert smoothed([None, 7.0], 0.5) == (None, 7.0)
    assert smoothed([], 0.5) == ()
