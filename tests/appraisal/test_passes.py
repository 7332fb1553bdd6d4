"""`evaluate passes`: as many passes as asked for, all in one noise, and advice that follows the figures."""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.image import imread
from numpy.typing import NDArray

from dicomnode.__main__ import main
from dicomnode.appraisal import passes_told
from dicomnode.appraisal.cases import RAYS, Case
from dicomnode.appraisal.methods import Enhanced, FromRays, Scan, Unchanged
from dicomnode.appraisal.passes import FULL, Group, Passes, Row, methods_of, own_passes, plan
from dicomnode.engines.catalog import SHIPPED, load_engine
from dicomnode.engines.model_card import Beam, Limits, ModelCard, Network, RawMode, Schedule
from dicomnode.engines.need import dgdiff, raw, spdiff
from dicomnode.engines.need.engine import NeedEngine
from dicomnode.engines.start_step import StartStep
from dicomnode.engines.unet import UNet, UNetShape
from dicomnode.evaluation.similarity import psnr_db, rmse_hu
from dicomnode.learning.raw_case import raw_case
from dicomnode.learning.recipe import Recipe
from tests.appraisal.scans import PIXEL_MM, RAW_CORPUS, body
from tests.appraisal.written_reports import strict
from tests.learning.test_counts import STAGE, TINY, publish_untrained
from tests.makers import make_series

LEVELS = Schedule(most_photons=3e5, least_photons=2.5e4, steps=10)
Volume = NDArray[np.float32]


class Counting(UNet):
    """Counts how often it is asked."""

    asked = 0

    def forward(self, *given: Any) -> Any:
        self.asked += 1
        return super().forward(*given)


def network(module: Any, seed: int) -> Counting:
    torch.manual_seed(seed)
    made = Counting(UNetShape(module.CHANNELS, (8, 8), module.CONDITIONS)).eval().requires_grad_(False)
    torch.nn.init.normal_(made.leave.weight, std=0.02)
    return made


@pytest.fixture
def engine() -> NeedEngine:
    """Networks that know nothing; how often they are asked is the law."""
    named = Network(file="x", sha256="0", channels_in=1, widths=(8, 8), conditions=1, parameters=1)
    card = ModelCard(
        id="random", version="0", engine="need", mode="image", licence="none", trained_on=(),
        beam=Beam(side_px=64, views=60, detectors=94, pitch_px=1.0), schedule=LEVELS,
        projection_passes=2, image_passes=1, projection=named, image=named,
        raw=RawMode(network=named, schedule=LEVELS, passes=4, refill="mean", photons=(5e3, 3e5)),
        limits=Limits(noise_hu=(6, 110), texture=(-0.2, 0.9), pixel_mm=(0.3, 3.0)),
    )  # fmt: skip
    networks = [network(module, seed) for seed, module in enumerate((spdiff, dgdiff, raw))]
    return NeedEngine(card, networks[0], networks[1], torch.device("cpu"), networks[2])


def start(step: int) -> StartStep:
    return StartStep(step, float(np.interp(step, range(10), sorted(np.geomspace(2.5e4, 3e5, 10))[::-1])),
                     0.25, 30.0, 0.4, "noise", None)  # fmt: skip


def noisy(side: int = 64) -> Volume:
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    clean = np.where(np.hypot(x, y) < 0.4 * side, 40.0, -1000.0)
    return (clean + np.random.default_rng(0).normal(0, 30, (1, side, side))).astype(np.float32)


@pytest.mark.parametrize("step", [1, 4, 9])
@pytest.mark.parametrize(("first", "second"), [(1, 1), (2, 5), (5, None), (None, 3), (None, None)])
def test_a_stage_makes_as_many_passes_as_asked_and_there_are_steps(
    engine: NeedEngine, step: int, first: int | None, second: int | None
) -> None:
    scan = Scan(noisy(), (start(step),), 1.0, 30.0)
    Enhanced(Passes(first, second).of(engine))(scan, slice(0, 1))
    assert isinstance(engine.projection, Counting)
    assert isinstance(engine.image, Counting)
    assert engine.projection.asked == min(first or 99, step)
    assert engine.image.asked == min(second or 99, step)


