"""before-after.png: original, low dose, enhanced and what was removed, in two windows."""

from pathlib import Path

import matplotlib
import numpy as np
from numpy.typing import NDArray

from dicomnode.physics.size import around_body

matplotlib.use("Agg")
from matplotlib import pyplot as plt

WINDOWS_HU = {"soft tissue (40 / 400 HU)": (40.0, 400.0), "lung (-600 / 1500 HU)": (-600.0, 1500.0)}
REMOVED_HU = 80.0
MARGIN_PX = 12
COLUMNS = ("original, normal dose", "low dose", "enhanced", "removed (low dose - enhanced)")

Image = NDArray[np.float32]


def draw(original: Image, low_dose: Image, enhanced: Image, path: Path, title: str) -> None:
    """Write the comparison of one slice, all HU [row, column], as PNG, cut to the patient."""
    cut = around_body(original, MARGIN_PX)
    original, low_dose, enhanced = original[cut], low_dose[cut], enhanced[cut]
    figure, axes = plt.subplots(
        len(WINDOWS_HU), 4, figsize=(18, 8.2), facecolor="black", layout="constrained"
    )
    figure.suptitle(title, color="white", fontsize=13)
    for row, (name, (centre, width)) in zip(axes, WINDOWS_HU.items(), strict=True):
        span = {"vmin": centre - width / 2, "vmax": centre + width / 2}
        images = (original, low_dose, enhanced, low_dose - enhanced)
        for axis, image, caption in zip(row, images, COLUMNS, strict=True):
            removed = caption.startswith("removed")
            limits = {"vmin": -REMOVED_HU, "vmax": REMOVED_HU} if removed else span
            axis.imshow(image, cmap="gray", interpolation="nearest", **limits)
            axis.set_title(
                f"{caption}\n{f'+-{REMOVED_HU:g} HU' if removed else name}", color="white", fontsize=10
            )
            axis.set_axis_off()
    figure.savefig(path, dpi=110, facecolor="black")
    plt.close(figure)
