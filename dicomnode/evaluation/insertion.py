"""Objects of known shape put into images, and what comes back of them from an operator."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from dicomnode.errors import NotMeasurable
from dicomnode.evaluation.places import Place, Volume, cut

SUBPIXELS = 4
_Field = NDArray[np.float64]

Operator = Callable[[Volume], Volume]
"""What is measured: an image, HU float32 [row, column], in, and one of the same shape out."""


class Insert(Protocol):
    """An object that can be drawn anywhere."""

    @property
    def reach_mm(self) -> float:
        """How far from its middle it is seen at all."""
        ...

    @property
    def blur_mm(self) -> float:
        """Standard deviation of the Gaussian by which the scanner is taken to blur it."""
        ...

    @property
    def contrast_hu(self) -> float:
        """How far it stands out."""
        ...

    def covered(self, down_mm: _Field, across_mm: _Field, softness_mm: float) -> _Field:
        """Share of it, 0 to 1, at points given from its middle; edges are ramps of that width."""
        ...


@dataclass(frozen=True)
class Disc:
    """A disc; a small one is a dot."""

    diameter_mm: float
    contrast_hu: float
    blur_mm: float = 0.5

    def __post_init__(self) -> None:
        if self.diameter_mm <= 0 or self.blur_mm < 0:
            raise ValueError(f"a disc needs a diameter above 0 and a blur of 0 or more: {self}")

    @property
    def reach_mm(self) -> float:
        return self.diameter_mm / 2 + 4 * self.blur_mm

    def covered(self, down_mm: _Field, across_mm: _Field, softness_mm: float) -> _Field:
        return _ramp(self.diameter_mm / 2 - np.hypot(down_mm, across_mm), softness_mm)


@dataclass(frozen=True)
class Bars:
    """Parallel bars as wide as their gaps, in a square, turned against the columns by `angle_rad`."""

    line_pairs_per_cm: float
    contrast_hu: float
    blur_mm: float = 0.5
    pairs: int = 5
    angle_rad: float = 0.1

    def __post_init__(self) -> None:
        if self.line_pairs_per_cm <= 0 or self.blur_mm < 0 or self.pairs < 1:
            raise ValueError(f"bars need a frequency, one pair or more and a blur of 0 or more: {self}")

    @property
    def side_mm(self) -> float:
        return self.pairs * 10.0 / self.line_pairs_per_cm

    @property
    def reach_mm(self) -> float:
        return self.side_mm / 2**0.5 + 4 * self.blur_mm

    def covered(self, down_mm: _Field, across_mm: _Field, softness_mm: float) -> _Field:
        along, over = self._turned(down_mm, across_mm)
        period_mm = 10.0 / self.line_pairs_per_cm
        # distance to the nearest edge of a bar; there is a bar in the middle of each period
        from_bar = np.abs((over + self.side_mm / 2) % period_mm - period_mm / 2)
        inside = _ramp(self.side_mm / 2 - np.maximum(np.abs(along), np.abs(over)), softness_mm)
        return inside * _ramp(period_mm / 4 - from_bar, softness_mm)

    def wave(self, down_mm: _Field, across_mm: _Field) -> NDArray[np.complex128]:
        """The complex wave that has its frequency and direction, at points given from its middle."""
        _, over = self._turned(down_mm, across_mm)
        wave: NDArray[np.complex128] = np.exp(-2j * np.pi * over * self.line_pairs_per_cm / 10.0)
        return wave

    def _turned(self, down_mm: _Field, across_mm: _Field) -> tuple[_Field, _Field]:
        cosine, sine = np.cos(self.angle_rad), np.sin(self.angle_rad)
        return down_mm * cosine - across_mm * sine, across_mm * cosine + down_mm * sine


@dataclass(frozen=True, eq=False)
class Responses:
    """What was put in and what came back, HU [place, row, column], both without the background.

    `down_mm`, `across_mm` [place, row, column]: where each pixel lies from the middle of the object.
    """

    put_in: _Field
    came_back: _Field
    down_mm: _Field
    across_mm: _Field
    pixel_mm: float

    def __len__(self) -> int:
        return len(self.put_in)


@dataclass(frozen=True, eq=False)
class Planted:
    """One object at places of one image, HU [place, row, column], each off its place by a part of a pixel.

    `down_mm`, `across_mm` as in `Responses`. The slice of a place does not matter.
    """

    places: tuple[Place, ...]
    drawn: _Field
    down_mm: _Field
    across_mm: _Field
    pixel_mm: float

    def into(self, image: Volume) -> Volume:
        """The image, HU [row, column], with the objects in it. ValueError where one leaves the image."""
        cut(image[None], self._flat, self.drawn.shape[1])
        return add(image, self.places, self.drawn)

    def response(self, without: Volume, with_them: Volume) -> Responses:
        """What came back, of an operator's results for the image without and with the objects."""
        change = with_them.astype(np.float64) - without
        back = cut(change[None], self._flat, self.drawn.shape[1])
        return Responses(self.drawn, back, self.down_mm, self.across_mm, self.pixel_mm)

    @property
    def _flat(self) -> list[Place]:
        return [Place(0, place.row, place.column) for place in self.places]


