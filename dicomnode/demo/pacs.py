"""The PACS of the demonstration: the embedded one, or a real Orthanc with the plugin."""

import socket
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from dicomnode.demo.archive import Archive
from dicomnode.errors import DicomnodeError
from dicomnode.settings import Destination

SENDER, NODE = "SCANNER", "DICOMNODE"


class DemoFailed(DicomnodeError):
    """The journey did not end with an enhanced series in the archive."""


class Pacs(Protocol):
    """Where results come back to, and by which way a scan gets to the node."""

    ae_title: str
    callers: tuple[str, ...]
    """AE titles that send to the node."""
    web_port: int | None
    """Where the node has to answer HTTP for it, or None."""

    @property
    def port(self) -> int:
        """The DICOM port that results are sent to."""

    def open(self, node_port: int) -> None:
        """Be ready for a scan, with a node on this port."""

    def entrance(self, node_port: int) -> Destination:
        """Where the scanner sends to."""

    def settle(self) -> None:
        """Wait until it shows the end of the journey, with the node still there to be asked."""

    def returned(self) -> list[Path]:
        """What is there now besides the scan, as files."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class EmbeddedPacs(Archive):
    """An archive in this process; the scanner sends straight to the node."""

    callers: tuple[str, ...] = (SENDER,)
    web_port: int | None = None

    def open(self, node_port: int) -> None:
        """Listens since it was made."""

    def entrance(self, node_port: int) -> Destination:
        """The node."""
        return Destination(name="node", ae_title=NODE, host="127.0.0.1", port=node_port, associations=2)

    def settle(self) -> None:
        """Shows nothing."""

    def returned(self) -> list[Path]:
        """Everything it was sent: only the node sends to it."""
        return self.files


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def port_if_free(wanted: int) -> int:
    """The port, or 0 (any) where somebody listens on it already."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", wanted))
        except OSError:
            return 0
    return wanted
