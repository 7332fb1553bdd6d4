"""The cases of an evaluation: which slices, one patient in several noises, and what is counted of them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

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
from dicomnode.appraisal.methods import FromRays, Unchanged
from dicomnode.appraisal.scoring import Truth
from dicomnode.engines.catalog import SHIPPED, load_engine
from dicomnode.engines.need.engine import NeedEngine
from dicomnode.errors import ModelError
from dicomnode.evaluation.shared_noise import shared_noise
from dicomnode.learning.raw_case import raw_case
from dicomnode.learning.recipe import Recipe
from dicomnode.physics.photons import NORMAL_DOSE_PHOTONS
from tests.appraisal.scans import PIXEL_MM, RAW_CORPUS, body
from tests.learning.test_counts import STAGE, TINY, publish_untrained
from tests.makers import make_series


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


def assert_one_share(normal: Case, quarter: Case, engine: NeedEngine) -> None:
    """What each method is told to keep is what the reference kept: the dose, of noise that both have."""
    for case, share in ((normal, 1.0), (quarter, 0.25)):
        assert case.scan.rays is not None
        assert case.scan.rays.photons == share * NORMAL_DOSE_PHOTONS
        for start in case.scan.starts:
            assert (start.fraction, start.photons) == (share, share * NORMAL_DOSE_PHOTONS)
            assert start.step == engine.schedule.nearest(share * NORMAL_DOSE_PHOTONS)
    found = shared_noise(quarter.scan.hounsfield, quarter.reference)
    assert found is not None
    # the donor's own noise is in both, whole: shared, but no part of what was counted
    counted = raw_case(body(2, noise_hu=0.0), PIXEL_MM, 0.25, 3)
    alone = shared_noise(counted.low_dose, counted.reference)
    assert alone is not None
    assert alone.share == pytest.approx(1.0, abs=0.05)
    assert alone.added == pytest.approx(1 / 0.25 - 1, rel=0.1)
    assert found.share == pytest.approx(1.0, abs=0.05)


@pytest.mark.slow
def test_raw_mode_is_measured_on_counts_of_the_same_slices(tmp_path: Path) -> None:
    """Beside image mode, against the scan at normal dose; the networks need know nothing for that."""
    make_series(tmp_path / "ct", body(), pixel_spacing_mm=(PIXEL_MM, PIXEL_MM), signed=True, ctdivol_mgy=12.0)
    recipe = Recipe(model_id="both", version="0", corpus=RAW_CORPUS, projection=TINY, image=TINY, raw=STAGE)
    publish_untrained(recipe, tmp_path)
    engine = load_engine(tmp_path / "models", "both", "cpu")
    opened = open_series(tmp_path / "ct", engine, 1, 1, seed=1)
    normal, quarter = ray_cases(opened, engine, [0.25], 1)
    assert (normal.dose, quarter.dose) == ("100 %", "25 %")
    assert {normal.kernel, quarter.kernel} == {RAYS}
    assert normal.reference is quarter.reference
    assert normal.scan.hounsfield is normal.reference
    assert_one_share(normal, quarter, engine)
    raw = FromRays(engine)
    np.testing.assert_array_equal(raw(normal.scan, normal.judged), normal.scan.hounsfield[normal.judged])
    assert np.isfinite(raw(quarter.scan, quarter.judged)).all()
    assert not list(
        ray_cases(opened, replace(engine, card=engine.card.model_copy(update={"raw": None})), [0.25], 1)
    )
    with pytest.raises(ModelError, match="this scan has none"):
        raw(replace(quarter.scan, rays=None), quarter.judged)
