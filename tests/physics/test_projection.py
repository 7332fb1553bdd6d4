"""Laws of the projector: adjoint, linear, equal to ASTRA, and FBP that gives the disc back."""

from typing import Any

import numpy as np
import pytest
import torch

from dicomnode.physics import astra_cuda, joseph_torch
from dicomnode.physics.geometry import ParallelBeam
from dicomnode.physics.projection import backproject, filtered_backprojection, project


def the_astra() -> Any:
    """A machine without the libraries of its CUDA has none."""
    return pytest.importorskip("astra", exc_type=ImportError)


BEAMS = [ParallelBeam(96, 90, 140, 1.0), ParallelBeam(96, 90, 280, 0.5), ParallelBeam(64, 50, 70, 1.4)]


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("beam", BEAMS)
def test_adjoint(beam: ParallelBeam) -> None:
    x = noise(2, beam.side_px, beam.side_px)
    s = noise(2, beam.views, beam.detectors, seed=1)
    left = torch.sum(project(x, beam).double() * s)
    right = torch.sum(x.double() * backproject(s, beam))
    assert abs(left - right) < 1e-4 * torch.linalg.norm(project(x, beam)) * torch.linalg.norm(s)


def test_linear() -> None:
    beam = BEAMS[0]
    x, y = noise(1, 96, 96), noise(1, 96, 96, seed=2)
    assert torch.allclose(project(2 * x - y, beam), 2 * project(x, beam) - project(y, beam), atol=1e-3)


@pytest.mark.parametrize("beam", BEAMS)
def test_equals_astra(beam: ParallelBeam) -> None:
    x = torch.nn.functional.avg_pool2d(noise(1, beam.side_px + 4, beam.side_px + 4), 5, stride=1) + 1.0
    astra = the_astra()
    rays = astra.create_proj_geom("parallel", beam.pitch_px, beam.detectors, beam.angles_rad)
    projector = astra.create_projector("linear", rays, astra.create_vol_geom(beam.side_px, beam.side_px))
    sinogram_id, theirs = astra.create_sino(x[0].numpy(), projector)
    astra.data2d.delete(sinogram_id)
    astra.projector.delete(projector)
    ours = project(x, beam)[0].numpy()
    assert np.linalg.norm(ours - theirs) < 2e-4 * np.linalg.norm(theirs)


@pytest.mark.slow
def test_fbp_gives_an_analytic_disc_back() -> None:
    """Line integrals of discs from their formula, not from our projector: FBP must find their value."""
    beam = ParallelBeam()
    u = (torch.arange(beam.detectors) - (beam.detectors - 1) / 2) * beam.pitch_px
    angles = torch.from_numpy(beam.angles_rad).float()[:, None]
    total = torch.zeros(beam.views, beam.detectors)
    for x0, y0, radius, value in ((0, 0, 200, 1.0), (90, 40, 30, 0.06), (-60, -80, 40, -0.1)):
        offset = u - x0 * torch.cos(angles) - y0 * torch.sin(angles)
        total += value * 2.0 * torch.sqrt((radius**2 - offset**2).clamp(min=0.0))
    image = 1000.0 * (filtered_backprojection(total[None], beam)[0] - 1.0)

    def mean(x0: int, y0: int, half: int) -> float:
        row, column = int(255.5 - y0), int(255.5 + x0)
        return float(image[row - half : row + half, column - half : column + half].mean())

    assert mean(0, 120, 15) == pytest.approx(0.0, abs=1.0)
    assert mean(90, 40, 12) == pytest.approx(60.0, abs=1.0)
    assert mean(-60, -80, 15) == pytest.approx(-100.0, abs=1.0)


def test_wrong_shape_is_named() -> None:
    with pytest.raises(ValueError, match=r"float32 \[slice, 96, 96\]"):
        project(torch.zeros(1, 64, 64), BEAMS[0])


def smooth(count: int, side: int) -> torch.Tensor:
    """Not alike under any mirroring, and of zero mean: a mistaken geometry shows at full size."""
    return torch.nn.functional.avg_pool2d(noise(count, side + 4, side + 4), 5, stride=1)


