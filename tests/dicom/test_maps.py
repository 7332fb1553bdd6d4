"""What was removed, and how far seeds differ: laws of numbers, and what other programs say of the objects."""

import subprocess
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from highdicom.pm.sop import pmread
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset

from dicomnode import errors
from dicomnode.dicom.derived import Identity, Provenance, write_derived
from dicomnode.dicom.maps import write_removed_map, write_uncertainty_map
from dicomnode.dicom.marks import carries_own_marks
from dicomnode.dicom.report import write_report
from dicomnode.dicom.selection import write_key_objects
from dicomnode.dicom.series import CtSeries, read_series
from tests.makers import Vendor, make_series, phantom
from tests.multiframe_makers import make_enhanced, make_legacy

Errors = Callable[[Path], Counter[str]]


@dataclass(frozen=True, eq=False)
class Written:
    """A source series, its derived series, and what was removed between them."""

    series: CtSeries
    sources: Sequence[Path]
    derived: Sequence[Path]
    maps: Sequence[Path]


def removed_from(
    sources: Sequence[Path],
    identity: Identity,
    provenance: Provenance,
    folder: Path,
    result: Callable[[CtSeries], NDArray[np.float32]] = lambda series: (
        series.hounsfield * np.float32(0.9) + 3
    ),
    **options: int,
) -> Written:
    series = read_series(sources)
    derived = write_derived(series, result(series), identity, provenance, folder / "derived")
    maps = write_removed_map(series, derived, identity, provenance, folder, **options)
    return Written(series, sources, derived, maps)


def stored_frames(path: Path) -> dict[str, tuple[NDArray[np.int64], Fraction, Fraction]]:
    """By the UID of its source slice: stored values, slope and intercept of each frame, as the file says."""
    made = dcmread(path)
    frames = made.pixel_array.astype(np.int64).reshape(int(made.NumberOfFrames), made.Rows, made.Columns)
    shared = made.SharedFunctionalGroupsSequence[0].get("RealWorldValueMappingSequence")
    found = {}
    for frame, item in zip(frames, made.PerFrameFunctionalGroupsSequence, strict=True):
        mapping = (shared or item.RealWorldValueMappingSequence)[0]
        source, derived = item.DerivationImageSequence[0].SourceImageSequence
        assert source.ReferencedSOPInstanceUID != derived.ReferencedSOPInstanceUID
        slope, intercept = mapping.RealWorldValueSlope, mapping.RealWorldValueIntercept
        found[str(source.ReferencedSOPInstanceUID)] = (frame, Fraction(slope), Fraction(intercept))
    return found


def assert_source_is_result_plus_removed(written: Written) -> None:
    """For every pixel, in rational numbers: no rounding can hide a difference."""
    removed = {uid: told for path in written.maps for uid, told in stored_frames(path).items()}
    results = {
        image.SourceImageSequence[0].ReferencedSOPInstanceUID: image
        for image in map(dcmread, written.derived)
    }
    assert len(removed) == len(written.sources)
    for source in map(dcmread, written.sources):
        frame, slope, intercept = removed[source.SOPInstanceUID]
        result = results[source.SOPInstanceUID]
        m, b = float(source.RescaleSlope), float(source.RescaleIntercept)
        assert (float(result.RescaleSlope), float(result.RescaleIntercept)) == (m, b)
        pairs = np.unique(
            np.stack([source.pixel_array.ravel(), result.pixel_array.ravel(), frame.ravel()]).astype(
                np.int64
            ),
            axis=1,
        )
        for s, r, v in pairs.T.tolist():
            before, after = (Fraction(m) * one + Fraction(b) for one in (s, r))
            assert before == after + (slope * v + intercept)


