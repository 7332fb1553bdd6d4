"""Water-equivalent diameter: cylinders of water, with all that scanners put around them."""

import tracemalloc

import numpy as np
import pytest
from numpy.typing import NDArray

from dicomnode.physics.size import measure_sizes, water_equivalent_diameter_mm

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
    (size,) = measure_sizes(cylinder(300, x_mm=100), PIXEL_MM, 5.0)
    assert size.source == "lower-bound"
    assert size.diameter_mm < 295


@pytest.mark.parametrize("told", [True, False])
def test_cut_by_the_circle_is_a_lower_bound(told: bool) -> None:
    """Whether the corners are padded or only air."""
    image, outside = cylinder(300, x_mm=100), (radius_px() > 199)[None]
    image[outside] = -1000.0
    (size,) = measure_sizes(image, PIXEL_MM, 5.0, outside if told else None)
    assert size.source == "lower-bound"
    assert size.diameter_mm < 295


def test_cut_by_a_circle_smaller_than_the_image() -> None:
    """A field of 300 mm shown in 400: only the padding tells where it ends."""
    image, outside = cylinder(260, x_mm=60), (radius_px() > 150)[None]
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
    stack = np.concatenate([cylinder(300), cylinder(300, x_mm=100, slices=2)])
    assert [one.source for one in measure_sizes(stack, PIXEL_MM, 20.0)][1:] == ["neighbours", "lower-bound"]


def test_neighbours_never_make_a_slice_smaller() -> None:
    stack = np.concatenate([cylinder(150), cylinder(300, x_mm=100), cylinder(150)])
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
