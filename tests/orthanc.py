"""A real Orthanc to talk to, in a folder of its own."""

import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dicomnode.errors import PeerUnreachable
from dicomnode.network.send import echo
from dicomnode.settings import Destination, Source
from tests.network.conftest import free_port


@contextmanager
def running_orthanc(program: str, folder: Path) -> Iterator[Source]:
    """An empty Orthanc that answers C-ECHO, C-STORE, C-FIND and C-GET to anybody."""
    port = free_port()
    configuration, log_path = folder / "orthanc.json", folder / "orthanc.log"
    configuration.write_text(
        json.dumps(
            {
                "Name": "archive",
                "StorageDirectory": str(folder / "orthanc"),
                "DicomAet": "ORTHANC",
                "DicomPort": port,
                "HttpServerEnabled": False,
                "DicomAlwaysAllowFind": True,
                "DicomAlwaysAllowGet": True,
                "Plugins": [],
            }
        )
    )
    with log_path.open("wb") as log:
        process = subprocess.Popen([program, str(configuration)], stdout=log, stderr=log)
    try:
        archive = Destination(name="archive", ae_title="ORTHANC", host="127.0.0.1", port=port)
        deadline = time.monotonic() + 30
        while not _answers(archive):
            assert process.poll() is None, log_path.read_text()
            assert time.monotonic() < deadline, log_path.read_text()
            time.sleep(0.1)
        yield Source(name="archive", ae_title="ORTHANC", host="127.0.0.1", port=port)
    finally:
        process.terminate()
        process.wait()


def _answers(archive: Destination) -> bool:
    try:
        echo(archive, "NODE")
    except PeerUnreachable:
        return False
    return True
