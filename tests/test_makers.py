import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.uid import (
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    RLELossless,
)

from tests.makers import make_series, phantom


@pytest.mark.parametrize("vendor", ["siemens", "philips", "ge", "canon", "none"])
@pytest.mark.parametrize("signed", [False, True])
def test_every_vendor_style_is_a_valid_ct_object(tmp_path: Path, dciodvfy: str, vendor, signed) -> None:
    paths = make_series(tmp_path / "s", slices=1, vendor=vendor, signed=signed, bits_stored=16, padding=2000)
    run = subprocess.run([dciodvfy, str(paths[0])], capture_output=True, text=True)
    assert "Error" not in run.stdout + run.stderr
    assert "CTImage" in run.stdout + run.stderr


def test_a_series_is_one_consistent_entity(tmp_path: Path, program: Callable[[str], str]) -> None:
    paths = make_series(tmp_path / "s")
    run = subprocess.run([program("dcentvfy"), *map(str, paths)], capture_output=True, text=True)
    assert run.stdout + run.stderr == ""


@pytest.mark.parametrize(
    "syntax",
    [
        ExplicitVRLittleEndian,
        ImplicitVRLittleEndian,
        ExplicitVRBigEndian,
        RLELossless,
        JPEG2000Lossless,
    ],
)
def test_pixels_are_the_same_in_every_transfer_syntax(tmp_path: Path, syntax) -> None:
    volume = phantom(2)
    paths = make_series(tmp_path / "s", volume, transfer_syntax=syntax)
    read = [dcmread(path) for path in paths]
    assert {one.file_meta.TransferSyntaxUID for one in read} == {syntax}
    hounsfield = np.stack([one.pixel_array.astype(np.int32) - 1024 for one in read])
    assert np.abs(hounsfield - volume).max() <= 0.501


def test_same_name_same_bytes_other_name_other_uids(tmp_path: Path) -> None:
    one = make_series(tmp_path / "a" / "s", slices=1)[0]
    same = make_series(tmp_path / "b" / "s", slices=1)[0]
    other = make_series(tmp_path / "c", slices=1)[0]
    assert one.read_bytes() == same.read_bytes()
    assert dcmread(one).SeriesInstanceUID != dcmread(other).SeriesInstanceUID
