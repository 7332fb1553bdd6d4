"""Dose to step: the published schedule and table, and who is believed when tags and image disagree."""

import math
from dataclasses import replace
from typing import Literal

import numpy as np
import pytest

from dicomnode.engines.start_step import PhotonSchedule, SliceFacts, match, told
from dicomnode.errors import DoseUnknown
from dicomnode.physics.photons import photons_from_dose, predicted_noise_hu

SCHEDULE = PhotonSchedule()
Reason = Literal["cut off", "sharp"]


def facts(fraction: float | None, noise_fraction: float | None, texture: float = 0.5) -> SliceFacts:
    """A 3 mm slice of a 270 mm patient whose tags and noise say these fractions of normal dose."""
    normal = photons_from_dose(12.0, 3.0)
    ctdivol = None if fraction is None else 12.0 * fraction
    noise = (
        None if noise_fraction is None else predicted_noise_hu(normal * noise_fraction, 270.0, 0.7, texture)
    )
    return SliceFacts(3.0, 0.7, 270.0, 12.0, ctdivol, noise, None if noise is None else texture)


def test_schedule_is_the_published_one() -> None:
    published = [300000, 135000, 87096.8, 64285.7, 50943.4, 42187.5, 36000, 31395.3, 27835.1, 25000]
    assert SCHEDULE.photons == pytest.approx(np.array(published), abs=0.05)  # printed with one decimal


def test_equal_steps_of_variance() -> None:
    assert np.diff(1.0 / SCHEDULE.photons) == pytest.approx(np.full(9, np.diff(1.0 / SCHEDULE.photons)[0]))


@pytest.mark.parametrize(
    ("fraction", "step"), [(1.0, 0), (0.5, 1), (0.25, 3), (0.125, 7), (0.1, 9), (0.05, 9)]
)
def test_dose_matching_table(fraction: float, step: int) -> None:
    assert SCHEDULE.nearest(2.5e5 * fraction) == step
    assert match(facts(fraction, fraction), SCHEDULE).step == step


@pytest.mark.parametrize("passes", [0, 1, 2, 4, 20])
@pytest.mark.parametrize("step", range(10))
def test_path_falls_from_the_start(step: int, passes: int) -> None:
    path = SCHEDULE.path(step, passes)
    assert len(path) == min(step, passes)
    assert list(path) == sorted(set(path), reverse=True)
    assert all(k > 0 for k in path)
    assert not path or path[0] == step


def test_both_agree() -> None:
    start = match(facts(0.3, 0.2), SCHEDULE)
    assert start.decided_by == "both"
    assert start.fraction == pytest.approx(math.sqrt(0.06), rel=1e-6)


@pytest.mark.parametrize(("tags", "noise"), [(1.0, 0.25), (0.25, 1.0)])
def test_image_is_believed_against_the_tags(tags: float, noise: float) -> None:
    start = match(facts(tags, noise), SCHEDULE)
    assert start.decided_by == "noise"
    assert start.fraction == pytest.approx(noise, rel=1e-6)
    assert start.log_ratio == pytest.approx(math.log(tags / noise))


def test_one_is_enough() -> None:
    assert match(facts(0.25, None), SCHEDULE).decided_by == "tags"
    assert match(facts(None, 0.25), SCHEDULE).decided_by == "noise"
    assert match(facts(0.25, None), SCHEDULE).fraction == pytest.approx(0.25)


@pytest.mark.parametrize("noise", [0.02, 0.1, 0.24, 0.25, 0.5, 1.0])
@pytest.mark.parametrize("overstated", ["", "cut off", "sharp"])
def test_noise_alone_makes_no_more_strength_than_a_quarter_of_normal_dose(
    noise: float, overstated: Literal["", "cut off", "sharp"]
) -> None:
    start = match(replace(facts(None, noise), overstated=overstated), SCHEDULE)
    assert start.fraction == pytest.approx(max(noise, 0.25))
    assert start.step <= SCHEDULE.nearest(0.25 * 2.5e5)
    assert start.fraction_by_noise == pytest.approx(noise)
    assert "a quarter of normal dose" in told([start])


def test_without_measured_noise_it_is_predicted() -> None:
    start = match(facts(0.25, None), SCHEDULE)
    assert start.noise_hu == pytest.approx(predicted_noise_hu(start.photons, 270.0, 0.7, start.texture))


def test_nothing_known_is_refused() -> None:
    with pytest.raises(DoseUnknown, match="unknown"):
        match(facts(None, None), SCHEDULE)


def test_more_than_normal_dose_is_normal_dose() -> None:
    assert match(facts(3.0, 3.0), SCHEDULE).fraction == 1.0


@pytest.mark.parametrize(
    ("factor", "verdict", "decided_by"),
    [
        (1.0, "agree", "both"),
        (1.49, "agree", "both"),
        (1 / 1.49, "agree", "both"),
        (1.51, "warn", "both"),
        (1 / 1.51, "warn", "both"),
        (2.49, "warn", "both"),
        (1 / 2.49, "warn", "both"),
        (2.51, "noisier", "noise"),
        (1 / 2.51, "cleaner", "noise"),
    ],
)
def test_the_gate_at_its_borders(factor: float, verdict: str, decided_by: str) -> None:
    """`factor`: dose by tags over dose by noise."""
    start = match(facts(0.2 * factor, 0.2), SCHEDULE)
    assert (start.verdict, start.decided_by) == (verdict, decided_by)
    expected = 0.2 * math.sqrt(factor) if decided_by == "both" else 0.2
    assert start.fraction == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("noise", [0.4, 0.6, 1.0])
