"""What is put into the slices, and where: the same places for every dose and every method."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from dicomnode.appraisal.methods import Volume
from dicomnode.evaluation.detectability import centred, square_side
from dicomnode.evaluation.insertion import Bars, Disc, Insert, Planted, add, plant, side_for
from dicomnode.evaluation.places import Place, find_even

CONTRASTS_HU = (50.0, 150.0, 400.0)
"""A lesion with contrast agent, a vessel, a calcification."""

EDGE_MM, EDGE_MARGIN_MM = 12.0, 3.0
DOT_MM, DOT_MARGIN_MM = 2.0, 2.0
BARS_PER_CM, BAR_PAIRS, BARS_MARGIN_MM = 4.0, 3, 2.0
DISCS = (Disc(3.0, 40.0), Disc(5.0, 25.0), Disc(8.0, 15.0))
"""Faint discs for the observer: the smaller, the stronger, so that none is plain and none is hopeless."""

SMALL = DISCS[0]
"""Of the discs the one that is seldom longer than a slice is thick."""
DOT, DOT_ALONE = "dot", "dot in one slice"

NOISE_SIDE_PX = 24
MOST_PLACES = 40

Objects = dict[str, Planted]
"""By kind: "edge", "bars", "dot"."""


@dataclass(frozen=True, eq=False)
class Mixture:
    """Edges, bars and dots of one contrast in one slice, none touching another."""

    contrast_hu: float
    objects: Objects

    def into(self, image: Volume) -> Volume:
        """The slice, HU [row, column], with all of them in it."""
        for planted in self.objects.values():
            image = planted.into(image)
        return image


@dataclass(frozen=True, eq=False)
class DiscPlan:
    """A faint disc in one slice: it lies in all of these places, and is looked for there without it too."""

    disc: Disc
    pixel_mm: float
    places: tuple[Place, ...]

    @cached_property
    def side_px(self) -> int:
        """Side of the square that the observer sees."""
        return square_side(self.disc, self.pixel_mm)

    def into(self, image: Volume) -> Volume:
        """The slice, HU [row, column], with the disc in its places."""
        shape = (len(self.places), self.side_px, self.side_px)
        return add(image, self.places, np.broadcast_to(centred(self.disc, self.pixel_mm), shape))


@dataclass(frozen=True, eq=False)
class Plan:
    """What happens to one slice, number `at` of its scan. All places lie in slice 0.

    `mixtures` and `discs` go through its neighbours too, as a vessel does. `dots_alone`, all in one picture,
    and `disc_alone` are in this slice alone, as a small nodule is; nothing where it has no neighbours.
    """

    at: int
    squares: tuple[Place, ...]
    mixtures: tuple[Mixture, ...]
    discs: tuple[DiscPlan, ...]
    dots_alone: tuple[Mixture, ...] = ()
    disc_alone: DiscPlan | None = None

    @property
    def runs(self) -> int:
        """How often a method works on the slice: as it is, in a second noise, and with each thing in it."""
        alone = bool(self.dots_alone) + bool(self.disc_alone)
        return 2 + len(self.mixtures) + len(self.discs) + alone


Images = Sequence[Volume] | Volume
"""Slices at their best dose, HU [row, column] each."""


def richest(images: Images, slices: Sequence[int], count: int, pixel_mm: float) -> list[int]:
    """The `count` of these slices with most even tissue: most room for the largest thing to be put in."""
    side = square_side(DISCS[-1], pixel_mm)
    rooms = {k: len(find_even(images[k][None], side)) for k in slices}
    return sorted(sorted(rooms, key=lambda k: (-rooms[k], k))[:count])


def plan_slices(
    images: Images, slices: Sequence[int], pixels_mm: Sequence[float], seed: int, *, beside: bool = True
) -> list[Plan]:
    """Plans for some of the slices; `pixels_mm` has their pixel sizes, one each.

    `beside`: the slices have neighbours, so that it matters whether a thing goes through them.
    """
    plans = []
    for k, pixel_mm in zip(slices, pixels_mm, strict=True):
        image = images[k][None]
        room, discs = _room(image, pixel_mm), []
        for disc in DISCS:
            places = find_even(image, square_side(disc, pixel_mm), most=MOST_PLACES)
            discs.append(DiscPlan(disc, pixel_mm, tuple(places)))
        plans.append(
            Plan(
                k,
                tuple(find_even(image, NOISE_SIDE_PX, most=MOST_PLACES)),
                tuple(_mixture(room, c, pixel_mm, seed + 1000 * k + n) for n, c in enumerate(CONTRASTS_HU)),
                tuple(plan for plan in discs if plan.places),
                _dots_alone(image, pixel_mm, seed + 1000 * k + len(CONTRASTS_HU)) if beside else (),
                next((one for one in discs if beside and one.disc == SMALL and one.places), None),
            )
        )
    return plans


def renumbered(plans: Sequence[Plan], offset: int) -> tuple[Plan, ...]:
    """Plans for a part of the stack that begins at `offset`."""
    return tuple(replace(plan, at=plan.at - offset) for plan in plans)


def edge(contrast_hu: float) -> Disc:
    """The disc whose edge is looked at."""
    return Disc(EDGE_MM, contrast_hu)


def bars(contrast_hu: float) -> Bars:
    """The bar pattern."""
    return Bars(BARS_PER_CM, contrast_hu, pairs=BAR_PAIRS)


def dot(contrast_hu: float) -> Disc:
    """The dot."""
    return Disc(DOT_MM, contrast_hu)


KINDS: dict[str, tuple[Callable[[float], Insert], float]] = {
    "edge": (edge, EDGE_MARGIN_MM),
    "bars": (bars, BARS_MARGIN_MM),
    DOT: (dot, DOT_MARGIN_MM),
}
"""Each kind: what it is at a contrast in HU, and the margin around it in mm."""


def _room(image: Volume, pixel_mm: float) -> dict[str, list[Place]]:
    """Where each kind goes in one slice: every third large place holds bars, dots lie between."""
    sides = {kind: side_for(make(1.0), pixel_mm, margin) for kind, (make, margin) in KINDS.items()}
    largest = max(sides["edge"], sides["bars"])
    large = find_even(image, largest, most=MOST_PLACES)
    apart = (largest + sides["dot"] + 1) // 2 + 1
    small = find_even(image, sides["dot"], most=2 * MOST_PLACES)
    return {
        "edge": [place for n, place in enumerate(large) if n % 3 != 2],
        "bars": large[2::3],
        "dot": [place for place in small if all(_distance(place, one) >= apart for one in large)],
    }


def _mixture(room: dict[str, list[Place]], contrast_hu: float, pixel_mm: float, seed: int) -> Mixture:
    rng = np.random.default_rng(seed)
    objects = {
        kind: plant(room[kind], make(contrast_hu), pixel_mm, rng=rng, margin_mm=margin)
        for kind, (make, margin) in KINDS.items()
        if room[kind]
    }
    return Mixture(contrast_hu, objects)


def _dots_alone(image: Volume, pixel_mm: float, seed: int) -> tuple[Mixture, ...]:
    """Dots of every contrast in turn over the even places: one picture, and so one run, for all of them."""
    places = find_even(image, side_for(dot(1.0), pixel_mm, DOT_MARGIN_MM), most=2 * MOST_PLACES)
    rng, turns = np.random.default_rng(seed), len(CONTRASTS_HU)
    return tuple(
        Mixture(contrast, {DOT: plant(mine, dot(contrast), pixel_mm, rng=rng, margin_mm=DOT_MARGIN_MM)})
        for n, contrast in enumerate(CONTRASTS_HU)
        if (mine := places[n::turns])
    )


def _distance(one: Place, other: Place) -> int:
    return max(abs(one.row - other.row), abs(one.column - other.column))
