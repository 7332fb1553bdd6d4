"""A PACS and a model for the journeys."""

from collections.abc import Iterator

import pytest

from dicomnode.engines.catalog import load_engine
from dicomnode.engines.need.engine import NeedEngine
from tests.journey.scene import MODELS, Pacs


@pytest.fixture(scope="session")
def engine() -> NeedEngine:
    """The model that comes with the node."""
    return load_engine(MODELS, "need-small", "cpu", 1)


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
