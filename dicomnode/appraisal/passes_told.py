"""Few network passes against all: tables, one picture a kernel, and which are the fewest that will do."""

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from rich.table import Column, Table

from dicomnode.appraisal.cases import RAYS
from dicomnode.appraisal.panels import slug
from dicomnode.appraisal.report import Report
from dicomnode.appraisal.tables import grid, measured_on, number

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

FIGURES: dict[str, tuple[str, int, bool]] = {
    "RMSE, HU": ("rmse_hu", 2, False),
    "PSNR, dB": ("psnr_db", 2, False),
    "to full, dB": ("over_full_db", 2, True),
    "SSIM": ("ssim", 4, False),
    "NPS shift, %": ("nps_shift_percent", 1, True),
    "s a slice": ("seconds_per_slice", 3, False),
}
"""By heading: the figure, its digits, and whether its sign is told."""
SPARED = "SSIM"
"""In the terminal, which is narrow."""
LINES = {
    "SPDiff few, DGDiff full": r"SPDiff (\d+), DGDiff full",
    "SPDiff full, DGDiff few": r"SPDiff full, DGDiff (\d+)",
    "both few": r"SPDiff (\d+), DGDiff \1",
}
COLOURS = ("tab:blue", "tab:orange", "tab:green")


def for_terminal(report: Report) -> Iterator[Table]:
    """One table a dose and kernel."""
    heads = [head for head in FIGURES if head != SPARED]
    for group in report["groups"]:
        out = Table(Column("", no_wrap=True), *heads, title=f"{group['kernel']}, {group['dose']}")
        for name, figures in group["passes"].items():
            out.add_row(_marked(name, group), *_cells(figures, heads))
        yield out


def markdown(report: Report, pictures: Sequence[tuple[str, str]]) -> str:
    """The whole of passes.md."""
    parts = [f"# {report['model']['id']}: what a network pass is worth", measured_on(report)]
    parts.append("\n".join(f"* {line}" for line in advice(report)))
    for group in report["groups"]:
        least, most = group["start_steps"]
        steps = f"{least}" if least == most else f"{least} to {most}"
        parts.append(
            f"## {group['kernel']}, {group['dose']}\n\n{group['slices']} slices, SPDiff's start step "
            f"{steps}: so many passes are all."
        )
        rows = [
            [_marked(name, group), *_cells(figures, FIGURES)] for name, figures in group["passes"].items()
        ]
        parts.append(grid(["", *FIGURES], rows))
    parts += [f"![{caption}]({name})" for name, caption in pictures]
    return "\n\n".join([*parts, NOTES]) + "\n"


def advice(report: Report) -> list[str]:
    """The fewest passes that lose little at every dose, in each mode, and the card's own."""
    return [
        f"{mode} mode: the fewest passes that lose at most {report['most_lost_db']:g} dB against all steps "
        f"at every dose here are {found}; the card has {report['card'][mode]}"
        for mode, found in fewest_by_mode(report).items()
    ]


def fewest_by_mode(report: Report) -> dict[str, str]:
    """`fewest` of each mode that was measured."""
    return {mode: fewest(report, mode) for mode in report["card"] if _of_mode(report, mode)}


def fewest(report: Report, mode: str) -> str:
    """The row of a mode (`image`, `raw`) with fewest passes in all, of equal ones the quickest.

    Over all its doses and kernels. All steps always qualify.
    """
    groups = _of_mode(report, mode)

    def enough(name: str) -> bool:
        return all(g["passes"][name]["over_full_db"] >= -report["most_lost_db"] for g in groups)

    names: list[str] = [name for name in groups[0]["passes"] if name != "input" and enough(name)]
    return min(
        names, key=lambda name: (_passes(name), sum(g["passes"][name]["seconds_per_slice"] for g in groups))
    )


def draw_all(report: Report, folder: Path) -> list[tuple[str, str]]:
    """A picture a kernel: what is lost and what it takes over the number of passes, a column a dose."""
    drawn = []
    for kernel in dict.fromkeys(group["kernel"] for group in report["groups"]):
        groups = [group for group in report["groups"] if group["kernel"] == kernel]
        figure, axes = plt.subplots(
            2,
            len(groups),
            figsize=(3.2 * len(groups) + 2.4, 6),
            squeeze=False,
            sharey="row",
            sharex="col",
            layout="constrained",
        )
        for column, group in enumerate(groups):
            axes[0][column].axhspan(-report["most_lost_db"], report["most_lost_db"], color="0.92")
            axes[0][column].set_title(group["dose"])
            _draw(axes[0][column], group, "over_full_db")
            _draw(axes[1][column], group, "seconds_per_slice")
            axes[1][column].set_xlabel("network passes")
            axes[1][column].set_ylim(bottom=0)
        axes[0][0].set_ylabel(f"PSNR against all steps, dB (grey: {report['most_lost_db']:g})")
        axes[1][0].set_ylabel("seconds a slice")
        figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside right upper", fontsize=9)
        name = f"passes-{slug(kernel)}.png"
        figure.savefig(folder / name, dpi=110)
        plt.close(figure)
        drawn.append((name, f"{kernel}: loss and time over the number of passes"))
    return drawn


def _draw(axis: Axes, group: dict[str, Any], figure: str) -> None:
    """A line for few passes of either stage and one for both; all steps are the last point of each."""
    rows = group["passes"]
    counts = sorted({int(n) for name in rows for n in re.findall(r"\d+", name)})
    places = {count: place for place, count in enumerate(counts)}
    for colour, (label, pattern) in zip(COLOURS, LINES.items(), strict=True):
        found = {int(m[1]): rows[name][figure] for name in rows if (m := re.fullmatch(pattern, name))}
        at = [*(places[n] for n in sorted(found)), len(counts)]
        values = [*(found[n] for n in sorted(found)), rows["SPDiff full, DGDiff full"][figure]]
        axis.plot(at, values, label=label, color=colour, marker="o", markersize=4)
    axis.set_xticks(range(len(counts) + 1), [*map(str, counts), "full"])


def _of_mode(report: Report, mode: str) -> list[dict[str, Any]]:
    return [group for group in report["groups"] if (group["kernel"] == RAYS) == (mode == "raw")]


def _passes(name: str) -> float:
    """How many passes a row has in all; more than any number where a stage makes one a step."""
    return float("inf") if "full" in name else sum(int(n) for n in re.findall(r"\d+", name))


def _marked(name: str, group: dict[str, Any]) -> str:
    return f"{name} (card)" if name == group["card"] else name


def _cells(figures: dict[str, Any], heads: Iterable[str]) -> list[str]:
    told = (FIGURES[head] for head in heads)
    return [number(figures.get(key), digits, sign) for key, digits, sign in told]


NOTES = """## What the figures are

* A **pass** is one call of a stage's network on its way from the start step to normal dose; **full** is one a
  step. Few passes are spread evenly over the steps; a slice that starts lower than there are passes takes as
  many as it has steps. SPDiff works on projections, DGDiff on slices; in raw mode SPDiff has weights and a
  schedule of its own, for counts.
* All rows work on the same slices in the same noise, with the same seed for what a model draws itself.
* **to full**: PSNR less that of all steps in both stages. **RMSE, PSNR, SSIM** and **NPS shift**, of the
  mean frequency of the noise, are those of `dicomnode evaluate model`; of raw projections the last is that of
  what is left between result and the scan at normal dose, in even squares.
* **s a slice**: by the clock, the whole way of a slice through the engine, after one run that warms up; what
  is no network pass is in every row. Only of a machine that does nothing else do they mean anything."""
