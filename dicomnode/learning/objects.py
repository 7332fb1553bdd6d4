"""Small things drawn into training slices, so that a network meets more of them than anatomy holds.

Vessels, nodules, bars and dots of known shape carry no noise of their own: whatever a network takes of them
counts as error, down to contrasts at which anatomy is drowned in the noise of its own scan.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

MOST = 4
CONTRAST_HU = (12.0, 700.0)
RADIUS_PX = (0.6, 10.0)
PERIOD_PX = (2.2, 9.0)
BLUR_PX = (0.4, 1.2)
"""Standard deviation of what the scanner makes of an edge."""

Field = NDArray[np.float64]
Shape = Callable[[Field, Field, np.random.Generator], Field]


def draw_objects(side_px: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """One to four objects at random places, HU float32 [row, column]; nothing of them is noise."""
    objects = np.zeros((side_px, side_px))
    for _ in range(int(rng.integers(1, MOST + 1))):
        contrast_hu = _between(CONTRAST_HU, rng) * (1.0 if rng.random() < 0.6 else -1.0)
        shape = SHAPES[int(rng.integers(len(SHAPES)))]
        objects += contrast_hu * shape(*_turned(side_px, rng), rng)
    blurred: Field = gaussian_filter(objects, rng.uniform(*BLUR_PX))
    return blurred.astype(np.float32)


def ellipse(down: Field, across: Field, rng: np.random.Generator) -> Field:
    """A disc, a nodule or a vessel cut at an angle."""
    radius, ratio = _between(RADIUS_PX, rng), rng.uniform(1.0, 2.0)
    return _inside(radius - np.hypot(down / ratio, across))


def strip(down: Field, across: Field, rng: np.random.Generator) -> Field:
    """A vessel in the plane: long, straight or bent."""
    radius, bend = min(_between(RADIUS_PX, rng), 3.0), rng.normal(0.0, 0.01)
    return _inside(radius - np.abs(across - bend * down**2))


def bars(down: Field, across: Field, rng: np.random.Generator) -> Field:
    """Three to six bars as wide as their gaps, in a square."""
    period = _between(PERIOD_PX, rng)
    side = period * rng.integers(3, 7)
    from_bar = np.abs((across + side / 2) % period - period / 2)
    square = _inside(side / 2 - np.maximum(np.abs(down), np.abs(across)))
    return square * _inside(period / 4 - from_bar)


SHAPES: tuple[Shape, ...] = (ellipse, ellipse, strip, bars)


def _turned(side_px: int, rng: np.random.Generator) -> tuple[Field, Field]:
    """Coordinates from a random middle along random axes, pixels."""
    down, across = np.mgrid[:side_px, :side_px].astype(float)
    down, across = down - rng.uniform(0, side_px), across - rng.uniform(0, side_px)
    angle = rng.uniform(0.0, np.pi)
    cosine, sine = np.cos(angle), np.sin(angle)
    return down * cosine - across * sine, down * sine + across * cosine


def _inside(depth_px: Field) -> Field:
    """1 within, 0 without, a ramp of a pixel at the edge."""
    share: Field = np.clip(depth_px + 0.5, 0.0, 1.0)
    return share


def _between(limits: tuple[float, float], rng: np.random.Generator) -> float:
    return float(np.exp(rng.uniform(*np.log(limits))))