@pytest.mark.parametrize(("first", "second"), [(1, 2), (3, 1), (None, None)])
def test_raw_mode_makes_as_many_on_counts(engine: NeedEngine, first: int | None, second: int | None) -> None:
    counts = raw_case(noisy(), 3.0, 0.1, 1)
    scan = Scan(counts.low_dose, (start(9),), 3.0, 30.0, counts.rays)
    few = Passes(first, second).of(engine)
    steps = few.process.schedule.nearest(counts.photons)
    assert steps > 5
    FromRays(few)(scan, slice(0, 1))
    assert isinstance(engine.raw, Counting)
    assert isinstance(engine.image, Counting)
    assert engine.raw.asked == min(first or 99, steps)
    assert engine.image.asked == min(second or 99, steps)
    assert isinstance(engine.projection, Counting)
    assert engine.projection.asked == 0


def test_the_row_of_the_card_is_the_model_as_it_is_shipped(engine: NeedEngine) -> None:
    own = own_passes(engine, raw=False)
    assert own == Passes(2, 1)
    assert own_passes(engine, raw=True) == Passes(4, 1)
    scan = Scan(noisy(), (start(6),), 1.0, 30.0)
    methods = methods_of(engine, [1, 3], raw=False)
    as_shipped = Enhanced(engine)(scan, slice(0, 1))
    np.testing.assert_array_equal(methods[own.name](scan, slice(0, 1)), as_shipped)
    assert not np.array_equal(methods[FULL.name](scan, slice(0, 1)), as_shipped)


def test_the_plan_holds_every_stage_alone_both_and_the_card() -> None:
    own = Passes(2, 1)
    asked = plan([2, 1, 2], [own])
    assert asked[0] == FULL
    assert set(asked) == {FULL, *(Passes(n, None) for n in (1, 2)), *(Passes(None, n) for n in (1, 2)),
                          Passes(1, 1), Passes(2, 2), own}  # fmt: skip
    assert len(asked) == len(set(asked)) == len({one.name for one in asked})
    assert plan([1], [Passes(0, 1)])[-1].name == "SPDiff 0, DGDiff 1"
    assert plan([1], [Passes(1, 1)]) == plan([1], [])


def test_figures_are_those_of_the_images(engine: NeedEngine) -> None:
    """Against the figures by hand, on one case."""
    low, reference = noisy(128), noisy(128)[:, ::-1].copy()
    case = Case("25 %", "k", Scan(low, (start(6),), 1.0, 30.0), reference, slice(0, 1), (1.0, 1.0, 1.0))
    methods = methods_of(engine, [1], raw=False)
    group = Group("25 %", "k", own_passes(engine, raw=False), {name: Row() for name in methods})
    told: list[None] = []
    group.add(case, methods, lambda: told.append(None))
    assert len(told) == len(methods)
    for name, method in methods.items():
        result = method(case.scan, case.judged)[0]
        figures = group.rows[name].scored.figures()
        assert figures["psnr_db"] == pytest.approx(psnr_db(result, reference[0]))
        assert figures["rmse_hu"] == pytest.approx(rmse_hu(result, reference[0]))
        assert group.rows[name].slices == 1
        assert group.rows[name].seconds > 0


class Slow(Unchanged):
    """Takes its time."""

    def __call__(self, scan: Scan, part: slice) -> Volume:
        time.sleep(0.06)
        return super().__call__(scan, part)


