"""`evaluate model`: methods of which every figure is known beforehand, and the shipped model, in one run."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from matplotlib.image import imread
from rich.console import Console
from scipy.ndimage import gaussian_filter

from dicomnode.__main__ import _parser, main
from dicomnode.appraisal import asked, model
from dicomnode.appraisal import report as report_of
from dicomnode.appraisal.cases import RAYS
from dicomnode.appraisal.inserts import CONTRASTS_HU, DISCS
from dicomnode.appraisal.methods import BASELINES
from dicomnode.engines.catalog import SHIPPED, load_engine
from dicomnode.engines.start_step import StartStep
from tests.appraisal.scans import PIXEL_MM, Volume, body
from tests.appraisal.written_reports import Report, strict
from tests.makers import make_series

DOSES = ("50 %", "10 %")


# --- methods of which everything is known ---------------------------------------------------------


def identity(stack: Volume) -> Volume:
    return stack.copy()


def blur(stack: Volume) -> Volume:
    return np.stack([gaussian_filter(image, 1.0) for image in stack])


def offset(stack: Volume) -> Volume:
    return stack + np.float32(7.0)


def grain(stack: Volume) -> Volume:
    """Noise on top, the same for the same image."""

    def noise(image: Volume) -> Volume:
        seed = int.from_bytes(sha256(image.tobytes()).digest()[:8], "big")
        return np.random.default_rng(seed).normal(0, 60, image.shape).astype(np.float32)

    return np.stack([image + noise(image) for image in stack])


KNOWN: dict[str, Callable[[Volume], Volume]] = {
    "identity": identity,
    "blur": blur,
    "offset": offset,
    "grain": grain,
}


@dataclass(frozen=True)
class StandIn:
    """What `load_baseline` gives: called with a stack and its start steps, one each."""

    name: str

    @property
    def told(self) -> str:
        return f"{self.name} by hand"

    @property
    def made_by(self) -> str:
        return self.name

    def __call__(self, stack: Volume, starts: Sequence[StartStep]) -> Volume:
        assert len(stack) == len(starts)
        return KNOWN[self.name](stack)


@pytest.fixture(scope="module")
def baselines() -> Any:
    module = ModuleType(BASELINES)
    module.load_baseline = lambda folder, device: StandIn(folder.name)  # type: ignore[attr-defined]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, BASELINES, module)
        yield


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory, baselines: None) -> Path:
    folder = tmp_path_factory.mktemp("appraisal")
    make_series(
        folder / "series", body(), pixel_spacing_mm=(PIXEL_MM, PIXEL_MM), signed=True, ctdivol_mgy=12.0
    )
    beside = [folder / name for name in KNOWN]
    for one in beside:
        one.mkdir()
    more = ["--doses", "0.5", "0.1", "--output", folder / "out", "--json", folder / "again.json"]
    assert main(asked_of(folder, beside, *more)) == 0
    assert (folder / "again.json").read_text() == (folder / "out" / "evaluation.json").read_text()
    return folder / "out"


def asked_of(folder: Path, beside: Sequence[Path], *more: object) -> list[str]:
    words = ["evaluate", "model", "--series", folder / "series", "--slices", "2", "--inserts", "1"]
    return [str(word) for word in (*words, *more, "--results", folder / "results", "--beside", *beside)]


@pytest.fixture(scope="module")
def report(output: Path) -> Report:
    return strict(output / "evaluation.json")


def group_of(report: Report, dose: str) -> dict[str, Any]:
    """Of the series; the shipped model has a raw mode, and so groups of counted rays, too."""
    groups = [group for group in report["groups"] if group["dose"] == dose and group["kernel"] != RAYS]
    (found,) = groups
    return dict(found)


def rows(report: Report, dose: str) -> dict[str, Any]:
    group = group_of(report, dose)
    methods: dict[str, Any] = group["methods"]
    return methods


@pytest.mark.slow
@pytest.mark.timeout(600)
class TestOneRun:
    """One run of the real command, read by law."""

    def test_identity_changes_nothing(self, report: Report) -> None:
        for dose in DOSES:
            same, before = rows(report, dose)["identity"], rows(report, dose)["input"]
            assert same == before
            assert same["nps_shift_percent"] == pytest.approx(0.0, abs=1e-6)
            for found in same["mtf50_change_percent"].values():
                assert found["value"] == pytest.approx(0.0, abs=0.05)
            for figure in ("dot_kept", "bars_kept"):
                for found in same[figure].values():
                    assert found["value"] == pytest.approx(1.0, abs=1e-3)
            for found in same["d_prime"].values():
                assert found["over_input"] == {"value": 1.0, "interval": [1.0, 1.0]}

    def test_full_dose_is_its_own_reference(self, report: Report) -> None:
        same = rows(report, "full dose")["identity"]
        assert same["rmse_hu"] == 0.0
        assert same["psnr_db"] is None
        assert same["ssim"] == same["vif"] == pytest.approx(1.0)
        assert set(same["bias_hu"]) == {"air", "lung", "fat", "soft", "bone"}
        assert all(bias == 0.0 for bias in same["bias_hu"].values())
        assert {"lung", "bone", "soft"} <= set(same["dice"])
        assert all(overlap == 1.0 for overlap in same["dice"].values())

    def test_no_dose_no_harm(self, report: Report) -> None:
        assert rows(report, "full dose")["enhanced"]["rmse_hu"] < 3.0

    def test_a_blur_is_seen_by_edges_dots_bars_and_noise(self, report: Report) -> None:
        """A Gaussian of 1.2 mm on edges blurred by 0.5 mm and a pixel: what theory leaves of MTF50."""
        own_mm = np.sqrt(0.5**2 + PIXEL_MM**2 / 12)
        expected = 100 * (own_mm / np.hypot(own_mm, PIXEL_MM) - 1)
        for dose in DOSES:
            seen = rows(report, dose)["blur"]
            for contrast in CONTRASTS_HU:
                found = seen["mtf50_change_percent"][f"{contrast:g} HU"]["value"]
                assert found == pytest.approx(expected, abs=4.0)
                assert seen["dot_kept"][f"{contrast:g} HU"]["value"] < 0.6
                assert seen["bars_kept"][f"{contrast:g} HU"]["value"] < 0.2
            assert seen["nps_shift_percent"] < -15
            assert seen["noise_hu"] < 0.8 * rows(report, dose)["input"]["noise_hu"]

    def test_an_offset_is_bias_and_nothing_else(self, report: Report) -> None:
        for dose in DOSES:
            moved, before = rows(report, dose)["offset"], rows(report, dose)["input"]
            for tissue, bias in moved["bias_hu"].items():
                assert bias == pytest.approx(before["bias_hu"][tissue] + 7.0, abs=1e-3)
            assert moved["nps_shift_percent"] == pytest.approx(0.0, abs=0.01)
            for contrast, found in moved["mtf50_change_percent"].items():
                expected = before["mtf50_change_percent"][contrast]["value"]
                assert found["value"] == pytest.approx(expected, abs=0.01)

    def test_noise_hides_discs(self, report: Report) -> None:
        clear, hidden = (rows(report, dose) for dose in DOSES)
        for size in clear["input"]["d_prime"]:
            assert clear["grain"]["d_prime"][size]["value"] < 0.6 * clear["input"]["d_prime"][size]["value"]
            assert clear["grain"]["d_prime"][size]["over_input"]["interval"][1] < 1.0
        assert len(clear["input"]["d_prime"]) == len(DISCS)
        # five times less dose is 2.2 times less d'; a few dozen squares tell that roughly
        means = [
            np.mean([one["value"] for one in methods["input"]["d_prime"].values()])
            for methods in (clear, hidden)
        ]
        assert means[1] < 0.7 * means[0]

    def test_the_dose_is_the_dose(self, report: Report) -> None:
        """Missing noise alone is between scan and reference: sqrt(1 / d - 1) of the scan's own."""
        for dose, share in zip(DOSES, (0.5, 0.1), strict=True):
            whole = np.hypot(12.0, 12.0 * np.sqrt(1 / share - 1))
            assert rows(report, dose)["input"]["noise_hu"] == pytest.approx(whole, rel=0.15)
            group = group_of(report, dose)
            assert group["fraction"] == pytest.approx(share, rel=0.5)

    def test_what_was_made_once_is_not_made_again(
        self, output: Path, report: Report, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """One of the doses, from what was kept: the same figures, and nothing new is there."""

        def never(*_: object, **__: object) -> Volume:
            raise AssertionError("made again")

        for name in KNOWN:
            monkeypatch.setitem(KNOWN, name, never)
        for name in ("enhance", "enhance_rays"):
            monkeypatch.setattr(f"dicomnode.appraisal.methods.{name}", never)
        folder = output.parent
        again, results = folder / "kept.json", folder / "results"
        before = {path: path.stat().st_mtime_ns for path in results.iterdir()}
        beside = [folder / name for name in KNOWN]
        assert main(asked_of(folder, beside, "--doses", "0.1", "--json", again)) == 0
        groups = [group for group in report["groups"] if group["dose"] != "50 %"]
        assert strict(again)["groups"] == groups
        assert strict(again)["seconds"] is None
        assert report["seconds"] is not None
        assert {path: path.stat().st_mtime_ns for path in results.iterdir()} == before

    def test_the_shipped_model_is_better_than_nothing(self, report: Report) -> None:
        for dose in DOSES:
            enhanced, before = rows(report, dose)["enhanced"], rows(report, dose)["input"]
            assert enhanced["rmse_hu"] < 0.8 * before["rmse_hu"]
            assert abs(enhanced["bias_hu"]["soft"]) < 1.0

    def test_what_is_written_can_be_read(self, report: Report, output: Path) -> None:
        told = (output / "evaluation.md").read_text()
        for dose in (*DOSES, "full dose"):
            assert f"## {report['groups'][0]['kernel']}, {dose}\n" in told
        assert "bm3d** is left out" in told
        assert "* beside it **blur**: blur by hand\n" in told
        assert f"`{report['command']}`" in told
        assert "--series series --doses 0.5 0.1 --slices 2 --inserts 1 --seed 1 --beside identity" in told
        pictures = sorted(path.name for path in output.glob("*.png"))
        for kind in ("rmse", "bias", "nps", "mtf", "detectability", "images"):
            assert any(name.startswith(f"{kind}-") for name in pictures)
        for name in pictures:
            assert f"({name})" in told
            drawn = imread(output / name)  # grey has no third axis
            assert (drawn[..., :3] if drawn.ndim == 3 else drawn).std() > 0.01
        assert not any(line.count("|") not in (0, line.count(" | ") + 2) for line in told.splitlines())


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_real_pairs(shared_data: Path, tmp_path: Path) -> None:
    pairs = str(shared_data / "pairs" / "mayo")
    told = tmp_path / "figures.json"
    command = ["evaluate", "model", "--pairs", pairs, pairs, "--inserts", "1", "--json", str(told)]
    assert main(command) == 0
    groups = {group["kernel"]: group for group in strict(told)["groups"]}
    assert {kernel: group["slices"] for kernel, group in groups.items()} == {"B30f": 7, "D45f": 8}
    for kernel, rmse in (("B30f", 19.33), ("D45f", 36.82)):
        methods = groups[kernel]["methods"]
        assert methods["input"]["rmse_hu"] == pytest.approx(rmse, abs=0.1)
        assert methods["enhanced"]["rmse_hu"] < 0.7 * rmse
        assert methods["enhanced"]["vif"] > methods["input"]["vif"]


# --- what cannot be measured on --------------------------------------------------------------------


def refusal(given: Sequence[str | Path], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["evaluate", "model", *map(str, given)]) == 1
    return capsys.readouterr().err


def test_a_series_that_cannot_be_used_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def no_dose(dataset: Any, _: int) -> None:
        for keyword in ("CTDIvol", "Exposure", "XRayTubeCurrent", "ExposureTime", "KVP"):
            dataset[keyword].value = None

    def localizer(dataset: Any, _: int) -> None:
        dataset.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]

    (tmp_path / "empty").mkdir()
    (tmp_path / "a file").touch()
    make_series(tmp_path / "no dose", change=no_dose)
    make_series(tmp_path / "scout", change=localizer)
    make_series(
        tmp_path / "low", body(2, noise_hu=60.0), pixel_spacing_mm=(PIXEL_MM, PIXEL_MM), ctdivol_mgy=1.0
    )
    for name, told in (
        ("empty", "holds no CT images"),
        ("a file", "is not a folder"),
        ("nowhere", "is not a folder"),
        ("no dose", "tells no dose"),
        ("scout", "is refused (localizer)"),
        ("low", "is a low-dose scan already"),
    ):
        assert told in refusal(["--series", tmp_path / name], capsys), name


