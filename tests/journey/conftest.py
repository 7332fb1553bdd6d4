"""A PACS and a model for the journeys."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from dicomnode.engines.catalog import load_engine
from dicomnode.engines.need.engine import NeedEngine
from tests.journey.scene import MODELS, Pacs


@pytest.fixture(scope="session")
def engine() -> NeedEngine:
    """The model that comes with the node."""
    return load_engine(MODELS, "need-small", "cpu", 1)


@pytest.fixture(scope="session")
def image_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the model that comes with the node, as it would be without its raw mode."""
    folder = tmp_path_factory.mktemp("models") / "need-small"
    shutil.copytree(MODELS / "need-small", folder)
    card = yaml.safe_load((folder / "card.yaml").read_text())
    del card["raw"]
    (folder / "card.yaml").write_text(yaml.safe_dump(card))
    return folder.parent


@pytest.fixture(scope="session")
def image_engine(image_models: Path) -> NeedEngine:
    """A model without a raw mode."""
    return load_engine(image_models, "need-small", "cpu", 1)


@pytest.fixture
def pacs() -> Iterator[Pacs]:
    """A PACS that takes everything."""
    with Pacs() as server:
        yield server


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Queues are looked at more often than a hospital needs."""
    monkeypatch.setattr("dicomnode.journey.durable._POLL_SECONDS", 0.1)
    monkeypatch.setattr("dicomnode.node._TICK_SECONDS", 0.05)
