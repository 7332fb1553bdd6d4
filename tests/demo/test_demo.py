"""The main job with its numbers: a real chest, a quarter of the dose, through sockets and back."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from pydicom import Dataset, dcmread
from pydicom.uid import ExplicitVRBigEndian

from dicomnode.__main__ import main
from dicomnode.demo.acquisition import LowDoseScan, scan_again
from dicomnode.demo.orthanc import OrthancMissing, check_orthanc
from dicomnode.demo.room import check_room, make_room, note_what_was_made
from dicomnode.demo.source import WHEEL, SourceUnavailable, lidc_series
from dicomnode.dicom.dose import read_dose
from dicomnode.dicom.series import CtSeries, read_headers, read_series
from dicomnode.dose_reference import MOST_MGY
from dicomnode.journey.matching import slice_facts
from dicomnode.journey.normal_dose import reference_of
from dicomnode.physics.lower_dose import Scanner, learn_scanner, missing_noise, own_noise
from dicomnode.physics.noise import measure_noise
from dicomnode.physics.simulation import Kernel, simulate_noise
from dicomnode.physics.spectrum import flat_patches, noise_power, with_gain
from tests.conftest import missing
from tests.makers import make_series
from tests.multiframe_makers import make_enhanced
from tests.physics.test_anatomy import PIXEL_MM, belly, chest

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


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_demonstration_with_a_real_orthanc(example: list[Path], tmp_path: Path) -> None:
    try:
        check_orthanc()
    except OrthancMissing as error:
        missing(str(error))
    command = [sys.executable, "-m", "dicomnode", "demo", "--slices", "3", "--output", str(tmp_path)]
    said = subprocess.run(
        [*command, "--port", "0", "--pacs", "orthanc"],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    assert said.returncode == 0, said.stderr[-3000:] + said.stdout[-1000:]
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["slices_sent"] == report["slices_returned"] == 3
    assert report["rmse_hu"]["after"] < report["rmse_hu"]["before"]
    assert len(list((tmp_path / "pacs").glob("*.dcm"))) == 4
    if shutil.which("chromium"):
        assert "the study as Orthanc shows it" in said.stdout
        with Image.open(tmp_path / "orthanc-study.png") as page:
            assert page.size == (1280, 900)
            assert len(page.convert("L").getcolors()) > 50, "an empty page has a few colours"


def again(series: CtSeries, fraction: float, folder: Path) -> LowDoseScan:
    return scan_again(series, learnt(series, fraction), folder, seed=1)


def learnt(series: CtSeries, fraction: float) -> Scanner:
    return learn_scanner(own_noise(series.hounsfield, series.pixel_spacing_mm[0]), fraction, 1)


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


def test_the_original_is_the_normal_scan_in_every_region_it_shows(tmp_path: Path) -> None:
    """A site whose chest scans are generous and whose belly scans are frugal, scanned at a quarter."""
    volume = np.stack([*[belly()] * 4, *[chest()] * 4])
    doses = np.array([6.0] * 4 + [11.0] * 4)
    full, low = (
        make_series(
            tmp_path / f"{share:g}",
            volume,
            pixel_spacing_mm=(PIXEL_MM, PIXEL_MM),
            slice_spacing_mm=6.0,
            effective_mas=list(150.0 / 11.0 * share * doses),
            ctdivol_mgy=list(share * doses),
        )
        for share in (1.0, 0.25)
    )
    original = read_series(full)
    table = reference_of(original, read_dose(read_headers(low)), 0.25)
    facts = slice_facts(original, read_dose(original.headers), table)
    assert [one.region for one in facts] == ["abdomen-pelvis"] * 4 + ["chest"] * 4
    assert [one.ctdivol_mgy for one in facts] == pytest.approx([one.normal_ctdivol_mgy for one in facts])
    assert table.version == "this-scanner"
    assert len({row.region for row in table.regions}) == 4


def test_a_scan_of_far_more_than_the_table_is_the_normal_one_all_the_same(tmp_path: Path) -> None:
    """What it does not show, a head, stays in the table."""
    series = read_series(
        make_series(
            tmp_path,
            np.stack([chest()] * 4),
            pixel_spacing_mm=(PIXEL_MM, PIXEL_MM),
            slice_spacing_mm=6.0,
            effective_mas=2000.0,
            ctdivol_mgy=150.0,
        )
    )
    dose = read_dose(series.headers)
    table = reference_of(series, dose)
    for one in slice_facts(series, dose, table):
        assert one.ctdivol_mgy == pytest.approx(150.0)
        assert one.normal_ctdivol_mgy == pytest.approx(150.0)
    assert table.row("head").ctdivol_mgy == MOST_MGY


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_quarter_of_the_dose_of_a_real_scan_is_a_quarter(example: list[Path], tmp_path: Path) -> None:
    """By level and frequency in flat tissue, where the kernel was fitted and where not, and in the air."""
    whole = read_series(example)
    scanner = learnt(whole, 0.25)
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
    (tmp_path / WHEEL.file).write_bytes(b"something else")
    with pytest.raises(SourceUnavailable, match="not the pinned one"):
        lidc_series(tmp_path)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["--slices", "abc"], "give a number of slices"),
        (["--slices", "0"], "give a number of slices"),
        (["--dose", "2"], "2: the dose is a share"),
        (["--dose", "0"], "0: the dose is a share"),
        (["--dose", "much"], "much: the dose is a share"),
        (["--port", "99999"], "99999: a port is"),
        (["--port", "-1"], "-1: a port is"),
        (["--seed", "1" * 20], "a seed is a whole number"),
        (["--device", "tpu"], "tpu: give auto, cpu"),
    ],
)
def test_wrong_arguments_are_told(given: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["demo", *given])
    assert told in capsys.readouterr().err


def refusal(given: list[str | Path], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["demo", *map(str, given)]) == 1
    return capsys.readouterr().err


def test_a_series_that_cannot_be_scanned_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def no_dose(dataset: Dataset, _: int) -> None:
        for keyword in ("CTDIvol", "Exposure", "XRayTubeCurrent", "ExposureTime", "KVP"):
            dataset[keyword].value = None

    (tmp_path / "empty").mkdir()
    (tmp_path / "a file").touch()
    make_series(tmp_path / "no dose", change=no_dose)
    for name, told in (
        ("empty", "no DICOM files (0 others)"),
        ("a file", "is not a folder"),
        ("nowhere", "is not a folder"),
        ("no dose", "tells no dose"),
    ):
        assert told in refusal(["--series", tmp_path / name, "--output", tmp_path / "out"], capsys)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["low-dose/thesis.txt", "pacs/mine.dcm", "report.json", "before-after.png"])
def test_what_no_demonstration_made_is_left_alone(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whether a demonstration ran there before or not."""
    make_series(tmp_path / "source")
    for ran_before in (False, True):
        if ran_before:
            for made in ("low-dose/0000.dcm", "pacs/1.2.dcm"):
                (tmp_path / "out" / made).parent.mkdir(parents=True, exist_ok=True)
                (tmp_path / "out" / made).touch()
            (tmp_path / "out" / name).unlink()
            note_what_was_made(tmp_path / "out")
        mine = tmp_path / "out" / name
        mine.parent.mkdir(parents=True, exist_ok=True)
        mine.write_text("years of work")
        given = ["--series", tmp_path / "source", "--output", tmp_path / "out"]
        assert "left alone" in refusal([*given], capsys)
        assert mine.read_text() == "years of work"


