"""Organs of a chest made of cylinders: exact volumes, leaks that stop, noise that shows."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from dicomnode.dicom.series import read_series
from dicomnode.errors import NotMeasurable
from dicomnode.evaluation.airways import find_trachea, grow_airways
from dicomnode.evaluation.segmentation import ORGANS, agreement, dice, segment

SPACING_MM = (2.0, 1.0, 1.0)
SLICES, SIDE = 40, 240
LUNGS = slice(4, 34)
Volume = NDArray[np.float32]
Mask = NDArray[np.bool_]


def ellipse(row: float, column: float, tall: float, wide: float) -> Mask:
    y, x = np.mgrid[:SIDE, :SIDE]
    return np.asarray(((y - row) / tall) ** 2 + ((x - column) / wide) ** 2 <= 1)


class Chest:
    """A body of water with fat around it, two lungs, a spine with marrow, trachea and bronchi with walls.

    Slice 0 is the lowest. The bronchi end in the lungs behind a wall, which `leak` opens.
    """

    def __init__(self, leak: bool = False) -> None:
        shape = (SLICES, SIDE, SIDE)
        self.body, self.lung, self.bone, self.airways, wall = np.zeros((5, *shape), bool)
        self.body[:] = ellipse(120, 120, 85, 110)
        inner = ellipse(120, 120, 75, 100)
        self.lung[LUNGS] = ellipse(115, 75, 55, 35.5) | ellipse(115, 165, 55, 35.5)
        self.bone[:] = ellipse(172, 120, 12, 14)
        marrow = ellipse(172, 120, 5, 5)
        self.airways[24:] = ellipse(110, 120, 8, 8)
        wall[24:] = ellipse(110, 120, 11, 11)
        for step in range(12):
            for side in (-1, 1):
                at = 120 + side * (4 + 3 * step)
                self.airways[24 - step] |= ellipse(110, at, 5, 5)
                wall[24 - step] |= ellipse(110, at, 8, 8)
        wall[11:14] |= ellipse(110, 83, 8, 8) | ellipse(110, 157, 8, 8)
        self.lung &= ~wall & ~self.airways
        self.volume = np.full(shape, -1000.0, np.float32)
        self.volume[self.body] = -100.0
        self.volume[:, inner] = 40.0
        self.volume[self.lung] = -850.0
        self.volume[self.bone] = 700.0
        self.volume[:, marrow] = 120.0
        self.volume[wall] = 30.0
        self.volume[self.airways] = -1000.0
        if leak:
            self.volume[12, 110, :] = np.where(wall[12, 110], -850.0, self.volume[12, 110])

    def noisy(self, std_hu: float) -> Volume:
        noise = np.random.default_rng(5).normal(0, std_hu, self.volume.shape)
        return (self.volume + noise).astype(np.float32)


@pytest.fixture(scope="module")
def chest() -> Chest:
    return Chest()


def test_volumes_are_exact(chest: Chest) -> None:
    found = segment(chest.volume, SPACING_MM)
    np.testing.assert_array_equal(found.lung, chest.lung)
    np.testing.assert_array_equal(found.bone, chest.bone)
    np.testing.assert_array_equal(found.mask("airways"), chest.airways)
    np.testing.assert_array_equal(
        found.soft, chest.body & (chest.volume > 0) & ~chest.bone & ~chest.lung & ~chest.airways
    )
    assert found.volume_ml("lung") == pytest.approx(chest.lung.sum() * 2.0 / 1000)
    assert found.grown is not None
    assert not found.grown.leaked


def test_the_trachea_is_found_from_either_end(chest: Chest) -> None:
    lung = segment(chest.volume, SPACING_MM).lung
    for volume, body, lungs, airways in (
        (chest.volume, chest.body, lung, chest.airways),
        (chest.volume[::-1], chest.body[::-1], lung[::-1], chest.airways[::-1]),
    ):
        seed = find_trachea(volume, body, lungs, SPACING_MM)
        assert seed is not None
        assert airways[seed]
    upside_down = segment(chest.volume[::-1], SPACING_MM)
    np.testing.assert_array_equal(upside_down.mask("airways"), chest.airways[::-1])


def test_gas_in_the_bowel_is_neither_trachea_nor_lung(chest: Chest) -> None:
    volume, lungless = chest.volume.copy(), np.zeros_like(chest.lung)
    assert find_trachea(volume, chest.body, lungless, SPACING_MM) is None
    bowel = volume[:4]
    bowel[:, ellipse(100, 100, 20, 30)] = -950.0
    found = segment(bowel, SPACING_MM)
    assert not found.lung.any()
    assert found.grown is None
    assert found.volume_ml("airways") == 0


def test_a_leak_is_seen_and_stopped() -> None:
    leaking = Chest(leak=True)
    found = segment(leaking.volume, SPACING_MM).grown
    assert found is not None
    assert found.leaked
    assert found.threshold_hu == -850.0
    np.testing.assert_array_equal(found.mask, leaking.airways)
    # without the watch it runs into both lungs
    everything = leaking.volume < -760
    assert (everything & leaking.body).sum() > 5 * leaking.airways.sum()


def test_a_leak_into_little_lung_is_stopped_as_well() -> None:
    """Not as large as to be impossible, but sudden."""
    leaking = Chest(leak=True)
    leaking.volume[14:][leaking.lung[14:]] = 40.0
    leaking.volume[:10][leaking.lung[:10]] = 40.0
    assert 50 < leaking.lung[10:14].sum() * 2.0 / 1000 < 200
    found = segment(leaking.volume, SPACING_MM, seed=(30, 110, 120)).grown
    assert found is not None
    assert found.leaked
    np.testing.assert_array_equal(found.mask, leaking.airways)


def test_a_leak_in_noise_is_stopped_as_well() -> None:
    leaking = Chest(leak=True)
    found = segment(leaking.noisy(40.0), SPACING_MM).grown
    assert found is not None
    assert found.leaked
    assert dice(found.mask, leaking.airways) > 0.9


def test_a_seed_can_be_given_and_must_be_in_an_airway(chest: Chest) -> None:
    seed = (30, 110, 120)
    found = segment(chest.volume, SPACING_MM, seed=seed).grown
    assert found is not None
    assert found.seed == seed
    np.testing.assert_array_equal(found.mask, chest.airways)
    with pytest.raises(NotMeasurable, match="there is no air"):
        grow_airways(chest.volume, chest.body, SPACING_MM, (30, 60, 120))
    thin = np.where(chest.lung, -970.0, chest.volume).astype(np.float32)
    with pytest.raises(NotMeasurable, match="no airway"):
        grow_airways(thin, chest.body, SPACING_MM, (20, 115, 75))


def test_agreement_is_one_with_itself_and_falls_with_noise(chest: Chest) -> None:
    assert agreement(chest.volume, chest.volume, SPACING_MM) == dict.fromkeys(ORGANS, 1.0)
    some, more = (agreement(chest.noisy(std), chest.volume, SPACING_MM) for std in (30.0, 80.0))
    assert min(some.values()) > 0.95
    for organ in ("bone", "soft", "airways"):
        assert some[organ] > more[organ] > 0.3
    # 450 HU from either side of its threshold
    assert more["lung"] > 0.999


def test_agreement_of_one_slice_has_no_airways(chest: Chest) -> None:
    found = agreement(chest.volume[20:21], chest.volume[20:21], SPACING_MM)
    assert np.isnan(found["airways"])
    assert found["lung"] == 1.0


def test_dice_of_known_overlap() -> None:
    one, other = np.zeros((2, 1, 10, 10), bool)
    one[0, :, :6] = True
    other[0, :, 4:] = True
    assert dice(one, other) == pytest.approx(2 * 20 / 120)
    assert np.isnan(dice(one & False, one & False))
    assert dice(one, one & False) == 0.0


def test_a_real_chest(shared_data: Path) -> None:
    """8 mm slices from the throat to the liver: lungs, the trachea by itself, a leak that is stopped."""
    series = read_series(sorted((shared_data / "ct" / "lung-dx-a0002").rglob("*.dcm")))
    found = segment(series.hounsfield, (series.slice_spacing_mm, *series.pixel_spacing_mm))
    assert 2000 < found.volume_ml("lung") < 4000
    assert found.grown is not None
    assert found.grown.leaked
    assert 8 < found.volume_ml("airways") < 100
    assert found.mask("airways")[20:29].any(axis=(1, 2)).all()


def test_real_bowel_gas_is_no_lung_and_real_lung_is(shared_data: Path) -> None:
    pairs = shared_data / "pairs" / "mayo"
    for stem, has_lung in (("L286_D45f_3mm_z-423.0", False), ("L192_D45f_3mm_z-100.6", True)):
        full, low = (read_series([pairs / f"{stem}_{dose}.dcm"]) for dose in ("full", "quarter"))
        assert segment(full.hounsfield, (3.0, *full.pixel_spacing_mm)).lung.any() == has_lung
        agreed = agreement(low.hounsfield, full.hounsfield, (3.0, *full.pixel_spacing_mm))
        assert np.isnan(agreed["lung"]) != has_lung
        assert 0.85 < agreed["bone"] < 0.97
        assert 0.85 < agreed["soft"] < 0.97
