"""Laws of the projector: adjoint, linear, equal to ASTRA, and FBP that gives the disc back."""

import astra
import numpy as np
import pytest
import torch

from dicomnode.physics.geometry import ParallelBeam
from dicomnode.physics.projection import backproject, filtered_backprojection, project

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


@pytest.mark.skipif(not (torch.cuda.is_available() and astra.use_cuda()), reason="no CUDA device")
@pytest.mark.parametrize("beam", BEAMS)
def test_cuda_equals_cpu(beam: ParallelBeam) -> None:
    x = torch.nn.functional.avg_pool2d(noise(3, beam.side_px + 4, beam.side_px + 4), 5, stride=1) + 1.0
    here, there = project(x, beam), project(x.cuda(), beam).cpu()
    assert torch.linalg.norm(here - there) < 5e-3 * torch.linalg.norm(here)
    back, back_there = backproject(here, beam), backproject(here.cuda(), beam).cpu()
    assert torch.linalg.norm(back - back_there) < 2e-2 * torch.linalg.norm(back)
