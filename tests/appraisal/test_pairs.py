"""`evaluate pairs`: the right twins, honest figures, and the floor the shipped model must hold."""

import json
from pathlib import Path

import numpy as np
import pytest

from dicomnode.__main__ import main
from dicomnode.appraisal.pairs import FIGURES, METHODS, compare, match_pairs
from dicomnode.errors import TrainingError
from tests.makers import make_series, phantom


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Three slices twice; the low-dose ones are noisier."""
    full, low = tmp_path / "full", tmp_path / "low"
    clean = phantom(slices=3)
    make_series(full, hounsfield=clean)
    noise = np.random.default_rng(9).normal(0, 60, clean.shape)
    make_series(low, hounsfield=(clean + noise).astype(np.float32))
    return low, full


def position(piece: object) -> list[float]:
    return [float(v) for v in piece.headers[0].ImagePositionPatient]  # type: ignore[attr-defined]


def test_twins_lie_at_the_same_place(folders: tuple[Path, Path]) -> None:
    pairs = match_pairs(*folders)
    assert len(pairs) == 3
    assert all(position(pair.low) == position(pair.full) for pair in pairs)
    assert len({tuple(position(pair.low)) for pair in pairs}) == 3


def test_one_folder_with_both_is_sorted_by_noise(folders: tuple[Path, Path], tmp_path: Path) -> None:
    both = tmp_path / "both"
    both.mkdir()
    for folder in folders:
        for path in folder.iterdir():
            (both / f"{folder.name}-{path.name}").write_bytes(path.read_bytes())
    apart, together = match_pairs(*folders), match_pairs(both, both)
    assert len(together) == 3
    by_place = {tuple(position(pair.low)): pair for pair in apart}
    for pair in together:
        np.testing.assert_array_equal(pair.low.hounsfield, by_place[tuple(position(pair.low))].low.hounsfield)


def test_nothing_in_common_is_told(folders: tuple[Path, Path], tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(TrainingError, match="no slice in"):
        match_pairs(folders[0], empty)


def test_figures_of_a_known_error() -> None:
    target = np.linspace(-1000, 1000, 64 * 64).reshape(64, 64).astype(np.float32)
    off = np.clip(target + 10, -1000, 1000).astype(np.float32)
    figures = compare(off, target, 1.0)
    assert figures["rmse_hu"] == pytest.approx(10.0, rel=0.01)
    assert figures["psnr_db"] == pytest.approx(20 * np.log10(2000 / 10), rel=0.01)
    assert compare(target, target, 1.0)["ssim"] == pytest.approx(1.0)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_real_quarter_dose_pairs(shared_data: Path, tmp_path: Path) -> None:
    """The floor: a plain U-Net of 1.2 M parameters reaches 12.5 and 21.8 HU."""
    pairs, told = shared_data / "pairs" / "mayo", tmp_path / "figures.json"
    assert main(["evaluate", "pairs", str(pairs), str(pairs), "--json", str(told)]) == 0
    report = json.loads(told.read_text())
    assert report["slices"] == 15
    kernels = report["kernels"]
    for kernel in ("B30f", "D45f"):
        assert set(kernels[kernel]) >= set(FIGURES)
        assert set(kernels[kernel]["rmse_hu"]) == set(METHODS)
        assert abs(kernels[kernel]["bias_hu"]["enhanced"]) < 1.0
    assert kernels["B30f"]["rmse_hu"]["input"] == pytest.approx(19.33, abs=0.1)
    assert kernels["D45f"]["rmse_hu"]["input"] == pytest.approx(36.82, abs=0.1)
    assert kernels["B30f"]["rmse_hu"]["enhanced"] <= 12.6
    assert kernels["D45f"]["rmse_hu"]["enhanced"] <= 22.0
