"""What a measurement is asked to measure on: the arguments, and the series and pairs they name, opened."""

import argparse
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from dicomnode.appraisal import guard
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
from dicomnode.appraisal.pairs import check_folders, match_pairs, pairs_seen, tell_left_out
from dicomnode.arguments import check_json, count
from dicomnode.dicom.values import finite
from dicomnode.engines.catalog import SHIPPED, device_argument
from dicomnode.engines.need.engine import NeedEngine
from dicomnode.engines.seen import Seen
from dicomnode.errors import TrainingError

QUICK_SLICES, QUICK_INSERTS = 3, 2


def add_model(parser: argparse.ArgumentParser) -> None:
    """Which model, and on what."""
    parser.add_argument("--model", default="need-small")
    parser.add_argument("--models", type=Path, default=SHIPPED, help="folder of model folders")
    parser.add_argument("--device", type=device_argument, default="auto", help="auto, cpu or cuda")


def add_cases(parser: argparse.ArgumentParser, slices: int, inserts: int, put_in: str) -> None:
    """What it is measured on; `slices` and `inserts` unless told otherwise, `put_in` what the latter are."""
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
    parser.add_argument("--seen", action="store_true", help=guard.SEEN_HELP)
    parser.add_argument(
        "--slices", type=count, default=None, metavar="N", help=f"of each series (default: {slices})"
    )
    parser.add_argument(
        "--inserts", type=count, default=None, metavar="N", help=f"{put_in} (default: {inserts})"
    )
    parser.add_argument(
        "--doses", type=_share, nargs="+", default=list(DOSES), metavar="SHARE", help="default: %(default)s"
    )
    parser.add_argument(
        "--quick", action="store_true", help=f"{QUICK_SLICES} slices, {QUICK_INSERTS} of the others"
    )
    parser.add_argument("--seed", type=count, default=1, help="default: %(default)s")
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="write tables and pictures here")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here too")
    parser.set_defaults(slices_unless_told=slices, inserts_unless_told=inserts)


def check(arguments: argparse.Namespace) -> None:
    """Fill in how many slices, make the folder of --output; TrainingError for what cannot be asked."""
    if not arguments.series and not arguments.pairs:
        raise TrainingError("nothing to measure on: give --series DIR, --pairs LOW FULL, or both")
    if arguments.output and arguments.output.exists() and not arguments.output.is_dir():
        raise TrainingError(f"--output {arguments.output} is a file: choose a folder")
    if arguments.pairs:
        check_folders(*arguments.pairs)
    if arguments.output:
        make_folder("--output", arguments.output)
    check_json(arguments.json)  # it may lie in the folder of --output
    quick = arguments.quick
    arguments.slices = arguments.slices or (QUICK_SLICES if quick else arguments.slices_unless_told)
    arguments.inserts = arguments.inserts or (QUICK_INSERTS if quick else arguments.inserts_unless_told)


def make_folder(option: str, folder: Path) -> None:
    """TrainingError where the folder of an option cannot be made, or nothing may be written into it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TrainingError(
            f"{option} {folder} cannot be made ({error.strerror}): choose a folder"
        ) from error
    if not os.access(folder, os.W_OK):
        raise TrainingError(f"{option} {folder} may not be written into: choose another folder")


@dataclass(frozen=True, eq=False)
class Opened:
    """What was asked for, on disk no longer: nothing of it was trained on, or `guard` tells."""

    arguments: argparse.Namespace
    engine: NeedEngine
    series: list[OpenedSeries]
    pairs: list[Case]
    guard: guard.Guard

    def cases(self) -> Iterator[Case]:
        """All cases; those of one block share their reference and come together."""
        doses, seed = self.arguments.doses, self.arguments.seed
        for test in self.series:
            yield from simulated_cases(test, self.engine, doses, seed)
            yield from ray_cases(test, self.engine, doses, seed)
        yield from self.pairs

    @property
    def runs(self) -> int:
        """How many slices a method works on, projections aside."""
        simulated = sum(count_runs(test, self.arguments.doses) for test in self.series)
        return simulated + sum(case.runs for case in self.pairs)

    @property
    def ray_runs(self) -> int:
        """How many slices come as projections."""
        slices = sum(test.slices for test in self.series)
        return slices * (len(self.arguments.doses) + 1) if self.engine.card.raw else 0


def open_all(
    arguments: argparse.Namespace, engine: NeedEngine, beside: Mapping[str, Seen | None], console: Console
) -> Opened:
    """Open what was asked for; tell which slices of the pairs are left out.

    `beside`: what methods beside the engine were trained on, by their names.

    :raises AlreadySeen: one of these was trained on it, and --seen was not given.
    """
    slices, inserts, seed = arguments.slices, arguments.inserts, arguments.seed
    series = [open_series(folder, engine, slices, inserts, seed) for folder in arguments.series]
    matched = match_pairs(*arguments.pairs) if arguments.pairs else None
    pairs = matched.pairs if matched else []
    judged = [guard.of_series(f, one.series) for f, one in zip(arguments.series, series, strict=True)]
    if matched:
        tell_left_out(matched, console)
        judged += pairs_seen(pairs, *arguments.pairs)
    checked = guard.check(judged, {engine.card.id: engine.card.seen, **beside}, arguments.seen)
    return Opened(arguments, engine, series, pair_cases(pairs, engine, inserts, seed), checked)


def command(what: str, arguments: argparse.Namespace) -> list[str]:
    """What to type to have this again; of folders their names, wherever they lie."""
    words = ["dicomnode evaluate", what, "--model", arguments.model]
    if arguments.models != SHIPPED:
        words += ["--models", arguments.models.name]
    for folder in arguments.series:
        words += ["--series", folder.name]
    if arguments.pairs:
        words += ["--pairs", *(folder.name for folder in arguments.pairs)]
    words += ["--seen"] * arguments.seen
    words += ["--doses", *(f"{dose:g}" for dose in arguments.doses)]
    words += ["--slices", f"{arguments.slices}", "--inserts", f"{arguments.inserts}"]
    return [*words, "--seed", f"{arguments.seed}"]


def progress(console: Console) -> Progress:
    """A bar over slices."""
    columns = (TextColumn("{task.description:<24}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=console)


def _share(text: str) -> float:
    value = finite(text)
    if value is None or not 0.01 <= value <= 0.95:
        raise argparse.ArgumentTypeError(f"{text}: a dose is a share of the original between 0.01 and 0.95")
    return value
