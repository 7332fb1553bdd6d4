"""Derived images are valid objects whatever their source is like: made, real or damaged."""

import subprocess
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.datadict import tag_for_keyword
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless

from dicomnode import errors
from dicomnode.dicom.derived import Identity, Provenance, write_derived
from dicomnode.dicom.series import read_series
from tests.dicom.rewritten import Errors, odd_numbers
from tests.fuzz import anatomy
from tests.makers import make_series


@pytest.mark.parametrize("vendor", ["siemens", "philips", "ge", "canon", "none"])
def test_no_errors_on_made_series(
    tmp_path: Path, identity: Identity, provenance: Provenance, object_errors: Errors, vendor
) -> None:
    series = read_series(make_series(tmp_path / "s", slices=1, vendor=vendor, padding=9))
    written = write_derived(series, series.hounsfield, identity, provenance, tmp_path / "d")
    assert object_errors(written[0]) == Counter()


def test_the_derived_series_is_one_entity_with_its_source(
    tmp_path: Path, identity: Identity, provenance: Provenance, program: Callable[[str], str]
) -> None:
    paths = make_series(tmp_path / "s")
    series = read_series(paths)
    written = write_derived(series, series.hounsfield, identity, provenance, tmp_path / "d")
    run = subprocess.run(
        [program("dcentvfy"), *map(str, paths), *map(str, written)], capture_output=True, text=True
    )
    assert run.stdout + run.stderr == ""


REAL = [
    "zoo/**/*.dcm",
    "ct/rider-011/1-00[1-2].dcm",
    "ct/tcga-de-a4ma/1-08[0-1].dcm",
    "ct/lung-dx-a0002/1-0[1-2].dcm",
]
REAL += [
    "ct/dcm-qa-ct/In__Philips__S21570__S2010__I10.dcm",
    "ct/covid19-ny-sbu/*axial*",
    "pairs/mayo/*z-58.6_*",
]
REAL += ["ct/adit-fruit/*H42s*00009.dcm", "ct/cmb-crc-01068-lung-kernel/1-04[0-1].dcm"]


@pytest.mark.parametrize("pattern", REAL)
def test_no_new_errors_on_real_images_and_pixels_come_back(
    shared_data: Path,
    tmp_path: Path,
    identity: Identity,
    provenance: Provenance,
    object_errors: Errors,
    pattern: str,
) -> None:
    checked = 0
    for number, path in enumerate(sorted(shared_data.glob(pattern))):
        try:
            series = read_series([path])
        except errors.SeriesRefused:
            continue
        written = write_derived(series, series.hounsfield, identity, provenance, tmp_path / str(number))[0]
        assert np.array_equal(dcmread(written).pixel_array, series.stored[0]), path.name
        assert object_errors(written) - object_errors(path) == Counter(), path.name
        checked += 1
    assert checked


@pytest.mark.parametrize("seed", range(40))
def test_what_can_be_read_can_be_written(
    tmp_path: Path, identity: Identity, provenance: Provenance, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    syntax = [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian, RLELossless][seed % 4]
    path = make_series(tmp_path / "s", slices=1, transfer_syntax=syntax, change=odd_numbers)[0]
    damaged = bytearray(path.read_bytes())
    for at in rng.integers(340, 1800, 3):
        damaged[at] = rng.choice([0, 0x20, 0x5C, 0xFF, damaged[at] ^ 1])
    path.write_bytes(damaged)
    try:
        series = read_series([path])
    except errors.SeriesRefused:
        return
    written = write_derived(series, series.hounsfield, identity, provenance, tmp_path / "d")[0]
    assert np.array_equal(dcmread(written).pixel_array, series.stored[0])


@pytest.mark.parametrize("keyword", ["StudyDescription", "Rows"])
def test_an_undefined_length_where_none_may_be_does_not_get_into_the_derived_image(
    tmp_path: Path, identity: Identity, provenance: Provenance, keyword: str
) -> None:
    path = make_series(tmp_path / "s", slices=1, transfer_syntax=ImplicitVRLittleEndian)[0]
    content, tag = path.read_bytes(), tag_for_keyword(keyword)
    assert tag is not None
    old = anatomy.find(content, tag)
    place = old or next(one for one in anatomy.elements(content) if one.tag > tag)
    value = anatomy.value(content, old) + anatomy.SEQUENCE_END
    encoded = anatomy.encode(tag, b"", value, place.encoding, anatomy.UNDEFINED)
    path.write_bytes(content[: place.at] + encoded + content[old.end if old else place.at :])
    series = read_series([path])
    (derived,) = write_derived(series, series.hounsfield, identity, provenance, tmp_path / "out")
    written = dcmread(derived)
    assert [
        one.tag for one in anatomy.elements(derived.read_bytes()) if one.length == anatomy.UNDEFINED
    ] == []
    assert written.Rows == 64
    assert written.SpecificCharacterSet == "ISO_IR 100"
    assert written.PatientName == "Phantom^Textured"
