"""Water-equivalent diameter: cylinders of water, with all that scanners put around them."""

import tracemalloc

import numpy as np
import pytest
from numpy.typing import NDArray

from dicomnode.physics.size import around_body, measure_sizes, water_equivalent_diameter_mm

PIXEL_MM = 1.0
Stack = NDArray[np.float32]


def radius_px(side: int = 400, x_mm: float = 0.0) -> NDArray[np.float64]:
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    return np.asarray(np.hypot(x - x_mm, y), np.float64)


def cylinder(diameter_mm: float, x_mm: float = 0.0, slices: int = 1) -> Stack:
    image = np.where(radius_px(x_mm=x_mm) < diameter_mm / 2, 0.0, -1000.0).astype(np.float32)
    return np.repeat(image[None], slices, axis=0)


@pytest.mark.parametrize("diameter_mm", [80.0, 160.0, 300.0, 370.0])
def test_water_is_as_wide_as_it_is(diameter_mm: float) -> None:
    (size,) = measure_sizes(cylinder(diameter_mm), PIXEL_MM, 5.0)
    assert size.diameter_mm == pytest.approx(diameter_mm, rel=0.005)
    assert size.source == "measured"


def test_a_table_adds_nothing() -> None:
    image = cylinder(250)
    image[:, 345:350, 60:340] = 100.0
    (size,) = measure_sizes(image, PIXEL_MM, 5.0)
    assert size.diameter_mm == pytest.approx(250, rel=0.005)
    assert size.source == "measured"


def test_padding_around_the_circle_adds_nothing_and_cuts_nothing() -> None:
    image, padding = cylinder(300), (radius_px() > 199)[None]
    (size,) = measure_sizes(image, PIXEL_MM, 5.0, padding)
    assert size.diameter_mm == pytest.approx(300, rel=0.005)
    assert size.source == "measured"


def test_cut_by_the_border_is_a_lower_bound() -> None:
    (size,) = measure_sizes(cylinder(300, x_mm=70), PIXEL_MM, 5.0)
    assert size.source == "lower-bound"
    assert 280 < size.diameter_mm < 300


@pytest.mark.parametrize("told", [True, False])
def test_cut_by_the_circle_is_a_lower_bound(told: bool) -> None:
    """Whether the corners are padded or only air."""
    image, outside = cylinder(300, x_mm=55), (radius_px() > 199)[None]
    image[outside] = -1000.0
    (size,) = measure_sizes(image, PIXEL_MM, 5.0, outside if told else None)
    assert size.source == "lower-bound"
    assert 280 < size.diameter_mm < 300


def test_cut_by_a_circle_smaller_than_the_image() -> None:
    """A field of 300 mm shown in 400: only the padding tells where it ends."""
    image, outside = cylinder(260, x_mm=21.5), (radius_px() > 150)[None]
    image[outside] = -1000.0
    assert measure_sizes(image, PIXEL_MM, 5.0, outside)[0].source == "lower-bound"
    assert measure_sizes(cylinder(260), PIXEL_MM, 5.0, outside)[0].source == "measured"


def test_corners_beyond_the_circle_cut_nothing() -> None:
    """An image reconstructed to its corners: the circle is no limit to it."""
    image = np.full((1, 400, 400), -1000.0, np.float32)
    image[:, 30:370, 30:370] = 0.0
    (size,) = measure_sizes(image, PIXEL_MM, 5.0)
    assert size.source == "measured"
    assert size.diameter_mm == pytest.approx(2 * 340 / np.sqrt(np.pi), rel=0.005)


def test_a_cut_slice_between_whole_ones_takes_their_size() -> None:
    stack = cylinder(300, slices=5)
    stack[2] = cylinder(300, x_mm=100)[0]
    sizes = measure_sizes(stack, PIXEL_MM, 10.0)
    assert [one.source for one in sizes] == ["measured", "measured", "neighbours", "measured", "measured"]
    assert sizes[2].diameter_mm == pytest.approx(300, rel=0.005)


def test_neighbours_too_far_away_lend_nothing() -> None:
    stack = np.concatenate([cylinder(300), cylinder(300, x_mm=70, slices=2)])
    assert [one.source for one in measure_sizes(stack, PIXEL_MM, 20.0)][1:] == ["neighbours", "lower-bound"]


def test_neighbours_never_make_a_slice_smaller() -> None:
    stack = np.concatenate([cylinder(150), cylinder(300, x_mm=70), cylinder(150)])
    own = float(water_equivalent_diameter_mm(stack[1:2], PIXEL_MM)[0])
    (_, cut, _) = measure_sizes(stack, PIXEL_MM, 5.0)
    assert cut.source == "lower-bound"
    assert cut.diameter_mm == pytest.approx(own)


def test_the_size_of_a_series_needs_no_second_volume() -> None:
    """A scan of 2000 slices holds 2 GB as it is."""
    volume = np.full((60, 256, 256), -1000.0, np.float32)
    volume[:, 40:216, 40:216] = 0.0
    tracemalloc.start()
    try:
        measure_sizes(volume, 1.0, 1.0)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 0.6 * volume.nbytes


