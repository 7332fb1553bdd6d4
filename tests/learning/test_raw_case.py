"""Simulated scans for the tables: clean rays are those of the object, noise is that of the dose."""

import numpy as np
import pytest
from numpy.typing import NDArray

from dicomnode.engines.enhance_rays import line_integrals
from dicomnode.learning.raw_case import DOSES, SCANNER, RawCase, raw_case
from dicomnode.learning.recipe import Corpus
from dicomnode.physics.photons import (
    ELECTRONIC_VARIANCE,
    NORMAL_DOSE_PHOTONS,
    REFERENCE_BIN_MM,
    REFERENCE_VIEWS,
)

SIDE, PIXEL_MM = 96, 2.4


def stack() -> NDArray[np.float32]:
    """A water disc with an insert of 60 HU, smooth edges, three slices."""
    y, x = np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2
    water = np.clip(36.0 - np.hypot(x, y), 0.0, 1.0)
    insert = np.clip(8.0 - np.hypot(x - 14, y - 10), 0.0, 1.0)
    return np.repeat((1000.0 * (water - 1.0) + 60.0 * insert)[None].astype(np.float32), 3, axis=0)


@pytest.fixture(scope="module")
def case() -> RawCase:
    return raw_case(stack(), PIXEL_MM, 0.1, seed=1)


def patch(image: NDArray[np.float32], x: int, y: int) -> float:
    row, column = round((SIDE - 1) / 2 + y), round((SIDE - 1) / 2 + x)
    return float(image[:, row - 3 : row + 4, column - 3 : column + 4].mean())


def test_what_it_is_compared_with_has_the_hounsfield_units_of_the_object(case: RawCase) -> None:
    assert patch(case.noiseless, -12, 0) == pytest.approx(0.0, abs=1.0)
    assert patch(case.noiseless, 14, 10) == pytest.approx(60.0, abs=1.0)
    assert patch(case.noiseless, 45, 0) == pytest.approx(-1000.0, abs=3.0)
    gap = (case.reference - case.noiseless)[:, 40:56, 30:40].astype(np.float64)
    assert float(gap.mean()) == pytest.approx(0.0, abs=1.0)
    assert gap.std() > 1.0


def test_rays_are_counted_photons_of_the_dose(case: RawCase) -> None:
    """Mean y_0 and variance (N y_0 + 10) / N^2; the quanta of a bin are the fluence of the reference ray."""
    score = (case.transmissions - case.clean) / np.sqrt(
        (case.quanta * case.clean + ELECTRONIC_VARIANCE) / case.quanta**2
    )
    assert float(score.mean()) == pytest.approx(0.0, abs=0.01)
    assert float(score.var()) == pytest.approx(1.0, abs=0.01)
    assert case.photons == pytest.approx(25_000.0)
    turn = case.quanta * case.beam.views / (case.beam.pitch_px * PIXEL_MM)
    assert turn == pytest.approx(25_000.0 * REFERENCE_VIEWS / REFERENCE_BIN_MM, rel=1e-6)


def test_less_dose_more_noise_and_the_same_object() -> None:
    noise = []
    for dose in DOSES:
        one = raw_case(stack(), PIXEL_MM, dose, seed=2)
        noise.append(float((one.low_dose - one.noiseless)[:, 40:56, 30:40].std()))
        assert np.array_equal(one.clean, raw_case(stack(), PIXEL_MM, 1.0, seed=3).clean)
        assert np.array_equal(one.reference, raw_case(stack(), PIXEL_MM, 1.0, seed=2).low_dose)
    relative = np.array(noise) * np.sqrt(DOSES)
    assert relative == pytest.approx(np.full(5, relative.mean()), rel=0.12)


@pytest.mark.parametrize("dose", [0.5, 0.1])
def test_the_reference_keeps_the_share_that_is_told(dose: float) -> None:
    """All of its noise is in the lower dose too, so of the noise there the dose is what stays."""
    one = raw_case(stack(), PIXEL_MM, dose, seed=4)
    low, normal = (np.asarray(y - one.clean, np.float64) for y in (one.transmissions, one.normal))
    spread = np.sqrt(one.clean)  # of Poisson counts
    low, normal = low / spread, normal / spread
    assert float((low * normal).mean() / (normal * normal).mean()) == pytest.approx(1.0, abs=0.01)
    told = one.rays.photons / NORMAL_DOSE_PHOTONS
    assert float((low * normal).mean() / (low * low).mean()) == pytest.approx(told, rel=0.02)
    other = raw_case(stack(), PIXEL_MM, 0.25, seed=4)
    further = (np.asarray(other.transmissions - other.normal, np.float64)) / spread
    assert abs(np.corrcoef((low - normal).ravel(), further.ravel())[0, 1]) < 0.01


def test_the_seed_decides_the_counts(case: RawCase) -> None:
    again, other = (raw_case(stack(), PIXEL_MM, 0.1, seed) for seed in (1, 2))
    assert np.array_equal(case.transmissions, again.transmissions)
    assert not np.array_equal(case.transmissions, other.transmissions)


def test_the_scanner_is_none_that_a_corpus_was_projected_with() -> None:
    corpus = Corpus(sources=())
    assert SCANNER.views not in (corpus.views, 2 * corpus.views)
    assert SCANNER.pitch_px != corpus.pitch_px
    assert SCANNER.sees_whole_slice


def test_the_rays_that_an_engine_gets_are_the_ones_measured(case: RawCase) -> None:
    rays = case.rays
    direct = rays.reconstruct(line_integrals(rays.transmission, rays.quanta))
    assert np.array_equal(direct, case.low_dose)
    assert rays.photons == case.photons
