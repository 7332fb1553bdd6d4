"""The region of a slice from the image alone: phantoms with a skull, lungs, legs, and real patients."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import dcmread

from dicomnode.dicom.series import read_series
from dicomnode.physics.anatomy import Region, look_at, regions_along
from dicomnode.physics.size import water_equivalent_diameter_mm

Image = NDArray[np.float32]
PIXEL_MM, SIDE = 1.5, 256
AIR, SOFT, LUNG, BONE = -1000.0, 40.0, -800.0, 900.0


def ellipse(
    image: Image, width_mm: float, height_mm: float, value: float, x_mm: float = 0, y_mm: float = 0
) -> None:
    """Draw a filled ellipse into an image."""
    y, x = (np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2) * PIXEL_MM
    image[((x - x_mm) / (width_mm / 2)) ** 2 + ((y - y_mm) / (height_mm / 2)) ** 2 < 1] = value


def body(width_mm: float, height_mm: float) -> Image:
    """Soft tissue with a spine."""
    image = np.full((SIDE, SIDE), AIR, np.float32)
    ellipse(image, width_mm, height_mm, SOFT)
    ellipse(image, 0.14 * width_mm, 0.14 * width_mm, BONE, y_mm=0.3 * height_mm)
    return image


def head() -> Image:
    image = np.full((SIDE, SIDE), AIR, np.float32)
    ellipse(image, 150, 190, SOFT)
    ellipse(image, 140, 180, BONE)
    ellipse(image, 124, 164, 30.0)
    return image


def face() -> Image:
    image = np.full((SIDE, SIDE), AIR, np.float32)
    ellipse(image, 150, 190, SOFT)
    ellipse(image, 100, 50, BONE, y_mm=-50)
    ellipse(image, 60, 40, BONE, y_mm=40)
    ellipse(image, 30, 30, AIR)
    return image


def neck() -> Image:
    image = body(120, 110)
    ellipse(image, 20, 20, AIR, y_mm=-20)
    return image


def shoulders() -> Image:
    return body(370, 180)


def chest() -> Image:
    image = body(330, 220)
    for side in (-1, 1):
        ellipse(image, 100, 150, LUNG, x_mm=80 * side)
    return image


def belly() -> Image:
    image = body(310, 220)
    ellipse(image, 60, 30, AIR, y_mm=-60)
    return image


def legs() -> Image:
    image = np.full((SIDE, SIDE), AIR, np.float32)
    for side in (-1, 1):
        ellipse(image, 140, 150, SOFT, x_mm=90 * side)
        ellipse(image, 30, 30, BONE, x_mm=90 * side)
        ellipse(image, 14, 14, -50.0, x_mm=90 * side)
    return image


def regions(images: Sequence[Image], spacing_mm: float = 5.0) -> tuple[tuple[Region | None, ...], bool]:
    noise = np.random.default_rng(4).normal(0, 15, (len(images), SIDE, SIDE))
    stack = (np.stack(images) + noise).astype(np.float32)
    diameters = water_equivalent_diameter_mm(stack, PIXEL_MM)
    return regions_along(look_at(stack, PIXEL_MM, diameters), spacing_mm)


@pytest.mark.parametrize(
    ("image", "region"),
    [
        (head(), "head"),
        (face(), "head"),
        (chest(), "chest"),
        (belly(), "abdomen-pelvis"),
        (legs(), "extremity"),
    ],
    ids=["head", "face", "chest", "belly", "legs"],
)
def test_one_slice_is_enough_where_it_is_clear(image: Image, region: str) -> None:
    assert regions([image]) == ((region,), True)


def test_a_neck_alone_is_a_guess_and_between_chest_and_head_it_is_none() -> None:
    assert regions([neck()]) == (("neck",), False)
    found, clear = regions([*[chest()] * 4, *[neck()] * 6, *[head()] * 4])
    assert clear
    assert found == ("chest",) * 4 + ("neck",) * 6 + ("head",) * 4


def test_a_whole_body_from_feet_to_head() -> None:
    parts = [legs, belly, chest, neck, head]
    found, _ = regions([part() for part in parts for _ in range(6)])
    assert found == tuple(
        region for region in ("extremity", "abdomen-pelvis", "chest", "neck", "head") for _ in range(6)
    )


def test_shoulders_above_lungs_are_no_belly() -> None:
    assert set(regions([*[chest()] * 3, *[shoulders()] * 8])[0]) == {"chest"}
    assert set(regions([*[shoulders()] * 8, *[neck()] * 6, *[head()] * 4])[0]) == {"chest", "neck", "head"}
    assert regions([shoulders()])[0] == ("abdomen-pelvis",)  # alone it cannot be told


def test_one_odd_slice_changes_nothing() -> None:
    assert set(regions([*[belly()] * 5, chest(), *[belly()] * 5], spacing_mm=3.0)[0]) == {"abdomen-pelvis"}


def test_water_and_air_say_nothing() -> None:
    water = np.full((SIDE, SIDE), AIR, np.float32)
    ellipse(water, 300, 300, 0.0)
    assert regions([water, water]) == ((None, None), False)
    assert regions([np.full((SIDE, SIDE), AIR, np.float32)]) == ((None,), False)
    assert regions_along((), 5.0) == ((), False)


def test_one_odd_slice_at_the_end_changes_nothing() -> None:
    assert set(regions([neck(), *[head()] * 5], spacing_mm=3.0)[0]) == {"head"}


@pytest.mark.parametrize(("image", "expected"), [(face(), ("head", True)), (neck(), ("neck", False))])
def test_raised_arms_are_no_legs(image: Image, expected: tuple[str, bool]) -> None:
    for side in (-1, 1):
        ellipse(image, 70, 70, SOFT, x_mm=130 * side)
        ellipse(image, 22, 22, BONE, x_mm=130 * side)
    found, clear = regions([image])
    assert (found[0], clear) == expected


def test_what_is_cut_off_is_no_head_but_lungs_stay_lungs() -> None:
    """A field full of belly has a skull's size and may have bone around it."""
    stack = np.stack([face(), head(), chest()])
    seen = look_at(stack, PIXEL_MM, [200.0] * 3, [True, True, True])
    assert regions_along(seen[:2], 5.0) == ((None, None), False)
    assert regions_along(seen[2:], 5.0) == (("chest",), True)


