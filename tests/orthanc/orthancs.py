"""A real Orthanc process with or without the plugin, that can be killed and started again."""

import json
import os
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.journey.scene import free_port, wait_until

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "orthanc-plugin" / "python" / "dicomnode_orthanc.py"
LUA = ROOT / "orthanc-plugin" / "lua" / "dicomnode.lua"
PLUGINS = Path("/usr/share/orthanc/plugins")
PYTHON_PLUGIN = PLUGINS / "libOrthancPython.so"

_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))

NOT_STARTED = {"on": False, "error": "Orthanc has not started yet"}
"""What the plugin's status says for the first moment."""


class Orthanc:
    """One Orthanc in a folder of its own; the folder outlives the process, as on a server."""

    def __init__(
        self,
        program: str,
        folder: Path,
        ae_title: str = "ORTHANC",
        plugin: dict[str, Any] | None = None,
        node_port: int = 0,
        **options: Any,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._program, self._folder = program, folder
        self.ae_title, self.http_port, self.dicom_port = ae_title, free_port(), free_port()
        self.configuration: dict[str, Any] = {
            "Name": ae_title,
            "StorageDirectory": str(folder / "storage"),
            "DicomAet": ae_title,
            "DicomPort": self.dicom_port,
            "HttpPort": self.http_port,
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False,
            "DicomAlwaysAllowStore": True,
            "StableAge": 1,
            "OverwriteInstances": False,
            "DicomScuTimeout": 5,
            "DicomModalities": {"dicomnode": ["DICOMNODE", "127.0.0.1", node_port or 1]},
            "Plugins": [],
            **options,
        }
        if plugin is not None:
            self.configuration.update(
                {"Plugins": [str(PYTHON_PLUGIN)], "PythonScript": str(SCRIPT), "DicomNode": plugin}
            )
        self.started_with: Path | None = None
        """A folder of configuration instead of the file that is written here."""
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http_port}"

    def log(self) -> str:
        """What it has logged so far."""
        return (self._folder / "orthanc.log").read_text(errors="replace")

    def start(self) -> "Orthanc":
        path = self._folder / "orthanc.json"
        path.write_text(json.dumps(self.configuration))
        with (self._folder / "orthanc.log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._program, str(self.started_with or path)],
                stdout=log,
                stderr=log,
                env={**os.environ, "TCP_NODELAY": "1"},
            )
        wait_until(self._answers, 60, self.log)
        return self

    def stop(self) -> None:
        """SIGTERM, and wait for it to come to rest."""
        if self._process is not None:
            self._process.terminate()
            assert self._process.wait(timeout=60) == 0, self.log()
            self._process = None

    def kill(self) -> None:
        """SIGKILL."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self.log()
        try:
            self.get("/system")
            # it answers before its plugins are told that it has started
            return "DicomNode" not in self.configuration or self.get("/dicomnode/status") != NOT_STARTED
        except urllib.error.URLError:
            return False

    # --- REST -----------------------------------------------------------------------------

    def get(self, path: str) -> Any:
        return self._ask("GET", path, None)

    def post(self, path: str, body: bytes | str = b"") -> Any:
        return self._ask("POST", path, body.encode() if isinstance(body, str) else body)

    def _ask(self, method: str, path: str, body: bytes | None) -> Any:
        request = urllib.request.Request(self.url + path, body, method=method)
        with _OPENER.open(request, timeout=30) as answer:
            return json.loads(answer.read() or b"null")

    def status_of(self, method: str, path: str) -> tuple[int, dict[str, Any]]:
        """The HTTP status and the object of an answer that may be an error."""
        request = urllib.request.Request(self.url + path, b"" if method == "POST" else None, method=method)
        try:
            with _OPENER.open(request, timeout=30) as answer:
                return answer.status, json.loads(answer.read())
        except urllib.error.HTTPError as error:
            with error:
                content = error.read()
                return error.code, json.loads(content) if content else {}

    def file(self, instance_id: str) -> bytes:
        """The DICOM file of one instance."""
        with _OPENER.open(f"{self.url}/instances/{instance_id}/file", timeout=30) as answer:
            return bytes(answer.read())

    def upload(self, paths: Sequence[Path]) -> str:
        """Store files over REST; Orthanc's name of their series."""
        return [str(self.post("/instances", path.read_bytes())["ParentSeries"]) for path in paths][-1]

    def metadata(self, series_id: str) -> dict[str, str]:
        return dict(self.get(f"/series/{series_id}/metadata?expand"))

    def series(self) -> list[dict[str, Any]]:
        return list(self.get("/series?expand"))

    def enhanced(self) -> list[dict[str, Any]]:
        """The CT series that a dicomnode has made."""
        return [
            one
            for one in self.series()
            if one["MainDicomTags"].get("Manufacturer", "").lower() == "dicomnode"
            and one["MainDicomTags"]["Modality"] == "CT"
        ]

    def plugin(self, series_id: str) -> dict[str, Any]:
        """What the plugin says of a series."""
        return dict(self.get(f"/dicomnode/series/{series_id}"))

    def jobs(self, kind: str = "DicomModalityStore") -> list[dict[str, Any]]:
        return [one for one in self.get("/jobs?expand") if one["Type"] == kind]

    def wait_for(self, series_id: str, *states: str, seconds: float = 100.0) -> dict[str, Any]:
        """Wait until the plugin says one of these states of a series."""
        wait_until(
            lambda: self.plugin(series_id)["state"] in states,
            seconds,
            lambda: (self.plugin(series_id), self.get("/dicomnode/status"), self.log()[-3000:]),
        )
        return self.plugin(series_id)


@contextmanager
def running_plugin(*orthancs: Orthanc) -> Iterator[None]:
    """Start them; whatever becomes of the test, nothing is left running."""
    try:
        for orthanc in orthancs:
            orthanc.start()
        yield
        for orthanc in orthancs:
            orthanc.stop()
    finally:
        for orthanc in orthancs:
            orthanc.kill()


def settle(seconds: float) -> None:
    """Let pass time in which nothing must happen."""
    time.sleep(seconds)