def together(responses: Sequence[Responses]) -> Responses:
    """Responses of one object from several images of one pixel size."""
    first = responses[0]
    return Responses(
        np.concatenate([one.put_in for one in responses]),
        np.concatenate([one.came_back for one in responses]),
        np.concatenate([one.down_mm for one in responses]),
        np.concatenate([one.across_mm for one in responses]),
        first.pixel_mm,
    )


def plant(
    places: Sequence[Place],
    insert: Insert,
    pixel_mm: float,
    *,
    rng: np.random.Generator,
    margin_mm: float = 5.0,
) -> Planted:
    """Draw the object for every place, off its middle by a part of a pixel at random.

    ValueError where the squares around the places (`side_for`) overlap.
    """
    side = side_for(insert, pixel_mm, margin_mm)
    _check_apart(places, side)
    down, across = _grids(len(places), side, pixel_mm, rng)
    drawn = np.stack([draw(insert, *grid, pixel_mm) for grid in zip(down, across, strict=True)])
    return Planted(tuple(places), drawn, down, across, pixel_mm)


def side_for(insert: Insert, pixel_mm: float, margin_mm: float = 5.0) -> int:
    """Side in pixels of a square that holds the object and a margin around it; odd."""
    return 2 * int(np.ceil((insert.reach_mm + margin_mm) / pixel_mm)) + 1


def draw(insert: Insert, down_mm: _Field, across_mm: _Field, pixel_mm: float) -> _Field:
    """The object in pixels whose middles are given, HU [row, column]: mean over each pixel, blurred."""
    fine_mm = pixel_mm / SUBPIXELS
    steps = (np.arange(SUBPIXELS) - (SUBPIXELS - 1) / 2) * fine_mm
    down = (down_mm[:, :1] + steps).reshape(-1, 1)
    across = (across_mm[:1, :].T + steps).reshape(1, -1)
    fine = gaussian_filter(
        insert.covered(down, across, fine_mm), insert.blur_mm / fine_mm, mode="constant", truncate=6.0
    )
    rows, columns = down_mm.shape
    whole: _Field = fine.reshape(rows, SUBPIXELS, columns, SUBPIXELS).mean(axis=(1, 3))
    return insert.contrast_hu * whole


def respond(
    operator: Operator,
    hounsfield: Volume,
    places: Sequence[Place],
    insert: Insert,
    pixel_mm: float,
    *,
    rng: np.random.Generator,
    margin_mm: float = 5.0,
) -> Responses:
    """Put the object into every place and see what the operator makes of it.

    `hounsfield` [slice, row, column] are real, noisy backgrounds: several slices or several noises of one.
    What comes back is operator(with) - operator(without), so background and noise cancel as far as the
    operator is linear. The operator runs twice a slice and must give the same result for the same image. The
    object lies off the middle of its place by a part of a pixel, at random. Raises NotMeasurable without
    places and ValueError where the squares around them (`side_for`) leave the image or overlap.
    """
    if not places:
        raise NotMeasurable("there is no place to put a test object in: take a smaller one or other slices")
    found = []
    for number, group in groupby(sorted(places), key=lambda place: place.slice):
        planted = plant(list(group), insert, pixel_mm, rng=rng, margin_mm=margin_mm)
        image = hounsfield[number]
        with_them = planted.into(image)  # refuses squares that leave the image
        found.append(planted.response(operator(image), operator(with_them)))
    return together(found)


def add(image: Volume, places: Sequence[Place], drawn: _Field) -> Volume:
    """The image, HU [row, column], with objects [place, row, column] added at places in it."""
    out, side = image.copy(), drawn.shape[1]
    for place, one in zip(places, drawn, strict=True):
        row, column = place.row - side // 2, place.column - side // 2
        out[row : row + side, column : column + side] += one.astype(image.dtype)
    return out


def _grids(count: int, side: int, pixel_mm: float, rng: np.random.Generator) -> tuple[_Field, _Field]:
    at = (np.arange(side) - side // 2) * pixel_mm
    off_mm = rng.uniform(-0.5, 0.5, (2, count)) * pixel_mm
    shape = (count, side, side)
    down = np.broadcast_to(at[None, :, None] - off_mm[0][:, None, None], shape)
    across = np.broadcast_to(at[None, None, :] - off_mm[1][:, None, None], shape)
    return down, across


def _check_apart(places: Sequence[Place], side: int) -> None:
    for k, one in enumerate(places):
        for other in places[k + 1 :]:
            near = max(abs(one.row - other.row), abs(one.column - other.column)) < side
            if one.slice == other.slice and near:
                raise ValueError(f"the squares of {side} pixels around {one} and {other} overlap")


def _ramp(inside_mm: _Field, softness_mm: float) -> _Field:
    return np.clip(0.5 + inside_mm / softness_mm, 0.0, 1.0)
