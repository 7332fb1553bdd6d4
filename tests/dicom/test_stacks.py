"""One Series Instance UID, several stacks: each file in exactly one, and apart for a reason that is told."""

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom import Dataset

from dicomnode.dicom.dose import read_dose
from dicomnode.dicom.series import read_headers, read_series
from dicomnode.dicom.stacks import Stack, sort_into_stacks
from dicomnode.errors import DuplicatePosition, GapInSeries, SeriesRefused
from tests.makers import make_series

Change = Callable[[Dataset, int], None]
SERIES, STUDY = "1.2.3.77", "1.2.3.7"


def part(folder: Path, name: str, change: Change | None = None, slices: int = 4, **options) -> list[Path]:
    """Files of one stack; all parts share the UIDs of series, study and frame of reference."""

    def shared(data: Dataset, index: int) -> None:
        data.FrameOfReferenceUID = "1.2.3.70"
        if change is not None:
            change(data, index)

    return make_series(
        folder / name, slices=slices, name=name, series_uid=SERIES, study_uid=STUDY, change=shared, **options
    )


def put(**values: object) -> Change:
    def change(data: Dataset, _: int) -> None:
        for keyword, value in values.items():
            setattr(data, keyword, value)

    return change


def sets(stacks: tuple[Stack, ...]) -> list[set[Path]]:
    return [set(stack.paths) for stack in stacks]


@pytest.mark.parametrize(
    ("keyword", "values"),
    [
        ("ConvolutionKernel", ("B30f", "B70f")),
        ("ConvolutionKernel", (["I30f", "2"], ["I30f", "3"])),
        ("KVP", (80, 140)),
        ("SliceThickness", (3.0, 5.0)),
        ("ReconstructionDiameter", (300.0, 400.0)),
        ("ContrastBolusAgent", ("", "Iohexol")),
        ("TemporalPositionIndex", (1, 2)),
        ("NominalPercentageOfRespiratoryPhase", (0.0, 50.0)),
        ("FrameOfReferenceUID", ("1.2.3.1", "1.2.3.2")),
    ],
)
def test_what_was_made_differently_is_apart(tmp_path: Path, keyword: str, values: tuple) -> None:
    one, two = (
        part(tmp_path, str(k), put(**{keyword: value}), slices=4 + k) for k, value in enumerate(values)
    )
    mixed = [path for pair in zip(one, two, strict=False) for path in pair] + two[len(one) :]
    stacks = sort_into_stacks(mixed)
    assert sets(stacks) == [set(two), set(one)], "the largest first"
    assert {stack.differs_by for stack in stacks} == {(keyword,)}
    assert len({stack.key for stack in stacks}) == 2
    for stack in stacks:
        assert read_series(stack.paths).slices == len(stack.paths)


def test_a_scout_and_a_dose_screen_keep_no_series_from_its_way(tmp_path: Path) -> None:
    images = part(tmp_path, "images", slices=5)
    scout = part(tmp_path, "scout", slices=2, image_type=("ORIGINAL", "PRIMARY", "LOCALIZER"))
    screen = part(tmp_path, "screen", slices=1, image_type=("DERIVED", "SECONDARY", "DOSE_INFO"))
    stacks = sort_into_stacks([*scout, *images, *screen])
    assert sets(stacks) == [set(images), set(scout), set(screen)]
    rules = []
    for stack in stacks[1:]:
        with pytest.raises(SeriesRefused) as refused:
            read_series(stack.paths)
        rules.append(refused.value.rule)
        assert stack.differs_by == (refused.value.rule,)
    assert rules == ["localizer", "not-axial"]
    assert read_series(stacks[0].paths).slices == 5


@pytest.mark.parametrize("keyword", ["AcquisitionNumber", "AcquisitionTime", "ContentTime"])
def test_two_phases_at_the_same_places_are_two_stacks(tmp_path: Path, keyword: str) -> None:
    values = ("101500.00", "101530.00") if keyword.endswith("Time") else (1, 2)
    one, two = (part(tmp_path, str(k), put(**{keyword: value})) for k, value in enumerate(values))
    stacks = sort_into_stacks([*one, *two])
    assert sorted(map(sorted, sets(stacks))) == sorted([one, two])
    assert all(keyword in stack.differs_by for stack in stacks)