def test_seconds_are_of_the_slices_that_were_worked_on() -> None:
    """Two judged of four: of projections the engine makes all four."""
    stack = np.repeat(noisy(), 4, axis=0)
    starts = (start(6),) * 4
    counts = raw_case(stack, 3.0, 0.1, 1)
    for rays, worked in ((None, 2), (counts.rays, 4)):
        scan = Scan(stack, starts, 3.0, 30.0, rays)
        case = Case("10 %", "k", scan, stack, slice(1, 3), (1.0, 3.0, 3.0))
        group = Group("10 %", "k", FULL, {"slow": Row()})
        for _ in range(2):
            group.add(case, {"slow": Slow()}, lambda: None)
        row = group.rows["slow"]
        assert row.slices == 2 * worked
        assert 0.12 <= row.seconds < 0.12 + 5.0


# --- the advice --------------------------------------------------------------------------------------


def report(*groups: tuple[str, dict[str, tuple[float, float]]]) -> dict[str, Any]:
    """`groups`: kernel, and of each row what it loses against full and its seconds."""
    return {
        "most_lost_db": 0.1,
        "card": {"image": "SPDiff 2, DGDiff 1", "raw": "SPDiff 4, DGDiff 1"},
        "groups": [
            {
                "kernel": kernel,
                "passes": {
                    "input": {"seconds_per_slice": 0.0},
                    **{name: {"over_full_db": v, "seconds_per_slice": s} for name, (v, s) in rows.items()},
                },
            }
            for kernel, rows in groups
        ],
    }


ONE, TWO, ALL = "SPDiff 1, DGDiff 1", "SPDiff 2, DGDiff 2", FULL.name


@pytest.mark.parametrize(
    ("one_loses", "two_loses", "expected"),
    [
        ([0.05, 0.0], [0.0, 0.0], ONE),
        ([0.05, 0.2], [0.0, 0.09], TWO),
        ([0.2, 0.0], [0.0, 0.11], ALL),
        ([-3.0, 0.1], [0.0, 0.0], ONE),  # better than all steps is no loss
    ],
)
def test_the_fewest_that_lose_little_at_every_dose_are_named(
    one_loses: Sequence[float], two_loses: Sequence[float], expected: str
) -> None:
    groups = [
        ("B30f", {ALL: (0.0, 9.0), ONE: (-one, 1.0), TWO: (-two, 2.0)})
        for one, two in zip(one_loses, two_loses, strict=True)
    ]
    told = report(*groups)
    assert passes_told.fewest(told, "image") == expected
    (line,) = passes_told.advice(told)
    assert line.endswith(f"here are {expected}; the card has SPDiff 2, DGDiff 1")


def test_of_as_many_passes_the_quicker_are_named() -> None:
    """And fewer that were slower by chance, on a busy machine, stay the fewest."""
    one, other = "SPDiff 2, DGDiff 1", "SPDiff 1, DGDiff 2"
    rows = {ALL: (0.0, 9.0), one: (0.0, 2.0), other: (0.0, 1.0)}
    assert passes_told.fewest(report(("B30f", rows)), "image") == other
    assert passes_told.fewest(report(("B30f", {**rows, ONE: (0.0, 10.0)})), "image") == ONE


def test_each_mode_has_its_advice() -> None:
    image = {ALL: (0.0, 9.0), ONE: (0.0, 1.0)}
    rays = {ALL: (0.0, 9.0), ONE: (-0.5, 1.0)}
    told = report(("B30f", image), (RAYS, rays))
    assert [passes_told.fewest(told, mode) for mode in ("image", "raw")] == [ONE, ALL]
    assert len(passes_told.advice(told)) == 2


