"""A real Orthanc to talk to, in a folder of its own."""

import json
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx

from dicomnode.settings import Destination, Source, WebSource
from tests.archive import await_answer
from tests.network.conftest import free_port

DICOM_WEB = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
USER, PASSWORD = "node", "open sesame"


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


class WebOrthanc:
    """An Orthanc that is spoken to over HTTP, with a password; may be stopped and started again."""

    def __init__(self, program: str, folder: Path, name: str = "orthanc-a") -> None:
        self.name = name
        self.port = free_port()
        self._program = program
        self._folder = folder / name
        self._folder.mkdir()
        self._process: subprocess.Popen[bytes] | None = None
        self._configuration = self._folder / "orthanc.json"
        self._configuration.write_text(
            json.dumps(
                {
                    "Name": name,
                    "StorageDirectory": str(self._folder / "storage"),
                    "DicomServerEnabled": False,
                    "HttpPort": self.port,
                    "AuthenticationEnabled": True,
                    "RegisteredUsers": {USER: PASSWORD},
                    "Plugins": [str(DICOM_WEB)],
                    "DicomWeb": {"Enable": True},
                }
            )
        )
        self.client = httpx.Client(
            base_url=f"http://127.0.0.1:{self.port}", auth=(USER, PASSWORD), trust_env=False, timeout=30
        )

    def start(self) -> "WebOrthanc":
        with (self._folder / "orthanc.log").open("ab") as log:
            command = [self._program, str(self._configuration)]
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        deadline = time.monotonic() + 30
        while not self._answers():
            told = (self._folder / "orthanc.log").read_text()
            assert self._process.poll() is None, told
            assert time.monotonic() < deadline, told
            time.sleep(0.05)
        return self

    def _answers(self) -> bool:
        try:
            return self.client.get("/system").status_code == 200
        except httpx.TransportError:
            return False

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def store(self, paths: Sequence[Path]) -> None:
        for path in paths:
            self.client.post("/instances", content=path.read_bytes()).raise_for_status()

    def source(self, kind: str, **changes: object) -> WebSource:
        """How a node is told of it; `kind` orthanc or dicomweb."""
        url = f"http://127.0.0.1:{self.port}" + ("/dicom-web" if kind == "dicomweb" else "")
        values: dict[str, object] = {
            "name": self.name,
            "ae_title": self.name.upper(),
            "kind": kind,
            "url": url,
            "username": USER,
            "password": PASSWORD,
            "timeout_seconds": 10,
        }
        return WebSource.model_validate(values | changes)

    def __enter__(self) -> "WebOrthanc":
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.kill()
        self.client.close()
