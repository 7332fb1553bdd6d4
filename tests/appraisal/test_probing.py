"""Objects that are planted into slices, and what is seen of them behind a method."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from dicomnode.appraisal.cases import Case
from dicomnode.appraisal.inserts import DISCS, NOISE_SIDE_PX, Plan, plan_slices
from dicomnode.appraisal.methods import Scan, Unchanged
from dicomnode.appraisal.probing import Probed, find
from dicomnode.evaluation.places import Place
from dicomnode.evaluation.texture import noise_power
from tests.appraisal.scans import PIXEL_MM, Volume, body, start


def squares(plan: Plan) -> list[list[tuple[Place, int]]]:
    """The places of every picture that is made of a slice, with the sides of their squares."""
    mixed = [
        [(place, planted.drawn.shape[1]) for planted in mixture.objects.values() for place in planted.places]
        for mixture in plan.mixtures
    ]
    discs = [[(place, one.side_px) for place in one.places] for one in plan.discs]
    alone = [
        (place, mixture.objects["dot"].drawn.shape[1])
        for mixture in plan.dots_alone
        for place in mixture.objects["dot"].places
    ]
    return [*mixed, *discs, alone, [(place, NOISE_SIDE_PX) for place in plan.squares]]


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


def test_the_same_seed_plans_the_same() -> None:
    image = body(1)
    one, other, third = (plan_slices(image, [0], [PIXEL_MM], seed)[0] for seed in (1, 1, 2))
    drawn = [
        [planted.drawn for mixture in plan.mixtures for planted in mixture.objects.values()]
        for plan in (one, other, third)
    ]
    assert all(np.array_equal(a, b) and not np.array_equal(a, c) for a, b, c in zip(*drawn, strict=True))


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


class Mean(Unchanged):
    """Each slice as the mean of it and its neighbours."""

    def __call__(self, scan: Scan, part: slice) -> Volume:
        padded = np.pad(scan.hounsfield, ((1, 1), (0, 0), (0, 0)), "edge")
        return np.mean([padded[k : k + len(scan.hounsfield)] for k in range(3)], axis=0)[part]


def test_a_small_thing_in_one_slice_is_lost_to_a_method_that_leans_on_neighbours() -> None:
    """Through three slices a mean of three keeps it whole, in one a third; who sees one slice keeps both."""
    images = body(3)
    plans = tuple(plan_slices(images, [1], [PIXEL_MM], seed=1))
    scan, case_of = Scan(images, (start(9),) * 3, PIXEL_MM, 12.0), (images, slice(1, 2), (2.0, 1.2, 1.2))
    case, told = Case("10 %", "k", scan, *case_of, plans), list[int]()
    before, after = Probed(), Probed()
    before.add(Unchanged(), case, told.append)
    after.add(Mean("mean"), case, lambda done: None)
    assert sum(told) == plans[0].runs
    assert plans[0].runs == 2 + len(plans[0].mixtures) + len(plans[0].discs) + 2
    same, mean = (find(one, before).figures for one in (before, after))
    for contrast in same["dot_kept"]:
        for figures, through, alone in ((same, 1.0, 1.0), (mean, 1.0, 1 / 3)):
            assert figures["dot_kept"][contrast]["value"] == pytest.approx(through, abs=1e-3)
            assert figures["dot_kept_in_one_slice"][contrast]["value"] == pytest.approx(alone, abs=1e-3)
    assert same["d_prime_in_one_slice"] == {"3 mm, 40 HU": same["d_prime"]["3 mm, 40 HU"]}
    ((size, found),) = mean["d_prime_in_one_slice"].items()
    assert found["value"] == pytest.approx(mean["d_prime"][size]["value"] / 3, rel=0.02)
    (single,) = plan_slices(images, [1], [PIXEL_MM], seed=1, beside=False)
    assert not single.dots_alone
    assert single.disc_alone is None


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
