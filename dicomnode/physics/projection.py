"""Slices to sinograms and back: one pair of operators for every device.

On the CPU the compiled Joseph kernel runs. On a GPU ASTRA works on device memory, without a copy through the
host, where it proved itself there; else the same kernel written in tensors. Forward all discretise alike.
"""

import logging
import math
import threading
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dicomnode.physics import astra_cuda, joseph, joseph_torch
from dicomnode.physics.geometry import ParallelBeam

Operator = Callable[[Tensor, ParallelBeam], Tensor]

_log = logging.getLogger(__name__)
_one_at_a_time = threading.Lock()
"""Not every threading layer of the compiled kernels may be entered by two threads at once."""


def project(slices: Tensor, beam: ParallelBeam) -> Tensor:
    """Line integrals A x.

    `slices` float32 [slice, row, column] -> float32 [slice, view, detector] in (unit of x) x pixel,
    on the device of `slices`.
    """
    _check(slices, (beam.side_px, beam.side_px), "slices")
    if slices.is_cuda:
        return _on_gpu(slices, beam, astra_cuda.project, joseph_torch.forward)
    sinograms = slices.new_empty((len(slices), beam.views, beam.detectors))
    angles = beam.angles_rad.astype(np.float32)
    with _one_at_a_time:
        for image, sinogram in zip(slices.detach().numpy(), sinograms.numpy(), strict=True):
            joseph.forward(image, angles, beam.detectors, beam.pitch_px, sinogram)
    return sinograms


def backproject(sinograms: Tensor, beam: ParallelBeam) -> Tensor:
    """The transpose A' s, on ASTRA nearly so: float32 [slice, view, detector] -> [slice, row, column]."""
    _check(sinograms, (beam.views, beam.detectors), "sinograms")
    if sinograms.is_cuda:
        return _on_gpu(sinograms, beam, astra_cuda.backproject, joseph_torch.adjoint)
    slices = sinograms.new_empty((len(sinograms), beam.side_px, beam.side_px))
    angles = beam.angles_rad.astype(np.float32)
    with _one_at_a_time:
        for sinogram, image in zip(sinograms.detach().numpy(), slices.numpy(), strict=True):
            joseph.adjoint(sinogram, angles, beam.pitch_px, image)
    return slices


def _on_gpu(x: Tensor, beam: ParallelBeam, quick: Operator, sure: Operator) -> Tensor:
    if len(x) and astra_cuda.works(x.device):
        try:
            return quick(x, beam)
        except astra_cuda.AstraFailed as failed:
            _log.warning("ASTRA failed on %s: %s; the tensor projector does this part", x.device, failed)
    return sure(x, beam)


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
