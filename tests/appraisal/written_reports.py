"""What `evaluate` writes, read as strict JSON."""

import json
from pathlib import Path
from typing import Any, NoReturn

Report = dict[str, Any]


def no_constant(name: str) -> NoReturn:
    raise AssertionError(f"JSON knows no {name}")


def strict(path: Path) -> Report:
    report: Report = json.loads(path.read_text(), parse_constant=no_constant)
    return report
