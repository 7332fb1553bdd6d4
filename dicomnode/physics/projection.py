"""Slices to sinograms and back: one pair of operators for every device.

On the CPU the compiled Joseph kernel runs; on CUDA tensors ASTRA works on device memory, without a copy
through the host. Both discretise alike, and the tests hold the first against the second.
"""

import math
import threading

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dicomnode.physics import joseph
from dicomnode.physics.geometry import ParallelBeam

_one_at_a_time = threading.Lock()
"""Not every threading layer of the compiled kernels may be entered by two threads at once."""


def project(slices: Tensor, beam: ParallelBeam) -> Tensor:
    """Line integrals A x.

    `slices` float32 [slice, row, column] -> float32 [slice, view, detector] in (unit of x) x pixel,
    on the device of `slices`.
    """
    _check(slices, (beam.side_px, beam.side_px), "slices")
    sinograms = slices.new_empty((len(slices), beam.views, beam.detectors))
    if slices.is_cuda:
        _astra(slices, sinograms, beam, forward=True)
        return sinograms
    angles = beam.angles_rad.astype(np.float32)
    with _one_at_a_time:
        for image, sinogram in zip(slices.detach().numpy(), sinograms.numpy(), strict=True):
            joseph.forward(image, angles, beam.detectors, beam.pitch_px, sinogram)
    return sinograms


def backproject(sinograms: Tensor, beam: ParallelBeam) -> Tensor:
    """The transpose A' s: float32 [slice, view, detector] -> float32 [slice, row, column]."""
    _check(sinograms, (beam.views, beam.detectors), "sinograms")
    slices = sinograms.new_empty((len(sinograms), beam.side_px, beam.side_px))
    if sinograms.is_cuda:
        _astra(slices, sinograms, beam, forward=False)
        return slices
    angles = beam.angles_rad.astype(np.float32)
    with _one_at_a_time:
        for sinogram, image in zip(sinograms.detach().numpy(), slices.numpy(), strict=True):
            joseph.adjoint(sinogram, angles, beam.pitch_px, image)
    return slices


def project_rays(
    image: NDArray[np.float32], angles_rad: NDArray[np.float64], offsets_px: NDArray[np.float64]
) -> NDArray[np.float32]:
    """Line integrals along any rays on the CPU: image [row, column] -> float32 [view, ray].

    `angles_rad` and `offsets_px` [view, ray]: the normal of each ray and its distance from the centre along
    it.
    """
    out = np.empty(angles_rad.shape, np.float32)
    with _one_at_a_time:
        joseph.lines(image, angles_rad, offsets_px, out)
    return out


def ramp_response(beam: ParallelBeam, length: int) -> Tensor:
    """Frequency response of the band-limited ramp, per pixel, [length // 2 + 1].

    Transformed from its samples in space, h(0) = 1/4, h(odd n) = -1/(pi n)^2, so that the mean of the
    slice survives (Kak and Slaney, section 3.3).
    """
    n = torch.arange(length, dtype=torch.float64)
    n = torch.minimum(n, length - n)
    taps = torch.where(n % 2 == 1, -1.0 / (math.pi * n.clamp(min=1)) ** 2, torch.zeros_like(n))
    taps[0] = 0.25
    response: Tensor = torch.fft.rfft(taps).real / beam.pitch_px
    return response


def filter_views(sinograms: Tensor, beam: ParallelBeam, window: Tensor | None = None) -> Tensor:
    """Ramp-filter each view; `window` [frequency] multiplies the ramp (see `frequencies_per_px`)."""
    length = padded_length(beam)
    response = ramp_response(beam, length).to(sinograms.device, torch.float32)
    if window is not None:
        response = response * window.to(response)
    spectrum = torch.fft.rfft(sinograms, n=length, dim=-1)
    filtered: Tensor = torch.fft.irfft(spectrum * response, n=length, dim=-1)
    return filtered[..., : beam.detectors].contiguous()


def filtered_backprojection(sinograms: Tensor, beam: ParallelBeam, window: Tensor | None = None) -> Tensor:
    """FBP: float32 [slice, view, detector] -> float32 [slice, row, column] in (unit of s) / pixel."""
    weight = math.pi * beam.pitch_px / beam.views
    return backproject(filter_views(sinograms, beam, window), beam) * weight


def padded_length(beam: ParallelBeam) -> int:
    """Length of a view after zero padding: a power of two without wrap-around."""
    return 1 << (2 * beam.detectors - 1).bit_length()


def frequencies_per_px(beam: ParallelBeam) -> Tensor:
    """Frequencies of a window for `filter_views`, cycles per pixel of the slice, [frequency]."""
    frequencies: Tensor = torch.fft.rfftfreq(padded_length(beam), d=beam.pitch_px)
    return frequencies


def _check(tensor: Tensor, shape: tuple[int, int], name: str) -> None:
    if tensor.ndim != 3 or tuple(tensor.shape[1:]) != shape or tensor.dtype != torch.float32:
        raise ValueError(f"{name} must be float32 [slice, {shape[0]}, {shape[1]}], got {tuple(tensor.shape)}")


def _astra(slices: Tensor, sinograms: Tensor, beam: ParallelBeam, *, forward: bool) -> None:
    """Run ASTRA's CUDA projector in place on device memory, all slices as one parallel volume."""
    import astra  # imported here: it loads CUDA libraries, which a node on the CPU never needs

    if not astra.use_cuda():  # a cuda projector without a usable GPU kills the process
        raise RuntimeError("the tensors are on CUDA but ASTRA sees no GPU: set engine.device to cpu")
    count = len(slices)
    volume = astra.create_vol_geom(beam.side_px, beam.side_px, count)
    rays = astra.create_proj_geom("parallel3d", 1.0, beam.pitch_px, count, beam.detectors, beam.angles_rad)
    projector = astra.create_projector("cuda3d", rays, volume)
    try:
        image = slices.detach().contiguous()
        rows = sinograms.detach().contiguous()
        if forward:
            astra.projector3d.direct_FP(projector, image, out=rows)
            sinograms.copy_(rows)
        else:
            astra.projector3d.direct_BP(projector, rows, out=image)
            slices.copy_(image)
    finally:
        astra.projector3d.delete(projector)