def test_metal_is_as_large_on_every_scale() -> None:
    """A hip implant is 3071 HU on a 12-bit scanner and 20,000 on an extended scale: one patient."""
    short, long = cylinder(300), cylinder(300)
    implant = (radius_px(x_mm=60) < 20)[None]
    short[implant], long[implant] = 3071.0, 20_000.0
    sizes = [measure_sizes(image, PIXEL_MM, 5.0)[0].diameter_mm for image in (short, long)]
    assert sizes[0] == sizes[1] == pytest.approx(300, rel=0.03)


# --- small fields of view -------------------------------------------------------------------------------


def chest(lung_hu: float = -860.0) -> Stack:
    """A trunk of 340 x 260 mm with lungs of 110 x 160 mm, on a mattress."""
    y, x = np.mgrid[:400, :400] - 199.5
    image = np.full((400, 400), -1000.0, np.float32)
    image[330:380] = -930.0
    image[(x / 170) ** 2 + (y / 130) ** 2 < 1] = 30.0
    for side in (-1, 1):
        image[((x - 75 * side) / 55) ** 2 + (y / 80) ** 2 < 1] = lung_hu
    return image[None]


def field(stack: Stack, side_px: int, x_px: int = 0, y_px: int = 0) -> Stack:
    middle = stack.shape[1] // 2
    rows = slice(middle + y_px - side_px // 2, middle + y_px + side_px // 2)
    columns = slice(middle + x_px - side_px // 2, middle + x_px + side_px // 2)
    return np.ascontiguousarray(stack[:, rows, columns])


@pytest.mark.parametrize("field_mm", [100, 140, 180, 240])
@pytest.mark.parametrize("image", [chest(), cylinder(300)], ids=["chest", "belly"])
def test_where_most_lies_beyond_the_field_the_size_is_unknown(image: Stack, field_mm: int) -> None:
    """A spine, a heart, an inner ear: what is seen is no size of a patient."""
    (size,) = measure_sizes(field(image, field_mm), PIXEL_MM, 5.0)
    assert size.source == "unknown"
    assert size.diameter_mm < 0.95 * measure_sizes(image, PIXEL_MM, 5.0)[0].diameter_mm


@pytest.mark.parametrize("told", [True, False])
def test_lungs_cut_open_are_patient(told: bool) -> None:
    """A heart between lungs that reach the edge: without them it would be a whole, small body."""
    image = field(chest(), 190, y_px=-20)
    outside = (radius_px(190) > 94)[None]
    image[outside] = -1000.0
    (size,) = measure_sizes(image, PIXEL_MM, 5.0, outside if told else None)
    assert size.source == "unknown"
    empty = image.copy()
    empty[(image < -500) & (image > -900)] = -1000.0
    assert size.diameter_mm > measure_sizes(empty, PIXEL_MM, 5.0)[0].diameter_mm + 5


def test_a_mattress_is_no_lung() -> None:
    (size,) = measure_sizes(chest(), PIXEL_MM, 5.0)
    assert size.source == "measured"
    plain = chest()
    plain[:, 330:380][plain[:, 330:380] < -900] = -1000.0
    assert size.diameter_mm == pytest.approx(measure_sizes(plain, PIXEL_MM, 5.0)[0].diameter_mm, rel=0.005)


def test_a_mattress_shut_off_by_the_body_is_no_lung() -> None:
    """Cut at both sides, the body parts the mattress below from the room above."""
    y, x = np.mgrid[:300, :300] - 149.5
    plain = np.where((x / 160) ** 2 + (y / 90) ** 2 < 1, 30.0, -1000.0).astype(np.float32)[None]
    lying = plain.copy()
    lying[:, 150:][lying[:, 150:] == -1000.0] = -930.0
    sizes = [measure_sizes(image, PIXEL_MM, 5.0)[0] for image in (plain, lying)]
    assert sizes[0].source == sizes[1].source == "lower-bound"
    assert sizes[1].diameter_mm == pytest.approx(sizes[0].diameter_mm, rel=0.005)


def test_whole_neighbours_tell_the_size_of_a_small_field() -> None:
    stack = cylinder(300, slices=3)
    cut = np.where(radius_px(x_mm=190)[None] < 150, 0.0, -1000.0).astype(np.float32)
    sizes = measure_sizes(np.concatenate([stack[:1], cut, stack[2:]]), PIXEL_MM, 10.0)
    assert sizes[1].source == "neighbours"
    assert sizes[1].diameter_mm == pytest.approx(300, rel=0.005)


@pytest.mark.parametrize("margin_px", [0, 3])
def test_the_rectangle_around_a_body_has_the_same_margin_on_every_side(margin_px: int) -> None:
    image = np.full((128, 128), -1000, np.float32)
    y, x = np.mgrid[:128, :128]
    image[((y - 64) / 30) ** 2 + ((x - 64) / 40) ** 2 < 1] = 40.0
    mirrored = around_body(image[::-1, ::-1], margin_px)
    for cut, other in zip(around_body(image, margin_px), mirrored, strict=True):
        assert (128 - other.stop, 128 - other.start) == (cut.start, cut.stop)