# --- patients ---------------------------------------------------------------------------------------


def read(folder: Path, series_with: int | None = None) -> tuple[tuple[Region | None, ...], bool]:
    paths: dict[str, list[Path]] = {}
    for path in sorted(folder.rglob("*.dcm")):
        paths.setdefault(str(dcmread(path, stop_before_pixels=True).SeriesInstanceUID), []).append(path)
    series = read_series(next(v for v in paths.values() if series_with in (None, len(v))))
    pixel_mm = series.pixel_spacing_mm[0]
    diameters = water_equivalent_diameter_mm(series.hounsfield, pixel_mm)
    return regions_along(look_at(series.hounsfield, pixel_mm, diameters), series.slice_spacing_mm)


@pytest.mark.slow
def test_pelvis_to_chest(shared_data: Path) -> None:
    """Looked at: lungs begin at slice 117, fill a third at 126; the scan ends in the chest."""
    found, clear = read(shared_data / "ct" / "tcga-de-a4ma")
    assert clear
    assert set(found[:115]) == {"abdomen-pelvis"}
    assert set(found[124:]) == {"chest"}


@pytest.mark.slow
def test_chest_with_contrast(shared_data: Path) -> None:
    assert set(read(shared_data / "ct" / "rider-011")[0]) == {"chest"}


@pytest.mark.slow
def test_chest_shoulders_and_head_beside_raised_arms(shared_data: Path) -> None:
    """Looked at: lungs to slice 21, shoulders to 33, jaw from 36, skull base at 59."""
    found, clear = read(shared_data / "ct" / "acrin-flt-001", 60)
    assert clear
    assert set(found[:30]) == {"chest"}
    assert set(found[45:]) == {"head"}


@pytest.mark.slow
def test_liver_to_lung_tips(shared_data: Path) -> None:
    found, _ = read(shared_data / "ct" / "lung-dx-a0002")
    assert found[0] == "abdomen-pelvis"
    assert set(found[8:]) == {"chest"}


@pytest.mark.slow
def test_a_real_head_from_teeth_to_crown(shared_data: Path) -> None:
    """The node refuses it for its tilt; the anatomy is no less a head."""
    images = [dcmread(path) for path in sorted((shared_data / "ct" / "dcm-qa-ct").rglob("*GE*.dcm"))]
    images = [image for image in images if "AXIAL" in image.ImageType and image.SeriesNumber == 2]
    images.sort(key=lambda image: float(image.ImagePositionPatient[2]))
    assert len(images) == 28
    stack = np.stack([i.pixel_array * float(i.RescaleSlope) + float(i.RescaleIntercept) for i in images])
    hounsfield = np.maximum(stack, -1000).astype(np.float32)
    pixel_mm = float(images[0].PixelSpacing[0])
    seen = look_at(hounsfield, pixel_mm, water_equivalent_diameter_mm(hounsfield, pixel_mm))
    assert regions_along(seen, 5.0) == (("head",) * 28, True)


def test_fruit_is_nobody(shared_data: Path) -> None:
    assert not read(shared_data / "ct" / "adit-fruit", 4)[1]
