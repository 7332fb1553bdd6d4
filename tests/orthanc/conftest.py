"""Real Orthancs with the plugin, and a real node for them to talk to."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dicomnode.engines.catalog import load_engine
from dicomnode.engines.need.engine import NeedEngine
from dicomnode.node import Node
from dicomnode.settings import Caller, Settings
from tests.conftest import missing
from tests.journey.scene import MODELS, settings_for
from tests.orthanc.orthancs import PYTHON_PLUGIN, Orthanc

PLUGIN = {"Modality": "dicomnode", "RetrySeconds": 0.3, "LongestRetrySeconds": 1.0}
"""Settings of an impatient plugin that pushes."""


@pytest.fixture(scope="session")
def engine() -> NeedEngine:
    """The model that comes with the node."""
    return load_engine(MODELS, "need-small", "cpu", 1)


@pytest.fixture(scope="session")
def orthanc_program(program: Callable[[str], str]) -> str:
    """The path of Orthanc; the test is skipped where it or its Python plugin is not installed."""
    if not PYTHON_PLUGIN.exists():
        missing("orthanc-python is not installed (apt-get install orthanc orthanc-python)")
    return program("Orthanc")


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Queues are looked at more often than a hospital needs."""
    monkeypatch.setattr("dicomnode.journey.durable._POLL_SECONDS", 0.1)
    monkeypatch.setattr("dicomnode.node._TICK_SECONDS", 0.05)


def node_settings(folder: Path, port: int, *archives: Orthanc) -> Settings:
    """A node at `port` whose results go to all these Orthancs."""
    ports = [one.dicom_port for one in archives]
    settings = settings_for(folder, *ports, node={"port": port})
    peers = tuple(
        peer.model_copy(update={"ae_title": one.ae_title})
        for peer, one in zip(settings.destinations, archives, strict=True)
    )
    callers = tuple(Caller(ae_title=one.ae_title) for one in archives)
    return settings.model_copy(update={"destinations": peers, "callers": callers})


@pytest.fixture
def running_node(engine: NeedEngine) -> Iterator[Callable[[Settings], Node]]:
    """Start nodes; they are stopped at the end."""
    nodes: list[Node] = []

    def start(settings: Settings) -> Node:
        node = Node(settings, engine=engine)
        node.start()
        nodes.append(node)
        return node

    yield start
    for node in nodes:
        node.stop(1.0)
