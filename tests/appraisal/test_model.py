"""`evaluate model`: methods of which every figure is known beforehand, and the shipped model, in one run."""

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

import numpy as np
import pytest
import torch
from matplotlib.image import imread
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from dicomnode.__main__ import main
from dicomnode.appraisal.cases import (
    RAYS,
    Case,
    choose_blocks,
    count_runs,
    open_series,
    ray_cases,
    simulated_cases,
)
from dicomnode.appraisal.groups import Group, Row
from dicomnode.appraisal.inserts import CONTRASTS_HU, DISCS, NOISE_SIDE_PX, Plan, plan_slices
from dicomnode.appraisal.methods import BASELINES, Beside, FromRays, Scan, Unchanged
from dicomnode.appraisal.panels import Panel
from dicomnode.appraisal.probing import Probed
from dicomnode.appraisal.scoring import Truth
from dicomnode.engines.catalog import SHIPPED, load_engine
from dicomnode.engines.start_step import StartStep
from dicomnode.errors import ModelError
from dicomnode.evaluation.places import Place
from dicomnode.evaluation.texture import noise_power
from dicomnode.learning.plans import dgdiff_task, raw_task, spdiff_task
from dicomnode.learning.publish import publish
from dicomnode.learning.recipe import Corpus, Recipe
from dicomnode.learning.trainer import Trainer
from dicomnode.physics.simulation import Kernel, simulate_noise
from tests.learning.test_counts import STAGE, TINY, session_in
from tests.makers import make_series

PIXEL_MM = 1.2
DOSES = ("50 %", "10 %")
RAW_CORPUS = Corpus(sources=(), views=60, detectors=140)
Volume = NDArray[np.float32]
Report = dict[str, Any]


def body(slices: int = 4, side: int = 256, noise_hu: float = 12.0) -> Volume:
    """An even body with two lungs, fat and a spine in noise of a scanner; HU [slice, row, column]."""
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    image = np.full((side, side), -1000.0, np.float32)
    image[np.hypot(x, y) < 112] = -100.0
    image[np.hypot(x, y) < 100] = 50.0
    for middle in (-45, 45):
        image[((x - middle) / 24) ** 2 + ((y + 48) / 26) ** 2 < 1] = -800.0
    image[np.hypot(x, y - 78) < 14] = 450.0
    stack = np.stack([image] * slices)
    noise = simulate_noise(
        torch.from_numpy(stack), PIXEL_MM, 2e5, Kernel(0.6), torch.Generator().manual_seed(0)
    ).numpy()
    inside = noise[:, np.hypot(x, y) < 95]
    return np.asarray(stack + noise * (noise_hu / inside.std()), np.float32)


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


def no_constant(name: str) -> NoReturn:
    raise AssertionError(f"JSON knows no {name}")


def strict(path: Path) -> Report:
    report: Report = json.loads(path.read_text(), parse_constant=no_constant)
    return report


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory, baselines: None) -> Path:
    folder = tmp_path_factory.mktemp("appraisal")
    make_series(
        folder / "series", body(), pixel_spacing_mm=(PIXEL_MM, PIXEL_MM), signed=True, ctdivol_mgy=12.0
    )
    beside = [folder / name for name in KNOWN]
    for one in beside:
        one.mkdir()
    command = ["evaluate", "model", "--series", folder / "series", "--slices", "2", "--inserts", "1"]
    more = ["--doses", "0.5", "0.1", "--output", folder / "out", "--json", folder / "again.json"]
    assert main([str(word) for word in (*command, *more, "--beside", *beside)]) == 0
    assert (folder / "again.json").read_text() == (folder / "out" / "evaluation.json").read_text()
    return folder / "out"


@pytest.fixture(scope="module")
def report(output: Path) -> Report:
    return strict(output / "evaluation.json")


def rows(report: Report, dose: str) -> dict[str, Any]:
    (group,) = [group for group in report["groups"] if group["dose"] == dose]
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
            (group,) = [group for group in report["groups"] if group["dose"] == dose]
            assert group["fraction"] == pytest.approx(share, rel=0.5)

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


# --- parts -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("around", [0, 1, 3])
@pytest.mark.parametrize(
    ("count", "wanted"),
    [(133, 24), (20, 19), (9, 9), (12, 9), (100, 9), (4, 24), (50, 2), (30, 29), (27, 24)],
)
def test_blocks_are_as_many_slices_as_asked_for_and_hold_the_best(
    count: int, wanted: int, around: int
) -> None:
    best = (count - 1) * around // 3
    blocks = choose_blocks(count, wanted, best)
    slices = [k for block in blocks for k in range(block.start, block.stop)]
    assert len(slices) == len(set(slices)) == min(count, wanted)
    assert min(slices) >= 0
    assert max(slices) < count
    assert best in slices


