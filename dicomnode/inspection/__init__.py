"""`dicomnode inspect`: what the node would make of the series in a folder, and why, without making it."""

import argparse
import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.progress import track

from dicomnode.dose_reference import DoseReference
from dicomnode.engines.catalog import SHIPPED, load_engine
from dicomnode.errors import DicomnodeError
from dicomnode.inspection.finding import Finding, Judge, look
from dicomnode.inspection.folder import Folder, dose_reports, gather, is_missing, legible, named_as_text
from dicomnode.inspection.table import plain, table
from dicomnode.network.protocol import hush_pynetdicom
from dicomnode.settings import Dose, EngineSettings, load_settings

__all__ = ["add_arguments", "run"]

DEFAULT_CONFIG: Final = Path("configs/node.yaml")


class NothingToInspect(DicomnodeError):
    """There is no DICOM file where one was named."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `dicomnode inspect`."""
    parser.add_argument("path", nargs="+", type=Path, metavar="DIR", help="folders or files, searched deeply")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument(
        "--config",
        type=Path,
        default=None,
        help=f"whose normal doses and model count (default: {DEFAULT_CONFIG} if it is there)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Inspect and print. Progress goes to standard error, so that standard output is only the answer."""
    hush_pynetdicom()
    console = Console(stderr=True)
    judge, told = _judge(arguments.config)
    lost = [named_as_text(str(path)) for path in arguments.path if is_missing(path)]
    if lost:
        raise NothingToInspect(plain(f"there is no file or folder {', '.join(lost)}"))
    folder = gather(arguments.path, lambda files: track(files, "headers", console=console, transient=True))
    judge = judge.believing(dose_reports(folder.dose_reports))
    stacks = folder.stacks(lambda series: track(series, "series", console=console, transient=True))
    found = [look(stack, judge) for stack in stacks]
    if arguments.json:
        print(encoded(found, folder, told))
    elif found:
        _print(found, folder, told)
    if not found:
        raise NothingToInspect(plain(_nothing_told(arguments.path, folder)))
    return 0


def _judge(config: Path | None) -> tuple[Judge, dict[str, str | None]]:
    """The node whose verdicts these are, and what they follow from in words."""
    path = config or (DEFAULT_CONFIG if DEFAULT_CONFIG.exists() else None)
    settings = load_settings(path) if path else None
    dose = settings.dose if settings else Dose(reference=DoseReference())
    asked = settings.engine if settings else EngineSettings(models_folder=SHIPPED)
    engine = load_engine(asked.models_folder, asked.model, "cpu")
    told = {
        "configuration": str(path) if path else None,
        "model": f"{engine.card.id} {engine.card.version}",
        "weights_digest": engine.weights_digest,
        "dose_reference": dose.reference.version,
        "without_dose": dose.without_dose,
    }
    return Judge(dose, engine, {}), told


def encoded(found: Sequence[Finding], folder: Folder, told: dict[str, str | None]) -> str:
    """The answer for programs: every series has every name, null where a number is unknown or not finite."""
    values = {
        "series": [asdict(one) for one in found],
        "other_files": folder.others,
        "copies": folder.copies,
        "unreadable_folders": list(folder.unreadable),
        "judged_by": told,
    }
    return json.dumps(_tellable(values), indent=1, allow_nan=False)


def _tellable(value: object) -> object:
    if isinstance(value, dict):
        return {name: _tellable(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_tellable(one) for one in value]
    if isinstance(value, str):  # strict readers of JSON refuse what is no text
        return legible(value).encode("utf-8", "replace").decode()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _print(found: Sequence[Finding], folder: Folder, told: dict[str, str | None]) -> None:
    console = Console(markup=False, highlight=False)
    console.print(table(found))
    config = told["configuration"] or "no configuration, its defaults"
    judged_by = f"judged by {told['model']}, normal doses {told['dose_reference']}, configuration: {config}"
    console.print(plain(judged_by), overflow="fold")
    for line in folder.remarks():
        console.print(plain(line), soft_wrap=True)  # a name of a file is to be copied in one piece


def _nothing_told(paths: Sequence[Path], folder: Folder) -> str:
    names = ", ".join(named_as_text(str(path)) for path in paths)
    said = "; ".join((f"no DICOM files in {names}", *folder.remarks()))
    return f"{said} (archives have to be unpacked first)" if folder.others else said
