"""The virtual scanner: where the rays of a slice run."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

WATER_ATTENUATION_PER_MM = 0.0192
"""Linear attenuation of water at an effective 70 keV, per mm: 0 HU (NEED, section 1.2 of its code)."""


@dataclass(frozen=True)
class ParallelBeam:
    """A parallel beam over half a turn, measured in pixels of the slice it looks at.

    `views` angles are spread evenly over half a turn from `start_rad`; `detectors` bins of `pitch_px` are
    centred on the rotation axis, which is the centre of a slice of `side_px` x `side_px` pixels. Half a turn
    of parallel rays carries what a full turn of a fan beam measures.
    """

    side_px: int = 512
    views: int = 720
    detectors: int = 736
    pitch_px: float = 1.0
    start_rad: float = 0.0

    def __post_init__(self) -> None:
        if min(self.side_px, self.views, self.detectors) < 1 or self.pitch_px <= 0:
            raise ValueError(
                f"a beam needs at least one pixel, view and detector and a positive pitch: {self}"
            )

    @cached_property
    def angles_rad(self) -> NDArray[np.float64]:
        """Angle of each view, [view]: the detector axis of view v points along (cos, sin)."""
        return self.start_rad + np.pi * np.arange(self.views) / self.views

    @property
    def sees_whole_slice(self) -> bool:
        """Whether even the corners of the slice fall on the detector in every view."""
        return self.detectors * self.pitch_px >= self.side_px * 2**0.5

    def for_side(self, side_px: int) -> "ParallelBeam":
        """The same scanner for another matrix: views, pitch and margin keep their proportion."""
        if side_px == self.side_px:
            return self
        scale = side_px / self.side_px
        return ParallelBeam(side_px, self.views, round(self.detectors * scale), self.pitch_px, self.start_rad)


def attenuation_from_hounsfield(hounsfield: NDArray[np.float32]) -> NDArray[np.float32]:
    """HU -> linear attenuation per mm, any shape; air and everything below it attenuates nothing."""
    per_mm = WATER_ATTENUATION_PER_MM * (1.0 + hounsfield / 1000.0)
    attenuation: NDArray[np.float32] = np.maximum(per_mm, 0.0).astype(np.float32)
    return attenuation


def hounsfield_from_attenuation(difference_per_mm: NDArray[np.float32]) -> NDArray[np.float32]:
    """A *difference* of linear attenuation per mm -> a difference in HU, any shape."""
    return (difference_per_mm * (1000.0 / WATER_ATTENUATION_PER_MM)).astype(np.float32)