@pytest.mark.parametrize("slope", [1.0, 0.5, 2.0])
@pytest.mark.parametrize("padding", [None, 0])
@pytest.mark.parametrize("signed", [False, True])
def test_source_is_result_plus_removed(
    tmp_path: Path,
    identity: Identity,
    provenance: Provenance,
    object_errors: Errors,
    slope: float,
    padding: int | None,
    signed: bool,
) -> None:
    sources = make_series(
        tmp_path / "s", slices=3, slope=slope, signed=signed, intercept=0 if signed else -1024,
        bits_stored=16, padding=-2000 if signed and padding is not None else padding,
    )  # fmt: skip
    written = removed_from(sources, identity, provenance, tmp_path)
    assert_source_is_result_plus_removed(written)
    (path,) = written.maps
    made = dcmread(path)
    assert (made.BitsStored, made.PixelRepresentation) == (16, 0)
    if padding is not None:
        assert written.series.padding is not None
        for index, header in enumerate(written.series.headers):
            frame, _, _ = stored_frames(path)[header.SOPInstanceUID]
            assert (frame[written.series.padding[index]] == 32768).all()
    assert object_errors(path) == Counter()


def test_slopes_that_change_from_slice_to_slice(
    tmp_path: Path, identity: Identity, provenance: Provenance, object_errors: Errors
) -> None:
    def change(data: Dataset, index: int) -> None:
        data.RescaleSlope = str(1.0 + index / 4)

    sources = make_series(tmp_path / "s", slices=4, change=change)
    written = removed_from(sources, identity, provenance, tmp_path)
    assert_source_is_result_plus_removed(written)
    assert len({slope for _, slope, _ in stored_frames(written.maps[0]).values()}) == 4
    assert object_errors(written.maps[0]) == Counter()


@pytest.mark.parametrize("upwards", [True, False])
def test_a_change_that_16_bits_cannot_hold_is_written_as_float(
    tmp_path: Path, identity: Identity, provenance: Provenance, object_errors: Errors, upwards: bool
) -> None:
    def fine(data: Dataset, index: int) -> None:
        data.RescaleSlope, data.RescaleIntercept = "0.03125", "-1024"  # 64000 steps are below 3071 HU

    def all_of(value_hu: float) -> Callable[[CtSeries], NDArray[np.float32]]:
        return lambda series: np.full_like(series.hounsfield, value_hu)

    steps = np.full((2, 16, 16), 500.0 if upwards else 64000.0, np.float32)
    sources = make_series(tmp_path / "s", steps, bits_stored=16, intercept=0, change=fine)
    result = all_of(900.0 if upwards else -1000.0)
    written = removed_from(sources, identity, provenance, tmp_path, result)
    made = dcmread(written.maps[0])
    assert "FloatPixelData" in made
    assert np.abs(made.pixel_array).min() > 32768
    assert_source_is_result_plus_removed(written)
    assert object_errors(written.maps[0]) == Counter()


def test_a_map_too_large_for_one_object_is_several(
    tmp_path: Path, identity: Identity, provenance: Provenance, object_errors: Errors
) -> None:
    sources = make_series(tmp_path / "s", slices=5)
    written = removed_from(sources, identity, provenance, tmp_path, largest_bytes=2 * 64 * 64 * 2)
    assert_source_is_result_plus_removed(written)
    made = [dcmread(path) for path in written.maps]
    assert [one.NumberOfFrames for one in made] == [2, 2, 1]
    assert [one.InstanceNumber for one in made] == [1, 2, 3]
    assert len({one.SOPInstanceUID for one in made}) == 3
    assert len({one.SeriesInstanceUID for one in made}) == 1
    assert max(path.stat().st_size for path in written.maps) > 2 * 64 * 64 * 2
    for path in written.maps:
        assert object_errors(path) == Counter()


