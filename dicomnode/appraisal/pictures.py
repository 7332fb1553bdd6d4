"""Figures over dose, frequency and disc size, drawn from the report."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import matplotlib

from dicomnode.appraisal.cases import FULL, PAIRS
from dicomnode.appraisal.panels import slug
from dicomnode.appraisal.report import Report
from dicomnode.appraisal.scoring import TISSUES

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

HIGHEST_MTF_PER_CM = 8.0
MOST_BIAS_HU = 6.0
COLOURS = ("0.45", "tab:orange", "tab:green", "tab:blue", "tab:red", "tab:purple", "tab:brown", "tab:pink")
MARKS = "osD^v<>P"

Drawn = list[tuple[str, str]]
"""File names and captions."""


def draw_all(report: Report, folder: Path) -> Drawn:
    """Write every figure that the report has data for."""
    drawn: Drawn = []
    for kernel in dict.fromkeys(group["kernel"] for group in report["groups"]):
        groups = [group for group in report["groups"] if group["kernel"] == kernel]
        simulated = [g for g in groups if g["dose"] not in (FULL, PAIRS)]
        if len(simulated) > 1:
            drawn += _save(folder, f"rmse-{slug(kernel)}", _rmse(simulated), f"{kernel}: RMSE over dose")
            drawn += _save(
                folder,
                f"bias-{slug(kernel)}",
                _bias(simulated),
                f"{kernel}: bias over dose, cut at +-{MOST_BIAS_HU:g} HU",
            )
        probed = [g for g in groups if g["curves"]]
        if not probed:
            continue
        drawn += _save(folder, f"nps-{slug(kernel)}", _noise(probed), f"{kernel}: noise power by frequency")
        for contrast in _keys(probed, "mtf50_change_percent"):
            name, told = f"mtf-{slug(kernel)}-{slug(contrast)}", f"{kernel}: MTF of an edge of {contrast}"
            drawn += _save(folder, name, _transfer(probed, contrast), told)
        drawn += _save(
            folder, f"detectability-{slug(kernel)}", _discs(probed), f"{kernel}: d' over disc size"
        )
    return drawn


def _rmse(groups: list[Any]) -> Figure:
    figure, axis = plt.subplots(figsize=(6.5, 4.4), layout="constrained")
    for style, name in _styles(groups):
        axis.plot(_doses(groups), [g["methods"][name]["rmse_hu"] for g in groups], label=name, **style)
    _over_dose(axis, groups, "RMSE, HU")
    axis.set_ylim(bottom=0)
    _name_lines(figure, axis)
    return figure


def _bias(groups: list[Any]) -> Figure:
    figure, axes = plt.subplots(1, len(TISSUES), figsize=(16, 3.9), sharey=True, layout="constrained")
    for axis, tissue in zip(axes, TISSUES, strict=True):
        axis.axhspan(-1, 1, color="0.92")
        for style, name in _styles(groups):
            values = [g["methods"][name]["bias_hu"].get(tissue) for g in groups]
            axis.plot(_doses(groups), [float("nan") if v is None else v for v in values], label=name, **style)
        _over_dose(axis, groups, "bias, HU (grey: 1 HU)" if tissue == TISSUES[0] else "")
        axis.set_title(tissue)
    axes[0].set_ylim(-MOST_BIAS_HU, MOST_BIAS_HU)
    _name_lines(figure, axes[0])
    return figure


def _noise(groups: list[Any]) -> Figure:
    def draw(axis: Axes, group: Any) -> None:
        for style, name in _styles([group]):
            if curve := group["curves"][name]["nps"]:
                at, density = curve["frequency_per_cm"][1:], curve["density_hu2_cm2"][1:]
                axis.plot(at, density, label=name, color=style["color"])
        # the shape counts as much as the height, and the best methods leave a hundredth of it
        axis.set(xlim=(0, None), yscale="log", xlabel="frequency, 1/cm")

    return _by_dose(groups, draw, "noise power, HU2 cm2")


def _transfer(groups: list[Any], contrast: str) -> Figure:
    def draw(axis: Axes, group: Any) -> None:
        axis.axhline(0.5, color="0.8", linewidth=0.8)
        for style, name in _styles([group]):
            if curve := group["curves"][name]["mtf"].get(contrast):
                axis.plot(curve["frequency_per_cm"], curve["modulation"], label=name, color=style["color"])
        axis.set(xlim=(0, HIGHEST_MTF_PER_CM), ylim=(0, 1.2), xlabel="frequency, lp/cm")

    return _by_dose(groups, draw, "modulation")


def _discs(groups: list[Any]) -> Figure:
    sizes = _keys(groups, "d_prime")

    def draw(axis: Axes, group: Any) -> None:
        for n, (style, name) in enumerate(_styles([group])):
            found = group["methods"][name]["d_prime"]
            known = [(at, found[size]) for at, size in enumerate(sizes) if size in found]
            values = [one["value"] for _, one in known]
            spans = [one["interval"] for _, one in known]
            error = [
                [max(v - s[0], 0.0) for v, s in zip(values, spans, strict=True)],
                [max(s[1] - v, 0.0) for v, s in zip(values, spans, strict=True)],
            ]
            at = [place + 0.07 * n for place, _ in known]
            axis.errorbar(at, values, yerr=error, label=name, capsize=2, linewidth=1, **style)
        axis.set_xticks(range(len(sizes)), [size.replace(", ", "\n") for size in sizes], fontsize=8)
        axis.set_ylim(bottom=0)

    return _by_dose(groups, draw, "d'")


def _by_dose(groups: list[Any], draw: Callable[[Axes, Any], None], label: str) -> Figure:
    figure, axes = plt.subplots(
        1, len(groups), figsize=(3.4 * len(groups) + 1.6, 3.7), layout="constrained", squeeze=False
    )
    for axis, group in zip(axes[0], groups, strict=True):
        draw(axis, group)
        axis.set_title(group["dose"])
    axes[0][0].set_ylabel(label)
    _name_lines(figure, axes[0][0])
    return figure


def _name_lines(figure: Figure, axis: Axes) -> None:
    """Beside the axes, where the legend hides nothing."""
    figure.legend(*axis.get_legend_handles_labels(), loc="outside right upper", fontsize=9)


def _over_dose(axis: Axes, groups: list[Any], label: str) -> None:
    axis.set_xscale("log")
    axis.set_xticks(_doses(groups), [f"{dose:g}" for dose in _doses(groups)], fontsize=8)
    axis.minorticks_off()
    axis.set_xlabel("dose, % of the original")
    axis.set_ylabel(label)


def _doses(groups: list[Any]) -> list[float]:
    return [float(group["dose"].split()[0]) for group in groups]


def _styles(groups: list[Any]) -> Iterator[tuple[dict[str, Any], str]]:
    for n, name in enumerate(groups[0]["methods"]):
        yield {"color": COLOURS[n % len(COLOURS)], "marker": MARKS[n % len(MARKS)], "markersize": 4}, name


def _keys(groups: list[Any], figure: str) -> list[str]:
    return list(
        dict.fromkeys(key for g in groups for m in g["methods"].values() for key in m.get(figure, {}))
    )


def _save(folder: Path, name: str, figure: Figure, caption: str) -> Drawn:
    figure.savefig(folder / f"{name}.png", dpi=110)
    plt.close(figure)
    return [(f"{name}.png", caption)]
