"""A real Orthanc with the plugin, as PACS of the demonstration: the scanner knows only Orthanc."""

import json
import shutil
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import httpx

from dicomnode.demo.pacs import NODE, DemoFailed, free_port, port_if_free
from dicomnode.errors import DicomnodeError
from dicomnode.settings import Destination

PLUGIN: Final = Path(__file__).resolve().parents[2] / "orthanc-plugin" / "python" / "dicomnode_orthanc.py"
_LIBRARIES: Final = (Path("/usr/share/orthanc/plugins"), Path("/usr/local/share/orthanc/plugins"))
_BROWSERS: Final = ("chromium", "chromium-browser", "google-chrome")
_USUAL_HTTP_PORT: Final = 8042
"""Where people look for an Orthanc; a free one is taken where something listens there."""
_START_SECONDS: Final = 60.0
_STABLE_AGE_SECONDS: Final = 3
_SETTLE_SECONDS: Final = 60.0
_BROWSER_SECONDS: Final = 60.0
_BROWSER_TRIES: Final = 3
_NO_KEEPING: Final = httpx.Limits(max_keepalive_connections=0)
"""Orthanc lets go of quiet connections; no request shall meet that moment."""


class OrthancMissing(DicomnodeError):
    """The demonstration was asked to use an Orthanc that is not installed."""


def check_orthanc() -> tuple[str, Path]:
    """Orthanc's program and its Python plugin. Raises OrthancMissing."""
    program = shutil.which("Orthanc")
    library = next((p for f in _LIBRARIES if (p := f / "libOrthancPython.so").exists()), None)
    if program is None or library is None:
        raise OrthancMissing("Orthanc or its Python plugin is missing: apt-get install orthanc-python")
    if not PLUGIN.exists():
        raise OrthancMissing(f"{PLUGIN} is missing: run the demonstration from a clone of the repository")
    return program, library


class OrthancPacs:
    """Orthanc in a process of its own and a folder that goes with it. Results are fetched to `folder`."""

    ae_title = "ORTHANC"
    callers: tuple[str, ...] = (ae_title,)

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.web_port: int | None = free_port()
        self._room = tempfile.TemporaryDirectory(prefix="dicomnode-orthanc-")
        self._process: subprocess.Popen[bytes] | None = None
        self.url = f"http://127.0.0.1:{port_if_free(_USUAL_HTTP_PORT) or free_port()}"
        self._web = httpx.Client(base_url=self.url, timeout=60.0, trust_env=False, limits=_NO_KEEPING)

    def open(self, node_port: int) -> None:
        """Start Orthanc and wait until it answers. Raises DemoFailed."""
        program, library = check_orthanc()
        room = Path(self._room.name)
        (room / "orthanc.json").write_text(json.dumps(self._configuration(room, library, node_port)))
        log = room / "orthanc.log"
        with log.open("wb") as to:
            self._process = subprocess.Popen([program, str(room / "orthanc.json")], stdout=to, stderr=to)
        until = time.monotonic() + _START_SECONDS
        while time.monotonic() < until and self._process.poll() is None:
            try:
                self._web.get("/dicomnode/status").raise_for_status()
                return
            except httpx.HTTPError:
                time.sleep(0.2)
        raise DemoFailed(f"Orthanc did not start: {log.read_text(errors='replace')[-2000:]}")

    def _configuration(self, room: Path, library: Path, node_port: int) -> dict[str, Any]:
        return {
            "Name": "dicomnode demonstration",
            "StorageDirectory": str(room / "storage"),
            "IndexDirectory": str(room / "storage"),
            "DicomAet": self.ae_title,
            "DicomPort": self.port,
            "HttpPort": int(self.url.rsplit(":", 1)[1]),
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False,
            "StableAge": _STABLE_AGE_SECONDS,
            "DicomModalities": {"dicomnode": [NODE, "127.0.0.1", node_port]},
            "Plugins": [str(library)],
            "PythonScript": str(PLUGIN),
            "DicomNode": {"Modality": "dicomnode", "Url": f"http://127.0.0.1:{self.web_port}"},
        }

    def entrance(self, node_port: int) -> Destination:
        """Orthanc itself: the way to the node is the plugin's affair."""
        return Destination(
            name="orthanc", ae_title=self.ae_title, host="127.0.0.1", port=self.port, associations=2
        )

    def settle(self) -> None:
        """Wait until the plugin has seen the end. Raises DemoFailed."""
        until = time.monotonic() + _SETTLE_SECONDS
        told: dict[str, Any] = {}
        while time.monotonic() < until:
            states = [self._get(f"/dicomnode/series/{series}") for series in self._get("/series")]
            told = next((state for state in states if state["state"] not in ("result", "new")), {})
            if told.get("final"):
                return
            time.sleep(0.5)
        raise DemoFailed(f"the plugin in Orthanc does not show the end: {told.get('words', 'no series')}")

    def _get(self, path: str) -> Any:
        try:
            return self._web.get(path).raise_for_status().json()
        except httpx.HTTPError as error:
            raise DemoFailed(f"Orthanc does not answer {path}: {error}") from error

    def returned(self) -> list[Path]:
        """Fetch every instance that the node made. Raises DemoFailed."""
        paths = []
        try:
            for series in self._ours():
                for instance in series["Instances"]:
                    path = self.folder / f"{instance}.dcm"
                    path.write_bytes(self._web.get(f"/instances/{instance}/file").raise_for_status().content)
                    paths.append(path)
        except httpx.HTTPError as error:
            raise DemoFailed(f"Orthanc does not give back what it was sent: {error}") from error
        return paths

    def _ours(self) -> list[dict[str, Any]]:
        asked = {"Level": "Series", "Expand": True, "Query": {"Manufacturer": "dicomnode"}}
        found: list[dict[str, Any]] = self._web.post("/tools/find", json=asked).raise_for_status().json()
        return found

    @property
    def study_page(self) -> str:
        """The page of the study in Orthanc Explorer."""
        return f"{self.url}/app/explorer.html#study?uuid={self._get('/studies')[0]}"

    def photograph(self, picture: Path) -> bool:
        """Keep a picture of the study's page; False where no browser is at hand, or none that draws it."""
        browser = next((found for name in _BROWSERS if (found := shutil.which(name))), None)
        page = self.study_page
        for _ in range(_BROWSER_TRIES if browser else 0):
            # A browser that ends badly leaves children that go on writing into its profile for a moment.
            with tempfile.TemporaryDirectory(
                prefix="dicomnode-browser-", ignore_cleanup_errors=True
            ) as profile:
                command = [
                    *(str(browser), "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"),
                    *("--disable-dev-shm-usage", f"--user-data-dir={profile}"),
                    *(f"--screenshot={picture.resolve()}", "--window-size=1280,900"),
                    *("--virtual-time-budget=8000", page),
                ]
                with suppress(subprocess.TimeoutExpired):
                    subprocess.run(command, capture_output=True, timeout=_BROWSER_SECONDS, check=False)
            if picture.exists():
                return True
        return False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._web.close()
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                self._process.kill()
        self._room.cleanup()
