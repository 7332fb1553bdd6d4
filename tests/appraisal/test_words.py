"""What notes and card say of the figures, held against what the code does."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from dicomnode.appraisal.cases import PAIRS, Case
from dicomnode.appraisal.groups import Group, Row
from dicomnode.appraisal.inserts import plan_slices
from dicomnode.appraisal.methods import Scan, Unchanged
from dicomnode.appraisal.probing import Probed
from dicomnode.appraisal.report import group_report
from dicomnode.appraisal.scoring import Truth
from dicomnode.appraisal.tables import for_terminal, notes, told_of
from dicomnode.engines.catalog import SHIPPED
from dicomnode.evaluation.airways import LEAST_TUBE_MM, grow_airways
from dicomnode.learning.recipe import Recipe, UNetRecipe, load_recipe
from tests.appraisal.scans import PIXEL_MM, Volume, body, start
from tests.appraisal.test_probing import Seen

CONFIGS = Path(__file__).parents[2] / "configs"
CARD = (SHIPPED / "need-small" / "README.md").read_text()
NOTES = " ".join(notes({"left_out": {}}).split())


def case(low: Volume, reference: Volume, dose: str, **more: Any) -> Case:
    starts = tuple(start(6) for _ in low)
    return Case(dose, "k", Scan(low, starts, PIXEL_MM, 12.0), reference, slice(0, 1), (2.0, 1.2, 1.2), **more)


def test_things_are_put_into_the_scan_whose_dose_was_lowered() -> None:
    """They carry no noise of their own: with and without them, a scan differs by the drawn things alone."""
    low = body(1, noise_hu=40.0)
    (plan,) = plan_slices(low, [0], [PIXEL_MM], seed=1)
    method = Seen()
    Probed().add(method, case(low, body(1), "10 %", plans=(plan,)), lambda done: None)
    np.testing.assert_array_equal(method.given[0], low[0])
    for mixture, given in zip(plan.mixtures, method.given[1:], strict=False):
        np.testing.assert_array_equal(given, mixture.into(low[0]))
    assert "put into the scan after its dose was lowered" in CARD
    assert "into even tissue of the noisy scan" in NOTES


def test_raw_mode_is_compared_with_a_scan_at_normal_dose() -> None:
    for told in (CARD, NOTES):
        assert "without counting noise" not in told
    assert "All are told one share" in NOTES


def test_what_real_pairs_share_of_their_noise_is_measured_and_told() -> None:
    reference = body(1)
    apart = np.ascontiguousarray(body(2, noise_hu=24.0)[1:])
    shares = []
    for low in (reference + np.random.default_rng(0).normal(0, 20, reference.shape), apart):
        group = Group(PAIRS, "k", {"input": Row()})
        one = case(low.astype(np.float32), reference, PAIRS)
        group.add(one, Truth.of(one), [Unchanged()], lambda done: None)
        report = group_report(group)
        shares.append(report["shared_noise"]["share"])
        assert f"the input holds {100 * shares[-1]:.0f} %" in told_of(report)
    assert shares[0] > 0.9
    assert abs(shares[1]) < 0.15
    assert "independent where both doses were measured" in NOTES
    assert "In real pairs the two noises are independent." not in NOTES


def test_small_things_in_one_slice_stand_beside_those_through_three() -> None:
    low = body(3, noise_hu=40.0)
    group, one = Group("10 %", "k", {"input": Row()}), case(low, body(3), "10 %")
    one = replace(one, judged=slice(1, 2), plans=tuple(plan_slices(low, [1], [PIXEL_MM], seed=1)))
    group.add(one, Truth.of(one), [Unchanged()], lambda done: None)
    heads = {str(head) for table in for_terminal(group_report(group)) for head in table.columns[0].cells}
    for thing in ("dot, 50 HU", "dot, 400 HU", "3 mm, 40 HU"):
        assert {f"{thing}, through three slices", f"{thing}, in one slice"} <= heads
    assert "5 mm, 25 HU" in heads
    assert "3 mm, 40 HU, in one slice, over the input's" in heads
    assert "once more **in one slice** alone" in NOTES


def test_airways_are_those_that_join_the_trachea_inside_a_block() -> None:
    """A bronchus that leaves it below the block is found from the whole stack, and not from the block."""
    image = np.zeros((8, 60, 60), np.float32)
    image[:, 25:35, 25:35] = -1000.0
    image[1, 28:32, 10:25] = -1000.0
    image[1:, 28:32, 10:14] = -1000.0
    body_mask, spacing_mm = np.ones(image.shape, bool), (3.0, 1.5, 1.5)
    whole = grow_airways(image, body_mask, spacing_mm, (5, 30, 30)).mask[4:]
    block = grow_airways(image[4:], body_mask[4:], spacing_mm, (1, 30, 30)).mask
    assert whole[:, 28:32, 10:14].all()
    assert not block[:, 28:32, 10:14].any()
    assert block[:, 25:35, 25:35].all()
    assert "grown inside each block of judged slices by itself" in NOTES
    assert f"a block with less than {LEAST_TUBE_MM:g} mm of trachea has none" in NOTES


def test_the_notes_tell_what_the_baselines_were_given_as_the_recipes_do() -> None:
    need, unet, red_cnn = (
        load_recipe(CONFIGS / f"train-{name}.yaml") for name in ("need-small", "unet", "red-cnn")
    )
    assert need.image.objects == unet.image.objects == 0.5
    assert red_cnn.image.objects == 0.0
    assert isinstance(unet, UNetRecipe)
    assert isinstance(need, Recipe)
    assert need.mirrorings == unet.mirrorings == 2
    assert "small objects drawn into half of its training crops" in NOTES
    assert "no objects in its crops, one pass and no mirrorings" in NOTES
