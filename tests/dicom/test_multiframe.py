"""Multi-frame CT objects: the same series as the classic images they hold, or a named refusal."""

import json
import resource
import subprocess
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import highdicom
import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import (
    CTImageStorage,
    EnhancedCTImageStorage,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from dicomnode import errors
from dicomnode.dicom import multiframe
from dicomnode.dicom.derived import Identity, Provenance, write_derived
from dicomnode.dicom.dose import read_dose
from dicomnode.dicom.report import write_report
from dicomnode.dicom.series import CtSeries, read_headers, read_series
from dicomnode.dicom.verbatim import decode_header
from tests.makers import make_series, phantom
from tests.multiframe_makers import Change, lie, make_enhanced, make_legacy

Errors = Callable[[Path], Counter[str]]

MAS = [100.0, 120.0, 150.0, 130.0, 90.0, 80.0]
CTDIVOL_MGY = [6.5, 7.8, 9.75, 8.45, 5.85, 5.2]


@pytest.fixture
def classic(tmp_path: Path) -> list[Path]:
    """Six slices whose dose follows the patient."""
    return make_series(tmp_path / "classic", effective_mas=MAS, ctdivol_mgy=CTDIVOL_MGY)


def private_pitch(data: Dataset, index: int) -> None:
    """What GE writes in place of the standard elements."""
    del data.SpiralPitchFactor
    data.ScanOptions = "HELICAL MODE"
    data.private_block(0x0043, "GEMS_PARM_01", create=True).add_new(0x27, "SH", "0.8:1")


def facts(series: CtSeries) -> tuple[object, ...]:
    return (
        series.slices,
        series.pixel_spacing_mm,
        series.slice_spacing_mm,
        series.slice_thickness_mm,
        series.convolution_kernel,
        series.manufacturer,
        series.model,
        series.study_instance_uid,
        [list(header.ImagePositionPatient) for header in series.headers],
    )


def same_images(one: CtSeries, other: CtSeries) -> bool:
    if one.padding is None or other.padding is None:
        padded = one.padding is other.padding
    else:
        padded = np.array_equal(one.padding, other.padding)
    return padded and np.array_equal(one.hounsfield, other.hounsfield) and facts(one) == facts(other)


# --- what is read ----------------------------------------------------------------------


@pytest.mark.parametrize("make", [make_enhanced, make_legacy])
def test_the_frames_are_the_classic_series(tmp_path: Path, classic: list[Path], make) -> None:
    path = make(tmp_path / "m.dcm", classic[::-1])
    series, plain = read_series([path]), read_series(classic)
    assert same_images(series, plain)
    assert np.array_equal(series.stored, plain.stored)
    assert read_dose(series.headers) == read_dose(plain.headers)
    assert {series.frames[0], series.frames[-1]} == {1, 6}
    assert plain.frames == (None,) * 6
    assert series.source_paths == (path,) * 6
    assert len(read_headers([path])) == 6


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
            setattr(group, keyword, DicomSequence([first, second]))

    series = read_series([make_enhanced(tmp_path / "m.dcm", classic, modulated=False, change=two_paths)])
    dose = read_dose(series.headers)
    assert (dose.kvp, dose.source, dose.mean_mas) == (None, "none", None)
    assert series.headers[0].FilterType == "WEDGE"


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


def test_frames_padded_with_ff_are_whole(tmp_path: Path, classic: list[Path]) -> None:
    """As NEMA's own samples are: JPEG's fill byte makes the length even."""

    def pad(data: Dataset) -> None:
        frames = generate_frames(data.PixelData, number_of_frames=data.NumberOfFrames)
        padded = [frame.rstrip(b"\0") for frame in frames]
        padded = [frame + b"\xff" * (2 - len(frame) % 2) for frame in padded]
        data.PixelData = encapsulate(padded, fragments_per_frame=2, has_bot=False)

    plain = read_series([make_enhanced(tmp_path / "a.dcm", classic)])
    odd = make_enhanced(tmp_path / "b.dcm", classic, transfer_syntax=JPEG2000Lossless, change=pad)
    assert np.array_equal(read_series([odd]).stored, plain.stored)


@pytest.mark.parametrize(
    ("syntax", "offset_table", "fragments"),
    [
        (ImplicitVRLittleEndian, "none", 1),
        (ExplicitVRBigEndian, "none", 1),
        (RLELossless, "basic", 1),
        (RLELossless, "none", 1),
        (JPEG2000Lossless, "extended", 1),
        (JPEG2000Lossless, "basic", 3),
        (JPEG2000Lossless, "none", 2),
        (JPEGLSLossless, "none", 2),
    ],
)
@pytest.mark.parametrize("signed", [False, True])
def test_every_syntax_and_offset_table_gives_the_same_series(
    tmp_path: Path, syntax, offset_table, fragments, signed
) -> None:
    form = {"signed": signed, "bits_stored": 16, "intercept": 0 if signed else -1024, "padding": 31}
    paths = make_series(tmp_path / "s", slices=3, **form)
    plain = read_series([make_enhanced(tmp_path / "a" / "m.dcm", paths)])
    other = make_enhanced(
        tmp_path / "b" / "m.dcm",
        paths,
        transfer_syntax=syntax,
        offset_table=offset_table,
        fragments=fragments,
    )
    series = read_series([other])
    assert np.array_equal(series.stored, plain.stored)
    assert same_images(series, plain)
    assert series.content_digest == plain.content_digest
    assert series.source_digests != plain.source_digests
    assert series.lossy_ratio is None


def test_parts_of_a_concatenation_and_objects_of_other_length(tmp_path: Path, classic: list[Path]) -> None:
    plain = read_series(classic)
    parts = [
        make_enhanced(tmp_path / "p1.dcm", classic[:4], part=(1, 2, 0)),
        make_enhanced(tmp_path / "p2.dcm", classic[4:], part=(2, 2, 4)),
    ]
    series = read_series(parts[::-1])
    assert same_images(series, plain)
    assert series.frames == (1, 2, 3, 4, 1, 2)
    assert [int(header.InstanceNumber) for header in series.headers] == [1, 2, 3, 4, 5, 6]
    with pytest.raises(errors.GapInSeries, match="1 of the 2 parts"):
        read_series(parts[:1])
    objects = [
        make_enhanced(tmp_path / "o1.dcm", classic[:1]),
        make_enhanced(tmp_path / "o2.dcm", classic[1:]),
    ]
    assert same_images(read_series(objects), plain)


def test_how_the_patient_lies_is_read_from_codes(tmp_path: Path, classic: list[Path]) -> None:
    def prone(data: Dataset) -> None:
        lie(data, ("1240000", "prone"), ("102541007", "feet-first"))

    series = read_series([make_enhanced(tmp_path / "m.dcm", classic, change=prone)])
    assert series.headers[0].PatientPosition == "FFP"
    assert decode_header(series.encoded_headers[0]).PatientPosition == "FFP"


def test_a_frame_knows_the_contrast_agents_that_it_was_made_with(tmp_path: Path, classic: list[Path]) -> None:
    def contrast(data: Dataset) -> None:
        agents = []
        for number, meaning in ((1, "Iodine"), (2, "Barium")):
            agent = Dataset()
            agent.ContrastBolusAgentNumber, agent.CodeMeaning = number, meaning
            agents.append(agent)
        data.ContrastBolusAgentSequence = DicomSequence(agents)
        usage = Dataset()
        usage.ContrastBolusAgentNumber, usage.ContrastBolusAgentAdministered = 1, "YES"
        data.SharedFunctionalGroupsSequence[0].ContrastBolusUsageSequence = DicomSequence([usage])

    series = read_series([make_enhanced(tmp_path / "m.dcm", classic, change=contrast)])
    assert {header.ContrastBolusAgent for header in series.headers} == {"Iodine"}
    assert "ContrastBolusAgentSequence" not in decode_header(series.encoded_headers[0])


def test_headers_of_frames_share_no_element_that_can_change(tmp_path: Path, classic: list[Path]) -> None:
    source = multiframe.read_multi_frame(make_enhanced(tmp_path / "s.dcm", classic))
    assert source.header.InstanceNumber == 1, "converted in place before the frames are made"
    assert [header.InstanceNumber for header in source.headers] == [1, 2, 3, 4, 5, 6]
    series = read_series([make_enhanced(tmp_path / "m.dcm", classic)])
    for at, header in enumerate(series.headers, start=1):
        assert int(header.InstanceNumber) == int(decode_header(series.encoded_headers[at - 1]).InstanceNumber)
        assert header.InstanceNumber == at
        assert header.SOPClassUID == EnhancedCTImageStorage
        assert header.AcquisitionTime == f"1015{at - 1:02d}.5"


# --- what is written ----------------------------------------------------------------------


@pytest.mark.parametrize("make", [make_enhanced, make_legacy])
def test_encoded_headers_are_classic(tmp_path: Path, classic: list[Path], make) -> None:
    """Against the tables of the standard that come with highdicom."""
    tables = Path(highdicom.__file__).parent / "_standard"
    modules = json.loads((tables / "iod_module_map.json").read_text())["ct-image"]
    attributes = json.loads((tables / "module_attribute_map.json").read_text())
    known = {one["keyword"] for module in modules for one in attributes[module["key"]] if not one["path"]} | {
        "AcquisitionType"
    }
    series = read_series([make(tmp_path / "m.dcm", classic)])
    for at, encoded in enumerate(series.encoded_headers):
        header = decode_header(encoded)
        assert header.SOPClassUID == CTImageStorage
        assert {element.keyword for element in header} <= known
        assert header["Exposure"].VR == "IS"
        assert header.Exposure == MAS[at]
        assert header.CTDIvol == CTDIVOL_MGY[at]
        assert list(header.ImageType) == ["ORIGINAL", "PRIMARY", "AXIAL"]
    assert read_dose([decode_header(one) for one in series.encoded_headers]).mas == pytest.approx(MAS)


@pytest.mark.parametrize("make", [make_enhanced, make_legacy])
def test_derived_images_and_report_of_frames_are_clean(
    tmp_path: Path, classic: list[Path], identity: Identity, provenance: Provenance, object_errors: Errors,
    program: Callable[[str], str], make,
) -> None:  # fmt: skip
    path = make(tmp_path / "m.dcm", classic)
    series = read_series([path])
    written = write_derived(series, series.hounsfield, identity, provenance, tmp_path / "d")
    again = write_derived(series, series.hounsfield, identity, provenance, tmp_path / "again")
    assert [one.read_bytes() for one in written] == [one.read_bytes() for one in again]
    images = [dcmread(one) for one in written]
    assert len({image.SOPInstanceUID for image in images}) == 6
    source = dcmread(path)
    for image, frame, before, stored in zip(images, series.frames, classic, series.stored, strict=True):
        assert image.SOPClassUID == CTImageStorage
        (reference,) = image.SourceImageSequence
        assert reference.ReferencedSOPClassUID == source.SOPClassUID
        assert reference.ReferencedSOPInstanceUID == source.SOPInstanceUID
        assert reference.ReferencedFrameNumber == frame == image.InstanceNumber
        named = image.ReferencedSeriesSequence[0]
        assert named.SeriesInstanceUID == source.SeriesInstanceUID
        assert [one.ReferencedSOPInstanceUID for one in named.ReferencedInstanceSequence] == [
            source.SOPInstanceUID
        ]
        assert image.ImagePositionPatient == dcmread(before).ImagePositionPatient
        assert np.array_equal(image.pixel_array, stored)
    for one in written:
        assert object_errors(one) == Counter()
    check = subprocess.run(
        [program("dcentvfy"), *map(str, written)], capture_output=True, text=True, check=False
    )
    assert check.stdout + check.stderr == ""
    report = write_report(series, written, identity, provenance, tmp_path / "report.dcm")
    assert object_errors(report) == Counter()
    subprocess.run([program("dsrdump"), str(report)], capture_output=True, check=True)
    named_frames = [
        element.value for element in dcmread(report).iterall() if element.keyword == "ReferencedFrameNumber"
    ]
    assert named_frames
    assert all(sorted(numbers) == [1, 6] for numbers in named_frames), "the first and the last slice"
    evidence = dcmread(report).CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence
    counts = {one.SeriesInstanceUID: len(one.ReferencedSOPSequence) for one in evidence}
    assert counts == {source.SeriesInstanceUID: 1, images[0].SeriesInstanceUID: 6}


def test_our_own_images_are_known_again_after_a_conversion(
    tmp_path: Path, classic: list[Path], identity: Identity, provenance: Provenance
) -> None:
    series = read_series(classic)
    written = write_derived(series, series.hounsfield, identity, provenance, tmp_path / "d")
    with pytest.raises(errors.AlreadyEnhanced):
        read_series([make_legacy(tmp_path / "m.dcm", written)])


def test_the_maker_makes_valid_objects(tmp_path: Path, classic: list[Path], object_errors: Errors) -> None:
    assert object_errors(make_enhanced(tmp_path / "m.dcm", classic)) == Counter()
    assert object_errors(make_enhanced(tmp_path / "c.dcm", classic, modulated=False)) == Counter()
    assert object_errors(make_enhanced(tmp_path / "p.dcm", classic, part=(2, 3, 9))) == Counter()
    compressed = make_enhanced(tmp_path / "j.dcm", classic, transfer_syntax=JPEG2000Lossless)
    assert object_errors(compressed) == Counter()


@pytest.mark.slow
def test_a_long_object_is_read_within_seconds_and_a_few_copies(tmp_path: Path) -> None:
    """400 frames of 256 x 256: stored, HU and padding are 7 bytes a pixel, a copy of the file would be 2."""
    paths = make_series(tmp_path / "s", phantom(4, 256, 256), slice_spacing_mm=1)

    def many(data: Dataset) -> None:
        pixels, groups = bytes(data.PixelData), []
        for at in range(400):
            group = Dataset()
            group.update(data.PerFrameFunctionalGroupsSequence[at % 4])
            place = Dataset()
            place.ImagePositionPatient = [-24, -150, -300 + at]
            group.add_new("PlanePositionSequence", "SQ", [place])
            groups.append(group)
        data.PerFrameFunctionalGroupsSequence = DicomSequence(groups)
        data.NumberOfFrames = 400
        data.PixelData = pixels * 100

    path = make_enhanced(tmp_path / "m.dcm", paths, change=many)
    before = resource.getrusage(resource.RUSAGE_SELF)
    series = read_series([path])
    after = resource.getrusage(resource.RUSAGE_SELF)
    assert series.slices == 400
    assert after.ru_utime - before.ru_utime < 20
    grown = (after.ru_maxrss - before.ru_maxrss) * 1024
    assert grown < 1.6 * (series.hounsfield.nbytes + series.stored.nbytes + series.stored.nbytes / 2)


def test_real_multi_frame_files(shared_data: Path) -> None:
    zoo = shared_data / "zoo"
    with pytest.raises(errors.NotHounsfield, match="RescaleType"):
        read_series([zoo / "dcmqi" / "23x38x3__multiframe__mf.dcm"])
    frames = read_headers([zoo / "dcmqi" / "23x38x3__multiframe__mf.dcm"])
    assert [float(header.ImagePositionPatient[2]) for header in frames] == sorted(
        float(header.ImagePositionPatient[2]) for header in frames
    )
    assert [list(header.PixelSpacing) for header in frames] == [[0.7, 0.7]] * 3
    with pytest.raises(errors.Undecodable):
        read_series([zoo / "cornerstone" / "CT0012.fragmented_no_bot_jpeg_baseline.51.dcm"])


@pytest.mark.parametrize(
    ("folder", "pattern"),
    [
        ("ct/rider-011", "1-00*.dcm"),
        ("ct/lung-dx-a0002", "1-0*.dcm"),
        ("ct/cmb-crc-01068-lung-kernel", "*.dcm"),
        ("ct/adit-fruit", "*1001*H42s*"),
    ],
)
def test_real_series_converted_by_highdicom_are_read_alike(
    tmp_path: Path, shared_data: Path, folder: str, pattern: str, identity: Identity, provenance: Provenance,
    object_errors: Errors,
) -> None:  # fmt: skip
    paths = sorted((shared_data / folder).glob(pattern))[:9]
    assert len(paths) > 3
    plain = read_series(paths)
    series = read_series([make_legacy(tmp_path / "m.dcm", paths)])
    assert same_images(series, plain)
    assert read_dose(series.headers) == read_dose(plain.headers)
    derived = write_derived(series, series.hounsfield, identity, provenance, tmp_path / "frames")
    classic = write_derived(plain, plain.hounsfield, identity, provenance, tmp_path / "classic")
    assert object_errors(derived[0]) <= object_errors(classic[0])
