"""Put hostile files through everything the node does with a file, under the limits it promises.

Each case runs in a worker process of its own limits: 1 GiB of address space above what the imported package
takes, and 2 seconds. The verdict is `accepted`, the rule that refused it, or a failure in words.
"""

import contextlib
import faulthandler
import gc
import json
import logging
import multiprocessing
import os
import resource
import shutil
import signal
import tempfile
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from itertools import pairwise
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Final

from pydicom.dataset import Dataset

from dicomnode.dicom.derived import Identity, Provenance, write_derived
from dicomnode.dicom.dose import DoseReading, read_dose, ssde_mgy
from dicomnode.dicom.exposure import read_exposure
from dicomnode.dicom.report import write_report
from dicomnode.dicom.series import CtSeries, read_headers, read_series
from dicomnode.engines.start_step import PhotonSchedule, match
from dicomnode.errors import AlreadyEnhanced, DicomnodeError, InstanceRefused, NetworkError, SeriesRefused
from dicomnode.journey.matching import slice_facts
from dicomnode.network import part10, protocol
from dicomnode.network.completeness import Arrival, judge
from dicomnode.network.filing import Filing, Request, read_file_header
from dicomnode.network.header import read_header
from dicomnode.settings import DoseReference
from dicomnode.spool import Spool
from tests.fuzz.mutations import CANARY
from tests.fuzz.sources import Case, Source, case
from tests.processor import with_children

SECONDS = 2.0
MEMORY_BYTES = 2**30
HANGS_SECONDS = 60.0
LONGEST_MESSAGE = 500
REPORT_EVERY = 4
"""Of the accepted series get a report: it takes as long as everything else together."""
SECRETS = (CANARY, "Canary", "Phantom^Textured", "PHANTOM-1", "CompressedSamples^CT1", "1CT1")


@dataclass(frozen=True)
class Outcome:
    """What became of a case. `verdict`: "accepted", a rule, or "failure" with the words in `trouble`.

    `seconds`: of the longest of the three ways in; of the processor, with the decoder's. Nothing waits for
    anything else, and other processes on the machine do not count. What does wait is found by the clock on
    the wall. `memory_bytes`: by how much the resident size grew at its peak, without the decoder's.
    """

    source: str
    seed: int
    verdict: str
    seconds: float
    wall_seconds: float = 0.0
    memory_bytes: int = 0
    trouble: str = ""
    told: str = ""


class Workers:
    """A few processes that play cases; a process that dies or hangs is replaced, and its case failed."""

    def __init__(self, sources: list[Source], count: int | None = None) -> None:
        self._sources = {source.name: source for source in sources}
        self._count = count or os.cpu_count() or 1
        self._mine = threading.local()
        self._started: list[_Worker] = []

    def play(self, drawn: Iterable[tuple[str, int]]) -> Iterator[Outcome]:
        """The outcome of each (source, seed), in their order."""
        with ThreadPoolExecutor(self._count) as pool:
            try:
                yield from pool.map(self._one, drawn)
            finally:
                for worker in self._started:
                    worker.end()

    def _one(self, drawn: tuple[str, int]) -> Outcome:
        outcome = self._attempt(drawn)
        # A machine that was stopped for a while answers the second time; what hangs hangs again.
        return self._attempt(drawn) if outcome.trouble.startswith("no answer") else outcome

    def _attempt(self, drawn: tuple[str, int]) -> Outcome:
        worker: _Worker | None = getattr(self._mine, "worker", None)
        if worker is None or not worker.alive:
            worker = self._mine.worker = _Worker(self._sources)
            self._started.append(worker)
        return worker.play(*drawn)