def squares(plan: Plan) -> list[list[tuple[Place, int]]]:
    """The places of every picture that is made of a slice, with the sides of their squares."""
    mixed = [
        [(place, planted.drawn.shape[1]) for planted in mixture.objects.values() for place in planted.places]
        for mixture in plan.mixtures
    ]
    discs = [[(place, one.side_px) for place in one.places] for one in plan.discs]
    return [*mixed, *discs, [(place, NOISE_SIDE_PX) for place in plan.squares]]


def test_nothing_touches_another() -> None:
    images = body(3)
    plans = plan_slices(images, [0, 2], [PIXEL_MM] * 2, seed=1)
    assert [plan.at for plan in plans] == [0, 2]
    for plan in plans:
        assert {kind for mixture in plan.mixtures for kind in mixture.objects} == {"edge", "bars", "dot"}
        for picture in squares(plan):
            for n, (one, side) in enumerate(picture):
                for other, its in picture[n + 1 :]:
                    apart = max(abs(one.row - other.row), abs(one.column - other.column))
                    assert apart >= (side + its) // 2
        assert {one.disc for one in plan.discs} == set(DISCS)


class Seen(Unchanged):
    """Keeps what it is given."""

    def __init__(self) -> None:
        super().__init__("seen")
        self.given: list[Volume] = []

    def __call__(self, scan: Scan, part: slice) -> Volume:
        self.given.append(scan.hounsfield[part][0])
        return scan.hounsfield[part]


def test_a_disc_is_looked_for_with_it_and_without_in_one_noise() -> None:
    """And so what an observer has of a method that changes nothing is the disc, in the same noise."""
    images = body(1)
    plans = tuple(plan_slices(images, [0], [PIXEL_MM], seed=1))
    case = Case(
        "10 %", "k", Scan(images, (start(9),), PIXEL_MM, 12.0), images, slice(0, 1), (2.0, 1.2, 1.2), plans
    )
    probed, method = Probed(), Seen()
    probed.add(method, case, lambda done: None)
    for planned in plans[0].discs:
        key = planned.disc, PIXEL_MM
        gap = np.stack(probed.present[key]) - np.stack(probed.absent[key])
        assert len(gap) == len(planned.places) == len(set(planned.places))
        np.testing.assert_allclose(gap, np.broadcast_to(gap[0], gap.shape), atol=1e-3)
        assert gap[0].max() == pytest.approx(planned.disc.contrast_hu, rel=0.25)
        found = probed.seen(planned.disc)
        assert found is not None
        assert (ratio := found.over(found)).value == 1.0
        assert ratio.interval == (1.0, 1.0)


@pytest.mark.parametrize("width_px", [0.8, 3.0])
def test_spectra_are_put_together_without_moving_their_mean(width_px: float) -> None:
    """Frequency zero, where nothing is known, is not drawn into the lowest that is."""
    white = np.random.default_rng(0).normal(0, 20, (40, 40, 40))
    soft = np.stack([gaussian_filter(image, width_px)[8:32, 8:32] for image in white]).astype(np.float32)
    alone, finer = (noise_power(soft, pixel_mm) for pixel_mm in (PIXEL_MM, 0.9 * PIXEL_MM))
    expected = alone.radial().mean_frequency_per_cm
    for powers in ([alone], [alone, alone]):
        told = Probed(powers=powers).noise_power()
        assert told is not None
        assert told.mean_frequency_per_cm == pytest.approx(expected, rel=1e-9)
    mixed = Probed(powers=[alone, finer]).noise_power()
    assert mixed is not None
    assert expected < mixed.mean_frequency_per_cm < expected / 0.9


def test_a_picture_shows_every_pixel_of_every_method(tmp_path: Path) -> None:
    """Of a checkerboard, which any resampling would grey or stripe."""
    y, x = np.mgrid[:200, :200] - 100
    reference = np.where(np.hypot(x, y) < 90, 20.0, -1000.0).astype(np.float32)
    board = (reference + (x + y) % 2 * 40).astype(np.float32)
    images = dict.fromkeys(("input", "nlm", "tv", "enhanced", "unet"), board)
    name, told = Panel(reference, images, planned=True).draw(tmp_path, "10 %", "B30f")
    assert told.endswith("; nlm, tv, unet")
    picture = np.rint(255 * imread(tmp_path / name)).astype(int)
    dark, light = (round(255 * (hu + 160) / 400) for hu in (20, 60))
    inside = np.hypot(x, y) < 90
    for value, parity in ((dark, 0), (light, 1)):
        expected = int((inside & ((x + y) % 2 == parity)).sum())
        shown = int((picture == value).sum())
        # five boards, and what the reference shows evenly
        assert shown == pytest.approx(5 * expected + (inside.sum() if parity == 0 else 0), rel=0.01)


def test_the_same_seed_plans_the_same() -> None:
    image = body(1)
    one, other, third = (plan_slices(image, [0], [PIXEL_MM], seed)[0] for seed in (1, 1, 2))
    drawn = [
        [planted.drawn for mixture in plan.mixtures for planted in mixture.objects.values()]
        for plan in (one, other, third)
    ]
    assert all(np.array_equal(a, b) and not np.array_equal(a, c) for a, b, c in zip(*drawn, strict=True))


