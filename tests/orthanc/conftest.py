"""Real Orthancs with the plugin, and a real node for them to talk to."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from dicomnode.engines.catalog import load_engine
from dicomnode.engines.need.engine import NeedEngine
from dicomnode.node import Node
from dicomnode.settings import Settings
from tests.conftest import missing
from tests.journey.scene import MODELS, settings_for
from tests.orthanc.orthancs import PYTHON_PLUGIN, Orthanc

PLUGIN = {"Modality": "dicomnode", "RetrySeconds": 0.3, "LongestRetrySeconds": 1.0}
"""Settings of an impatient plugin that pushes."""

TOKEN = "a-very-secret-token"
"""Of the node's HTTP."""


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
    monkeypatch.setattr("dicomnode.journey.pulling.FIRST_PAUSE_SECONDS", 0.2)
    monkeypatch.setattr("dicomnode.journey.pulling.LONGEST_PAUSE_SECONDS", 1.0)
    monkeypatch.setattr("dicomnode.web.interface.LATER_SECONDS", 1)


def source_name(orthanc: Orthanc) -> str:
    """The name of an Orthanc in the node's `web_sources`."""
    return orthanc.ae_title.lower()


def node_settings(
    folder: Path, port: int, *archives: Orthanc, web_port: int | None = None, reserve_gib: float = 0.0
) -> Settings:
    """A node at `port` for these Orthancs: each gets the results of what it has sent or is fetched from it.

    With `web_port` it answers HTTP there, to whoever has TOKEN, and may fetch from each of them.
    """
    web: dict[str, Any] = {}
    if web_port is not None:
        web = {"web": {"port": web_port, "token": TOKEN}, "web_sources": _web(archives)}
    settings = settings_for(
        folder,
        *(one.dicom_port for one in archives),
        node={"port": port, "reserve_gib": reserve_gib},
        callers=[{"ae_title": one.ae_title} for one in archives],
        **web,
    )
    peers = tuple(
        peer.model_copy(update={"ae_title": one.ae_title, "callers": (one.ae_title,)})
        for peer, one in zip(settings.destinations, archives, strict=True)
    )
    return settings.model_copy(update={"destinations": peers})


def _web(archives: Sequence[Orthanc]) -> list[dict[str, str]]:
    return [
        {"name": source_name(one), "ae_title": one.ae_title, "kind": "orthanc", "url": one.url}
        for one in archives
    ]


def following(web_port: int, **more: object) -> dict[str, object]:
    """Settings of an impatient plugin that pushes and asks the node over HTTP how far it is."""
    return {**PLUGIN, "Url": f"http://127.0.0.1:{web_port}", "Token": TOKEN, **more}


def pulling(web_port: int, orthanc: Orthanc, **more: object) -> dict[str, object]:
    """Settings of an impatient plugin that lets the node fetch."""
    section = following(web_port, **{"Mode": "pull", "Source": source_name(orthanc), **more})
    return {key: value for key, value in section.items() if key != "Modality"}


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
