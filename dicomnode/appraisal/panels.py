"""One slice of a dose: input, enhanced, reference, and what is between the last two."""

from dataclasses import dataclass
from pathlib import Path

import matplotlib

from dicomnode.appraisal.cases import Case
from dicomnode.appraisal.methods import Volume
from dicomnode.physics.size import around_body

matplotlib.use("Agg")
from matplotlib import pyplot as plt

WINDOW_HU = (-160.0, 240.0)
"""The window in which NEED shows its images (section 1.11 of its code)."""

DIFFERENCE_HU = 80.0
MARGIN_PX = 8


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
        """Write the picture; its file name and caption."""
        low, high = WINDOW_HU
        shown = [
            ("input", self.images["input"], low, high),
            ("enhanced", self.images["enhanced"], low, high),
            ("reference", self.reference, low, high),
            (
                f"enhanced - reference, +-{DIFFERENCE_HU:g} HU",
                self.images["enhanced"] - self.reference,
                -DIFFERENCE_HU,
                DIFFERENCE_HU,
            ),
        ]
        cut = around_body(self.reference, MARGIN_PX)
        figure, axes = plt.subplots(1, len(shown), figsize=(18, 4.9), facecolor="black", layout="constrained")
        figure.suptitle(f"{dose}, {kernel}", color="white", fontsize=13)
        for axis, (caption, image, least, most) in zip(axes, shown, strict=True):
            axis.imshow(image[cut], cmap="gray", interpolation="nearest", vmin=least, vmax=most)
            axis.set_title(caption, color="white", fontsize=11)
            axis.set_axis_off()
        name = f"images-{slug(kernel)}-{slug(dose)}.png"
        figure.savefig(folder / name, dpi=110, facecolor="black")
        plt.close(figure)
        return name, f"{kernel}, {dose}: input, enhanced, reference (-160 to 240 HU), difference"


def slug(text: str) -> str:
    """A file name's worth of a text: letters, digits, hyphens."""
    kept = "".join(c if c.isascii() and c.isalnum() else "-" for c in text.replace("%", "percent").lower())
    return "-".join(part for part in kept.split("-") if part) or "unknown"