def test_a_cleaner_image_never_gets_the_strength_of_its_tags(noise: float) -> None:
    by_tags, start = match(facts(0.1, None), SCHEDULE), match(facts(0.1, noise), SCHEDULE)
    assert start.step < by_tags.step
    assert start.step == match(facts(None, noise), SCHEDULE).step


@pytest.mark.parametrize("cleaner", [1.01, 1.3, 2.0, 4.0])
def test_iterative_and_cleaner_goes_by_the_noise_that_is_left(cleaner: float) -> None:
    start = match(replace(facts(0.2, 0.2 * cleaner), iterative=True), SCHEDULE)
    assert (start.verdict, start.decided_by) == ("iterative", "noise")
    assert start.fraction == pytest.approx(0.2 * cleaner, rel=1e-6)


@pytest.mark.parametrize("iterative", [True, False])
def test_a_low_dose_made_clean_is_no_full_dose(iterative: bool) -> None:
    """What noise there is decides the strength; what dose there was is told by the tags."""
    start = match(replace(facts(0.2, 1.0), iterative=iterative), SCHEDULE)
    assert (start.step, start.fraction, start.decided_by) == (0, pytest.approx(1.0), "noise")
    assert (start.dose_fraction, start.dose_decided_by) == (pytest.approx(0.2), "tags")
    assert start.fraction_by_tags == pytest.approx(0.2)
    assert start.fraction_by_noise == pytest.approx(1.0)


@pytest.mark.parametrize(("tags", "noise"), [(1.0, 0.25), (0.3, 0.25), (None, 0.5), (0.5, None)])
def test_else_the_dose_is_what_the_strength_follows_from(tags: float | None, noise: float | None) -> None:
    start = match(facts(tags, noise), SCHEDULE)
    assert (start.dose_fraction, start.dose_decided_by) == (start.fraction, start.decided_by)


@pytest.mark.parametrize("noisier", [1.3, 2.0, 4.0])
def test_iterative_and_noisier_is_judged_as_any_other(noisier: float) -> None:
    plain = facts(0.2 * noisier, 0.2)
    assert match(replace(plain, iterative=True), SCHEDULE) == match(plain, SCHEDULE)


def test_iterative_without_noise_has_its_tags() -> None:
    assert match(replace(facts(0.25, None), iterative=True), SCHEDULE).verdict == "tags alone"


def test_who_won_is_told_in_words() -> None:
    starts = [match(facts(1.0, 0.25), SCHEDULE)] * 3 + [match(facts(0.25, 0.25), SCHEDULE)]
    sentence = told(starts)
    assert sentence.startswith("noise won in 3 of 4 slices")
    assert "factor 4" in sentence
    for one in (facts(0.3, 0.6), facts(0.1, 1.0), facts(None, 0.5), facts(0.5, None), facts(0.5, 0.5)):
        assert "1 of 1 slices" in told([match(one, SCHEDULE)])
    assert "factor 10" in told([match(facts(0.1, 1.0), SCHEDULE)])


@pytest.mark.parametrize(
    "odd", [{"pixel_mm": 0.2}, {"pixel_mm": 1.6}, {"diameter_mm": 64.0}, {"diameter_mm": 480.0}]
)
def test_noise_says_nothing_where_its_law_was_not_found(odd: dict[str, float]) -> None:
    """In a fruit of 6 cm on pixels of 0.2 mm the peel varies, not the photons."""
    one = replace(facts(1.0, 0.03), **odd)
    start = match(one, SCHEDULE)
    assert (start.decided_by, start.verdict) == ("tags", "tags alone")
    with pytest.raises(DoseUnknown):
        match(replace(one, ctdivol_mgy=None), SCHEDULE)
    assert match(replace(facts(1.0, 0.03), diameter_mm=0.0), SCHEDULE).verdict != "tags alone", "no body"


@pytest.mark.parametrize("reason", ["cut off", "sharp"])
@pytest.mark.parametrize("lower", [1.1, 2.0, 10.0])
def test_overstated_noise_does_not_lower_the_dose(reason: Reason, lower: float) -> None:
    """The patient goes on beyond the image, or the kernel lifts edges: the tags stand, on record."""
    one = replace(facts(1.0, 1.0 / lower), overstated=reason)
    start = match(one, SCHEDULE)
    assert (start.decided_by, start.verdict) == ("tags", reason)
    assert start.fraction == pytest.approx(1.0)
    assert start.log_ratio == pytest.approx(math.log(lower))
    assert "tags decided in 1 of 1 slices" in told([start])


def test_overstated_noise_still_says_what_is_too_clean() -> None:
    reasons: tuple[Reason, ...] = ("cut off", "sharp")
    for reason in reasons:
        start = match(replace(facts(0.1, 0.5), overstated=reason), SCHEDULE)
        assert (start.decided_by, start.verdict) == ("noise", "cleaner")
        assert match(replace(facts(None, 0.5), overstated=reason), SCHEDULE).decided_by == "noise"
