"""Laws of the fan: rays from the manual's words, analytic bodies that come back, ASTRA, and its noise."""

import math
from dataclasses import dataclass

import numpy as np
import pytest

from dicomnode.demo.projections import FanScanner
from dicomnode.physics.fan import FanDetector, Spot, pitch_at_axis_mm, plan_rebinning, reach_mm, trace
from dicomnode.physics.geometry import ParallelBeam
from dicomnode.physics.measured import MeasuredSlices, reconstruct
from dicomnode.physics.noise import measure_noise
from dicomnode.physics.photons import photons_from_quanta, photons_per_bin, predicted_noise_hu
from dicomnode.physics.projection import project_rays
from tests.fan_makers import BODY, WATER_PER_MM, Ellipse, ends, small, through

CLINICAL = small(
    columns=736, column_spacing_mm=1.2858, central_column=369.625, distance_mm=1085.6,
    radial_mm=595.0, views_per_turn=720,
)  # fmt: skip
FLAT = small(
    shape="flat", columns=736, column_spacing_mm=1.35, central_column=340.3, distance_mm=1085.6,
    radial_mm=595.0, views_per_turn=720,
)  # fmt: skip
Shift = tuple[float, float]


@dataclass(frozen=True, eq=False)
class Turned:
    """One turn of a scanner, scanned from formulas: [view, row 0, column]."""

    fan: FanDetector
    spots: tuple[Spot, ...]
    integrals: np.ndarray


def fan_of(scanner: FanScanner) -> FanDetector:
    seen = scanner.detector
    return FanDetector(
        seen.shape, seen.columns, seen.column_spacing_mm, seen.central_column, seen.distance_mm
    )


def turn_of(
    scanner: FanScanner, shifts: tuple[Shift, ...], body: tuple[Ellipse, ...] = tuple(BODY)
) -> Turned:
    angles = 0.3 + 2 * math.pi * np.arange(scanner.views_per_turn) / scanner.views_per_turn
    integrals = np.empty((len(angles), 1, scanner.detector.columns), np.float32)
    for view, angle in enumerate(angles):
        integrals[view, 0] = through(body, *ends(scanner, angle, *shifts[view % len(shifts)]))
    places = [np.arange(first, len(angles), len(shifts)) for first in range(len(shifts))]
    spots = tuple(
        Spot(views, angles[views], scanner.radial_mm, *shift)
        for views, shift in zip(places, shifts, strict=True)
    )
    return Turned(fan_of(scanner), spots, integrals)


def beam_for(turned: Turned, side: int, pixel_mm: float, views: int = 720) -> ParallelBeam:
    pitch_px = 0.5 * pitch_at_axis_mm(turned.fan, turned.spots[0]) / pixel_mm
    detectors = 2 * math.ceil(reach_mm(turned.fan, turned.spots[0]) / (pitch_px * pixel_mm)) + 1
    return ParallelBeam(side, views, detectors, pitch_px)


def image_of(turned: Turned, side: int, pixel_mm: float) -> np.ndarray:
    beam = beam_for(turned, side, pixel_mm)
    rays = plan_rebinning(turned.fan, turned.spots, beam, pixel_mm).apply(turned.integrals)
    reach = reach_mm(turned.fan, turned.spots[0])
    slices = MeasuredSlices(rays, None, None, None, beam, pixel_mm, (0.0,), 1.0, reach, WATER_PER_MM)
    image: np.ndarray = reconstruct(slices)[0]
    return image


