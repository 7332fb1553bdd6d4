"""What the journeys are played with: a PACS that can be told how to answer, settings, and patience."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

from pydicom.dataset import FileMetaDataset
from pydicom.filereader import read_dataset
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom import AE, evt
from pynetdicom.sop_class import (
    ComprehensiveSRStorage,
    CTImageStorage,
    KeyObjectSelectionDocumentStorage,
    ParametricMapStorage,
    Verification,
)

from dicomnode.journey.job import Job
from dicomnode.network.send import Delivery, echo, send_files
from dicomnode.node import Node
from dicomnode.settings import Destination, Settings
from tests.makers import make_series, phantom

ROOT = Path(__file__).resolve().parents[2]
MODELS = ROOT / "models"
IMAGE = str(CTImageStorage)
REPORT = str(ComprehensiveSRStorage)
PARAMETRIC_MAP = str(ParametricMapStorage)
KEY_OBJECTS = str(KeyObjectSelectionDocumentStorage)


class Pacs:
    """A Storage SCP that remembers every C-STORE it was asked, and how it answered."""

    def __init__(self, port: int = 0, seconds: float = 0.0, classes: Sequence[str] = (IMAGE, REPORT)) -> None:
        self.classes = classes
        self.turned_away: tuple[str, ...] = ()
        """Classes for which it rejects the whole association, for good."""
        self.answer: Callable[[str, str], int] = lambda sop_class, uid: 0x0000
        self.asked: list[tuple[str, str, bytes, int]] = []
        self.seconds = seconds
        self._guard = threading.Lock()
        self._port = port
        self._server = None

    def start(self) -> "Pacs":
        entity = AE("PACS")
        for sop_class in self.classes:
            entity.add_supported_context(sop_class)
        entity.add_supported_context(Verification)
        self._server = entity.start_server(
            ("127.0.0.1", self._port),
            block=False,
            evt_handlers=[(evt.EVT_C_STORE, self._on_store), (evt.EVT_REQUESTED, self._on_requested)],
        )
        self._port = self._server.server_address[1]
        return self

    def stop(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server = None

    @property
    def port(self) -> int:
        return self._port

    def _on_requested(self, event: evt.Event) -> None:
        asked = {context.abstract_syntax for context in event.assoc.requestor.requested_contexts}
        if asked & set(self.turned_away):
            event.assoc.acse.send_reject(0x01, 0x01, 0x01)
            event.assoc.kill()

    def _on_store(self, event: evt.Event) -> int:
        request = event.request
        sop_class, uid = str(request.AffectedSOPClassUID), str(request.AffectedSOPInstanceUID)
        time.sleep(self.seconds)
        with self._guard:
            status = self.answer(sop_class, uid)
            self.asked.append((sop_class, uid, event.encoded_dataset(include_meta=False), status))
        return status

    def kept(self) -> dict[str, bytes]:
        """SOP Instance UID -> data set, of what was answered 0000; fails when a UID came with other bytes."""
        kept: dict[str, bytes] = {}
        for _, uid, content, status in self.asked:
            assert kept.get(uid, content) == content, "the same SOP Instance UID came with two contents"
            if status == 0x0000:
                kept[uid] = content
        return kept

    def images(self) -> list[str]:
        """SOP Instance UIDs of the images kept, in order of arrival, each once."""
        told = [
            uid for sop_class, uid, _, status in self.asked if sop_class == CTImageStorage and status == 0
        ]
        return list(dict.fromkeys(told))

    def reports(self) -> list[str]:
        """SOP Instance UIDs of the reports kept, each once."""
        return self.of_class(REPORT)

    def of_class(self, wanted: str) -> list[str]:
        """SOP Instance UIDs of the objects of one class that were kept, each once."""
        told = [uid for sop_class, uid, _, status in self.asked if sop_class == wanted and not status]
        return list(dict.fromkeys(told))

    def __enter__(self) -> "Pacs":
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()


def decoded(content: bytes):
    """A data set as it travelled (Explicit VR Little Endian)."""
    data = read_dataset(BytesIO(content), is_implicit_VR=False, is_little_endian=True)
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return data


def settings_for(folder: Path, *pacs_ports: int, **sections: dict | list) -> Settings:
    """Settings of a fast, impatient node with a destination pacs0, pacs1, ... on each port.

    A section that is given adds its keys to what stands here; a list replaces it.
    """
    peers = [
        {
            "name": f"pacs{number}",
            "ae_title": "PACS",
            "host": "127.0.0.1",
            "port": port,
            "retry": {"first_seconds": 0.2, "longest_seconds": 1.0},
        }
        for number, port in enumerate(pacs_ports)
    ]
    values = {
        "node": {"spool": folder / "spool", "port": 0, "host": "127.0.0.1", "reserve_gib": 0},
        "callers": [{"ae_title": "SCANNER"}],
        "completeness": {"closed_seconds": 0.2, "quiet_seconds": 2.0, "give_up_seconds": 2.0},
        "destinations": peers,
        "engine": {"models_folder": MODELS, "device": "cpu", "threads": 1},
        # the gate has its own tests; what the weights of the day do to a phantom must not decide here
        "quality": {"max_bias_hu": 50, "on_failure": "label"},
    }
    for name, section in sections.items():
        values[name] = section if isinstance(section, list) else {**values.get(name, {}), **section}
    return Settings.model_validate(values)


def low_dose_series(folder: Path, slices: int = 5, side: int = 64, seed: int = 0, **options) -> list[Path]:
    """A noisy series whose header says low dose: the engine has something to do."""
    volume = phantom(slices, side, side, noise_hu=60.0, seed=seed)
    return make_series(folder, volume, seed=seed, ctdivol_mgy=1.0, effective_mas=15.0, **options)


def send_to(port: int, paths: Sequence[Path], associations: int = 1) -> Delivery:
    """Play the scanner."""
    node = Destination(name="node", ae_title="DICOMNODE", host="127.0.0.1", port=port)
    return send_files(paths, node, "SCANNER", associations)


def wait_until(
    met: Callable[[], object], seconds: float = 100.0, told: Callable[[], object] = lambda: ""
) -> None:
    """Wait for a condition; fail with what is the case instead."""
    deadline = time.monotonic() + seconds
    while not met():
        assert time.monotonic() < deadline, f"not within {seconds} s: {told()}"
        time.sleep(0.02)


def wait_for_jobs(node: Node, count: int = 1, seconds: float = 100.0) -> list[Job]:
    """Wait until there are that many jobs and all have ended; return them, oldest first."""
    wait_until(
        lambda: len(node.jobs()) >= count and all(job.final for job in node.jobs()), seconds, told=node.jobs
    )
    jobs = node.jobs()
    assert len(jobs) == count, jobs
    return jobs


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


class Process:
    """A node of its own process."""

    def __init__(self, settings: Settings, folder: Path, *command: str) -> None:
        self.settings = settings
        self._log = folder / "node.log"
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, *command], cwd=ROOT, stdout=log, stderr=log, start_new_session=True
            )

    def log(self) -> str:
        """What it has printed so far."""
        return self._log.read_text()

    def wait_until_ready(self) -> None:
        node = self.settings.node
        peer = Destination(name="node", ae_title=node.ae_title, host="127.0.0.1", port=node.port)

        def answers() -> bool:
            assert self.process.poll() is None, self.log()
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", node.port)):
                    return False
            return echo(peer, "SCANNER") > 0

        wait_until(answers)

    def kill(self) -> None:
        """SIGKILL to it and to what it has started."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def terminate(self) -> int:
        """SIGTERM; the exit status."""
        self.process.terminate()
        return self.process.wait(timeout=60)


@contextmanager
def running(settings: Settings, folder: Path, *command: str) -> Iterator[Process]:
    process = Process(settings, folder, *command)
    try:
        yield process
    finally:
        if process.process.poll() is None:
            process.kill()
