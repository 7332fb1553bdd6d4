"""The bench: operations are those of the formula, the floor is what it says, and stages make up the whole."""

import json
from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dicomnode.__main__ import main
from dicomnode.engines.catalog import SHIPPED, load_engine
from dicomnode.engines.enhance import STATIONS
from dicomnode.engines.need.engine import NeedEngine
from dicomnode.engines.unet import UNetShape
from dicomnode.learning.bench import (
    QUARTER,
    Floor,
    count_operations,
    measure,
    measure_peak,
    operations,
    report,
    sizes,
    untrained,
)
from dicomnode.learning.recipe import Recipe, load_recipe

CPU = torch.device("cpu")
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def engine() -> NeedEngine:
    return load_engine(SHIPPED, "need-small", "cpu")


@pytest.mark.parametrize(("count", "into", "out", "side", "kernel"), [(1, 3, 8, 20, 3), (2, 16, 5, 33, 5)])
def test_one_convolution_costs_what_the_formula_says(
    count: int, into: int, out: int, side: int, kernel: int
) -> None:
    layer = torch.nn.Conv2d(into, out, kernel, padding=kernel // 2)
    x = torch.zeros(count, into, side, side)
    assert operations(lambda: layer(x)) == 2 * count * into * out * kernel**2 * side**2
    wide = torch.nn.ConvTranspose2d(into, out, 2, stride=2)
    assert operations(lambda: wide(x)) == 2 * count * into * out * 2**2 * side**2


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad])
def test_a_network_costs_the_sum_of_its_layers(mode: type[torch.inference_mode]) -> None:
    """By hand, at every level; half precision and inference change nothing of it."""
    (a, b), side, channels, conditions, embedding = (8, 12), 32, 3, 4, 64
    network = UNetShape(channels, (a, b), conditions).build()
    x, steer = torch.zeros(1, channels, side, side), torch.zeros(1, conditions)
    fine, coarse = side**2, side**2 // 4
    by_hand = 9 * fine * (channels * a + 4 * a * a + a)  # in, two blocks, out
    by_hand += 9 * coarse * 4 * b * b + 4 * coarse * (a * b + b * a)  # bottom, down and up
    by_hand += conditions * embedding + embedding**2 + embedding * 2 * (2 * a + 2 * b)

    def work() -> None:
        with mode(), torch.autocast("cpu", torch.bfloat16):
            network(x, steer)

    assert operations(work) == 2 * by_hand


def test_passes_and_mirrorings_are_counted(engine: NeedEngine) -> None:
    """The bench's slice is at a step from which all passes of the model are walked."""

    def of(**changes: int) -> dict[str, int]:
        return count_operations(replace(engine, card=engine.card.model_copy(update=changes)), 64)

    one = of(projection_passes=1, image_passes=1, mirrorings=1)
    assert of(projection_passes=2, image_passes=1, mirrorings=1)["clean"] == 2 * one["clean"]
    assert of(projection_passes=1, image_passes=1, mirrorings=2)["refine"] == 2 * one["refine"]
    assert of(projection_passes=1, image_passes=2, mirrorings=1)["refine"] == 2 * one["refine"]
    assert of(projection_passes=0, image_passes=1, mirrorings=1)["clean"] == 0


def test_twice_the_side_is_four_times_the_image(engine: NeedEngine) -> None:
    small, large = count_operations(engine, 128), count_operations(engine, 256)
    assert large["refine"] == pytest.approx(4 * small["refine"], rel=1e-3)  # but for the steering
    assert large["clean"] == pytest.approx(2 * small["clean"], rel=1e-3)  # views stay, detectors double


def test_the_floor_is_operations_over_the_best_peak() -> None:
    floor = Floor(512, {"clean": 3_000, "refine": 1_000}, {"product": 500.0, "convolution": 1000.0})
    assert floor.seconds == pytest.approx(4.0)