@pytest.mark.parametrize("scanner", [CLINICAL, FLAT], ids=["cylindrical", "flat"])
@pytest.mark.parametrize("shift", [(0.0, 0.0), (0.002, 3.0), (-0.001, -2.0)])
def test_rays_are_the_lines_from_spot_to_element(scanner: FanScanner, shift: Shift) -> None:
    angle = 1.1
    spot, elements = ends(scanner, angle, *shift)
    rays = trace(fan_of(scanner), Spot(np.arange(3), np.zeros(3), scanner.radial_mm, *shift))
    normal = np.stack([np.cos(angle + rays.turn_rad), np.sin(angle + rays.turn_rad)], axis=1)
    assert np.allclose((normal * spot).sum(1), rays.offset_mm, atol=1e-8)
    assert np.allclose((normal * elements).sum(1), rays.offset_mm, atol=1e-8)
    assert np.allclose(rays.length_mm, np.linalg.norm(elements - spot, axis=1))
    assert np.all(np.diff(rays.offset_mm) > 0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("scanner", "shifts"),
    [
        (CLINICAL, ((0.0, 0.0),)),
        (FLAT, ((0.0, 0.0),)),
        (
            small(**{**vars(CLINICAL.detector), "central_column": 368.25, "views_per_turn": 720}),
            ((0.0, 0.0),),
        ),
        (CLINICAL, ((0.0008, 0.0), (-0.0008, 0.0))),
        (CLINICAL, ((0.002, 3.0),)),
        (FLAT, ((0.0008, 1.0), (-0.0008, -1.0))),
    ],
    ids=["fractional", "flat-off-centre", "quarter", "flying", "shifted", "flat-flying"],
)
def test_an_analytic_body_comes_back_in_hounsfield(scanner: FanScanner, shifts: tuple[Shift, ...]) -> None:
    """Measured: means within 0.03 HU; the rest is the ripple of the ellipse's edge."""
    pixel_mm, side = 360.0 / 512, 512
    image = image_of(turn_of(scanner, shifts), side, pixel_mm)

    def mean(x: float, y: float, half: int) -> float:
        row, column = (round((side - 1) / 2 + where / pixel_mm) for where in (-y, x))
        return float(image[row - half : row + half + 1, column - half : column + half + 1].mean())

    assert mean(0, 80, 15) == pytest.approx(0.0, abs=0.1)
    assert mean(120, 0, 10) == pytest.approx(0.0, abs=0.1)
    assert mean(60, 30, 10) == pytest.approx(60.0, abs=0.1)
    assert mean(-50, -40, 6) == pytest.approx(-100.0, abs=0.1)
    assert mean(0, 160, 6) == pytest.approx(-1000.0, abs=1.0)


def test_a_water_disc_is_0_hounsfield_everywhere() -> None:
    scanner = small(columns=320, column_spacing_mm=2.4, central_column=160.625, views_per_turn=400)
    image = image_of(turn_of(scanner, ((0.0, 0.0),), ((10.0, -20.0, 100.0, 100.0, 1000.0),)), 256, 1.4)
    along = (np.arange(256) - 127.5) * 1.4
    radius = np.hypot(along[None, :] - 10.0, -along[:, None] + 20.0)
    for inner in range(0, 90, 10):
        ring = image[(radius >= inner) & (radius < inner + 10)]
        assert abs(ring.mean()) < 0.2, f"no cup, no ring at {inner} mm"


def test_a_spot_shift_that_is_ignored_shows() -> None:
    """The law above can fail: without the shift the body is turned and blurred."""
    turned = turn_of(CLINICAL, ((0.002, 3.0),))
    blind = tuple(Spot(spot.views, spot.angle_rad, spot.radial_mm) for spot in turned.spots)
    beam = beam_for(turned, 64, 6.0)
    right = plan_rebinning(turned.fan, turned.spots, beam, 6.0).apply(turned.integrals)
    wrong = plan_rebinning(turned.fan, blind, beam, 6.0).apply(turned.integrals)
    chosen = np.random.default_rng(1).integers((0, 0), right[0].shape, (400, 2))
    exact = np.array([along_parallel(beam, 6.0, *place) for place in chosen])
    rays = tuple(chosen.T)
    assert np.abs(right[0][rays] - exact).mean() < 0.05 * np.abs(wrong[0][rays] - exact).mean()


def along_parallel(beam: ParallelBeam, pixel_mm: float, view: int, place: int) -> float:
    """The line integral of the body along one ray of a beam, from far away."""
    offset_mm = (place - (beam.detectors - 1) / 2) * beam.pitch_px * pixel_mm
    cos, sin = math.cos(beam.angles_rad[view]), math.sin(beam.angles_rad[view])
    start = np.array([offset_mm * cos + 500.0 * sin, offset_mm * sin - 500.0 * cos])
    return float(through(BODY, start, start[None] + (-1000.0 * sin, 1000.0 * cos))[0])


