"""Pictures of an evaluation."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from dicomnode.appraisal.panels import Panel


def test_a_picture_shows_every_pixel_of_every_method(tmp_path: Path) -> None:
    """Of a checkerboard, which any resampling would grey or stripe."""
    y, x = np.mgrid[:200, :200] - 100
    reference = np.where(np.hypot(x, y) < 90, 20.0, -1000.0).astype(np.float32)
    board = (reference + (x + y) % 2 * 40).astype(np.float32)
    images = dict.fromkeys(("input", "nlm", "tv", "enhanced", "unet"), board)
    name, told = Panel(reference, images, planned=True).draw(tmp_path, "10 %", "B30f")
    assert told.endswith("; nlm, tv, unet")
    picture = np.rint(255 * imread(tmp_path / name)).astype(int)
    dark, light = (round(255 * (hu + 160) / 400) for hu in (20, 60))
    inside = np.hypot(x, y) < 90
    for value, parity in ((dark, 0), (light, 1)):
        expected = int((inside & ((x + y) % 2 == parity)).sum())
        shown = int((picture == value).sum())
        # five boards, and what the reference shows evenly
        assert shown == pytest.approx(5 * expected + (inside.sum() if parity == 0 else 0), rel=0.01)