class _Worker:
    def __init__(self, sources: dict[str, Source], target: Callable[..., None] | None = None) -> None:
        context = multiprocessing.get_context("spawn")
        self._end, theirs = context.Pipe()
        # In memory where there is such a place: a busy disk can keep a case waiting for a minute.
        place = "/dev/shm" if Path("/dev/shm").is_dir() else None
        self._folder = Path(tempfile.mkdtemp(prefix="fuzz-", dir=place))
        self._process = context.Process(
            target=target or serve, args=(theirs, sources, self._folder), daemon=False
        )
        self._process.start()
        theirs.close()
        self._end.recv()

    @property
    def alive(self) -> bool:
        return self._process.is_alive()

    def play(self, source: str, seed: int, patience_seconds: float = HANGS_SECONDS) -> Outcome:
        try:
            self._end.send((source, seed))
            if self._end.poll(patience_seconds):
                outcome: Outcome = self._end.recv()
                return outcome
        except (EOFError, ConnectionError):
            self._process.join()
            return Outcome(
                source, seed, "failure", 0.0, 0.0, 0, f"the process died ({self._process.exitcode})"
            )
        self._say_where()
        self._process.kill()
        self._process.join()
        return Outcome(
            source, seed, "failure", 0.0, patience_seconds, 0, f"no answer in {patience_seconds:.0f} s"
        )

    def _say_where(self) -> None:
        """Let a process that hangs print where it is."""
        if self._process.pid is not None:
            os.kill(self._process.pid, signal.SIGUSR1)
            time.sleep(0.5)

    def end(self) -> None:
        """Let the process end, and remove what it left behind."""
        self._end.close()
        self._process.join(5)
        if self._process.is_alive():
            self._process.kill()
        shutil.rmtree(self._folder, ignore_errors=True)


def serve(pipe: Connection, sources: dict[str, Source], folder: Path, warm: bool = True) -> None:
    """Play what comes through the pipe, in a process of its own, until it is closed."""
    protocol.hush_pynetdicom()
    faulthandler.register(signal.SIGUSR1)
    if warm:
        play(case(next(iter(sources.values())), -1), folder)
    gc.freeze()  # what stays is not looked through after each case
    limit_memory()
    pipe.send("ready")
    while True:
        try:
            source, seed = pipe.recv()
        except EOFError:
            return
        pipe.send(play(case(sources[source], seed), folder))


def _start_peak() -> int:
    """Forget the largest resident size so far; the present one."""
    Path("/proc/self/clear_refs").write_text("5")
    return _peak_bytes()


def _peak_bytes() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("VmHWM")).split()[1])


def limit_memory() -> None:
    """Let this process take 1 GiB of address space more than it has now."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def play(one: Case, folder: Path) -> Outcome:
    """Run one case in this process; its files are laid into `folder`, which is left empty."""
    paths = []
    for number, content in enumerate(one.files):
        paths.append(folder / f"{number}.dcm")
        paths[-1].write_bytes(content)
    gc.collect()
    before_bytes = _start_peak()
    log = _Log()
    trouble, verdict, told = "", "", ""
    with log:
        began, used = time.monotonic(), [with_children()]
        # Finding what is no DicomnodeError is what this is for.
        try:
            verdict, told = _everything(
                paths, folder, used, one.seed % REPORT_EVERY in (0, -1 % REPORT_EVERY)
            )
        except Exception as error:  # noqa: BLE001
            frames = traceback.extract_tb(error.__traceback__)[-3:]
            where = " < ".join(f"{Path(f.filename).name}:{f.lineno}" for f in reversed(frames))
            trouble = f"{type(error).__name__} at {where}: {str(error)[:200]}"
        used.append(with_children())
        seconds = max(after - before for before, after in pairwise(used))
        wall_seconds = time.monotonic() - began
    memory_bytes = _peak_bytes() - before_bytes
    for left in folder.iterdir():
        shutil.rmtree(left) if left.is_dir() else left.unlink()
    if not trouble:
        trouble = _out_of_bounds(told, log.text, seconds)
    verdict = "failure" if trouble else verdict
    return Outcome(one.source, one.seed, verdict, seconds, wall_seconds, memory_bytes, trouble, told)


def _out_of_bounds(told: str, logged: str, seconds: float) -> str:
    leaked = [secret for secret in SECRETS if secret in told or secret in logged]
    if leaked:
        return f"a message or a log line quotes the file: {leaked[0]} in {(told + logged)[-300:]}"
    if len(told) > LONGEST_MESSAGE or not told.isprintable():
        return f"a message of {len(told)} characters, or with control characters"
    return f"took {seconds:.1f} s" if seconds > SECONDS else ""


class _Log:
    """What would have come out in a log or on the terminal."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._handler = logging.Handler()
        self._handler.emit = self._emit  # type: ignore[method-assign]

    @property
    def text(self) -> str:
        return "\n".join(self._lines)

    def _emit(self, record: logging.LogRecord) -> None:
        self._lines.append(record.getMessage())

    def _show(self, message: Warning | str, *_: object, **__: object) -> None:
        self._lines.append(str(message))

    def __enter__(self) -> None:
        logging.getLogger().addHandler(self._handler)
        self._before, warnings.showwarning = warnings.showwarning, self._show

    def __exit__(self, *_: object) -> None:
        logging.getLogger().removeHandler(self._handler)
        warnings.showwarning = self._before


