"""Which part of the body a slice shows, from the image alone.

Each slice is asked first: a closed skull, lungs, a face, a trunk, a limb. What it may be has a cost in
millimetres of contradiction; the cheapest order from feet to head wins, so that one odd slice changes
nothing and shoulders are no belly. What nothing in the image speaks for stays open: the header may say it.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from dicomnode.physics.size import BODY_THRESHOLD_HU, body_mask

Region = Literal["extremity", "abdomen-pelvis", "chest", "neck", "head"]
REGIONS: Final[tuple[Region, ...]] = ("extremity", "abdomen-pelvis", "chest", "neck", "head")
"""From feet to head: the order in which a series can show them."""

GRID_MM = 2.0
LUNG_HU = (-970.0, -500.0)
AIR_HU = -500.0
BONE_HU = 200.0
LEAST_LUNG_PIECE, LEAST_AIRWAY_MM2, LEAST_LEG_MM2 = 0.02, 60.0, 3000.0

LUNGS = 0.08
SKULL = 0.25
FACE_BONE = 0.11
BONY = 0.01
"""Least shares of the body: lung in a chest slice, what a skull encloses, bone in a face (jaw, teeth, skull
base; a pelvis has 0.09 at most), bone in any patient. Read off real series of three makers."""

TRUNK_MM, LARGEST_HEAD_MM, LEAST_CHEST_MM = 190.0, 220.0, 100.0
TWINS = 0.6
"""A second piece of the body with this share of the first is the other leg; raised arms beside a head have
less than half of it."""

CHANGE_MM = 8.0
NEVER_MM = 1e6


@dataclass(frozen=True)
class SliceAnatomy:
    """What a slice shows, as shares of the body's area.

    `lung`: lung tissue in pieces. `skull`: soft tissue and air enclosed by bone. `bone`: above 200 HU.
    `airway`: an enclosed gap of air that is no lung. `twins`: two pieces of about one size. A slice without
    a body has `diameter_mm` 0. `cut`: most of the patient is beyond the field of view.
    """

    diameter_mm: float
    lung: float
    skull: float
    bone: float
    airway: bool
    twins: bool
    cut: bool = False


def look_at(
    hounsfield: NDArray[np.float32],
    pixel_mm: float,
    diameters_mm: Iterable[float],
    cut: Iterable[bool] | None = None,
) -> tuple[SliceAnatomy, ...]:
    """What each slice shows: HU [slice, row, column], padding as air, with its water-equivalent diameters.

    `cut`: so small a part of the patient is in the field of view that size and shape say nothing.
    """
    factor = max(1, round(GRID_MM / pixel_mm))
    coarse_mm = pixel_mm * factor
    return tuple(
        replace(_slice_anatomy(_coarse(image, factor), coarse_mm, float(diameter_mm)), cut=is_cut)
        for image, diameter_mm, is_cut in zip(
            hounsfield, diameters_mm, cut or [False] * len(hounsfield), strict=True
        )
    )


def regions_along(
    slices: tuple[SliceAnatomy, ...], spacing_mm: float
) -> tuple[tuple[Region | None, ...], bool]:
    """The region of each slice, from feet to head, and whether the image is clear about it.

    The whole stack decides: where one slice is clear its neighbours follow by the order of the body. Not
    clear means a guess by size, better made by who knows more; None where there is not even that.
    """
    costs = np.array([_cost_of(one) for one in slices]).reshape(-1, len(REGIONS))
    if not len(costs) or not costs.any():
        return (None,) * len(slices), False
    chosen = _cheapest_order(costs * spacing_mm, np.array([one.lung >= LUNGS / 2 for one in slices]))
    regions = tuple(REGIONS[number] for number in chosen)
    return regions, any(_speaks_for(one) == region for one, region in zip(slices, regions, strict=True))


# --- one slice ------------------------------------------------------------------------------------


def _coarse(image: NDArray[np.float32], factor: int) -> NDArray[np.float32]:
    """Means over blocks: 2 mm show all that is asked for, with less noise."""
    rows, columns = (side // factor * factor for side in image.shape)
    blocks = image[:rows, :columns].reshape(rows // factor, factor, columns // factor, factor)
    means: NDArray[np.float32] = blocks.mean(axis=(1, 3), dtype=np.float32)
    return means


def _slice_anatomy(image: NDArray[np.float32], pixel_mm: float, diameter_mm: float) -> SliceAnatomy:
    body = body_mask(image[None])[0]
    area = int(body.sum())
    if not area or diameter_mm <= 0:
        return SliceAnatomy(0.0, 0.0, 0.0, 0.0, False, False)
    lung = _in_pieces((image > LUNG_HU[0]) & (image < LUNG_HU[1]) & body, LEAST_LUNG_PIECE * area)
    bone = (image > BONE_HU) & body
    shell = ndimage.binary_closing(np.pad(bone, 3), iterations=2)[3:-3, 3:-3]
    inside = _in_pieces(ndimage.binary_fill_holes(shell) & ~shell, 0.05 * area)
    gaps = _in_pieces((image < AIR_HU) & body, LEAST_AIRWAY_MM2 / pixel_mm**2)
    return SliceAnatomy(
        diameter_mm=diameter_mm,
        lung=float(lung.sum()) / area,
        skull=float(inside.sum()) / area,
        bone=float(bone.sum()) / area,
        airway=bool(gaps.any()),
        twins=_has_twin(image, pixel_mm),
    )


def _in_pieces(mask: NDArray[np.bool_], least_px: float) -> NDArray[np.bool_]:
    """Only the connected pieces of at least this size."""
    labels, _ = ndimage.label(mask)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    kept: NDArray[np.bool_] = (sizes >= max(least_px, 1.0))[labels]
    return kept


def _has_twin(image: NDArray[np.float32], pixel_mm: float) -> bool:
    labels, count = ndimage.label(ndimage.binary_opening(image > BODY_THRESHOLD_HU))
    if count < 2:
        return False
    sizes = np.bincount(labels.ravel())[1:]
    first, second = np.argsort(sizes)[::-1][:2]
    # a table has no bone in it
    bony = float((image[labels == second + 1] > BONE_HU).mean()) > BONY
    large = sizes[first] * pixel_mm**2 >= LEAST_LEG_MM2
    return bool(large and sizes[second] >= TWINS * sizes[first]) and bony


# --- what a slice may be ---------------------------------------------------------------------------

_Costs = Mapping[Region, float]

_EVIDENCE: Final[tuple[tuple[Callable[[SliceAnatomy], bool], _Costs, float], ...]] = (
    (lambda s: s.diameter_mm <= 0 or (s.lung < LUNGS and (s.cut or s.bone < BONY)), {}, 0.0),
    (lambda s: s.skull >= SKULL and s.diameter_mm <= LARGEST_HEAD_MM, {"head": 0.0}, 3.0),
    (
        lambda s: s.bone >= FACE_BONE and s.diameter_mm <= LARGEST_HEAD_MM and (s.airway or s.skull > 0),
        {"head": 0.0, "neck": 0.6},
        1.0,
    ),
    (lambda s: s.lung >= LUNGS and s.diameter_mm >= LEAST_CHEST_MM, {"chest": 0.0}, 3.0),
    (lambda s: s.twins, {"extremity": 0.0, "abdomen-pelvis": 0.6}, 1.0),
    (lambda s: s.diameter_mm >= TRUNK_MM, {"abdomen-pelvis": 0.0, "chest": 0.6}, 1.0),
    (lambda s: s.airway, {"neck": 0.0, "head": 0.3, "abdomen-pelvis": 0.4, "chest": 0.4}, 1.0),
    (lambda s: True, {"extremity": 0.0, "head": 0.3, "neck": 0.4, "abdomen-pelvis": 0.4, "chest": 0.6}, 1.0),
)
"""The first row that a slice answers to says what it may be: cost in millimetres of contradiction for each
millimetre of patient, and the cost of every region not named. A skull or lungs weigh most. Small bodies
without either are told apart weakly: a child's belly, a neck and a limb have one size."""

