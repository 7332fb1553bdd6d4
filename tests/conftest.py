"""Fixtures that every part of the suite shares."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest
from hypothesis import settings

from dicomnode.__main__ import main
from tests.makers import make_series

settings.register_profile("shared machine", deadline=None)
settings.load_profile("shared machine")

SHARED_DATA = Path(__file__).resolve().parents[1] / ".." / "shared" / "data"


def missing(what: str) -> NoReturn:
    """Skip for want of a peer, or fail where peers are required (PEERS_REQUIRED=1)."""
    if os.environ.get("PEERS_REQUIRED"):
        pytest.fail(what)
    pytest.skip(what)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real CT data that lies beside the repository; the test is skipped without it."""
    if not SHARED_DATA.is_dir():
        pytest.skip("the real CT data (../shared/data) is not beside this clone")
    return SHARED_DATA.resolve()


@pytest.fixture
def ct_series(tmp_path: Path) -> list[Path]:
    """Six slices of a small CT series on disk."""
    return make_series(tmp_path / "series")


@pytest.fixture
def inspect(capsys: pytest.CaptureFixture[str]) -> Callable[..., dict]:
    """What `dicomnode inspect` answers to programs."""

    def ask(*paths: Path) -> dict:
        assert main(["inspect", "--json", *map(str, paths)]) == 0
        return json.loads(capsys.readouterr().out)

    return ask


@pytest.fixture(scope="session")
def dciodvfy() -> str:
    """The path of the DICOM object checker; the test is skipped where dicom3tools is not installed."""
    return _program("dciodvfy")


@pytest.fixture(scope="session")
def program() -> Callable[[str], str]:
    """Find a program by name, or skip the test."""
    return _program


def _program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        missing(f"{name} is not installed (apt-get install dicom3tools dcmtk)")
    return found