def test_fan_projection_equals_astra() -> None:
    astra = pytest.importorskip("astra", exc_type=ImportError)
    scanner = small(shape="flat", columns=160, column_spacing_mm=2.5, central_column=83.3, views_per_turn=48)
    fan, side, pixel_mm = fan_of(scanner), 128, 2.0
    rng = np.random.default_rng(3)
    image = np.kron(rng.random((16, 16)), np.ones((8, 8))).astype(np.float32)
    angles = 0.3 + 2 * math.pi * np.arange(48) / 48
    shift = (0.001, 2.0)
    vectors = []
    for angle in angles:
        spot, elements = ends(scanner, angle, *shift)
        step = elements[1] - elements[0]
        vectors.append([*spot, *elements.mean(0), *step])
    rays = astra.create_proj_geom("fanflat_vec", 160, np.array(vectors) / pixel_mm)
    projector = astra.create_projector("line_fanflat", rays, astra.create_vol_geom(side, side))
    sinogram_id, theirs = astra.create_sino(image, projector)
    astra.data2d.delete(sinogram_id)
    astra.projector.delete(projector)
    told = trace(fan, Spot(np.arange(48), angles, scanner.radial_mm, *shift))
    normals = angles[:, None] + told.turn_rad
    ours = project_rays(image, normals, np.broadcast_to(told.offset_mm / pixel_mm, normals.shape).copy())
    assert np.linalg.norm(ours - theirs) < 6e-3 * np.linalg.norm(theirs)


def test_noise_after_rebinning_follows_the_photon_statistics() -> None:
    """The variance of -ln of Poisson counts, in many draws of one turn, is the one that is told."""
    scanner = small(columns=90, column_spacing_mm=4.5, central_column=45.625, views_per_turn=90)
    turned = turn_of(scanner, ((0.0006, 0.0), (-0.0006, 0.0)))
    draws, rng = 300, np.random.default_rng(11)
    incident = 4e4 * (0.4 + 0.6 * np.cos(np.linspace(-1, 1, 90)) ** 2) * np.linspace(0.7, 1.3, 90)[:, None]
    counts = rng.poisson(np.repeat(incident[:, None] * np.exp(-turned.integrals), draws, axis=1))
    noisy = -np.log(counts / incident[:, None])
    beam = beam_for(turned, 64, 5.0, views=60)
    plan = plan_rebinning(turned.fan, turned.spots, beam, 5.0)
    measured = plan.apply(noisy.astype(np.float32)).var(axis=0, ddof=1)
    told = plan.variance((np.exp(turned.integrals) / incident[:, None]).astype(np.float32))[0]
    quanta = plan.quanta(incident.astype(np.float32))
    clean = plan.apply(turned.integrals)[0]
    seen = quanta > 0
    assert seen.mean() > 0.9
    assert np.mean(measured[seen] / told[seen]) == pytest.approx(1.0, abs=0.01)
    assert np.std(measured[seen] / told[seen]) == pytest.approx(math.sqrt(2 / draws), rel=0.1)
    smooth = seen & (clean > 1.0)
    by_quanta = np.exp(clean[smooth]) / quanta[smooth]
    assert np.median(measured[smooth] / by_quanta) == pytest.approx(1.0, abs=0.03)


@pytest.mark.slow
def test_the_photon_level_is_the_one_the_noise_law_means() -> None:
    """Noise of a reconstructed body against `predicted_noise_hu` of its photons, which is good to 15 %."""
    scanner = small(columns=480, column_spacing_mm=1.8, central_column=240.625, views_per_turn=600)
    turned = turn_of(scanner, ((0.0, 0.0),), ((0.0, 0.0, 135.0, 135.0, 1040.0),))
    incident, rng = 2e5, np.random.default_rng(5)
    counts = np.maximum(rng.poisson(incident * np.exp(-turned.integrals.astype(np.float64))), 1)
    noisy = Turned(turned.fan, turned.spots, (-np.log(counts / incident)).astype(np.float32))
    pixel_mm = 0.7
    image = image_of(noisy, 512, pixel_mm)
    reading = measure_noise(image[None], pixel_mm)
    assert reading is not None
    photons = photons_from_quanta(incident, 600, pitch_at_axis_mm(turned.fan, turned.spots[0]))
    predicted = predicted_noise_hu(photons, 270.0, pixel_mm, reading.texture)
    assert reading.std_hu == pytest.approx(predicted, rel=0.2)


def test_photons_of_a_fan_are_those_of_its_beam() -> None:
    beam = ParallelBeam(512, 600, 900, 0.8)
    quanta = photons_per_bin(1e5, beam, 0.7)
    assert photons_from_quanta(quanta, 600, 0.8 * 0.7) == pytest.approx(1e5)
