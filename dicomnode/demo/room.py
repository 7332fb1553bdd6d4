"""Where the demonstration writes: it clears away what an earlier one made there, and nothing else."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from dicomnode.errors import DicomnodeError

LOW_DOSE: Final = "low-dose"
RETURNED: Final = "pacs"
REPORT: Final = "report.json"
PICTURE: Final = "before-after.png"
PAGE: Final = "orthanc-study.png"
MADE_HERE: Final = "made-by-dicomnode-demo.json"
"""Lists what the last run made. No list in it: that run was broken off, and began with an empty room."""


class NoRoom(DicomnodeError):
    """The output folder cannot be used."""


def check_room(out: Path, sources: Sequence[Path]) -> None:
    """NoRoom where `out` holds the series to scan, or anything in the way that no demonstration made."""
    if out.exists() and not out.is_dir():
        raise NoRoom(f"{out} is a file: choose another --output")
    for folder in (out / LOW_DOSE, out / RETURNED):
        if any(path.resolve().is_relative_to(folder.resolve()) for path in sources):
            raise NoRoom(f"{folder} holds the series to scan: choose another --output")
    foreign = sorted(set(_in_the_way(out)) - set(_made(out)))
    if foreign:
        raise NoRoom(
            f"{foreign[0]} is not from an earlier demonstration and is left alone: choose another --output"
        )


def make_room(out: Path) -> None:
    """Take away what an earlier run made."""
    for path in _made(out):
        path.unlink(missing_ok=True)
    for folder in (out / LOW_DOSE, out / RETURNED):
        folder.mkdir(parents=True, exist_ok=True)
    (out / MADE_HERE).write_text("{}\n")


def note_what_was_made(out: Path) -> None:
    """List the files of this run, so that the next one may replace them."""
    made = [str(path.relative_to(out)) for path in _in_the_way(out)]
    (out / MADE_HERE).write_text(json.dumps({"files": made}, indent=1) + "\n")


def _in_the_way(out: Path) -> list[Path]:
    """Every file in the two folders, and those beside them."""
    found = [out / REPORT, out / PICTURE, out / PAGE]
    for folder in (out / LOW_DOSE, out / RETURNED):
        found += sorted(folder.rglob("*"))
    return [path for path in found if path.is_file() or path.is_symlink()]


def _made(out: Path) -> list[Path]:
    """What an earlier run made, as far as it is still there."""
    marker = out / MADE_HERE
    if not marker.exists():
        return []
    there = _in_the_way(out)
    try:
        listed = json.loads(marker.read_text()).get("files")
    except (ValueError, AttributeError):
        return []
    if listed is None:  # broken off
        return there
    return [path for path in there if str(path.relative_to(out)) in listed]
