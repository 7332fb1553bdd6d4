"""The airways, grown from the trachea until they leak."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.morphology import flood

from dicomnode.errors import NotMeasurable

THRESHOLDS_HU = tuple(float(hu) for hu in range(-960, -760, 10))
LEAK_FACTOR = 1.3
LEAK_ML = 10.0
LEAST_ML = 0.5
MOST_ML = 250.0
"""Trachea and bronchi of a large man at full breath hold about 200 ml."""

TUBE_HU = -850.0
TUBE_MM2 = (50.0, 900.0)
MOST_OBLONG = 2.2
MIDLINE = 0.12
"""How far from the middle of the body the trachea may lie, in widths of the body."""

LEAST_TUBE_MM = 12.0

_STEPS = ((0, 0), (0, 1), (1, 0), (0, -1), (-1, 0), (1, 1), (1, -1), (-1, 1), (-1, -1))

# scikit-image says it is typed, but this one is not
_flood: Callable[..., NDArray[np.bool_]] = flood

Volume = NDArray[np.float32]
Mask = NDArray[np.bool_]
Seed = tuple[int, int, int]


@dataclass(frozen=True, eq=False)
class Airways:
    """`mask` bool [slice, row, column], grown from `seed` with everything below `threshold_hu`.

    `leaked`: the next threshold would have run into the lung; without it growing ended by itself.
    """

    mask: Mask
    seed: Seed
    threshold_hu: float
    leaked: bool


def grow_airways(
    hounsfield: Volume, body: Mask, spacing_mm: tuple[float, float, float], seed: Seed
) -> Airways:
    """Everything connected with the seed below a threshold as high as it goes without a leak.

    `hounsfield`, `body` [slice, row, column]; `spacing_mm` and `seed` in the same order. After Mori et al.
    (IEEE TMI 19(2), 2000): the threshold rises by 10 HU from -960; a step at which the volume grows by a
    third and 10 ml, or beyond 250 ml, is a leak into the lung, and the step before it stands. Raises
    NotMeasurable where the seed is in no air, or the air around it is no airway from the start.
    """
    best: Airways | None = None
    voxel_ml = float(np.prod(spacing_mm)) / 1000.0
    volume_ml = 0.0
    for threshold_hu, mask in _regions(hounsfield, body, seed, LEAST_ML / voxel_ml):
        grown_ml = float(mask.sum()) * voxel_ml
        burst = best is not None and grown_ml > LEAK_FACTOR * volume_ml + LEAK_ML
        if burst or grown_ml > MOST_ML:
            if best is None:
                raise NotMeasurable(f"the air around {seed} holds {grown_ml:.0f} ml: it is no airway")
            return Airways(best.mask, seed, best.threshold_hu, leaked=True)
        best, volume_ml = Airways(mask, seed, threshold_hu, leaked=False), grown_ml
    if best is None:
        raise NotMeasurable(f"there is no air at {seed}: give a seed inside the trachea")
    return best


def find_trachea(
    hounsfield: Volume, body: Mask, lung: Mask, spacing_mm: tuple[float, float, float]
) -> Seed | None:
    """A voxel in the middle of the trachea, or None: the longest round tube of air in the midline.

    `hounsfield`, `body`, `lung` [slice, row, column], in either direction along the patient. Some lung must
    lie in the slices of the tube: gas in the bowel has none beside it.
    """
    tubes: list[list[_Section]] = []
    for number, image in enumerate(hounsfield):
        sections = list(_sections(image, body[number], number, spacing_mm[1:]))
        for section in sections:
            tube = next((t for t in tubes if t[-1].continues(section, spacing_mm[1:])), None)
            if tube is None:
                tubes.append([section])
            else:
                tube.append(section)
    long = [t for t in tubes if len(t) * spacing_mm[0] >= LEAST_TUBE_MM and _beside_lung(t, lung)]
    if not long:
        return None
    longest = max(long, key=len)
    return longest[len(longest) // 2].middle


@dataclass(frozen=True)
class _Section:
    """A round piece of air in one slice."""

    middle: Seed
    radius_mm: float

    def continues(self, other: "_Section", pixel_mm: tuple[float, float]) -> bool:
        """Whether `other`, in the next slice, is the same tube."""
        off_mm = np.hypot(
            (self.middle[1] - other.middle[1]) * pixel_mm[0], (self.middle[2] - other.middle[2]) * pixel_mm[1]
        )
        similar = 0.5 < self.radius_mm / other.radius_mm < 2.0
        return bool(other.middle[0] - self.middle[0] == 1 and off_mm < self.radius_mm and similar)


def _regions(hounsfield: Volume, body: Mask, seed: Seed, least_px: float) -> Iterator[tuple[float, Mask]]:
    """The piece around the seed at each threshold, as soon as it is more than a speck."""
    inside = np.where(body, hounsfield, np.inf)
    # a noisy voxel at the seed itself does not matter: one beside it will do
    beside = [(seed[0], seed[1] + down, seed[2] + across) for down, across in _STEPS]
    starts = [at for at in beside if all(0 <= k < size for k, size in zip(at, body.shape, strict=True))]
    for threshold_hu in THRESHOLDS_HU:
        air = inside < threshold_hu
        for start in starts:
            if air[start] and (piece := _flood(air, start, connectivity=1)).sum() > least_px:
                yield threshold_hu, _without_specks(piece)
                break


def _without_specks(mask: Mask) -> Mask:
    """Noise inside a tube filled, slice by slice; changes and returns the mask."""
    (box,) = ndimage.find_objects(mask.astype(np.uint8))
    piece = mask[box]
    for number, section in enumerate(piece):
        piece[number] = ndimage.binary_fill_holes(section)
    return mask


def _sections(image: Volume, body: Mask, number: int, pixel_mm: tuple[float, float]) -> Iterator[_Section]:
    columns = np.flatnonzero(body.any(axis=0))
    if not len(columns):
        return
    middle, width = (columns[0] + columns[-1]) / 2, columns[-1] - columns[0]
    labels, _ = ndimage.label((ndimage.gaussian_filter(image, 1.0) < TUBE_HU) & body)
    for index, box in enumerate(ndimage.find_objects(labels), start=1):
        rows, across = np.nonzero(labels[box] == index)
        area_mm2 = len(rows) * pixel_mm[0] * pixel_mm[1]
        row, column = rows.mean() + box[0].start, across.mean() + box[1].start
        if (
            TUBE_MM2[0] < area_mm2 < TUBE_MM2[1]
            and abs(column - middle) < MIDLINE * width
            and _round(rows * pixel_mm[0], across * pixel_mm[1], area_mm2)
        ):
            yield _Section((number, round(row), round(column)), float(np.sqrt(area_mm2 / np.pi)))


def _round(down_mm: NDArray[Any], across_mm: NDArray[Any], area_mm2: float) -> bool:
    """Whether a piece is about an ellipse, and not a long one."""
    small, large = np.linalg.eigvalsh(np.cov(down_mm, across_mm))
    # the area of an ellipse is 4 pi times the product of the standard deviations along its axes
    filled = area_mm2 / (4 * np.pi * np.sqrt(max(small * large, 1e-9)))
    return bool(large < MOST_OBLONG**2 * small and filled > 0.9)


def _beside_lung(tube: list[_Section], lung: Mask) -> bool:
    return any(lung[section.middle[0]].any() for section in tube)
