"""Fan-beam scans by formula: where spot and elements are by the words of the format's manual, and ellipses.

Nothing here uses the code under test.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from dicomnode.demo.projections import FanScanner
from dicomnode.dicom.acquisition import Detector

WATER_PER_MM = 0.0192

SMALL_DETECTOR = Detector(
    shape="cylindrical",
    rows=2,
    columns=80,
    column_spacing_mm=5.0,
    row_spacing_mm=1.25,
    central_column=40.75,
    central_row=1.5,
    distance_mm=1000.0,
)
SMALL = FanScanner(detector=SMALL_DETECTOR, radial_mm=550.0, views_per_turn=120)


def small(**changes: Any) -> FanScanner:
    """A scanner of few views and columns; `changes` to it or, by their names, to its detector."""
    of_detector: dict[str, Any] = {
        name: changes.pop(name) for name in list(changes) if hasattr(SMALL_DETECTOR, name)
    }
    return replace(SMALL, detector=replace(SMALL_DETECTOR, **of_detector), **changes)


def disc(side: int = 64, pixel_mm: float = 3.0, radius_mm: float = 80.0, slices: int = 4) -> np.ndarray:
    """A water disc in air with an insert of 60 HU, up and to the right; float32 [slice, row, column]."""
    along = (np.arange(side) - (side - 1) / 2) * pixel_mm
    x, y = along[None, :], -along[:, None]
    image = np.where(np.hypot(x, y) < radius_mm, 0.0, -1000.0)
    image[np.hypot(x - 35, y - 25) < 20] = 60.0
    return np.repeat(image[None].astype(np.float32), slices, axis=0)


def ends(
    scanner: FanScanner, angle_rad: float, shift_rad: float = 0.0, shift_mm: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """Focal spot [xy] and elements [column, xy] of a view, mm: x = -rho sin(phi), y = rho cos(phi).

    With the source at twelve o'clock column 1 is leftmost and the detector below; then all is turned.
    """
    seen = scanner.detector
    across = (np.arange(seen.columns) + 1 - seen.central_column) * seen.column_spacing_mm
    rho, distance = scanner.radial_mm, seen.distance_mm
    if seen.shape == "flat":
        upright = np.stack([across, np.full(seen.columns, rho - distance)], axis=1)
    else:
        fan = across / distance
        upright = np.stack([distance * np.sin(fan), rho - distance * np.cos(fan)], axis=1)
    cos, sin = np.cos(angle_rad), np.sin(angle_rad)
    turned = np.stack(
        [cos * upright[:, 0] - sin * upright[:, 1], sin * upright[:, 0] + cos * upright[:, 1]], axis=1
    )
    radius, angle = rho + shift_mm, angle_rad + shift_rad
    return np.array([-radius * np.sin(angle), radius * np.cos(angle)]), turned


Ellipse = tuple[float, float, float, float, float]
"""Centre x and y, half axes along x and y in mm, and what it adds, in HU."""

BODY: Sequence[Ellipse] = (
    (0.0, 0.0, 150.0, 120.0, 1000.0),
    (60.0, 30.0, 20.0, 20.0, 60.0),
    (-50.0, -40.0, 30.0, 15.0, -100.0),
)


def through(body: Sequence[Ellipse], spot: np.ndarray, elements: np.ndarray) -> np.ndarray:
    """Line integrals [column] from the spot to each element: chords of ellipses, by a quadratic equation."""
    total = np.zeros(len(elements))
    length = np.linalg.norm(elements - spot, axis=1)
    for x, y, wide, high, hounsfield in body:
        start = (spot - (x, y)) / (wide, high)
        along = (elements - spot) / (wide, high)
        a, b, c = (along**2).sum(1), along @ start, start @ start - 1.0
        root = np.sqrt(np.maximum(b**2 - a * c, 0.0))
        total += hounsfield / 1000.0 * WATER_PER_MM * 2.0 * root / a * length
    return total
