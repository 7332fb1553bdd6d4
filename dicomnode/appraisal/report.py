"""evaluation.json: every figure, and what it was measured with."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from dicomnode import __version__
from dicomnode.appraisal import probing
from dicomnode.appraisal.asked import Opened, command
from dicomnode.appraisal.cases import FULL, PAIRS, OpenedSeries
from dicomnode.appraisal.groups import Group
from dicomnode.appraisal.methods import Beside
from dicomnode.evaluation.shared_noise import SharedNoise, all_together

JSON, MARKDOWN = "evaluation.json", "evaluation.md"

LEFT_OUT = {
    "bm3d": "the package on PyPI is a binary for non-commercial use only, which this project cannot ask for"
}

Report = dict[str, Any]


def build(
    groups: Mapping[tuple[str, str], Group], opened: Opened, beside: Sequence[Beside], seconds: float | None
) -> Report:
    """Everything measured, in JSON's own types; None for what could not be measured.

    `seconds`: None where earlier runs did a part of it.
    """
    words = command("model", opened.arguments)
    if opened.arguments.beside:
        words += ["--beside", *(folder.name for folder in opened.arguments.beside)]
    return plain(
        {
            **head(opened, words, seconds),
            "beside": {one.name: one.told for one in beside},
            "left_out": LEFT_OUT,
            "groups": [group_report(group) for group in _ordered(groups.values())],
        }
    )


def head(opened: Opened, words: Sequence[str], seconds: float | None) -> Report:
    """What was measured, with what, on what; `words` are the command."""
    card = opened.engine.card
    return {
        "dicomnode": __version__,
        "model": {"id": card.id, "version": card.version, "weights_sha256": card.weights_digest},
        "trained_on": list(card.trained_on),
        "guard": opened.guard.report,
        "command": " ".join(words),
        "series": [_series(test) for test in opened.series],
        "seed": opened.arguments.seed,
        "seconds": None if seconds is None else round(seconds),
    }


def write_json(report: Report, path: Path) -> None:
    """Write the report."""
    path.write_text(json.dumps(report, indent=1, allow_nan=False) + "\n")


def _series(test: OpenedSeries) -> Report:
    series = test.series
    return {
        "kernel": series.convolution_kernel,
        "scanner": f"{series.manufacturer} {series.model}".strip(),
        "slices": series.slices,
        "judged": [[block.start, block.stop] for block in test.blocks],
        "put_into": [plan.at for plan in test.plans],
        "pixel_mm": series.pixel_spacing_mm[0],
        "spacing_mm": series.slice_spacing_mm,
    }


def group_report(group: Group) -> Report:
    """One dose and kernel: what was told of its slices, and the figures of every method."""
    unchanged = group.rows["input"].probed
    found = {name: probing.find(row.probed, unchanged) for name, row in group.rows.items()}
    if not group.probed_slices:
        found = {}
    return {
        "dose": group.dose,
        "kernel": group.kernel,
        "slices": group.slices,
        "slices_with_inserts": group.probed_slices,
        "start_steps": group.told_steps,
        "fraction": median(group.fractions),
        "methods": {
            name: {**row.scored.figures(), **(found[name].figures if found else {})}
            for name, row in group.rows.items()
        },
        "curves": {name: one.curves for name, one in found.items()},
        "shared_noise": _shared(group.shared),
    }


def _shared(found: Sequence[SharedNoise]) -> Report | None:
    if (known := all_together(found)) is None:
        return None
    return {
        "share": known.share,
        "added": known.added,
        "least_rmse_share": known.least_rmse_share,
        "squares": known.squares,
    }


def _ordered(groups: Iterable[Group]) -> list[Group]:
    """By kernel; full dose first, then falling, real pairs last."""

    def place(group: Group) -> tuple[str, int, float]:
        special = {FULL: 0, PAIRS: 2}.get(group.dose, 1)
        return group.kernel, special, -float(group.dose.split()[0]) if special == 1 else 0.0

    return sorted(groups, key=place)


def plain(report: Mapping[str, Any]) -> Report:
    """Numbers that JSON does not know become None, numpy's become Python's; rounded to six digits."""
    return {str(key): _plain(one) for key, one in report.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return plain(value)
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, bool | str | int) or value is None:
        return value
    number = float(value)
    return float(f"{number:.6g}") if math.isfinite(number) else None