def test_repeats_that_nothing_tells_apart_stay_together_and_are_refused(tmp_path: Path) -> None:
    one, two = part(tmp_path, "one"), part(tmp_path, "two")
    (stack,) = sort_into_stacks([*one, *two])
    with pytest.raises(DuplicatePosition):
        read_series(stack.paths)


def timed(first_second: int, keyword: str = "AcquisitionTime", back: bool = False) -> Change:
    """A time of its own for each of four images, as most scanners write it."""

    def change(data: Dataset, index: int) -> None:
        setattr(data, keyword, f"1015{first_second + (3 - index if back else index):02d}.25")

    return change


@pytest.mark.parametrize("keyword", ["AcquisitionTime", "ContentTime"])
@pytest.mark.parametrize("back", [False, True])
def test_a_pause_tells_two_phases_with_a_time_an_image(tmp_path: Path, keyword: str, back: bool) -> None:
    one = part(tmp_path, "one", timed(0, keyword))
    two = part(tmp_path, "two", timed(20, keyword, back))
    stacks = sort_into_stacks([path for pair in zip(two, one, strict=True) for path in pair])
    assert sorted(map(sorted, sets(stacks))) == sorted([one, two])
    assert {stack.differs_by for stack in stacks} == {(keyword,)}
    assert {read_series(stack.paths).slices for stack in stacks} == {4}


def test_phases_told_by_numbers_that_go_on(tmp_path: Path) -> None:
    """Step and shoot twice: AcquisitionNumber counts 1 to 4, then 5 to 8."""

    def counted(first: int) -> Change:
        return lambda data, index: setattr(data, "AcquisitionNumber", first + index)

    one, two = part(tmp_path, "one", counted(1)), part(tmp_path, "two", counted(5))
    assert sorted(map(sorted, sets(sort_into_stacks([*two, *one])))) == sorted([one, two])


@pytest.mark.parametrize(
    ("keyword", "values"),
    [
        ("ImageType", (["ORIGINAL", "PRIMARY", "AXIAL"], ["DERIVED", "PRIMARY", "AXIAL"])),
        ("TriggerTime", (10, 480)),
        ("NominalCardiacTriggerDelayTime", (100.0, 450.0)),
        ("SeriesNumber", (3, 4)),
        ("SeriesDescription", ("Gated 0%", "Gated 50%")),
        ("ImageComments", ("0 ms", "450 ms")),
    ],
)
def test_what_lies_at_the_same_places_is_told_apart_by_what_it_is(
    tmp_path: Path, keyword: str, values: tuple
) -> None:
    one, two = (part(tmp_path, str(k), put(**{keyword: value})) for k, value in enumerate(values))
    assert sorted(map(sorted, sets(sort_into_stacks([*one, *two])))) == sorted([one, two])


@pytest.mark.parametrize("change", [timed(0), lambda data, index: setattr(data, "AcquisitionNumber", index)])
def test_bolus_tracking_is_no_series_of_single_slices(tmp_path: Path, change: Change) -> None:
    def at_one_place(data: Dataset, index: int) -> None:
        data.ImagePositionPatient = ["-24", "-150", "-300"]
        change(data, index)

    (stack,) = sort_into_stacks(part(tmp_path, "tracking", at_one_place, slices=4))
    with pytest.raises(DuplicatePosition, match="all 4 images lie at one position"):
        read_series(stack.paths)


@pytest.mark.parametrize(("spacing_mm", "height_mm"), [(3.0, -290.0), (2.0, -288.0), (5.0, -285.0)])
def test_scans_on_grids_that_do_not_fit_are_two_stacks(
    tmp_path: Path, spacing_mm: float, height_mm: float
) -> None:
    """Reaching into each other, or in other steps."""
    one = part(tmp_path, "one", put(AcquisitionNumber=1), slices=5)
    two = part(
        tmp_path,
        "two",
        put(AcquisitionNumber=2),
        slices=4,
        slice_spacing_mm=spacing_mm,
        origin_mm=(-24.0, -150.0, height_mm),
    )
    stacks = sort_into_stacks([*two, *one])
    assert sets(stacks) == [set(one), set(two)]
    assert [read_series(stack.paths).slice_spacing_mm for stack in stacks] == [3.0, spacing_mm]


