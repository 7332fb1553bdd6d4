"""Statements of changed configurations, and the tables of a statement read back."""

import re
from pathlib import Path

from dicomnode.settings import Settings, load_settings

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / "configs" / "node.yaml"


def changed(**sections: object) -> Settings:
    """The shipped configuration with sections exchanged."""
    values = load_settings(CONFIG, {}).model_dump()
    return Settings.model_validate(values | sections)


def cells(line: str) -> list[str]:
    """The cells of a Markdown row; a pipe behind a backslash belongs to its cell."""
    return [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def rows_under(document: str, caption: str) -> list[list[str]]:
    """The rows of the one table with this caption."""
    [rest] = document.split(f"\n{caption}")[1:]
    lines = rest.split("\n\n")[1].splitlines()
    return [cells(line) for line in lines[2:]]