def test_no_network_is_quicker_than_the_peak(engine: NeedEngine) -> None:
    """What was measured as the most is not passed by the engine itself."""
    peak = max(measure_peak(CPU, seconds=0.3).values())
    speed = measure(engine, 2, 64, batch=2)
    work = count_operations(engine, 64)
    for stage in ("clean", "refine"):
        assert 0 < 2 * work[stage] / speed.seconds[stage] < peak


@pytest.mark.parametrize("batch", [1, 3])
def test_stages_make_up_the_whole(engine: NeedEngine, batch: int) -> None:
    speed = measure(engine, 3, 64, batch)
    assert set(speed.seconds) == set(STATIONS)
    assert all(seconds > 0 for seconds in speed.seconds.values())
    assert sum(speed.seconds.values()) <= speed.seconds_in_all
    assert speed.slices_per_second == pytest.approx(3 / speed.seconds_in_all)
    assert QUARTER.step > 0


def test_the_command_prints_and_writes_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dicomnode.learning.bench.PEAK_SECONDS", 0.1)
    told = tmp_path / "speed.json"
    asked = ["bench", "engine", "--side", "64", "--slices", "2", "--batch", "1", "2", "--device", "cpu"]
    assert main([*asked, "--json", str(told)]) == 0
    written = json.loads(told.read_text())
    printed = capsys.readouterr().out
    assert [run["batch"] for run in written["runs"]] == [1, 2]
    for run in written["runs"]:
        assert f"{run['slices_per_second']:.3g}" in printed
    assert all(station in printed for station in STATIONS)
    assert written["weights"] == load_engine(SHIPPED, "need-small", "cpu").weights_digest


def test_a_recipe_is_as_quick_as_its_model(engine: NeedEngine) -> None:
    """The shipped model and the recipe it was trained by cost the same, neighbours aside."""
    recipe = load_recipe(ROOT / "configs" / "train-need-small.yaml")
    assert isinstance(recipe, Recipe)
    before, after = count_operations(untrained(recipe, CPU), 512), count_operations(engine, 512)
    assert before["clean"] == after["clean"]
    assert before["refine"] == pytest.approx(after["refine"], rel=0.02)


def test_the_large_recipe_is_benched_before_it_is_trained() -> None:
    recipe = load_recipe(ROOT / "configs" / "train-need.yaml")
    assert isinstance(recipe, Recipe)
    engine = untrained(recipe, CPU)
    assert engine.card.projection.parameters == engine.projection.parameter_count
    assert report(engine, Floor(512, {"clean": 1}, {"product": 1.0}), [])["weights"] == "untrained"


def test_a_baseline_has_no_stages_to_bench(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "engine", "--recipe", str(ROOT / "configs" / "train-unet.yaml")]) == 1
    assert "of a baseline" in capsys.readouterr().err


@pytest.mark.parametrize(
    "wrong", [["--batch", "0"], ["--slices", "x"], ["--threads", "0"], ["--device", "gpu"]]
)
def test_what_is_no_count_is_wrong_usage(wrong: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["bench", "engine", *wrong])
    assert ended.value.code == 2


def test_a_gpu_is_given_enough_to_do() -> None:
    """Unless told otherwise, and as far as told otherwise."""
    unsaid, gpu = Namespace(slices=None, batch=None), torch.device("cuda")
    assert sizes(unsaid, CPU) == (8, (1, 4))
    assert sizes(unsaid, gpu) == (64, (4, 8, 16))
    assert sizes(Namespace(slices=5, batch=None), gpu) == (5, (4, 8, 16))
    for device in (CPU, gpu):
        assert sizes(Namespace(slices=5, batch=[2, 1, 2]), device) == (5, (2, 1))


def test_a_report_that_could_not_be_written_stops_before_the_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dicomnode.learning.bench._engine", lambda _: pytest.fail("the work has begun"))
    assert main(["bench", "engine", "--json", str(tmp_path / "missing" / "speed.json")]) == 1
    assert f"there is no folder {tmp_path / 'missing'}" in capsys.readouterr().err


def test_an_image_too_small_for_a_patient_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "engine", "--side", "16"]) == 1
    assert "--side 16" in capsys.readouterr().err
