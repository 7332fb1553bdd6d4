"""The simulated scanner is not the virtual one: reprojected, its noise is like real noise."""

import numpy as np
import pytest
import torch

from dicomnode.physics.geometry import ParallelBeam
from dicomnode.physics.projection import project
from dicomnode.physics.simulation import SCANNER, Kernel, simulate_noise


def test_rays_differ_from_the_virtual_scanner() -> None:
    virtual = ParallelBeam()
    assert SCANNER.views != virtual.views
    assert SCANNER.start_rad > 0
    assert 2 * SCANNER.pitch_px != virtual.pitch_px
    assert SCANNER.sees_whole_slice


@pytest.mark.slow
def test_reprojected_noise_is_correlated_between_views() -> None:
    """Noise of an image, projected again, hangs together from view to view; photon noise on rays does not."""
    y, x = np.mgrid[:512, :512] - 255.5
    disc = np.where(np.hypot(x, y) < 200, 0.0, -1000.0).astype(np.float32)[None]
    noise = simulate_noise(torch.from_numpy(disc), 0.7, 2e5, Kernel(0.5), torch.Generator().manual_seed(0))
    sinogram = project(noise, ParallelBeam())[0, :, 300:436].numpy()
    sinogram = sinogram - sinogram.mean(axis=1, keepdims=True)
    next_view = float(np.mean(sinogram[1:] * sinogram[:-1]) / np.mean(sinogram**2))
    next_bin = float(np.mean(sinogram[:, 1:] * sinogram[:, :-1]) / np.mean(sinogram**2))
    assert next_view > 0.1
    assert next_bin > 0.2


def test_noise_grows_with_the_patient() -> None:
    def center_std(diameter_px: int) -> float:
        y, x = np.mgrid[:128, :128] - 63.5
        disc = np.where(np.hypot(x, y) < diameter_px / 2, 0.0, -1000.0).astype(np.float32)[None]
        rng = torch.Generator().manual_seed(0)
        return float(
            simulate_noise(torch.from_numpy(disc), 2.5, 2e5, Kernel(0.6), rng)[0, 48:80, 48:80].std()
        )

    assert center_std(120) > 2.0 * center_std(60)


def test_same_seed_same_noise() -> None:
    disc = torch.zeros(1, 64, 64)
    one, two = (
        simulate_noise(disc, 1.0, 1e5, Kernel(0.6), torch.Generator().manual_seed(7)) for _ in range(2)
    )
    assert torch.equal(one, two)