# --- what the node does with a file -----------------------------------------------------------------


def _everything(paths: list[Path], folder: Path, used: list[float], with_report: bool) -> tuple[str, str]:
    """(verdict, all messages) of a series; raises what is not a DicomnodeError.

    `used` takes the processor's clock between the three ways in: what the receiver does, what reads headers
    alone, and the journey of the series.
    """
    told: list[str] = []
    for path in paths:
        try:
            _receive(path, folder)
        except InstanceRefused as refused:
            told.append(f"{refused.status:04X} {refused}")
        except DicomnodeError as error:
            told.append(str(error))
    for path in folder.glob("*.dcm"):
        with contextlib.suppress(OSError, NetworkError, InstanceRefused, ValueError):
            read_file_header(path)
    used.append(with_children())
    with contextlib.suppress(SeriesRefused):
        _look(paths)
    used.append(with_children())
    try:
        verdict = _enhance_nothing(paths, folder, with_report)
    except SeriesRefused as refused:
        verdict = refused.rule
        told.append(str(refused))
    return verdict, " | ".join(told)


def _receive(path: Path, folder: Path) -> None:
    """The receiver's part: header, filing under a spool, completeness."""
    content = path.read_bytes()
    meta = part10.parse_meta(content[: 1 << 16], path.name)
    header = read_header(content, meta.transfer_syntax_uid, meta.data_set_at)
    request = Request(
        affected_sop_class_uid=header.sop_class_uid,
        affected_sop_instance_uid=header.sop_instance_uid,
        context_sop_class_uid=header.sop_class_uid,
        transfer_syntax_uid=meta.transfer_syntax_uid,
        calling_ae="FUZZ",
        data_set=content[meta.data_set_at :],
    )
    filing = Filing(Spool(folder / "spool", 0))
    one = filing.file(request).arrival(0.0)
    filing.file(request)
    judge([one, *(Arrival(str(n), n, (n * 2.0, 0.0, n * 1.0), 0.0) for n in range(3))])


def _look(paths: list[Path]) -> None:
    """What is read of a series that is refused, too."""
    headers = read_headers(paths)
    for header in headers:
        read_exposure(header)
    json.dumps(asdict(read_dose(headers)), allow_nan=False)


def _enhance_nothing(paths: list[Path], folder: Path, with_report: bool) -> str:
    """The stations of the journey, with the unchanged image as the result."""
    series = read_series(paths)
    dose = read_dose(series.headers)
    for facts in slice_facts(series, dose, DoseReference()):
        json.dumps(asdict(facts), allow_nan=False)
        match(facts, PhotonSchedule())
    _write(series, dose, folder / "derived", with_report)
    return "accepted"


def _write(series: CtSeries, dose: DoseReading, folder: Path, with_report: bool) -> None:
    provenance = _provenance(dose)
    derived = write_derived(series, series.hounsfield, IDENTITY, provenance, folder)
    try:
        read_series(derived)
    except AlreadyEnhanced:
        pass
    else:
        raise AssertionError("a derived series was taken for a new one")
    if not with_report:
        return
    report = write_report(series, derived, IDENTITY, provenance, folder / "report.dcm")
    (header,) = read_headers([report])
    if not isinstance(header, Dataset) or header.Modality != "SR":
        raise AssertionError("the report does not read as one")


IDENTITY: Final = Identity(
    ae_title="DICOMNODE",
    device_uid="2.25.329800735698586629295641978511506172918",
    uid_key=bytes(32),
)


def _provenance(dose: DoseReading) -> Provenance:
    return Provenance(
        engine="none",
        model_id="unchanged",
        model_version="1.0.0",
        weights_digest="ab" * 32,
        configuration_digest="cd" * 32,
        dose=dose,
        photons=1e5,
        dose_fraction=0.25,
        dose_decided_by="noise",
        ssde_mgy=ssde_mgy(dose.mean_ctdivol_mgy, dose.phantom_cm, 300.0),
        water_equivalent_diameter_mm=300.0,
        start_step=1,
        steps=10,
        seed=1,
        noise_before_hu=20.0,
        noise_after_hu=20.0,
        processed_at=datetime(2026, 3, 4, 12, 30, 15, tzinfo=UTC),
    )
