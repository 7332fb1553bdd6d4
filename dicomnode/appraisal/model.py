"""`dicomnode evaluate model`: every method, every dose, every figure, in one run."""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from dicomnode.appraisal import asked, guard, pictures, report, tables
from dicomnode.appraisal.groups import Group, Groups, Row
from dicomnode.appraisal.kept import kept_in, taken
from dicomnode.appraisal.methods import (
    Beside,
    Enhanced,
    FromRays,
    Method,
    check_names,
    load_beside,
    yardsticks,
)
from dicomnode.appraisal.scoring import Truth
from dicomnode.engines.catalog import load_engine
from dicomnode.engines.need.engine import NeedEngine

SLICES, INSERTS = 24, 6


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `dicomnode evaluate model`."""
    asked.add_model(parser)
    asked.add_cases(parser, SLICES, INSERTS, "slices that have edges, bars, dots and discs put in")
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
        "--results",
        type=Path,
        metavar="FOLDER",
        help="keep here what every method makes, gigabytes of patient images in all: broken off, the same "
        "command goes on; one more --beside costs only itself; remove it when done",
    )


def run(arguments: argparse.Namespace) -> int:
    """Evaluate, print, write what was asked for. Raises DicomnodeError with the reason where it cannot."""
    asked.check(arguments)
    if arguments.results:
        asked.make_folder("--results", arguments.results)
    console, began = Console(), time.monotonic()
    engine = load_engine(arguments.models, arguments.model, arguments.device)
    beside = [load_beside(folder, arguments.device) for folder in arguments.beside]
    methods = [*yardsticks(), Enhanced(engine), *beside]
    check_names(methods)
    ours = kept_in(arguments.results, [*methods, FromRays(engine)], engine.device)
    groups, opened = _measure(arguments, engine, ours, beside, console)
    earlier = taken(ours)
    told = report.build(groups, opened, beside, None if earlier else time.monotonic() - began)
    for group in told["groups"]:
        for table in tables.for_terminal(group):
            console.print(table)
    for line in (*guard.warnings(told["guard"]), *guard.compared(told["guard"])):
        console.print(line, highlight=False)
    if arguments.output:
        _write(told, groups, arguments.output)
        console.print(f"look at [bold]{arguments.output / report.MARKDOWN}[/]")
    if arguments.json:
        report.write_json(told, arguments.json)
    if earlier:
        console.print(f"{earlier} results were there from earlier runs: {arguments.results}")
    return 0


def _measure(
    arguments: argparse.Namespace,
    engine: NeedEngine,
    methods: Sequence[Method],
    beside: Sequence[Beside],
    console: Console,
) -> tuple[Groups, asked.Opened]:
    """Run `methods`; the last, raw mode, only where there are projections."""
    with asked.progress(console) as progress:
        bar = progress.add_task("looking at the series", total=None)
        opened = asked.open_all(arguments, engine, {one.name: one.seen for one in beside}, console)
        progress.update(bar, total=opened.runs * (len(methods) - 1) + opened.ray_runs * len(methods))
        groups: Groups = {}
        truth: Truth | None = None
        for case in opened.cases():
            progress.update(bar, description=f"{case.dose}, {case.kernel}")
            if truth is None or truth.case_reference is not case.reference:
                truth = Truth.of(case)
            key = case.dose, case.kernel
            # image mode and all others beside raw mode, on the slices of the same rays
            here = methods[:-1] if case.scan.rays is None else methods
            if key not in groups:
                groups[key] = Group(*key, {method.name: Row() for method in here})
            groups[key].add(case, truth, here, lambda done: progress.advance(bar, done))
    return groups, opened


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