def test_frames_lie_where_their_slices_lie_and_another_reader_sees_the_same(
    tmp_path: Path, identity: Identity, provenance: Provenance
) -> None:
    sources = make_series(tmp_path / "s", slices=4, orientation=(1, 0, 0, 0, -1, 0))
    written = removed_from(sources, identity, provenance, tmp_path)
    made = pmread(written.maps[0])
    volume = made.get_volume(apply_real_world_transform=True)
    derived = {tuple(one.ImagePositionPatient): one for one in map(dcmread, written.derived)}
    for index, source in enumerate(map(dcmread, written.sources)):
        place = volume.map_reference_to_indices(np.array([source.ImagePositionPatient], float))
        slice_index = round(float(place[0, 0]))
        result = derived[tuple(source.ImagePositionPatient)]
        expected = source.pixel_array.astype(float) - result.pixel_array
        np.testing.assert_array_equal(volume.array[slice_index], expected, err_msg=f"slice {index}")


def test_maps_are_deterministic_distinct_and_ours(
    tmp_path: Path, identity: Identity, provenance: Provenance
) -> None:
    sources = make_series(tmp_path / "s", slices=3)
    once = removed_from(sources, identity, provenance, tmp_path / "a")
    again = removed_from(sources, identity, provenance, tmp_path / "b")
    assert once.maps[0].read_bytes() == again.maps[0].read_bytes()
    made = dcmread(once.maps[0])
    assert carries_own_marks(made)
    assert made.ContentQualification == "RESEARCH"
    assert made.Manufacturer == "dicomnode"
    assert made.StudyInstanceUID == dcmread(sources[0]).StudyInstanceUID
    others = [
        removed_from(sources, replace(identity, uid_key=b"k" * 32), provenance, tmp_path / "c"),
        removed_from(sources, identity, replace(provenance, weights_digest="0" * 64), tmp_path / "d"),
    ]
    spread = np.full(once.series.hounsfield.shape, 2.5, np.float32)
    facts = (once.derived, identity, provenance, tmp_path)
    uncertainty = write_uncertainty_map(once.series, spread, 4, *facts)
    told = [made, *(dcmread(one.maps[0]) for one in others), dcmread(uncertainty[0])]
    for keyword in ("SOPInstanceUID", "SeriesInstanceUID"):
        assert len({one[keyword].value for one in told}) == len(told)


@pytest.mark.parametrize("largest_hu", [0.5, 40.0, 1500.0])
def test_the_spread_comes_back_to_half_a_step(
    tmp_path: Path, identity: Identity, provenance: Provenance, object_errors: Errors, largest_hu: float
) -> None:
    series = read_series(make_series(tmp_path / "s", slices=3))
    derived = write_derived(series, series.hounsfield, identity, provenance, tmp_path / "d")
    rng = np.random.default_rng(1)
    spread = (rng.random(series.hounsfield.shape) * largest_hu).astype(np.float32)
    (path,) = write_uncertainty_map(series, spread, 8, derived, identity, provenance, tmp_path)
    slopes = set()
    for index, header in enumerate(series.headers):
        frame, slope, intercept = stored_frames(path)[header.SOPInstanceUID]
        assert intercept == 0
        assert np.abs(frame * float(slope) - spread[index]).max() <= float(slope) / 2
        slopes.add(float(slope))
    assert slopes == {1 / 64 if largest_hu < 1023 else 1 / 32}
    definition = dcmread(path).SharedFunctionalGroupsSequence[0].RealWorldValueMappingSequence[0]
    codes = [item.ConceptCodeSequence[0].CodeValue for item in definition.QuantityDefinitionSequence]
    assert codes == ["110850", "386136009"]
    assert definition.MeasurementUnitsCodeSequence[0].CodeValue == "[hnsf'U]"
    assert object_errors(path) == Counter()


def test_a_spread_of_zero_is_refused(tmp_path: Path, identity: Identity, provenance: Provenance) -> None:
    series = read_series(make_series(tmp_path / "s", slices=2))
    derived = write_derived(series, series.hounsfield, identity, provenance, tmp_path / "d")
    facts = (derived, identity, provenance, tmp_path)
    nothing = np.zeros(series.hounsfield.shape, np.float32)
    with pytest.raises(errors.NoSpread):
        write_uncertainty_map(series, nothing, 8, *facts)
    for wrong, seeds in ((nothing[:1] + 1, 8), (nothing - 1, 8), (nothing + np.nan, 8), (nothing + 1, 1)):
        with pytest.raises(ValueError, match="spread"):
            write_uncertainty_map(series, wrong, seeds, *facts)