def start(number: int) -> StartStep:
    return StartStep(number, 1e5, 0.5, 20.0, 0.4, "both", None)


def test_a_method_beside_sees_one_neighbour_and_their_steps() -> None:
    stack = np.arange(6, dtype=np.float32)[:, None, None] * np.ones((1, 4, 4), np.float32)
    scan = Scan(stack, tuple(start(k) for k in range(6)), 1.0, 20.0)
    asked: list[tuple[list[float], list[int]]] = []

    def work(seen: Volume, starts: Sequence[StartStep]) -> Volume:
        asked.append((list(seen[:, 0, 0]), [one.step for one in starts]))
        return seen + 100

    method = Beside("work", work)
    assert list(method(scan, slice(2, 4))[:, 0, 0]) == [102, 103]
    assert list(method(scan, slice(0, 1))[:, 0, 0]) == [100]
    assert list(method(scan, slice(5, 6))[:, 0, 0]) == [105]
    assert asked == [([1, 2, 3, 4], [1, 2, 3, 4]), ([0, 1], [0, 1]), ([4, 5], [4, 5])]
    assert list(Beside("alone", work, neighbours=0)(scan, slice(2, 3))[:, 0, 0]) == [102]
    assert asked[-1] == ([2], [2])
    with pytest.raises(ModelError, match="short gave"):
        Beside("short", lambda seen, starts: seen[1:])(scan, slice(2, 4))


@pytest.mark.slow
def test_cases_are_one_patient_in_independent_noises(tmp_path: Path) -> None:
    """And a method works on as many slices as the progress bar was told."""
    make_series(tmp_path, body(), pixel_spacing_mm=(PIXEL_MM, PIXEL_MM), signed=True, ctdivol_mgy=12.0)
    engine = load_engine(SHIPPED, "need-small", "cpu")
    opened = open_series(tmp_path, engine, 2, 1, seed=1)
    full, half = simulated_cases(opened, engine, [0.5], 1)
    assert (full.dose, half.dose) == ("full dose", "50 %")
    assert full.reference is half.reference
    assert full.scan.hounsfield is full.reference
    assert half.again is not None
    inside = np.hypot(*(np.mgrid[:256, :256] - 127.5)) < 95
    one, other = ((stack - half.reference)[:, inside] for stack in (half.scan.hounsfield, half.again))
    assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < 0.03
    assert other.std() == pytest.approx(one.std(), rel=0.05)
    told: list[int] = []
    for case in (full, half):
        group = Group(case.dose, case.kernel, {"input": Row()})
        group.add(case, Truth.of(case), [Unchanged()], told.append)
    assert sum(told) == count_runs(opened, [0.5]) == full.runs + half.runs
    _, _, tenth = simulated_cases(opened, engine, [0.5, 0.1], 1)
    lower = (tenth.scan.hounsfield - half.reference)[:, inside]
    assert abs(np.corrcoef(one.ravel(), lower.ravel())[0, 1]) < 0.03
    assert half.runs > full.runs == 2


@pytest.mark.slow
def test_raw_mode_is_measured_on_counts_of_the_same_slices(tmp_path: Path) -> None:
    """Beside image mode, against the scan without counting noise; the networks need know nothing for that."""
    make_series(tmp_path / "ct", body(), pixel_spacing_mm=(PIXEL_MM, PIXEL_MM), signed=True, ctdivol_mgy=12.0)
    session = session_in(tmp_path)
    recipe = Recipe(model_id="both", version="0", corpus=RAW_CORPUS, projection=TINY, image=TINY, raw=STAGE)
    for task in (
        spdiff_task(recipe, session),
        dgdiff_task(recipe, session),
        raw_task(recipe, STAGE, session),
    ):
        Trainer(task, tmp_path, session.device, seed=1)._save()
    publish(recipe, tmp_path, tmp_path / "models")
    engine = load_engine(tmp_path / "models", "both", "cpu")
    opened = open_series(tmp_path / "ct", engine, 1, 1, seed=1)
    normal, quarter = ray_cases(opened, engine, [0.25], 1)
    assert (normal.dose, quarter.dose) == ("100 %", "25 %")
    assert {normal.kernel, quarter.kernel} == {RAYS}
    assert normal.reference is quarter.reference
    inside = np.hypot(*(np.mgrid[:256, :256] - 127.5)) < 95
    one, other = (
        (case.scan.hounsfield - case.reference)[case.judged][:, inside] for case in (normal, quarter)
    )
    assert other.std() == pytest.approx(2.0 * one.std(), rel=0.05)
    assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < 0.03
    raw = FromRays(engine)
    np.testing.assert_array_equal(raw(normal.scan, normal.judged), normal.scan.hounsfield[normal.judged])
    assert np.isfinite(raw(quarter.scan, quarter.judged)).all()
    assert not list(ray_cases(opened, load_engine(SHIPPED, "need-small", "cpu"), [0.25], 1))
    with pytest.raises(ModelError, match="this scan has none"):
        raw(replace(quarter.scan, rays=None), quarter.judged)


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
