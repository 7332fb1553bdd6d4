"""Sort the views of an axial scan into turns, and the views of a turn by where the focal spot was."""

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dicomnode.dicom.acquisition import FocalSpotMode
from dicomnode.errors import InconsistentProjections, MissingViews

ONE_PLACE_MM: Final = 0.05
"""Views whose table positions are this close belong to one turn: axial scans move the table between turns."""
ONE_SHIFT_MM: Final = 0.02
ONE_SHIFT_RAD: Final = 2e-5
SPOTS: Final[dict[FocalSpotMode, int]] = {"FFSNONE": 1, "FFSZ": 2, "FFSXY": 2, "FFSXYZ": 4}
"""Most positions of the focal spot in each mode."""
WIDEST_STEP: Final = 1.5
"""A step between views of one spot above this many mean steps is a gap."""
NARROWEST_STEP: Final = 0.5


@dataclass(frozen=True, eq=False)
class SpotPositions:
    """Cylindrical coordinates of each view, [view]: float64; angles in rad as in the file, not unwrapped."""

    angle_rad: NDArray[np.float64]
    axial_mm: NDArray[np.float64]
    radial_mm: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Turn:
    """One complete turn at one table position.

    `spots`: for each position of the focal spot the indices of its views, sorted by angle; they are spread
    evenly over the whole turn.
    """

    axial_mm: float
    spots: tuple[NDArray[np.intp], ...]


def find_turns(
    centre: SpotPositions, shift: SpotPositions, views_per_turn: int, mode: FocalSpotMode
) -> tuple[Turn, ...]:
    """The turns of a scan, from low to high table position.

    :raises MissingViews: a turn has fewer views than it should, or a gap between them.
    :raises InconsistentProjections: the table moves during a turn, it has more views than a turn, or the
    focal spot more positions than its mode.
    """
    places = _clusters(centre.axial_mm, ONE_PLACE_MM)
    turns = []
    for place in range(int(places.max()) + 1):
        views = np.flatnonzero(places == place)
        heights = centre.axial_mm[views]
        if np.ptp(heights) > 2 * ONE_PLACE_MM:
            raise InconsistentProjections(
                f"the scan says AXIAL, but the table moves by {np.ptp(heights):.2f} mm during a turn"
            )
        _check_count(len(views), float(heights.mean()), views_per_turn)
        turns.append(Turn(float(heights.mean()), _spots(views, centre, shift, mode)))
    return tuple(turns)


def _check_count(found: int, axial_mm: float, views_per_turn: int) -> None:
    if found < views_per_turn:
        raise MissingViews(
            f"{views_per_turn - found} of {views_per_turn} views are missing at table position "
            f"{axial_mm:.2f} mm; send the series again when it is complete (part turns are not read)"
        )
    if found > views_per_turn:
        raise InconsistentProjections(
            f"{found} views at table position {axial_mm:.2f} mm are more than the {views_per_turn} of one "
            "turn; send one turn a table position"
        )


def _spots(
    views: NDArray[np.intp], centre: SpotPositions, shift: SpotPositions, mode: FocalSpotMode
) -> tuple[NDArray[np.intp], ...]:
    labels = np.stack(
        [
            _clusters(shift.angle_rad[views], ONE_SHIFT_RAD),
            _clusters(shift.axial_mm[views], ONE_SHIFT_MM),
            _clusters(shift.radial_mm[views], ONE_SHIFT_MM),
        ]
    )
    kinds, member = np.unique(labels, axis=1, return_inverse=True)
    if kinds.shape[1] > SPOTS[mode]:
        raise InconsistentProjections(
            f"the focal spot has {kinds.shape[1]} positions, {mode} means at most {SPOTS[mode]}"
        )
    spots = [views[member.ravel() == kind] for kind in range(kinds.shape[1])]
    return tuple(_sorted_evenly(spot, centre.angle_rad) for spot in spots)


def _sorted_evenly(views: NDArray[np.intp], angle_rad: NDArray[np.float64]) -> NDArray[np.intp]:
    angles = np.mod(angle_rad[views], 2 * math.pi)
    order = np.argsort(angles)
    steps = np.diff(angles[order], append=angles[order[0]] + 2 * math.pi)
    mean = 2 * math.pi / len(views)
    if len(views) < 3 or steps.max() > WIDEST_STEP * mean:
        raise MissingViews(
            f"{math.degrees(steps.max()):.2f} degrees between two of {len(views)} views, "
            f"{math.degrees(mean):.2f} expected: views are missing or double"
        )
    if steps.min() < NARROWEST_STEP * mean:
        raise InconsistentProjections("two views of one focal spot position have nearly the same angle")
    return views[order]


def _clusters(values: NDArray[np.float64], gap: float) -> NDArray[np.intp]:
    """A label for each value: values less than `gap` from a neighbour share it; labels rise with them."""
    order = np.argsort(values, kind="stable")
    labels = np.empty(len(values), np.intp)
    labels[order] = np.concatenate([[0], np.cumsum(np.diff(values[order]) > gap)])
    return labels