# --- the command -------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_command_tells_tables_pictures_and_advice(tmp_path: Path) -> None:
    make_series(tmp_path / "ct", body(), pixel_spacing_mm=(PIXEL_MM, PIXEL_MM), signed=True, ctdivol_mgy=12.0)
    out = tmp_path / "out"
    command = ["evaluate", "passes", "--series", tmp_path / "ct", "--slices", "1", "--inserts", "1"]
    more = ["--doses", "0.5", "0.25", "--passes", "1", "--device", "cpu", "--output", out]
    assert main([*map(str, (*command, *more))]) == 0
    told = strict(out / "passes.json")
    assert [group["dose"] for group in told["groups"]] == 2 * ["50 %", "25 %"], "of images, and of counts"
    engine = load_engine(SHIPPED, "need-small", "cpu")
    for group in told["groups"]:
        rows, counts = group["passes"], group["kernel"] == RAYS
        own = own_passes(engine, raw=counts).name
        assert rows[FULL.name]["over_full_db"] == 0.0
        assert rows["input"]["nps_shift_percent"] == 0.0, "of counts, too"
        assert group["card"] == own in rows
        for name, row in rows.items():
            assert row["rmse_hu"] > 0
            if name != "input":
                assert row["rmse_hu"] < rows["input"]["rmse_hu"]
                assert row["over_full_db"] == pytest.approx(
                    row["psnr_db"] - rows[FULL.name]["psnr_db"], abs=1e-3
                )
                assert row["nps_shift_percent"] not in (None, 0.0)
    assert told["fewest"] == {mode: passes_told.fewest(told, mode) for mode in ("image", "raw")}
    assert json.dumps(told["guard"]["compared_with"]).startswith('{"need-small"')
    text = (out / "passes.md").read_text()
    for group in told["groups"]:
        assert f"## {group['kernel']}, {group['dose']}\n" in text
    for counts in (False, True):
        assert f"| {own_passes(engine, raw=counts).name} (card) |" in text
    assert passes_told.advice(told)[0] in text
    assert "`dicomnode evaluate passes --model need-small --series ct " in text
    assert text.count("--passes 1`") == 1
    assert not any(line.count("|") not in (0, line.count(" | ") + 2) for line in text.splitlines())
    pictures = list(out.glob("*.png"))
    assert pictures
    for picture in pictures:
        assert f"({picture.name})" in text
        assert imread(picture)[..., :3].std() > 0.01


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_raw_projections_have_tables_of_their_own(tmp_path: Path) -> None:
    """By networks that know nothing, but with the noise of counts, and all steps of their own schedule."""
    make_series(tmp_path / "ct", body(), pixel_spacing_mm=(PIXEL_MM, PIXEL_MM), signed=True, ctdivol_mgy=12.0)
    recipe = Recipe(model_id="both", version="0", corpus=RAW_CORPUS, projection=TINY, image=TINY, raw=STAGE)
    publish_untrained(recipe, tmp_path, spread=0.02)
    command = ["evaluate", "passes", "--models", tmp_path / "models", "--model", "both", "--device", "cpu"]
    more = ["--series", tmp_path / "ct", "--slices", "1", "--inserts", "1", "--doses", "0.1"]
    assert main([*map(str, (*command, *more)), "--passes", "1", "--json", str(tmp_path / "told.json")]) == 0
    told = strict(tmp_path / "told.json")
    assert {group["kernel"] for group in told["groups"]} == {"B30f", RAYS}
    assert set(told["fewest"]) == set(told["card"]) == {"image", "raw"}
    (rays,) = [group for group in told["groups"] if group["kernel"] == RAYS]
    assert rays["dose"] == "10 %"
    engine = load_engine(tmp_path / "models", "both", "cpu")
    assert rays["card"] == own_passes(engine, raw=True).name
    assert rays["passes"]["input"]["nps_shift_percent"] == 0.0
    assert rays["start_steps"] == [engine.process.schedule.nearest(2.5e4)] * 2
    rows = [row for name, row in rays["passes"].items() if name != "input"]
    assert len({row["psnr_db"] for row in rows}) == len({row["nps_shift_percent"] for row in rows}) == 4


def test_what_cannot_be_asked_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "passes"]) == 1
    assert "nothing to measure on" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["evaluate", "passes", "--passes", "0"])
    assert "give a whole number" in capsys.readouterr().err
