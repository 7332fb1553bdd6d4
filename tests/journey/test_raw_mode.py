"""Projections as the stations get them: images of a plain reconstruction, and the rays an engine cleans."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread

from dicomnode.demo.projections import scan, write_projections
from dicomnode.dicom.dose import read_dose
from dicomnode.dicom.series import read_headers, read_series
from dicomnode.dose_reference import DoseReference
from dicomnode.engines.enhance_rays import line_integrals
from dicomnode.engines.model_card import Network, RawMode, Schedule
from dicomnode.engines.need import raw
from dicomnode.engines.need.engine import NeedEngine
from dicomnode.engines.need.poisson import EXTENDED
from dicomnode.engines.unet import UNet, UNetShape
from dicomnode.errors import GapInSeries, NoRawMode, ProjectionSeries
from dicomnode.journey.matching import slice_facts
from dicomnode.journey.projections import reconstruct_views
from dicomnode.journey.raw_mode import Taken, match_taken, measured_rays, take_up
from dicomnode.physics.photons import ELECTRONIC_VARIANCE
from dicomnode.physics.simulation import STANDARD
from dicomnode.settings import Dose
from tests.dicom.test_projections import put
from tests.fan_makers import disc, small
from tests.makers import make_series
from tests.multiframe_makers import make_enhanced

SIDE = 64
SCANNER = small(
    columns=120, column_spacing_mm=3.2, central_column=60.625, views_per_turn=180, quanta=6e3, bow_tie=0.6
)
STEP_MM = 2 * 1.25 * 550.0 / 1000.0
"""Two rows a turn: the next turn goes on where they end."""


@pytest.fixture(scope="module")
def raw_engine(engine: NeedEngine) -> NeedEngine:
    """The shipped model, and weights of a raw mode that take nothing away."""
    levels = Schedule(
        most_photons=EXTENDED.most_photons, least_photons=EXTENDED.least_photons, steps=EXTENDED.steps
    )
    shape = UNetShape(raw.CHANNELS, (8, 8), raw.CONDITIONS)
    network = Network(file="x", sha256="0", channels_in=6, widths=(8, 8), conditions=1, parameters=1)
    card = engine.card.model_copy(
        update={"raw": RawMode(network=network, schedule=levels, photons=(5e3, 3e5))}
    )
    return replace(engine, card=card, raw=UNet(shape).eval().requires_grad_(False))


def written(folder: Path, told: bool = True, step_mm: float = STEP_MM) -> list[Path]:
    """Two turns of a disc with noise; its upper half is darker."""
    volume = disc(64, 3.0)
    volume[2:] -= 20.0 * (volume[2:] > -500)
    measured = scan(volume, 3.0, SCANNER, (0.5, 0.5 + step_mm), seed=1)
    return write_projections(measured if told else replace(measured, incident_quanta=None), folder)


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return written(tmp_path_factory.mktemp("views"))


@pytest.fixture(scope="module")
def taken(paths: list[Path], raw_engine: NeedEngine) -> Taken:
    return take_up(paths, raw_engine, SIDE)


def test_the_slices_are_images_of_the_scan(taken: Taken, paths: list[Path]) -> None:
    series, sources = taken.series, read_headers(paths)
    assert series.hounsfield.shape == (4, SIDE, SIDE)
    assert series.slice_spacing_mm == pytest.approx(STEP_MM / 2, abs=1e-3)
    known_by = [str(header.SOPInstanceUID) for header in series.headers]
    assert len(set(known_by)) == 4
    assert set(known_by) <= {str(header.SOPInstanceUID) for header in sources}
    for header in series.headers:
        assert header.SeriesInstanceUID == sources[0].SeriesInstanceUID
        assert header.PatientID == sources[0].PatientID
        assert (header.Rows, header.Columns) == (SIDE, SIDE)
        assert header.PatientPosition == "HFS"
        assert not any(element.tag.is_private for element in header)
    assert taken.views == 180
    assert series.padding is not None
    assert np.all(series.hounsfield[series.padding] == -1000.0)


def test_the_rays_of_a_slice_are_those_that_make_it(taken: Taken) -> None:
    """Reconstructed they give the slices, but for half a quantum; other rays change their own slice alone."""
    assert taken.projections is not None
    rays = measured_rays(taken.projections, [5e3] * 4, taken.series)
    assert rays.transmission.shape == (4, 180, 120)
    assert rays.quanta.shape == rays.transmission.shape
    integrals = line_integrals(rays.transmission, rays.quanta)
    plain = rays.reconstruct(integrals)
    measured = ~np.broadcast_to(False if taken.series.padding is None else taken.series.padding, plain.shape)
    assert np.abs(plain - taken.series.hounsfield)[measured].mean() < 1.0
    alone = reconstruct_views(taken.projections, STANDARD, SIDE).hounsfield
    assert np.allclose(plain, alone, atol=0.1)
    integrals[2] *= 1.01
    changed = np.abs(rays.reconstruct(integrals) - plain).max(axis=(1, 2))
    assert list(changed > 1.0) == [False, False, True, False]


def test_few_photons_do_not_move_the_mean_of_what_the_result_is_judged_by(
    tmp_path: Path, raw_engine: NeedEngine
) -> None:
    """Some 18 quanta behind the disc, and electronics: plain logarithms are too large on average."""
    scanner = replace(SCANNER, quanta=400.0, bow_tie=1.0, electronic_variance=ELECTRONIC_VARIANCE)
    noisy = scan(disc(64, 3.0), 3.0, scanner, (0.5,), seed=2)
    series = take_up(write_projections(noisy, tmp_path), raw_engine, SIDE).series
    plain, clean = (
        reconstruct_views(one, STANDARD, SIDE) for one in (noisy, scan(disc(64, 3.0), 3.0, scanner, (0.5,)))
    )
    water = np.hypot(*(np.mgrid[:SIDE, :SIDE] - 31.5)) * clean.pixel_mm < 70.0
    assert float((plain.hounsfield - clean.hounsfield)[:, water].mean()) > 5.0
    assert float((series.hounsfield - clean.hounsfield)[:, water].mean()) == pytest.approx(0.0, abs=2.0)


@pytest.mark.parametrize(("photons", "step"), [(12_500.0, 19), (62_500.0, 3), (2.5e5, 0)])
def test_photons_of_the_files_decide_the_step(
    taken: Taken, raw_engine: NeedEngine, photons: float, step: int
) -> None:
    facts = slice_facts(taken.series, read_dose(taken.series.headers), DoseReference())
    starts, told = match_taken(replace(taken, photons=(photons,) * 4), facts, Dose(), raw_engine)
    assert [start.step for start in starts] == [step] * 4
    assert [start.fraction for start in starts] == pytest.approx([photons / 2.5e5] * 4)
    assert not any(start.outside for start in starts)
    starved, _ = match_taken(replace(taken, photons=(900.0,) * 4), facts, Dose(), raw_engine)
    assert "photons 900 are outside what the model was trained for" in starved[0].outside[0]
    assert f"{photons:.3g} photons" in told
    pitch_mm = 3.2 * 550.0 / 1000.0
    expected = [6e3 * 180 / 672 * 0.994 / pitch_mm] * 4
    assert taken.photons == pytest.approx(expected, rel=0.15), "less the bow-tie"


def test_a_slice_starts_by_its_own_photons_where_the_current_changed(
    taken: Taken, raw_engine: NeedEngine
) -> None:
    facts = slice_facts(taken.series, read_dose(taken.series.headers), DoseReference())
    photons = (2.5e5, 2.4e5, 2.5e5, 2.5e4)
    starts, told = match_taken(replace(taken, photons=photons), facts, Dose(), raw_engine)
    assert [start.step for start in starts] == [0, 0, 0, 9]
    assert [start.photons for start in starts] == [2.45e5, 2.45e5, 2.45e5, 2.5e4], "a current that wavers"
    assert "2.5e+04 to 2.45e+05 photons" in told


def test_without_photons_tags_and_noise_decide_and_every_ray_has_as_many(
    tmp_path: Path, raw_engine: NeedEngine
) -> None:
    untold = take_up(written(tmp_path, told=False), raw_engine, 160)
    assert untold.photons is None
    facts = slice_facts(untold.series, read_dose(untold.series.headers), DoseReference())
    starts, told = match_taken(untold, facts, Dose(without_dose="noise-only"), raw_engine)
    assert "noise decided in 4 of 4 slices" in told
    assert len({start.photons for start in starts}) == 1
    assert {(start.decided_by, start.verdict) for start in starts} == {("noise", "noise alone")}
    assert untold.projections is not None
    quanta = measured_rays(untold.projections, [5e3] * 4, untold.series).quanta
    pitch_mm = 3.2 * 550.0 / 1000.0
    assert quanta.ravel() == pytest.approx([5e3 * 672 / 180 * pitch_mm / 0.994] * 4, rel=1e-3)


def test_readings_below_one_quantum_count_as_they_are_and_are_told(
    tmp_path: Path, raw_engine: NeedEngine
) -> None:
    """Some five quanta behind the disc: with the least ones raised to one quantum the mean is too high."""
    scanner = replace(SCANNER, quanta=110.0, bow_tie=1.0)
    clean = scan(disc(64, 3.0), 3.0, scanner, (0.5,))
    assert clean.incident_quanta is not None
    rng, incident = np.random.default_rng(5), clean.incident_quanta[:, None, :]
    expected = np.exp(-clean.line_integrals)
    read = rng.poisson(incident * expected) + rng.normal(0.0, ELECTRONIC_VARIANCE**0.5, expected.shape)
    paths = write_projections(clean, tmp_path)
    for path, view in zip(paths, read, strict=True):
        hold_quanta(path, view)
    low = take_up(paths, raw_engine, SIDE)
    assert low.projections is not None
    rays = measured_rays(low.projections, [1e2] * 2, low.series)
    dark = np.stack([expected[:, row] for row in (1, 0)]) < 0.06
    truth = np.stack([expected[:, row] for row in (1, 0)])[dark].mean()
    assert rays.transmission[dark].mean() / truth == pytest.approx(1.0, abs=0.02)
    assert (rays.transmission < 0).any()
    assert low.projections.starved == pytest.approx((read < 1.0).mean(), rel=0.01)
    facts = slice_facts(low.series, read_dose(low.series.headers), DoseReference())
    _, told = match_taken(low, facts, Dose(), raw_engine)
    assert f"; {100 * low.projections.starved:.2g} % of the readings held less than one quantum" in told


def hold_quanta(path: Path, quanta: np.ndarray) -> None:
    """Put what was read [row, column] into a file, as counts that were neither logged nor flattened."""
    data = dcmread(path)
    image = np.rint(100.0 * quanta.T).astype("<i2")
    data.PixelData, data.PixelRepresentation = image.tobytes(), 1
    data.RescaleSlope, data.RescaleIntercept = "0.01", "0"
    for name, flag in (("LogFlag", "NO"), ("FlatFieldCorrectionFlag", "NO")):
        put(name, flag)(data)
    data.save_as(path)


def test_turns_that_leave_a_gap_are_no_series(tmp_path: Path, raw_engine: NeedEngine) -> None:
    with pytest.raises(GapInSeries):
        take_up(written(tmp_path, step_mm=5 * STEP_MM), raw_engine, SIDE)


def test_a_model_for_images_refuses_and_images_are_taken_up_as_they_are(
    paths: list[Path], tmp_path: Path, image_engine: NeedEngine, raw_engine: NeedEngine
) -> None:
    with pytest.raises(NoRawMode):
        take_up(paths, image_engine)
    assert take_up(paths, image_engine, SIDE, enhanced=True).series.slices == 4, "its result is there already"
    images = make_series(tmp_path)
    one = take_up(images, raw_engine)
    assert (one.projections, one.photons, one.views) == (None, None, 0)
    assert np.array_equal(one.series.hounsfield, read_series(images).hounsfield)


@pytest.mark.parametrize("enhanced", [False, True])
def test_projections_in_a_multi_frame_object_are_refused_by_that(
    tmp_path: Path, image_engine: NeedEngine, raw_engine: NeedEngine, enhanced: bool
) -> None:
    """Also by a model for images: to send them to another model would not help."""
    project = put("DetectorFocalCenterAngularPosition", 0.0)
    frames = make_enhanced(
        tmp_path / "frames.dcm",
        make_series(tmp_path),
        change=lambda data: project(data.PerFrameFunctionalGroupsSequence[-1]),
    )
    for engine in (raw_engine, image_engine):
        with pytest.raises(ProjectionSeries, match="is a multi-frame object"):
            take_up([frames], engine, SIDE, enhanced=enhanced)
