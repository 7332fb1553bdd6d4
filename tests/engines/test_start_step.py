"""Dose to step: the published schedule and table, and who is believed when tags and image disagree."""

import math

import numpy as np
import pytest

from dicomnode.engines.start_step import PhotonSchedule, SliceFacts, match
from dicomnode.errors import DoseUnknown
from dicomnode.physics.photons import photons_from_dose, predicted_noise_hu

SCHEDULE = PhotonSchedule()


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


def test_without_measured_noise_it_is_predicted() -> None:
    start = match(facts(0.25, None), SCHEDULE)
    assert start.noise_hu == pytest.approx(predicted_noise_hu(start.photons, 270.0, 0.7, start.texture))


def test_nothing_known_is_refused() -> None:
    with pytest.raises(DoseUnknown, match="unknown"):
        match(facts(None, None), SCHEDULE)


def test_more_than_normal_dose_is_normal_dose() -> None:
    assert match(facts(3.0, 3.0), SCHEDULE).fraction == 1.0
