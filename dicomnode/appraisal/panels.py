"""One slice of a dose: input, enhanced, reference, what is between the last two, and the others below."""

from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from dicomnode.appraisal.cases import Case
from dicomnode.appraisal.methods import Volume
from dicomnode.physics.size import around_body

WINDOW_HU = (-160.0, 240.0)
"""The window in which NEED shows its images (section 1.11 of its code)."""

DIFFERENCE_HU = 80.0
MARGIN_PX = 8
COLUMNS = 4
CAPTION_PX, TITLE_PX, GAP_PX = 26, 30, 6
DPI = 100

Shown = tuple[str, Volume, float, float]
"""Caption, HU [row, column], and the values that are black and white."""


@dataclass(frozen=True, eq=False)
class Panel:
    """Images of one slice, HU [row, column], by name, with the reference; `planned`: it shows even tissue."""

    reference: Volume
    images: dict[str, Volume]
    planned: bool

    @staticmethod
    def of(case: Case, results: dict[str, Volume]) -> "Panel":
        """A slice of a case with what the methods made of it: one that has things put in, or the middle."""
        first = case.judged.start
        at = case.plans[0].at - first if case.plans else case.slices // 2
        images = {name: result[at].copy() for name, result in results.items()}
        return Panel(case.reference[first + at].copy(), images, bool(case.plans))

    def draw(self, folder: Path, dose: str, kernel: str) -> tuple[str, str]:
        """Write the picture, a pixel of it for a pixel of the slice; its file name and caption."""
        shown, cut = self._shown(), around_body(self.reference, MARGIN_PX)
        name = f"images-{slug(kernel)}-{slug(dose)}.png"
        _montage(
            [(told, image[cut], least, most) for told, image, least, most in shown], f"{dose}, {kernel}"
        ).save(folder / name, optimize=True)
        others = ", ".join(told for told, *_ in shown[COLUMNS:])
        told = f"{kernel}, {dose}: input, enhanced, reference (-160 to 240 HU), difference"
        return name, f"{told}; {others}" if others else told

    def _shown(self) -> list[Shown]:
        difference = f"enhanced - reference, +-{DIFFERENCE_HU:g} HU"
        others = [name for name in self.images if name not in ("input", "enhanced")]
        return [
            ("input", self.images["input"], *WINDOW_HU),
            ("enhanced", self.images["enhanced"], *WINDOW_HU),
            ("reference", self.reference, *WINDOW_HU),
            (difference, self.images["enhanced"] - self.reference, -DIFFERENCE_HU, DIFFERENCE_HU),
            *((name, self.images[name], *WINDOW_HU) for name in others),
        ]


def _montage(shown: list[Shown], title: str) -> Image.Image:
    """Grey. Resampling would change the grain of the noise, so nothing is resampled."""
    height, width = shown[0][1].shape
    rows = -(-len(shown) // COLUMNS)
    wide = COLUMNS * (width + GAP_PX) + GAP_PX
    high = TITLE_PX + rows * (height + CAPTION_PX) + GAP_PX
    # a hundredth of a pixel more: what is cut off behind the point must not be a whole one
    figure = Figure(figsize=((wide + 0.01) / DPI, (high + 0.01) / DPI), dpi=DPI, facecolor="black")
    FigureCanvasAgg(figure)
    figure.text(0.5, 1 - 0.5 * TITLE_PX / high, title, color="white", fontsize=13, ha="center", va="center")
    corners = []
    for number, (caption, *_) in enumerate(shown):
        row, column = divmod(number, COLUMNS)
        left = GAP_PX + column * (width + GAP_PX)
        top = TITLE_PX + row * (height + CAPTION_PX) + CAPTION_PX
        corners.append((top, left))
        at = (left + 0.5 * width) / wide, 1 - (top - 0.5 * CAPTION_PX) / high
        figure.text(*at, caption, color="white", fontsize=10, ha="center", va="center")
    drawn = BytesIO()
    figure.savefig(drawn, format="rgba", facecolor="black")
    grey = np.frombuffer(drawn.getvalue(), np.uint8).reshape(high, wide, 4)[..., 0].copy()
    for (top, left), (_, image, least, most) in zip(corners, shown, strict=True):
        share = np.clip((image - least) / (most - least), 0.0, 1.0)
        grey[top : top + height, left : left + width] = np.rint(255 * share).astype(np.uint8)
    return Image.fromarray(grey)


def slug(text: str) -> str:
    """A file name's worth of a text: letters, digits, hyphens."""
    kept = "".join(c if c.isascii() and c.isalnum() else "-" for c in text.replace("%", "percent").lower())
    return "-".join(part for part in kept.split("-") if part) or "unknown"