def test_a_model_that_is_not_there_costs_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_series(tmp_path / "source")
    room = tmp_path / "out"
    make_room(room)
    (room / "low-dose" / "0000.dcm").touch()
    note_what_was_made(room)
    given: list[str | Path] = ["--series", tmp_path / "source", "--output", room, "--model", "nope"]
    assert "no model in" in refusal(given, capsys)
    assert (room / "low-dose" / "0000.dcm").exists()


@pytest.mark.parametrize("broken_off", [True, False])
def test_room_is_made_where_a_demonstration_ran(tmp_path: Path, broken_off: bool) -> None:
    make_room(tmp_path)
    made = [tmp_path / "low-dose" / "0000.dcm", tmp_path / "pacs" / "1.2.dcm", tmp_path / "report.json"]
    for path in made:
        path.touch()
    (tmp_path / "beside.txt").touch()
    if not broken_off:
        note_what_was_made(tmp_path)
    check_room(tmp_path, [])
    make_room(tmp_path)
    assert not any(path.exists() for path in made)
    assert (tmp_path / "beside.txt").exists()


def test_the_series_to_scan_is_never_cleared_away(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_room(tmp_path)
    files = make_series(tmp_path / "low-dose")
    note_what_was_made(tmp_path)
    told = refusal(["--series", tmp_path / "low-dose", "--output", tmp_path], capsys)
    assert "holds the series to scan" in told
    assert all(path.exists() for path in files)


def test_runs_as_a_module() -> None:
    told = subprocess.run(
        [sys.executable, "-m", "dicomnode", "demo", "--help"], capture_output=True, text=True, check=True
    )
    assert "--slices" in told.stdout


def noisy_disc(rows: int, columns: int) -> NDArray[np.float32]:
    y, x = np.mgrid[:rows, :columns] - np.array([(rows - 1) / 2, (columns - 1) / 2])[:, None, None]
    body = np.where(np.hypot(x, y) < 0.45 * rows, 40.0, -1000.0)
    noise = np.random.default_rng(0).normal(0.0, 12.0, (3, rows, columns))
    return (np.stack([body] * 3) + noise).astype(np.float32)


def test_every_exposure_of_the_header_falls_with_the_dose(tmp_path: Path, dciodvfy: str) -> None:
    def finer(dataset: Dataset, _: int) -> None:
        dataset.ExposureInuAs, dataset.ExposureInmAs = 154321, 100.0
        dataset.XRayTubeCurrentInuA, dataset.XRayTubeCurrentInmA = 200001.3, 200.0

    files = make_series(tmp_path / "source", noisy_disc(128, 192), pixel_spacing_mm=(2.0, 2.0), change=finer)
    scan = again(read_series(files), 0.3, tmp_path / "low")
    header = dcmread(scan.paths[0])
    assert (header.ExposureInuAs, header.ExposureInmAs) == (46296, pytest.approx(30.0))
    assert header.XRayTubeCurrentInuA == pytest.approx(60000.39)
    assert header.XRayTubeCurrentInmA == pytest.approx(60.0)
    assert read_dose([header]).flags == read_dose([dcmread(files[0])]).flags
    told = subprocess.run([dciodvfy, scan.paths[0]], capture_output=True, text=True, check=False)
    assert "invalid for this VR" not in told.stderr + told.stdout


def test_a_dose_that_only_the_maker_can_read_falls_too(tmp_path: Path) -> None:
    """Canon's private CTDIvol, and the second tube of a dual-source scanner."""

    def private(dataset: Dataset, _: int) -> None:
        dataset.Manufacturer = "TOSHIBA"
        del dataset.CTDIvol
        dataset.private_block(0x7005, "TOSHIBA_MEC_CT3", create=True).add_new(0x63, "FD", 12.0)
        tube = Dataset()
        tube.ExposureInmAs = 40.0
        dataset.CTAdditionalXRaySourceSequence = [tube]

    files = make_series(
        tmp_path / "source", noisy_disc(128, 128), pixel_spacing_mm=(2.0, 2.0), change=private
    )
    before = read_dose(read_series(files).headers)
    assert before.mean_ctdivol_mgy == pytest.approx(12.0)
    assert before.mean_mas is not None
    scan = again(read_series(files), 0.25, tmp_path / "low")
    after = read_dose([dcmread(path) for path in scan.paths])
    assert after.mean_ctdivol_mgy == pytest.approx(3.0)
    assert after.mean_mas == pytest.approx(0.25 * before.mean_mas, rel=0.02)
    assert "SECOND_TUBE" in after.flags


def test_a_big_endian_series_can_be_scanned_again(tmp_path: Path) -> None:
    files = make_series(
        tmp_path / "source",
        noisy_disc(128, 128),
        pixel_spacing_mm=(2.0, 2.0),
        transfer_syntax=str(ExplicitVRBigEndian),
    )
    original = read_series(files)
    scan = again(original, 0.25, tmp_path / "low")
    assert np.array_equal(read_series(scan.paths).hounsfield, scan.hounsfield.round())


def test_a_multi_frame_object_can_be_scanned_again(tmp_path: Path) -> None:
    files = make_series(tmp_path / "source", noisy_disc(128, 128), pixel_spacing_mm=(2.0, 2.0))
    original = read_series([make_enhanced(tmp_path / "m.dcm", files)])
    scan = again(original, 0.25, tmp_path / "low")
    written = read_series(scan.paths)
    assert np.array_equal(written.hounsfield, scan.hounsfield.round())
    before, after = (read_dose(series.headers) for series in (original, written))
    assert after.mean_ctdivol_mgy == pytest.approx(0.25 * before.mean_ctdivol_mgy)
    assert after.mean_mas == pytest.approx(0.25 * before.mean_mas, rel=0.02)


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