def difference(found: torch.Tensor, right: torch.Tensor) -> float:
    return float(torch.linalg.norm(found.cpu() - right) / torch.linalg.norm(right))


DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")),
]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("beam", [*BEAMS, ParallelBeam(64, 45, 40, 0.8, start_rad=0.3)])
def test_the_tensor_projector_is_the_compiled_one(
    beam: ParallelBeam, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one step and in many; the last beam does not see the corners."""
    x, s = smooth(3, beam.side_px), noise(3, beam.views, beam.detectors, seed=1)
    for at_once in (joseph_torch.POINTS_AT_ONCE, 1):
        monkeypatch.setattr(joseph_torch, "POINTS_AT_ONCE", at_once)
        assert difference(joseph_torch.forward(x.to(device), beam), project(x, beam)) < 1e-5
        assert difference(joseph_torch.adjoint(s.to(device), beam), backproject(s, beam)) < 1e-5


@pytest.mark.parametrize("beam", BEAMS)
def test_astra_is_told_our_geometry(beam: ParallelBeam) -> None:
    """A blob is seen where ASTRA's vectors say: the first row of its volumes is the lowest y, ours not."""
    half, blob = (beam.side_px - 1) / 2, (9.0, 17.0)
    row, column = np.mgrid[: beam.side_px, : beam.side_px]
    image = np.exp(-((row - half - blob[0]) ** 2 + (column - half - blob[1]) ** 2) / 18.0)
    seen = project(torch.from_numpy(image.astype(np.float32))[None], beam)[0].numpy()
    bins = np.arange(beam.detectors) - (beam.detectors - 1) / 2
    ours = (seen * bins).sum(1) / seen.sum(1)
    vectors = the_astra().geom_2vec(astra_cuda.ray_geometry(beam, 2))["Vectors"]
    centre, along, across = vectors[:, 3:6], vectors[:, 6:9], vectors[:, 9:12]
    point = np.array([blob[1], blob[0], 0.5]) - centre  # x, y, z of the second of two slices
    assert np.allclose((point * along).sum(1) / (along**2).sum(1), ours, atol=0.01)
    assert np.allclose((point * across).sum(1) / (across**2).sum(1), 0.5)


def test_a_slice_that_astra_left_empty_is_noticed() -> None:
    """It fails with zeros; a slice of nothing has a result of nothing, though."""
    source, out = smooth(3, 48), smooth(3, 48)
    assert astra_cuda.was_filled(out, source)
    out[1] = 0.0
    assert not astra_cuda.was_filled(out, source)
    source[1] = 0.0
    assert astra_cuda.was_filled(out, source)
    assert not astra_cuda.was_filled(out * float("nan"), source)


def test_few_views_and_no_slices_are_projected_too() -> None:
    one = ParallelBeam(32, 1, 48, 1.0)
    x = smooth(2, 32)
    assert difference(joseph_torch.forward(x, one), project(x, one)) < 1e-5
    assert joseph_torch.forward(x[:0], one).shape == (0, 1, 48)
    assert joseph_torch.adjoint(project(x, one)[:0], one).shape == (0, 32, 32)


def test_where_astra_sees_no_gpu_it_is_not_used(caplog: pytest.LogCaptureFixture) -> None:
    if the_astra().use_cuda():
        pytest.skip("it sees one")
    assert not astra_cuda.works(torch.device("cuda", 0))
    assert "sees no GPU" in caplog.text


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("beam", BEAMS)
def test_cuda_equals_cpu(beam: ParallelBeam) -> None:
    x = smooth(3, beam.side_px)
    here, there = project(x, beam), project(x.cuda(), beam)
    assert difference(there, here) < 5e-3
    assert difference(backproject(here.cuda(), beam), backproject(here, beam)) < 0.08


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_astra_proves_itself() -> None:
    the_astra()
    assert astra_cuda.works(torch.device("cuda", 0))