def test_a_rotation_that_is_missing_is_a_gap_and_no_reason_to_part(tmp_path: Path) -> None:
    stepped = part(tmp_path, "stepped", lambda d, k: setattr(d, "AcquisitionNumber", k // 2), slices=8)
    (stack,) = sort_into_stacks(stepped[:2] + stepped[4:])
    with pytest.raises(GapInSeries):
        read_series(stack.paths)


@pytest.mark.parametrize(
    ("keyword", "values"),
    [
        ("PixelSpacing", (["0.6835", "0.6835"], ["0.683594", "0.683594"])),
        ("ImageOrientationPatient", (["1", "0", "0", "0", "1", "0"], ["1", "0", "0", "0", "1", "0.00051"])),
        ("SliceThickness", ("2.9995", "3.0")),
    ],
)
def test_one_value_written_in_two_ways_is_one_stack(tmp_path: Path, keyword: str, values: tuple) -> None:
    """Every second image in another stack would be two series with twice the spacing."""
    paths = part(tmp_path, "all", lambda data, index: setattr(data, keyword, values[index % 2]), slices=6)
    (stack,) = sort_into_stacks(paths)
    assert read_series(stack.paths).slice_spacing_mm == pytest.approx(3.0, abs=0.01)


@pytest.mark.parametrize("written", ["101500.x", "١٠١٥٠٠", "9" * 60, "10:15:00", "nan", ""])
def test_times_that_are_none_tell_nothing_apart(tmp_path: Path, written: str) -> None:
    def change(data: Dataset, _: int) -> None:
        for keyword in ("AcquisitionTime", "ContentTime", "AcquisitionDateTime"):
            data.add_new(keyword, "LO", written)

    one, two = part(tmp_path, "one", change), part(tmp_path, "two", change)
    assert sets(sort_into_stacks([*one, *two])) == [{*one, *two}]


def test_step_and_shoot_is_one_stack_and_another_dose_is_another_scan(tmp_path: Path) -> None:
    """AcquisitionNumber counts the rotations of a sequence; only a jump of the dose makes two scans of it."""

    def stepped(data: Dataset, index: int) -> None:
        data.AcquisitionNumber = 1 + index // 2

    def dosed(data: Dataset, index: int) -> None:
        stepped(data, index)
        data.CTDIvol = 10.0 if index < 4 else 3.0

    together = part(tmp_path, "stepped", stepped, slices=8)
    assert sets(sort_into_stacks(together)) == [set(together)]
    apart = part(tmp_path, "dosed", dosed, slices=8)
    assert sorted(map(sorted, sets(sort_into_stacks(apart)))) == [apart[:4], apart[4:]]


@pytest.mark.parametrize(("images", "parts"), [(4, 2), (1, 1)])
def test_another_time_and_another_dose_is_another_scan(tmp_path: Path, images: int, parts: int) -> None:
    """Also where nothing else numbers the scans; but not where each image has a time of its own."""

    def later(data: Dataset, index: int) -> None:
        del data.AcquisitionNumber
        data.AcquisitionDateTime = f"202401021015{index // images:02d}"
        data.CTDIvol = 10.0 if index < 4 else 3.0

    paths = part(tmp_path, "later", later, slices=8)
    stacks = sort_into_stacks(paths)
    assert sorted(len(stack.paths) for stack in stacks) == [8 // parts] * parts
    assert ("ACQUISITIONS_DIFFER" in read_dose(read_headers(paths)).flags) is (parts == 2)


def test_one_file_that_cannot_be_read_keeps_all_together(tmp_path: Path) -> None:
    """It may belong to any of the stacks: a series with a hole must not pass for a whole one."""
    one, two = (part(tmp_path, kernel, put(ConvolutionKernel=kernel)) for kernel in ("B30f", "B70f"))
    two[1].write_bytes(two[1].read_bytes()[:200])
    (stack,) = sort_into_stacks([*one, *two])
    assert set(stack.paths) == {*one, *two}


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(order=st.permutations(range(9)))
def test_the_order_of_arrival_does_not_count(tmp_path: Path, order: list[int]) -> None:
    paths = sorted(tmp_path.rglob("*.dcm"))
    if not paths:
        for k, kernel in enumerate(("B30f", "B50f", "B70f")):
            part(tmp_path, kernel, put(ConvolutionKernel=kernel), slices=2 + k)
        paths = sorted(tmp_path.rglob("*.dcm"))
    stacks = sort_into_stacks([paths[k] for k in order])
    assert [(stack.key, set(stack.paths)) for stack in stacks] == [
        (stack.key, set(stack.paths)) for stack in sort_into_stacks(paths)
    ]
    assert sorted(path for stack in stacks for path in stack.paths) == paths


@pytest.mark.parametrize("odd", [0, 5, 11])
def test_one_odd_dose_of_step_and_shoot_is_no_scan(tmp_path: Path, odd: int) -> None:
    """Every rotation has a number of its own; the dose that stands out is replaced, not taken for a scan."""

    def numbered(data: Dataset, index: int) -> None:
        data.AcquisitionNumber = index + 1

    doses = [30.0 if index == odd else 10.0 for index in range(12)]
    (stack,) = sort_into_stacks(part(tmp_path, "all", numbered, slices=12, ctdivol_mgy=doses))
    reading = read_dose(read_series(stack.paths).headers)
    assert "CTDIVOL_OUTLIER_REPLACED" in reading.flags
    assert max(reading.ctdivol_mgy) == pytest.approx(10.0)


@pytest.mark.parametrize("keyword", ["AcquisitionNumber", "AcquisitionTime"])
def test_volumes_that_overlap_at_their_ends_are_a_stack_each(tmp_path: Path, keyword: str) -> None:
    """Four wide volumes stitched along the patient: two at a place at most, and yet four scans."""

    def stitched(data: Dataset, index: int) -> None:
        volume, at = divmod(index, 6)
        setattr(data, keyword, str(101500 + 3 * volume))
        data.ImagePositionPatient = [-24, -150, -300 + 0.5 * (5 * volume + at)]

    paths = part(tmp_path, "all", stitched, slices=24)
    stacks = sort_into_stacks(paths)
    assert sorted(map(sorted, sets(stacks))) == [paths[at : at + 6] for at in range(0, 24, 6)]
    assert all(read_series(stack.paths).slices == 6 for stack in stacks)


def test_no_stack_is_made_of_the_end_of_one_scan_and_the_next(tmp_path: Path) -> None:
    """A scan whose reconstruction paused in the middle, and a second one of its first half: the longest pause
    is not the one between them, and both halves together would look whole."""

    def first(data: Dataset, index: int) -> None:
        data.ContentTime = f"10{15 + (index >= 6)}{index:02d}"

    def second(data: Dataset, index: int) -> None:
        data.ContentTime = f"1016{30 + index}"

    paths = part(tmp_path, "one", first, slices=12) + part(tmp_path, "two", second, slices=6)
    for stack in sort_into_stacks(paths):
        with pytest.raises(DuplicatePosition):
            read_series(stack.paths)


def test_positions_with_one_decimal_are_even(tmp_path: Path) -> None:
    """Steps of 0.75 mm are then 0.7 and 0.8."""

    def rounded(data: Dataset, index: int) -> None:
        data.ImagePositionPatient = [-24, -150, f"{-300 + 0.75 * index:.1f}"]

    (stack,) = sort_into_stacks(part(tmp_path, "all", rounded, slices=20))
    assert read_series(stack.paths).slice_spacing_mm == pytest.approx(0.75, abs=0.01)


def test_rotations_that_go_on_are_one_scan_though_another_step_follows(tmp_path: Path) -> None:
    """A head by step and shoot, every rotation with a number of its own: dense at the base, wide above."""

    def stepped(data: Dataset, index: int) -> None:
        data.AcquisitionNumber = index // 2 + 1
        height_mm = 3 * index if index < 8 else 24 + 6 * (index - 8)
        data.ImagePositionPatient = [-24, -150, -300 + height_mm]

    paths = part(tmp_path, "all", stepped, slices=16)
    stacks = sort_into_stacks(paths)
    assert sorted(map(sorted, sets(stacks))) == [paths[:8], paths[8:]]
    assert [read_series(stack.paths).slices for stack in stacks] == [8, 8]
