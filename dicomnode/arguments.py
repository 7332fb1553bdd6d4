"""Values on a command line, checked before any work begins."""

import argparse
import math
import os
from pathlib import Path

from dicomnode.errors import TrainingError


def count(text: str) -> int:
    """A whole number of 1 or more."""
    if not text.isdecimal() or not 0 < int(text) < 2**31:
        raise argparse.ArgumentTypeError(f"{text}: give a whole number of 1 or more")
    return int(text)


def positive(text: str) -> float:
    """A number above 0, whole or not."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"{text}: give a positive number")
    return number


def check_json(file: Path | None) -> None:
    """TrainingError where --json could not be written once the work is done."""
    if file is None:
        return
    if file.is_dir():
        raise TrainingError(f"--json {file} is a folder: name a file in it")
    if not file.parent.is_dir():
        raise TrainingError(f"--json {file}: there is no folder {file.parent}: make it, or name another file")
    if not os.access(file if file.exists() else file.parent, os.W_OK):
        raise TrainingError(f"--json {file} may not be written: name another file")
