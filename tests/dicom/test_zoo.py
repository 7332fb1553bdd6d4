"""Odd files from the field: a series or a named refusal, nothing else."""

import csv
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.data import get_testdata_file

from dicomnode import errors
from dicomnode.dicom.dose import read_dose
from dicomnode.dicom.series import read_series
from dicomnode.errors import SeriesRefused, Undecodable

BUNDLED = ["CT_small.dcm", "JPEG2000.dcm", "MR_small.dcm", "rtplan.dcm", "image_dfl.dcm", "no_meta.dcm"]
BUNDLED += ["DICOMDIR", "badVR.dcm", "UN_sequence.dcm", "nested_priv_SQ.dcm", "JPGExtended.dcm"]
BUNDLED += ["empty_charset_LEI.dcm", "meta_missing_tsyntax.dcm", "rtplan_truncated.dcm", "SC_rgb_jpeg.dcm"]


RULES = {
    kind.rule for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, SeriesRefused)
}


def rule_of(path: Path) -> str:
    """The rule by which a file is refused as a series of its own; "" where it is read."""
    try:
        series = read_series([path])
    except SeriesRefused as refused:
        return refused.rule
    assert series.hounsfield.shape == series.stored.shape
    assert np.isfinite(series.hounsfield).all()
    dose = read_dose(series.headers)
    assert len(dose.mas) == len(dose.ctdivol_mgy) == 1
    return ""


def test_every_file_of_the_zoo(shared_data: Path) -> None:
    rows = list(csv.DictReader((shared_data / "zoo-manifest.csv").open()))
    rules = {row["file"]: rule_of(shared_data / row["file"]) for row in rows}
    read = {name for name, rule in rules.items() if not rule}
    assert len(rows) > 50
    assert len(read) >= 25
    assert set(rules.values()) >= {"not-ct", "localizer", "undecodable", "unsupported-geometry", "not-axial"}
    for row in rows:
        if row["Modality"] != "CT":
            assert rules[row["file"]], row["file"]
        if "LOCALIZER" in row["ImageType"]:
            assert rules[row["file"]] in ("localizer", "not-ct"), row["file"]


@pytest.mark.parametrize("process", ["50", "51", "53", "55"])
def test_lossy_jpeg_is_refused(shared_data: Path, process: str) -> None:
    found = list((shared_data / "zoo" / "cornerstone").glob(f"CTImage*1.2.4.{process}.dcm"))
    assert found
    for path in found:
        with pytest.raises(Undecodable):
            read_series([path])


def test_one_image_in_all_its_lossless_syntaxes(shared_data: Path) -> None:
    lossless = ["LittleEndianImplicit", "BigEndianExplicit", "RLELossless", "JPEG2000LosslessOnly"]
    lossless += ["JPEGLSLossless", "JPEGProcess14SV1"]
    plain = read_series([shared_data / "zoo" / "cornerstone" / "CTImage.dcm"])
    for name in lossless:
        path = next((shared_data / "zoo" / "cornerstone").glob(f"CTImage.dcm_{name}*"))
        assert np.array_equal(read_series([path]).stored, plain.stored), name


def test_one_image_as_nema_compressed_it(shared_data: Path) -> None:
    """Some end in an FF to make their length even, which PS3.5 does not foresee."""
    folder = shared_data / "zoo" / "nema_wg04"
    plain, reversible, near = (
        read_series([folder / f"CT1_{name}.dcm"]).stored.astype(int) for name in ("JPLL", "J2KR", "JLSN")
    )
    assert np.array_equal(reversible, plain)
    assert 0 < np.abs(near - plain).max() <= 10


@pytest.mark.parametrize("name", BUNDLED)
def test_files_that_come_with_pydicom(name: str) -> None:
    path = get_testdata_file(name, download=False)
    if path is None:
        pytest.skip(f"{name} does not come with this pydicom")
    assert rule_of(Path(path)) in {"", *RULES}


@pytest.mark.parametrize(
    ("folder", "pattern", "rule"),
    [
        ("ct/rider-011", "1-00*.dcm", ""),
        ("ct/tcga-de-a4ma", "1-08*.dcm", ""),
        ("ct/lung-dx-a0002", "1-0*.dcm", ""),
        ("ct/cmb-crc-01068-lung-kernel", "*.dcm", ""),
        ("ct/dcm-qa-ct", "In__GE__*.dcm", "mixed-series"),
        ("ct/covid19-ny-sbu", "*A002304__coronal__19001231*", "not-axial"),
        ("ct/covid19-ny-sbu", "*A002304__sagittal__19001231*", "not-axial"),
        ("ct/adit-fruit", "*1001*H42s*", ""),
        ("ct/adit-fruit", "*1001*Topogramm*", "localizer"),
        ("ct/adit-fruit", "*1001*FUJI*", "not-ct"),
        ("pairs/mayo", "L192_B30f*quarter.dcm", "gap-in-series"),
    ],
)
def test_real_series(shared_data: Path, folder: str, pattern: str, rule: str) -> None:
    paths = sorted((shared_data / folder).glob(pattern))
    assert paths
    if rule:
        with pytest.raises(SeriesRefused) as refused:
            read_series(paths)
        assert refused.value.rule == rule
        return
    series = read_series(paths)
    assert series.slices == len(paths)
    body = series.hounsfield[(series.hounsfield > -50) & (series.hounsfield < 150)]
    assert body.size > 1000 * series.slices
    assert all(dcmread(path, stop_before_pixels=True).SOPInstanceUID for path in series.source_paths)