@pytest.mark.parametrize(
    ("part", "said", "told"),
    [
        ("CHEST", None, "NO"),
        ("HEAD", None, "YES"),
        (None, None, "YES"),
        ("HEAD", "NO", "NO"),
        ("CHEST", "YES", "YES"),
    ],
)
def test_whether_a_map_may_show_a_face(
    tmp_path: Path,
    identity: Identity,
    provenance: Provenance,
    object_errors: Errors,
    part: str | None,
    said: str | None,
    told: str,
) -> None:
    def change(data: Dataset, index: int) -> None:
        del data.BodyPartExamined
        if part is not None:
            data.BodyPartExamined = part
        if said is not None:
            data.RecognizableVisualFeatures = said

    written = removed_from(
        make_series(tmp_path / "s", slices=2, change=change), identity, provenance, tmp_path
    )
    assert dcmread(written.maps[0]).RecognizableVisualFeatures == told
    assert object_errors(written.maps[0]) == Counter()


def test_odd_sources(
    tmp_path: Path, identity: Identity, provenance: Provenance, object_errors: Errors
) -> None:
    """A single slice, no frame of reference, lossy pixels, names in another character set."""

    def nameless(data: Dataset, index: int) -> None:
        del data.FrameOfReferenceUID
        data.SpecificCharacterSet = "ISO_IR 144"
        data.PatientName = "Люкceмбypг"
        for keyword in ("AccessionNumber", "StudyID", "PatientBirthDate", "SeriesNumber"):
            delattr(data, keyword)

    one = removed_from(
        make_series(tmp_path / "one", slices=1, change=nameless), identity, provenance, tmp_path / "1"
    )
    assert dcmread(one.maps[0]).PatientName == "Люкceмбypг"
    lossy = removed_from(
        make_series(tmp_path / "two", slices=2, change=_say_lossy), identity, provenance, tmp_path / "2"
    )
    assert dcmread(lossy.maps[0]).LossyImageCompression == "01"
    for written in (one, lossy):
        assert_source_is_result_plus_removed(written)
        source = written.sources[0]
        assert object_errors(written.maps[0]) - object_errors(source) == Counter()


def _say_lossy(data: Dataset, index: int) -> None:
    data.LossyImageCompression, data.LossyImageCompressionRatio = "01", "8"
    data.LossyImageCompressionMethod = "ISO_15444_1"


def test_one_derived_image_a_slice(tmp_path: Path, identity: Identity, provenance: Provenance) -> None:
    series = read_series(make_series(tmp_path / "s", slices=2))
    derived = write_derived(series, series.hounsfield, identity, provenance, tmp_path / "d")
    with pytest.raises(ValueError, match="1 derived images for 2 slices"):
        write_removed_map(series, derived[:1], identity, provenance, tmp_path)


def whole_study(
    sources: Sequence[Path], identity: Identity, provenance: Provenance, folder: Path
) -> list[Path]:
    """Everything that the node can write about one series."""
    written = removed_from(sources, identity, provenance, folder)
    facts = (identity, provenance)
    spread = np.full(written.series.hounsfield.shape, 2.5, np.float32)
    return [
        *written.derived,
        *written.maps,
        *write_uncertainty_map(written.series, spread, 8, written.derived, *facts, folder),
        write_report(written.series, written.derived, *facts, folder / "report.dcm"),
        write_key_objects(written.series, written.derived, *facts, folder / "keys.dcm"),
    ]


def entity_errors(dcentvfy: str, paths: Sequence[Path]) -> list[str]:
    """What dcentvfy finds wrong between the objects of one patient and study."""
    run = subprocess.run([dcentvfy, *map(str, paths)], capture_output=True, text=True, errors="replace")
    known = (
        "Different information entities for attribute - Element=<AccessionNumber>"  # its own tables disagree
    )
    return [line for line in (run.stdout + run.stderr).splitlines() if known not in line]


