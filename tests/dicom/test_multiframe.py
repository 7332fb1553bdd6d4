"""Multi-frame CT objects that are read: the same series as the classic images they hold."""

import resource
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import (
    EnhancedCTImageStorage,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from dicomnode import errors
from dicomnode.dicom import multiframe
from dicomnode.dicom.dose import read_dose
from dicomnode.dicom.series import read_headers, read_series
from dicomnode.dicom.verbatim import decode_header
from tests.dicom.frames import same_images
from tests.dicom.rewritten import Errors
from tests.makers import make_series, phantom
from tests.multiframe_makers import lie, make_enhanced, make_legacy


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


def with_items(keyword: str, count: int) -> Callable[[Dataset], None]:
    """As many items of one element each, half of them within the others, for the object as a whole."""

    def change(data: Dataset) -> None:
        found = [Dataset() for _ in range(count // 2)]
        for item in found:
            item.ScheduledProtocolCodeSequence = DicomSequence([Dataset()])
            item.ScheduledProtocolCodeSequence[0].CodeValue = "1"
        setattr(data, keyword, DicomSequence(found))

    return change


@pytest.mark.parametrize(("count", "refused"), [(1400, False), (1500, True)])
def test_what_every_frame_repeats_is_counted_with_its_sequences(
    tmp_path: Path, classic: list[Path], count: int, refused: bool
) -> None:
    """It would be written as often as there are frames."""
    path = make_enhanced(tmp_path / "m.dcm", classic, change=with_items("RequestAttributesSequence", count))
    if refused:
        with pytest.raises(errors.BrokenInstance, match="what its frames share has more than 3000 elem"):
            read_series([path])
    else:
        assert read_series([path]).slices == len(classic)


@pytest.mark.parametrize(
    "keyword",
    [
        "ReferencedSeriesSequence",
        "StudiesContainingOtherReferencedInstancesSequence",
        "SourceImageEvidenceSequence",
        "SourceImageSequence",
        "DimensionIndexSequence",
    ],
)
def test_long_lists_of_what_an_object_refers_to_are_not_for_its_frames(
    tmp_path: Path, classic: list[Path], keyword: str
) -> None:
    path = make_enhanced(tmp_path / "m.dcm", classic, change=with_items(keyword, 4000))
    series = read_series([path])
    assert series.slices == len(classic)
    assert all(keyword not in decode_header(encoded) for encoded in series.encoded_headers)


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
