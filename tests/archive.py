"""An archive to ask: dcmtk's dcmqrscp, which answers C-FIND and C-GET."""

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dicomnode.errors import PeerUnreachable
from dicomnode.network.send import echo, send_files
from dicomnode.settings import Destination, Source
from tests.network.conftest import free_port

CONFIGURATION = """\
NetworkTCPPort = {port}
MaxPDUSize = 16384
MaxAssociations = 16
HostTable BEGIN
node = (NODE, localhost, 11112)
HostTable END
VendorTable BEGIN
VendorTable END
AETable BEGIN
ARCHIVE {folder} RW (200, 1024mb) ANY
AETable END
"""


@contextmanager
def running_archive(dcmqrscp: str, folder: Path) -> Iterator[Source]:
    """An empty archive; TCP_NODELAY, or every answer waits 40 ms."""
    kept, port = folder / "archive", free_port()
    kept.mkdir()
    configuration = folder / "dcmqrscp.cfg"
    configuration.write_text(CONFIGURATION.format(port=port, folder=kept))
    log_path = folder / "dcmqrscp.log"
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            [dcmqrscp, "-c", str(configuration)], stdout=log, stderr=log, env={"TCP_NODELAY": "1"}
        )
    try:
        await_answer(process, _destination(port), log_path)
        yield Source(name="archive", ae_title="ARCHIVE", host="127.0.0.1", port=port)
    finally:
        process.kill()
        process.wait()


def filled(archive: Source, paths: list[Path]) -> None:
    """Store files in an archive."""
    destination = _destination(archive.port).model_copy(update={"ae_title": archive.ae_title})
    delivery = send_files(paths, destination, "NODE", 1)
    assert len(delivery.sent) == len(paths)


def _destination(port: int) -> Destination:
    return Destination(name="archive", ae_title="ARCHIVE", host="127.0.0.1", port=port)


def await_answer(process: subprocess.Popen[bytes], archive: Destination, log_path: Path) -> None:
    """Wait until an archive that was started answers C-ECHO; fail with what it has logged."""
    deadline = time.monotonic() + 30
    while not _answers(archive):
        assert process.poll() is None, log_path.read_text()
        assert time.monotonic() < deadline, log_path.read_text()
        time.sleep(0.05)


def _answers(archive: Destination) -> bool:
    try:
        echo(archive, "NODE")
    except PeerUnreachable:
        return False
    return True
