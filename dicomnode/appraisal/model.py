"""`dicomnode evaluate model`: every method, every dose, every figure, in one run."""

import argparse
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from dicomnode.appraisal import pictures, report, tables
from dicomnode.appraisal.cases import (
    DOSES,
    Case,
    OpenedSeries,
    count_runs,
    open_series,
    pair_cases,
    ray_cases,
    simulated_cases,
)
from dicomnode.appraisal.groups import Group, Groups, Row
from dicomnode.appraisal.methods import Enhanced, FromRays, Method, check_names, load_beside, yardsticks
from dicomnode.appraisal.scoring import Truth
from dicomnode.dicom.values import finite
from dicomnode.engines.catalog import SHIPPED, device_argument, load_engine
from dicomnode.engines.need.engine import NeedEngine
from dicomnode.errors import TrainingError

SLICES, INSERTS = 24, 6
QUICK_SLICES, QUICK_INSERTS = 3, 2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `dicomnode evaluate model`."""
    parser.add_argument("--model", default="need-small")
    parser.add_argument("--models", type=Path, default=SHIPPED, help="folder of model folders")
    parser.add_argument("--device", type=device_argument, default="auto", help="auto, cpu or cuda")
    parser.add_argument(
        "--series",
        type=Path,
        action="append",
        default=[],
        metavar="DIR",
        help="folder with a normal-dose CT series that nothing was trained on; again for more",
    )
    parser.add_argument(
        "--pairs", type=Path, nargs=2, metavar=("LOW", "FULL"), help="folders of real pairs; may be the same"
    )
    parser.add_argument(
        "--slices", type=_count, default=None, metavar="N", help=f"of each series (default: {SLICES})"
    )
    parser.add_argument(
        "--inserts",
        type=_count,
        default=None,
        metavar="N",
        help=f"slices that have edges, bars, dots and discs put in (default: {INSERTS})",
    )
    parser.add_argument(
        "--doses", type=_share, nargs="+", default=list(DOSES), metavar="SHARE", help="default: %(default)s"
    )
    parser.add_argument(
        "--beside",
        type=Path,
        nargs="+",
        action="extend",
        default=[],
        metavar="FOLDER",
        help="trained baselines",
    )
    parser.add_argument(
        "--quick", action="store_true", help=f"{QUICK_SLICES} slices, {QUICK_INSERTS} with things put in"
    )
    parser.add_argument("--seed", type=_count, default=1, help="default: %(default)s")
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="write tables and pictures here")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here too")


def run(arguments: argparse.Namespace) -> int:
    """Evaluate, print, write what was asked for. Raises DicomnodeError with the reason where it cannot."""
    if not arguments.series and not arguments.pairs:
        raise TrainingError("nothing to measure on: give --series DIR, --pairs LOW FULL, or both")
    if arguments.output and arguments.output.exists() and not arguments.output.is_dir():
        raise TrainingError(f"--output {arguments.output} is a file: choose a folder")
    arguments.slices = arguments.slices or (QUICK_SLICES if arguments.quick else SLICES)
    arguments.inserts = arguments.inserts or (QUICK_INSERTS if arguments.quick else INSERTS)
    console, began = Console(), time.monotonic()
    engine = load_engine(arguments.models, arguments.model, arguments.device)
    beside = [load_beside(folder, arguments.device) for folder in arguments.beside]
    methods = [*yardsticks(), Enhanced(engine), *beside]
    check_names(methods)
    groups, opened = _measure(arguments, engine, methods, console)
    told = report.build(groups, engine.card, opened, beside, arguments, time.monotonic() - began)
    for group in told["groups"]:
        for table in tables.for_terminal(group):
            console.print(table)
    if arguments.json:
        report.write_json(told, arguments.json)
    if arguments.output:
        _write(told, groups, arguments.output)
        console.print(f"look at [bold]{arguments.output / report.MARKDOWN}[/]")
    return 0


def _measure(
    arguments: argparse.Namespace, engine: NeedEngine, methods: Sequence[Method], console: Console
) -> tuple[Groups, list[OpenedSeries]]:
    slices, inserts = arguments.slices, arguments.inserts
    with _progress(console) as progress:
        bar = progress.add_task("looking at the series", total=None)
        opened = [open_series(f, engine, slices, inserts, arguments.seed) for f in arguments.series]
        pairs = _pairs(arguments, engine, inserts)
        runs = sum(count_runs(test, arguments.doses) for test in opened) + sum(case.runs for case in pairs)
        rays = sum(test.slices for test in opened) * (len(arguments.doses) + 1) if engine.card.raw else 0
        progress.update(bar, total=runs * len(methods) + rays * (len(methods) + 1))
        groups: Groups = {}
        truth: Truth | None = None
        for case in _all_cases(opened, pairs, engine, arguments):
            progress.update(bar, description=f"{case.dose}, {case.kernel}")
            if truth is None or truth.case_reference is not case.reference:
                truth = Truth.of(case)
            key = case.dose, case.kernel
            # image mode and all others beside raw mode, on the slices of the same rays
            here = methods if case.scan.rays is None else [*methods, FromRays(engine)]
            if key not in groups:
                groups[key] = Group(*key, {method.name: Row() for method in here})
            groups[key].add(case, truth, here, lambda done: _advance(progress, bar, done))
    return groups, opened


def _all_cases(
    opened: Sequence[OpenedSeries], pairs: Sequence[Case], engine: NeedEngine, arguments: argparse.Namespace
) -> Iterator[Case]:
    for test in opened:
        yield from simulated_cases(test, engine, arguments.doses, arguments.seed)
        yield from ray_cases(test, engine, arguments.doses, arguments.seed)
    yield from pairs


def _pairs(arguments: argparse.Namespace, engine: NeedEngine, inserts: int) -> list[Case]:
    if not arguments.pairs:
        return []
    low, full = arguments.pairs
    return pair_cases(low, full, engine, inserts, arguments.seed)


def _advance(progress: Progress, bar: TaskID, slices: int) -> None:
    progress.advance(bar, slices)


def _write(told: dict[str, Any], groups: Groups, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    report.write_json(told, folder / report.JSON)
    drawn = pictures.draw_all(told, folder)
    drawn += [
        (name, caption)
        for group in groups.values()
        if group.panel
        for name, caption in [group.panel.draw(folder, group.dose, group.kernel)]
    ]
    (folder / report.MARKDOWN).write_text(tables.markdown(told, drawn))


def _progress(console: Console) -> Progress:
    columns = (TextColumn("{task.description:<24}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=console)


def _count(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) < 2**31:
        raise argparse.ArgumentTypeError(f"{text}: give a whole number of 1 or more")
    return int(text)


def _share(text: str) -> float:
    value = finite(text)
    if value is None or not 0.01 <= value <= 0.95:
        raise argparse.ArgumentTypeError(f"{text}: a dose is a share of the original between 0.01 and 0.95")
    return value
