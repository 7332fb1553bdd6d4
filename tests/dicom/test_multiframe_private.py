"""Private elements of multi-frame objects: the dose of some makers, in blocks reserved by each place anew."""

import copy
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from dicomnode.dicom.dose import read_dose
from dicomnode.dicom.private_elements import PrivateElement, private_number, private_text
from dicomnode.dicom.series import read_headers, read_series
from dicomnode.errors import ProjectionSeries
from tests.makers import make_series
from tests.multiframe_makers import make_enhanced, make_legacy
from tests.processor import within

CANON = "TOSHIBA_MEC_CT3"
Place = Callable[[Dataset], list[Dataset]]


def root(data: Dataset) -> list[Dataset]:
    return [data]


def shared(data: Dataset) -> list[Dataset]:
    return [data.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]]


def beside_the_macros(data: Dataset) -> list[Dataset]:
    return [*data.PerFrameFunctionalGroupsSequence]


def frames(data: Dataset) -> list[Dataset]:
    return [group.CTExposureSequence[0] for group in data.PerFrameFunctionalGroupsSequence]


def reserve(places: Sequence[Dataset], creator: str, block: int = 0x10) -> None:
    for place in places:
        place.add_new((0x7005, block), "LO", creator)


def state(places: Sequence[Dataset], ctdivol_mgy: float, block: int = 0x10) -> None:
    for place in places:
        place.add_new((0x7005, (block << 8) + 0x63), "FD", ctdivol_mgy)


def ctdivol_mgy(paths: Sequence[Path]) -> list[float | None]:
    return [read_ctdivol(header) for header in read_headers(paths)]


def read_ctdivol(header: Dataset) -> float | None:
    return private_number(header, PrivateElement.CANON_CTDIVOL)


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian])
@pytest.mark.parametrize("place", [root, shared, beside_the_macros, frames])
def test_they_are_read_wherever_they_stand(
    tmp_path: Path, classic: list[Path], place: Place, syntax: str
) -> None:
    def change(data: Dataset) -> None:
        data.Manufacturer = "CANON_MEC"
        for group in data.PerFrameFunctionalGroupsSequence:
            del group.CTExposureSequence[0].CTDIvol
        reserve(place(data), CANON)
        state(place(data), 7.5)

    path = make_enhanced(tmp_path / "m.dcm", classic, transfer_syntax=syntax, change=change)
    assert fmean(read_dose(read_headers([path])).ctdivol_mgy) == pytest.approx(7.5), "spread by tube current"


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ExplicitVRBigEndian])
def test_numbers_that_lost_their_vr_are_read_in_the_order_of_the_file(
    tmp_path: Path, classic: list[Path], syntax: str
) -> None:
    order = ">" if syntax == ExplicitVRBigEndian else "<"

    def change(data: Dataset) -> None:
        for place in frames(data):
            place.add_new((0x7005, 0x10), "UN", b"TOSHIBA_MEC_CT3 ")
            place.add_new((0x7005, 0x1063), "UN", struct.pack(order + "d", 7.5))

    path = make_enhanced(tmp_path / "m.dcm", classic, transfer_syntax=syntax, change=change)
    assert ctdivol_mgy([path]) == [7.5] * 6


@pytest.mark.parametrize("around", [root, shared])
@pytest.mark.parametrize(("block", "creator"), [(0x10, CANON), (0x11, CANON), (0x10, "ANOTHER MAKER")])
def test_the_frames_own_comes_before_what_stands_around_it(
    tmp_path: Path, classic: list[Path], around: Place, block: int, creator: str
) -> None:
    """Whichever block it has there, and whoever has that block elsewhere."""

    def change(data: Dataset) -> None:
        reserve(around(data), creator)
        state(around(data), 99.0)
        reserve(frames(data), CANON, block)
        state(frames(data), 7.5, block)

    assert ctdivol_mgy([make_enhanced(tmp_path / "m.dcm", classic, change=change)]) == [7.5] * 6


def converted(data: Dataset) -> list[Dataset]:
    groups = data.PerFrameFunctionalGroupsSequence
    return [group.UnassignedPerFrameConvertedAttributesSequence[0] for group in groups]


def unnamed(data: Dataset) -> None:
    for place in converted(data):
        del place[0x7005, 0x0010]


def renamed(data: Dataset) -> None:
    reserve(converted(data), "ANOTHER MAKER")


def contradicted(data: Dataset) -> None:
    unnamed(data)
    reserve([data], "ANOTHER MAKER")


@pytest.mark.parametrize(
    ("change", "told"), [(None, True), (unnamed, True), (renamed, False), (contradicted, False)]
)
def test_converted_images_have_what_they_share_and_what_they_do_not(
    tmp_path: Path, change: Callable[[Dataset], None] | None, told: bool
) -> None:
    """Also where the creator is named among what they share alone, if nothing contradicts."""

    def own(data: Dataset, index: int) -> None:
        block = data.private_block(0x7005, CANON, create=True)
        block.add_new(0x63, "FD", 7.0 + index)
        block.add_new(0x41, "SH", "0.5x80")

    path = make_legacy(tmp_path / "m.dcm", make_series(tmp_path / "c", slices=3, change=own), change=change)
    headers = read_series([path]).headers
    assert [read_ctdivol(one) for one in headers] == ([7.0, 8.0, 9.0] if told else [None] * 3)
    assert {private_text(one, PrivateElement.CANON_COLLIMATION) for one in headers} == {"0.5x80"}


def test_an_element_that_nobody_reserved_is_nobodys(tmp_path: Path, classic: list[Path]) -> None:
    def change(data: Dataset) -> None:
        state([data], 99.0)
        reserve(frames(data), CANON)

    assert ctdivol_mgy([make_enhanced(tmp_path / "m.dcm", classic, change=change)]) == [None] * 6