CLEAR = 0.5


def _cost_of(one: SliceAnatomy) -> list[float]:
    row, otherwise = next((costs, other) for answers, costs, other in _EVIDENCE if answers(one))
    return [row.get(region, otherwise) for region in REGIONS]


def _speaks_for(one: SliceAnatomy) -> Region | None:
    """The region that the slice alone stands for, or None where it leaves it open."""
    costs = sorted((cost, region) for cost, region in zip(_cost_of(one), REGIONS, strict=True))
    return costs[0][1] if costs[1][0] - costs[0][0] >= CLEAR else None


# --- the whole stack -------------------------------------------------------------------------------


def _cheapest_order(costs: NDArray[np.float64], lungs: NDArray[np.bool_]) -> list[int]:
    """Region numbers along the patient with the least contradiction (Viterbi), never towards the feet."""
    total, back = costs[0].copy(), np.zeros(costs.shape, int)
    for k in range(1, len(costs)):
        stepped = np.r_[np.inf, total[:-1] + CHANGE_MM]
        # a belly becomes a chest where lungs begin, not at the shoulders
        stepped[REGIONS.index("chest")] += 0.0 if lungs[k] else NEVER_MM
        back[k] = np.where(stepped < total, np.arange(len(REGIONS)) - 1, np.arange(len(REGIONS)))
        total = np.minimum(total, stepped) + costs[k]
    chosen = [int(np.argmin(total))]
    for k in range(len(costs) - 1, 0, -1):
        chosen.append(int(back[k][chosen[-1]]))
    return chosen[::-1]