def test_nothing_to_measure_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "a file").touch()
    assert "nothing to measure on" in refusal([], capsys)
    assert "no slice in" in refusal(["--pairs", tmp_path / "empty", tmp_path], capsys)
    assert "is a file" in refusal(["--series", tmp_path, "--output", tmp_path / "a file"], capsys)
    assert "is not a folder" in refusal(["--series", tmp_path, "--beside", tmp_path / "nowhere"], capsys)


@pytest.mark.parametrize("what", ["model", "passes"])
def test_a_report_that_could_not_be_written_stops_before_the_work(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def load_engine(*_: object) -> None:
        raise AssertionError("the work has begun")

    monkeypatch.setattr(f"dicomnode.appraisal.{what}.load_engine", load_engine)
    (tmp_path / "a file").touch()
    for option, path, told in (
        ("--json", tmp_path / "missing" / "told.json", f"there is no folder {tmp_path / 'missing'}"),
        ("--json", tmp_path, "is a folder: name a file in it"),
        ("--output", tmp_path / "a file" / "out", "cannot be made"),
    ):
        assert main(["evaluate", what, "--series", str(tmp_path), option, str(path)]) == 1
        assert told in capsys.readouterr().err
    both = ["--output", str(tmp_path / "new"), "--json", str(tmp_path / "new" / "told.json")]
    with pytest.raises(AssertionError, match="begun"):
        main(["evaluate", what, "--series", str(tmp_path), *both])


def test_slices_left_out_of_pairs_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, slices in (("low", 3), ("full", 2)):
        make_series(tmp_path / name, slices=slices)
    pairs = ["--pairs", tmp_path / "low", tmp_path / "full", "--quick", "--device", "cpu"]
    engine = load_engine(SHIPPED, "need-small", "cpu")
    arguments = _parser("evaluate").parse_args(["evaluate", "model", *map(str, pairs)])
    asked.check(arguments)
    asked.open_all(arguments, engine, {}, Console())
    assert f"{tmp_path / 'low'}: 1 of 3 slices found no twin\n" in capsys.readouterr().out


def test_tables_and_pictures_are_written_before_the_figures_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where --json fails after all, the rest is there."""
    written = []
    told = {"groups": [], "guard": {"trained_on_these": [], "compared_with": {}}}
    monkeypatch.setattr(model, "_measure", lambda *_: ({}, None))
    monkeypatch.setattr(report_of, "build", lambda *_: told)
    monkeypatch.setattr(report_of, "write_json", lambda _, path: written.append(path))
    monkeypatch.setattr(model, "_write", lambda _, __, folder: written.append(folder))
    out, alone = tmp_path / "out", tmp_path / "told.json"
    words = ["--series", tmp_path, "--device", "cpu", "--json", alone, "--output", out]
    assert main(["evaluate", "model", *map(str, words)]) == 0
    assert written == [out, alone]


def test_two_methods_of_one_name_are_told(
    tmp_path: Path, baselines: None, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder in ("one", "other"):
        (tmp_path / folder / "blur").mkdir(parents=True)
    beside = [tmp_path / folder / "blur" for folder in ("one", "other")]
    told = refusal(["--series", tmp_path, "--beside", *beside], capsys)
    assert "two methods are called blur" in told


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["--slices", "0"], "give a whole number"),
        (["--inserts", "many"], "give a whole number"),
        (["--doses", "0.5", "1"], "a dose is a share"),
        (["--pairs", "one"], "expected 2 arguments"),
        (["--device", "tpu"], "give auto, cpu"),
    ],
)
def test_wrong_arguments_are_told(given: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["evaluate", "model", *given])
    assert told in capsys.readouterr().err
