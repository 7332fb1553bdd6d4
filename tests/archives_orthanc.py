"""A real Orthanc to talk to, in a folder of its own."""

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dicomnode.settings import Destination, Source
from tests.archive import await_answer
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
        await_answer(process, archive, log_path)
        yield Source(name="archive", ae_title="ORTHANC", host="127.0.0.1", port=port)
    finally:
        process.terminate()
        process.wait()
