"""A hospital on this machine: an Orthanc with the plugin and a node beside it, from the files in deploy/.

Each in a process of its own that can be killed and started again.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

from dicomnode.demo.orthanc import PLUGIN, check_orthanc
from dicomnode.network.send import echo
from dicomnode.settings import Destination
from tests.network.conftest import free_port

ROOT = Path(__file__).resolve().parents[1]
DEPLOYED = ROOT / "deploy" / "orthanc"
TOKEN = "a-token-of-this-test-long-enough-to-be-one"


class Site:
    """`node` holds further environment of the node, as in DICOMNODE__COMPLETENESS__QUIET_SECONDS."""

    def __init__(self, folder: Path, stable_age_seconds: int = 2, **node: str) -> None:
        self.folder = folder
        ports = {
            name: str(free_port())
            for name in ("ORTHANC_DICOM_PORT", "ORTHANC_HTTP_PORT", "DICOMNODE_PORT", "DICOMNODE_WEB_PORT")
        }
        self.ports = {name: int(port) for name, port in ports.items()}
        self._environment = {
            **os.environ,
            **ports,
            "TCP_NODELAY": "1",
            "ORTHANC_STABLE_AGE": str(stable_age_seconds),
            "DICOMNODE_TOKEN": TOKEN,
            "DICOMNODE__WEB__TOKEN": TOKEN,
            "DICOMNODE__WEB__PORT": ports["DICOMNODE_WEB_PORT"],
            "DICOMNODE__NODE__HOST": "127.0.0.1",
            "DICOMNODE__NODE__PORT": ports["DICOMNODE_PORT"],
            "DICOMNODE__NODE__SPOOL": str(folder / "spool"),
            "DICOMNODE__NODE__RESERVE_GIB": "0",
            "DICOMNODE__DESTINATIONS__0__PORT": ports["ORTHANC_DICOM_PORT"],
            "DICOMNODE__DESTINATIONS__0__RETRY__FIRST_SECONDS": "1",
            "DICOMNODE__DESTINATIONS__0__RETRY__LONGEST_SECONDS": "5",
            "DICOMNODE__SOURCES__0__PORT": ports["ORTHANC_DICOM_PORT"],
            **node,
        }
        self.web = httpx.Client(
            base_url=f"http://127.0.0.1:{self.ports['ORTHANC_HTTP_PORT']}",
            timeout=60.0,
            trust_env=False,
            limits=httpx.Limits(max_keepalive_connections=0),
        )
        self.orthanc: subprocess.Popen[bytes] | None = None
        self.node: subprocess.Popen[bytes] | None = None

    @property
    def archive(self) -> Destination:
        """Where a scanner sends to."""
        port = self.ports["ORTHANC_DICOM_PORT"]
        return Destination(name="orthanc", ae_title="ORTHANC", host="127.0.0.1", port=port)

    # --- life ------------------------------------------------------------------------------

    def start_orthanc(self) -> None:
        """Start it and wait until plugin and DICOM answer."""
        program, library = check_orthanc()
        etc = self.folder / "etc"
        (self.folder / "storage").mkdir(parents=True, exist_ok=True)
        etc.mkdir(exist_ok=True)
        (etc / "orthanc.json").write_text((DEPLOYED / "orthanc.json").read_text())
        here = {
            "StorageDirectory": str(self.folder / "storage"),
            "IndexDirectory": str(self.folder / "storage"),
            "Plugins": [str(library)],
            "PythonScript": str(PLUGIN),
            "RemoteAccessAllowed": False,
        }
        (etc / "here.json").write_text(json.dumps(here))
        self.orthanc = self._start("orthanc", [program, str(etc)])
        self._await(self.orthanc, "orthanc", lambda: self.web.get("/dicomnode/status").is_success)
        self._await(self.orthanc, "orthanc", lambda: echo(self.archive, "TEST") >= 0)

    def start_node(self) -> None:
        """Start it and wait until it answers."""
        command = [sys.executable, "-m", "dicomnode", "serve", "--config", str(DEPLOYED / "node.yaml")]
        self.node = self._start("node", command)
        health = f"http://127.0.0.1:{self.ports['DICOMNODE_WEB_PORT']}/health"
        self._await(self.node, "node", lambda: httpx.get(health).is_success)

    def _start(self, name: str, command: list[str]) -> subprocess.Popen[bytes]:
        with (self.folder / f"{name}.log").open("ab") as log:
            return subprocess.Popen(command, stdout=log, stderr=log, env=self._environment, cwd=ROOT)

    def _await(self, process: subprocess.Popen[bytes], name: str, answers: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 120
        log = self.folder / f"{name}.log"
        while True:
            assert process.poll() is None, log.read_text(errors="replace")[-3000:]
            assert time.monotonic() < deadline, log.read_text(errors="replace")[-3000:]
            try:
                if answers():
                    return
            except Exception as error:  # noqa: BLE001  whatever a starting program says: not yet
                del error
            time.sleep(0.2)

    def kill_orthanc(self) -> None:
        """As a power cut does it."""
        assert self.orthanc is not None
        self.orthanc.kill()
        self.orthanc.wait()

    def kill_node(self) -> None:
        """As a power cut does it."""
        assert self.node is not None
        self.node.kill()
        self.node.wait()

    def __enter__(self) -> "Site":
        self.start_node()
        self.start_orthanc()
        return self

    def __exit__(self, *_: object) -> None:
        for process in (self.orthanc, self.node):
            if process is not None and process.poll() is None:
                process.send_signal(signal.SIGTERM)
                try:
                    process.wait(timeout=30)
                except subprocess.TimeoutExpired:
                    process.kill()
        self.web.close()

    # --- looking ---------------------------------------------------------------------------

    def series(self) -> list[dict[str, Any]]:
        """Every series that Orthanc has, expanded."""
        return list(self.web.get("/series", params={"expand": ""}).raise_for_status().json())

    def results(self) -> dict[str, list[tuple[str, int]]]:
        """By source Series Instance UID: (derived series UID, images) of each enhanced series in Orthanc."""
        found: dict[str, list[tuple[str, int]]] = {}
        for one in self.series():
            if (
                one["MainDicomTags"].get("Manufacturer") != "dicomnode"
                or one["MainDicomTags"]["Modality"] != "CT"
            ):
                continue
            tags = self.web.get(f"/instances/{one['Instances'][0]}/simplified-tags").raise_for_status().json()
            source = tags["ReferencedSeriesSequence"][0]["SeriesInstanceUID"]
            found.setdefault(source, []).append(
                (one["MainDicomTags"]["SeriesInstanceUID"], len(one["Instances"]))
            )
        return found