def _of_a_trial(data: Dataset, index: int) -> None:
    data.PatientAge, data.PatientWeight, data.OtherPatientIDs, data.StudyDescription = "064Y", "", "B", ""
    data.ClinicalTrialSponsorName = data.ClinicalTrialProtocolID = data.ClinicalTrialSubjectID = "1"
    data.ClinicalTrialProtocolName = data.ClinicalTrialSiteID = data.ClinicalTrialSiteName = ""


@pytest.mark.parametrize("vendor", ["siemens", "philips", "ge"])
def test_the_whole_derived_study_fits_together(
    tmp_path: Path,
    identity: Identity,
    provenance: Provenance,
    program: Callable[[str], str],
    object_errors: Errors,
    vendor: Vendor,
) -> None:
    sources = make_series(tmp_path / "s", phantom(4), vendor=vendor, change=_of_a_trial)
    made = whole_study(sources, identity, provenance, tmp_path)
    assert len(made) == 8
    assert entity_errors(program("dcentvfy"), [*sources, *made]) == []
    assert {path.name: object_errors(path) for path in made if object_errors(path)} == {}
    broken = dcmread(made[0])
    broken.PatientSex = "F"
    broken.save_as(tmp_path / "broken.dcm")
    assert entity_errors(program("dcentvfy"), [*sources, tmp_path / "broken.dcm"]) != []


@pytest.mark.parametrize("pattern", ["zoo/pydicom/*.dcm", "zoo/tcia_singles/*.dcm", "pairs/mayo/*z-58.6_*"])
def test_maps_of_real_images(
    shared_data: Path,
    tmp_path: Path,
    identity: Identity,
    provenance: Provenance,
    object_errors: Errors,
    pattern: str,
) -> None:
    maps = 0
    for number, source in enumerate(sorted(shared_data.glob(pattern))):
        try:
            written = removed_from([source], identity, provenance, tmp_path / str(number))
        except errors.SeriesRefused:
            continue
        maps += 1
        assert_source_is_result_plus_removed(written)
        assert object_errors(written.maps[0]) - object_errors(source) == Counter(), source.name
    assert maps


@pytest.mark.parametrize("make", [make_enhanced, make_legacy])
def test_a_map_of_frames_names_the_frames_and_not_images_that_are_not_there(
    tmp_path: Path,
    identity: Identity,
    provenance: Provenance,
    object_errors: Errors,
    make: Callable[[Path, Sequence[Path]], Path],
) -> None:
    source = make(tmp_path / "m.dcm", make_series(tmp_path / "in", slices=4))
    written = removed_from([source], identity, provenance, tmp_path)
    uid = dcmread(source, stop_before_pixels=True).SOPInstanceUID
    (path,) = written.maps
    assert object_errors(path) == Counter()
    made = dcmread(path)
    results = {image.SOPInstanceUID: image for image in map(dcmread, written.derived)}
    found = set()
    for frame, item in zip(made.pixel_array, made.PerFrameFunctionalGroupsSequence, strict=True):
        origin, derived = item.DerivationImageSequence[0].SourceImageSequence
        assert origin.ReferencedSOPInstanceUID == uid
        result = results[derived.ReferencedSOPInstanceUID]
        assert result.SourceImageSequence[0].ReferencedFrameNumber == origin.ReferencedFrameNumber
        index = written.series.frames.index(origin.ReferencedFrameNumber)
        lost = written.series.stored[index].astype(int) - result.pixel_array.astype(int)
        assert np.array_equal(frame.astype(int) - 32768, lost)
        found.add(int(origin.ReferencedFrameNumber))
    assert found == {1, 2, 3, 4}
    named = {one.ReferencedSOPInstanceUID for one in made.SourceImageSequence}
    assert named == {uid, *results}
