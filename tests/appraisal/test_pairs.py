"""`evaluate pairs`: the right twins, honest figures, and the floor the shipped model must hold."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset

from dicomnode.__main__ import main
from dicomnode.appraisal.pairs import FIGURES, METHODS, Pair, compare, match_pairs, start_of
from dicomnode.dicom.dose import read_dose
from dicomnode.dose_reference import DoseReference
from dicomnode.engines.catalog import SHIPPED, load_engine
from dicomnode.engines.need.engine import NeedEngine
from dicomnode.errors import TrainingError
from dicomnode.journey.matching import slice_facts
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


@pytest.fixture(scope="module")
def engine() -> NeedEngine:
    return load_engine(SHIPPED, "need-small", "cpu")


def pair_of(tmp_path: Path, low_mgy: float, full_mgy: float, **full: Any) -> Pair:
    make_series(tmp_path / "full", slices=1, ctdivol_mgy=full_mgy, effective_mas=full_mgy * 15, **full)
    make_series(tmp_path / "low", slices=1, ctdivol_mgy=low_mgy, effective_mas=low_mgy * 15)
    (pair,) = match_pairs(tmp_path / "low", tmp_path / "full").pairs
    return pair


@pytest.mark.parametrize("full_mgy", [4.0, 12.0, 30.0, 200.0])
def test_the_dose_of_the_twin_is_the_normal_one(engine: NeedEngine, tmp_path: Path, full_mgy: float) -> None:
    """Whatever the shipped table says is normal, also where the twin had twenty times that."""
    pair = pair_of(tmp_path, full_mgy / 4, full_mgy)
    assert start_of(pair, engine).fraction_by_tags == pytest.approx(0.25)


def test_a_dose_on_the_small_phantom_is_as_much_as_it_is(engine: NeedEngine, tmp_path: Path) -> None:
    def on_16_cm(dataset: Dataset, _: int) -> None:
        dataset.CTDIPhantomTypeCodeSequence[0].CodeValue = "113690"
        dataset.CTDIPhantomTypeCodeSequence[0].CodeMeaning = "IEC Head Dosimetry Phantom"

    large = start_of(pair_of(tmp_path / "32", 5.0, 10.0), engine).fraction_by_tags
    small = start_of(pair_of(tmp_path / "16", 5.0, 10.0, change=on_16_cm), engine).fraction_by_tags
    assert large == pytest.approx(0.5)
    assert small is not None
    assert 0.85 < small <= 1.0  # 10 mGy on 16 cm are about 4.8 on 32 cm


def test_a_twin_without_a_dose_leaves_the_shipped_table(engine: NeedEngine, tmp_path: Path) -> None:
    pair = pair_of(tmp_path, 3.0, 12.0, vendor="none")
    (facts,) = slice_facts(pair.low, read_dose(pair.low.headers), DoseReference())
    assert start_of(pair, engine) == engine.match(facts)


def position(piece: object) -> list[float]:
    return [float(v) for v in piece.headers[0].ImagePositionPatient]  # type: ignore[attr-defined]


def test_twins_lie_at_the_same_place(folders: tuple[Path, Path]) -> None:
    matched = match_pairs(*folders)
    pairs = matched.pairs
    assert not matched.left_out
    assert len(pairs) == 3
    assert all(position(pair.low) == position(pair.full) for pair in pairs)
    assert len({tuple(position(pair.low)) for pair in pairs}) == 3


def test_one_folder_with_both_is_sorted_by_noise(folders: tuple[Path, Path], tmp_path: Path) -> None:
    both = tmp_path / "both"
    both.mkdir()
    for folder in folders:
        for path in folder.iterdir():
            (both / f"{folder.name}-{path.name}").write_bytes(path.read_bytes())
    apart, together = match_pairs(*folders).pairs, match_pairs(both, both).pairs
    assert len(together) == 3
    by_place = {tuple(position(pair.low)): pair for pair in apart}
    for pair in together:
        np.testing.assert_array_equal(pair.low.hounsfield, by_place[tuple(position(pair.low))].low.hounsfield)


def test_nothing_in_common_is_told(folders: tuple[Path, Path], tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(TrainingError, match=r"no slice in .* 3 of 3 slices found no twin"):
        match_pairs(folders[0], empty)


def of_patient(patient: str) -> Callable[[Dataset, int], None]:
    def change(dataset: Dataset, _: int) -> None:
        dataset.PatientID = patient

    return change


def write_two_patients(low: Path, full: Path) -> None:
    """One place and one look for all: a and b low, b and c full."""
    for folder, patients in ((low, "ab"), (full, "bc")):
        for patient in patients:
            make_series(
                folder / patient, slices=2, name=f"{folder.name} {patient}", change=of_patient(patient)
            )


def test_slices_of_two_patients_are_no_pair(tmp_path: Path) -> None:
    low, full = tmp_path / "low", tmp_path / "full"
    write_two_patients(low, full)
    matched = match_pairs(low, full)
    assert [pair.low.headers[0].PatientID for pair in matched.pairs] == ["b", "b"]
    assert [pair.full.headers[0].PatientID for pair in matched.pairs] == ["b", "b"]
    assert matched.left_out == tuple(f"{folder}: 2 of 4 slices found no twin" for folder in (low, full))
    with pytest.raises(TrainingError, match="no slice in"):
        match_pairs(low / "a", full / "b")
    together = match_pairs(tmp_path, tmp_path)
    assert [pair.low.headers[0].PatientID for pair in together.pairs] == ["b", "b"]
    assert together.left_out == (f"{tmp_path}: 4 of 8 slices found no twin",)


def test_a_slice_of_nobody_may_be_anybodys_twin(tmp_path: Path) -> None:
    low, full = tmp_path / "low", tmp_path / "full"
    make_series(low, slices=2, change=of_patient(""))
    make_series(full, slices=2, change=of_patient("a"))
    assert len(match_pairs(low, full).pairs) == len(match_pairs(tmp_path, tmp_path).pairs) == 2


def test_what_is_left_out_is_told(
    folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    low, full = folders
    (low / "0002.dcm").unlink()
    (full / "notes.txt").write_text("no image")

    def localizer(dataset: Dataset, _: int) -> None:
        dataset.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]

    make_series(full / "scout", slices=2, change=localizer)
    assert match_pairs(low, full).left_out == (
        f"{full}: files refused: 2 localizer, 1 broken-instance",
        f"{full}: 1 of 3 slices found no twin",
    )
    make_series(tmp_path / "third", slices=1)
    crowded = f"{tmp_path}: 3 of 6 slices share their place with more than one other and are left out"
    told = match_pairs(tmp_path, tmp_path).left_out
    assert told[1] == f"{tmp_path}: 1 of 6 slices found no twin"
    assert told[2].startswith(crowded)
    assert main(["evaluate", "pairs", str(low), str(full), "--device", "cpu"]) == 0
    printed = capsys.readouterr().out
    assert f"{full}: files refused: 2 localizer, 1 broken-instance\n" in printed
    assert f"{full}: 1 of 3 slices found no twin\n" in printed


def test_a_folder_that_is_none_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "there").mkdir()
    for low, full in (("nowhere", "there"), ("there", "nowhere"), ("nowhere", "nowhere")):
        words = [str(tmp_path / low), str(tmp_path / full)]
        for command in (["pairs"], ["model", "--pairs"]):
            assert main(["evaluate", *command, *words]) == 1
            assert f"{tmp_path / 'nowhere'} is not a folder" in capsys.readouterr().err


def test_a_report_that_could_not_be_written_stops_before_the_work(
    folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lost = tmp_path / "missing" / "figures.json"
    low, full = map(str, folders)
    assert main(["evaluate", "pairs", low, full, "--device", "cpu", "--json", str(lost)]) == 1
    told = capsys.readouterr()
    assert f"there is no folder {lost.parent}" in told.err
    assert not told.out


def test_a_device_that_is_none_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["evaluate", "pairs", "low", "full", "--device", "gpu"])
    assert "give auto, cpu" in capsys.readouterr().err


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
    """The floor: no more RMSE than a plain U-Net of 1.2 M parameters, 12.49 and 21.79 HU.

    In SSIM that has 0.9755 and 0.9194. The shipped model has 0.9728, which is less, and 0.9313 (20.76 HU):
    where it is not the U-Net's, the floor is just below its own.
    """
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
    assert kernels["B30f"]["rmse_hu"]["enhanced"] <= 12.49
    assert kernels["D45f"]["rmse_hu"]["enhanced"] <= 20.9
    assert kernels["B30f"]["ssim"]["enhanced"] >= 0.971
    assert kernels["D45f"]["ssim"]["enhanced"] >= 0.93