def rewritten(path: Path, old: bytes, new: bytes) -> Path:
    whole = path.read_bytes()
    assert old in whole
    assert len(old) == len(new)
    path.write_bytes(whole.replace(old, new))
    return path


def test_one_that_cannot_be_read_costs_only_itself(tmp_path: Path, classic: list[Path]) -> None:
    """As in a classic image, and what stands around it is not taken for it. FD of six bytes."""

    def change(data: Dataset) -> None:
        reserve([data], CANON)
        state([data], 99.0)
        reserve(frames(data), CANON)
        for place in frames(data):
            place.add_new((0x7005, 0x1063), "LO", "ABCDEF")
            place.add_new((0x7005, 0x1041), "SH", "0.5x80")

    path = make_enhanced(tmp_path / "m.dcm", classic, change=change)
    rewritten(path, b"\x05\x70\x63\x10LO\x06\x00", b"\x05\x70\x63\x10FD\x06\x00")
    headers = read_series([path]).headers
    assert {read_ctdivol(one) for one in headers} == {None}
    assert {private_text(one, PrivateElement.CANON_COLLIMATION) for one in headers} == {"0.5x80"}


@pytest.mark.parametrize("element", [0x0010, 0x1063])
@pytest.mark.parametrize("place", [root, shared, frames])
def test_an_empty_element_of_no_known_vr_costs_only_itself(
    tmp_path: Path, classic: list[Path], place: Place, element: int
) -> None:
    tag = struct.pack("<HH", 0x7005, element)

    def change(data: Dataset) -> None:
        reserve(place(data), CANON)
        state(place(data), 7.5)
        place(data)[0].add_new((0x7005, element), "LO", "")

    path = make_enhanced(tmp_path / "m.dcm", classic, change=change)
    rewritten(path, tag + b"LO\0\0", tag + b"ZZ\0\0")
    assert ctdivol_mgy([path])[0] is None


def test_what_each_ray_path_states_is_no_whole(tmp_path: Path, classic: list[Path]) -> None:
    def change(data: Dataset) -> None:
        reserve([data], CANON)
        state([data], 99.0)
        reserve(frames(data), CANON)
        state(frames(data), 3.5)
        for group in data.PerFrameFunctionalGroupsSequence:
            group.CTExposureSequence.append(copy.deepcopy(group.CTExposureSequence[0]))

    assert ctdivol_mgy([make_enhanced(tmp_path / "m.dcm", classic, change=change)]) == [None] * 6


@pytest.mark.parametrize(("first", "told"), [(True, 7.5), (False, 8.0)])
def test_of_two_blocks_of_one_creator_the_first_that_has_it_counts(
    tmp_path: Path, classic: list[Path], first: bool, told: float
) -> None:
    def change(data: Dataset) -> None:
        reserve(frames(data), CANON)
        reserve(frames(data), CANON, 0x11)
        state(frames(data), 8.0, 0x11)
        if first:
            state(frames(data), 7.5)

    path = make_enhanced(tmp_path / "m.dcm", classic, change=change)
    assert ctdivol_mgy([path]) == [told] * 6
    plain = Dataset()
    reserve([plain], CANON)
    reserve([plain], CANON, 0x11)
    state([plain], 8.0, 0x11)
    if first:
        state([plain], 7.5)
    assert read_ctdivol(plain) == told


@pytest.mark.parametrize("element", [0x0010, 0x1010])
@pytest.mark.parametrize("place", [root, shared, beside_the_macros, frames])
def test_frames_of_measured_projections_are_no_images(
    tmp_path: Path, classic: list[Path], place: Place, element: int
) -> None:
    """In part or whole, with the name of their creator or without it."""

    def change(data: Dataset) -> None:
        place(data)[-1].add_new((0x7029, element), "LO", "1")  # of the frames the last

    path = make_enhanced(tmp_path / "m.dcm", classic, change=change)
    with pytest.raises(ProjectionSeries, match=r"frame \d holds measured projections"):
        read_series([path])


BOMB = b"\xfe\xff\x00\xe0\x00\x00\x00\x00" * 200_000
"""Empty items. To open them takes five seconds."""


@pytest.mark.parametrize("element", [0x0010, 0x1063, 0x1099])
@pytest.mark.parametrize("place", [root, shared, frames])
def test_lists_of_items_in_private_elements_are_not_opened(
    tmp_path: Path, classic: list[Path], element: int, place: Place
) -> None:
    """Neither as creator nor as what it reserves."""
    tag = struct.pack("<HH", 0x7005, element)

    def change(data: Dataset) -> None:
        reserve(frames(data), CANON)
        state(frames(data), 7.5)
        reserve(place(data)[:1], CANON)
        place(data)[0].add_new((0x7005, element), "OB", BOMB)

    path = rewritten(make_enhanced(tmp_path / "m.dcm", classic, change=change), tag + b"OB", tag + b"SQ")
    assert within(2.0, lambda: ctdivol_mgy([path]))[1:] == [7.5] * 5


@pytest.mark.parametrize("element", [0x0010, 0x1063])
def test_nor_are_those_of_classic_images(tmp_path: Path, element: int) -> None:
    tag = struct.pack("<HH", 0x7005, element)

    def change(data: Dataset, index: int) -> None:
        reserve([data], CANON)
        data.add_new((0x7005, element), "OB", BOMB)

    (path,) = make_series(tmp_path / "c", slices=1, change=change)
    rewritten(path, tag + b"OB", tag + b"SQ")
    assert within(1.0, lambda: read_dose(read_headers([path]))).ctdivol_mgy
    assert within(1.0, lambda: ctdivol_mgy([path])) == [None]
