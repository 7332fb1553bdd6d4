"""Digests: a scan is known again however it is stored, and nothing else is taken for it."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom.uid import ExplicitVRBigEndian

from dicomnode.dicom.series import read_series
from dicomnode.engines.seen import Seen, series_digest, slice_digest, slice_digests, study_digest
from tests.makers import make_series, phantom

Image = NDArray[np.float32]


@pytest.fixture(scope="module")
def image() -> Image:
    """Whole HU, as scanners store them."""
    whole: Image = np.rint(phantom(1, 96, 96)[0]).astype(np.float32)
    return whole


def lung() -> Image:
    """Hardly anything else, and noise that reaches below air."""
    whole: Image = np.rint(np.random.default_rng(0).normal(-900, 50, (96, 96))).astype(np.float32)
    return whole


KEPT: dict[str, Callable[[Image], Image]] = {
    "a constant added": lambda x: np.where(x > -1000, x + 250, x).astype(np.float32),
    "no whole number added": lambda x: (x + np.float32(0.1)).astype(np.float32),
    "cut off at air": lambda x: np.clip(x, -1000, 3071),
    "other padding": lambda x: np.where(np.hypot(*(np.mgrid[:96, :96] - 47.5)) > 47, -2000, x).astype("f4"),
    "mirrored": lambda x: x[:, ::-1],
    "upside down": lambda x: x[::-1],
    "turned": lambda x: np.rot90(x),
}


@pytest.mark.parametrize("change", KEPT.values(), ids=KEPT)
def test_a_slice_is_known_however_it_is_kept(image: Image, change: Callable[[Image], Image]) -> None:
    assert slice_digest(change(image)) == slice_digest(image) is not None


def test_a_slice_of_lung_is_known_when_it_is_cut_off_at_air() -> None:
    """Which pixels were cut off is no part of it; what a constant makes of these is."""
    for change in ("cut off at air", "other padding", "mirrored", "turned"):
        assert slice_digest(KEPT[change](lung())) == slice_digest(lung()) is not None


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x * np.float32(1.01),
        lambda x: np.where(np.arange(x.size).reshape(x.shape) == 4560, x + 9, x),
    ],
    ids=["scaled", "one pixel of the middle"],
)
def test_another_slice_is_another(image: Image, change: Callable[[Image], Image]) -> None:
    assert slice_digest(change(image).astype(np.float32)) != slice_digest(image)


def test_slices_of_one_phantom_in_other_noise_are_others() -> None:
    """The same anatomy, and neighbours of one another: noise tells them apart."""
    stacks = [np.rint(phantom(20, 96, 96, seed=seed)).astype(np.float32) for seed in range(5)]
    digests = [digest for stack in stacks for digest in slice_digests(stack)]
    assert len(set(digests)) == len(digests) == 100


@pytest.mark.parametrize("value", [-1000.0, 0.0])
def test_what_looks_like_anything_has_no_digest(value: float) -> None:
    even = np.full((64, 64), value, np.float32)
    assert slice_digest(even) is None
    even[20:40, 20:40] += 40  # a plain phantom without noise is no scan
    assert slice_digest(even) is None
    assert slice_digests([even, even]) == []


def test_a_copy_stored_otherwise_under_other_uids_is_known(tmp_path: Path, image: Image) -> None:
    """Through real files: slope, intercept, sign, bits, padding, transfer syntax."""
    stack = np.stack([image, image[:, ::-1] * np.float32(0.5) // 1])
    plain = make_series(tmp_path / "one", stack)
    others = [
        make_series(tmp_path / "signed", stack, signed=True, intercept=0.0, bits_stored=16),
        make_series(tmp_path / "offset", stack, intercept=-1200.0),
        make_series(tmp_path / "finer", stack, slope=0.5, intercept=-1024.0, bits_stored=16),
        make_series(tmp_path / "padded", stack, padding=0, intercept=-1030.0),
        make_series(tmp_path / "big", stack, transfer_syntax=ExplicitVRBigEndian),
    ]
    first = read_series(plain)
    known = slice_digests(first.hounsfield)
    assert len(known) == 2
    for paths in others:
        series = read_series(paths)
        assert series.study_instance_uid != first.study_instance_uid
        assert slice_digests(series.hounsfield) == known


def test_uids_of_one_text_are_told_apart_by_what_they_are_of() -> None:
    one = study_digest("1.2.3")
    assert one == study_digest("1.2.3") != study_digest("1.2.4")
    assert one != series_digest("1.2.3")
    assert len(one) == 64
    assert "1.2.3" not in one


def test_sets_of_digests_are_sets() -> None:
    a, b = study_digest("1"), study_digest("2")
    s, t = "0" * 16, "1" * 16
    one, other = Seen.of([b, a, a], (), [s]), Seen.of([a], (), [t])
    assert one.studies == tuple(sorted((a, b)))
    assert (one & other) == Seen.of([a], (), ())
    assert (one | other) == Seen.of([a, b], (), [s, t])
    assert one | one == one & one == one
    assert not one & Seen.of((), [series_digest("1")], ())
    assert bool(one)
    assert not Seen()
