"""Joseph's projector and its exact adjoint on tensors of any device: all gathers, the same bits each time.

What `joseph` is to a processor: the same discretisation, equal to it but for rounding. Positions are found in
double precision once for all slices.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional

from dicomnode.physics.geometry import ParallelBeam

POINTS_AT_ONCE = 1 << 25
"""Bounds the memory of one step: samples of all slices, some tens of bytes each."""
POSITIONS = 3
"""What the positions of samples take, which all slices share, as if they were so many slices more."""


def forward(slices: Tensor, beam: ParallelBeam) -> Tensor:
    """Line integrals in (unit x pixel): float32 [slice, row, column] -> float32 [slice, view, detector]."""
    out = slices.new_empty((len(slices), beam.views, beam.detectors))
    if not len(slices):
        return out
    angles = torch.as_tensor(beam.angles_rad, device=slices.device)
    steep = angles.cos().abs() >= angles.sin().abs()
    at_once = max(1, POINTS_AT_ONCE // ((len(slices) + POSITIONS) * beam.side_px * beam.detectors))
    for flat, lying in ((False, slices), (True, slices.transpose(1, 2))):
        padded = functional.pad(lying, (1, 1)).reshape(len(slices), -1)
        chosen = torch.nonzero(steep != flat)[:, 0]
        for views in torch.split(chosen, at_once) if len(chosen) else ():
            out[:, views] = _rays(padded, angles[views], beam, flat)
    return out


def _rays(padded: Tensor, angles: Tensor, beam: ParallelBeam, flat: bool) -> Tensor:
    """Views that cross rows most steeply, or columns (`flat`, of transposed slices): [slice, view, detector].

    `padded` [slice, line x (side + 2)]: every line between two zeros, which stand for all that is outside.
    """
    side, half = beam.side_px, 0.5 * (beam.side_px - 1)
    line = torch.arange(side, device=padded.device, dtype=torch.float64)[:, None]
    bins = torch.arange(beam.detectors, device=padded.device, dtype=torch.float64)
    offset = (bins - 0.5 * (beam.detectors - 1)) * beam.pitch_px
    cos, sin = angles.cos()[:, None, None], angles.sin()[:, None, None]
    major, minor = (sin, cos) if flat else (cos, sin)
    along = (line - half) if flat else (half - line)
    position = (offset - along * minor) / major
    index = ((half - position) if flat else (position + half)).clamp(-1.0, side)
    low = index.floor().clamp(max=side - 1)
    weight = (index - low).to(padded)
    at = low.long() + 1 + line.long() * (side + 2)
    left = padded.index_select(1, at.reshape(-1)).view(-1, *at.shape)
    right = padded.index_select(1, at.reshape(-1) + 1).view(-1, *at.shape)
    return (left + weight * (right - left)).sum(2) / major.abs().to(padded)[None, :, 0]


def adjoint(sinograms: Tensor, beam: ParallelBeam) -> Tensor:
    """The transpose of `forward`: float32 [slice, view, detector] -> float32 [slice, row, column].

    A pixel gathers the rays closer to it than one pixel along the interpolated axis. A margin of zeros around
    each view spares the bounds checks.
    """
    count, side, pitch = len(sinograms), beam.side_px, beam.pitch_px
    out = sinograms.new_zeros((count, side, side))
    if not count:
        return out
    taps = math.ceil(2.0 / pitch)
    margin = math.ceil(max(0.0, (side * 1.4143 / pitch - beam.detectors) / 2)) + taps + 2
    padded = functional.pad(sinograms, (margin, margin))
    width, rays = padded.shape[-1], padded.reshape(count, -1)
    angles = torch.as_tensor(beam.angles_rad, device=sinograms.device)
    x = torch.arange(side, dtype=torch.float64, device=sinograms.device) - 0.5 * (side - 1)
    views = torch.arange(beam.views, device=sinograms.device)
    for some in torch.split(views, max(1, POINTS_AT_ONCE // ((count + POSITIONS) * side * side))):
        cos, sin = angles[some].cos()[:, None, None], angles[some].sin()[:, None, None]
        major = torch.maximum(cos.abs(), sin.abs())
        position = (x * cos - x[:, None] * sin) / pitch + 0.5 * (beam.detectors - 1) + margin
        first = (position - major / pitch).floor() + 1.0
        for tap in range(taps):
            away = (first + tap - position).abs() * pitch / major
            weight = ((1.0 - away).clamp(min=0.0) / major).to(rays)
            at = (first + tap).long() + some[:, None, None] * width
            out += (weight * rays.index_select(1, at.reshape(-1)).view(count, *at.shape)).sum(1)
    return out
