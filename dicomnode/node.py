"""The running process: the receiver, the watch over arriving series, and the journey; orderly start and stop.

    with Node(settings, observe=print) as node:
        ...                                     # node.port, node.jobs(), node.retry(job_id)

The receiver's threads only hand over what is safe on the disk; one thread of the node decides which series
are complete and makes jobs of them. Nothing that matters is in memory alone: a series whose end was not seen
before a stop or a crash is found in the spool at the next start.
"""

import logging
import queue
import signal
import threading
import time
from collections import Counter
from pathlib import Path
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Final

from dicomnode import __version__
from dicomnode.engines.catalog import load_engine
from dicomnode.engines.need.engine import NeedEngine
from dicomnode.errors import (
    DicomnodeError,
    DoseUnknown,
    JobError,
    SourceUnknown,
)
from dicomnode.journey.asking import Asking, Counting
from dicomnode.journey.desk import Awaited, Count, Desk, End, FurtherSender, News
from dicomnode.journey.job import Job, Observer, read_jobs, retry_requests
from dicomnode.journey.workflow import Journey
from dicomnode.network.receive import AssociationOutcome, ReceivedInstance, Receiver
from dicomnode.settings import Settings
from dicomnode.spool import Spool, key

if TYPE_CHECKING:  # what they need is loaded where the configuration asks for it
    from dicomnode.journey.pulling import Pull, Pulling
    from dicomnode.web.server import WebServer

_TICK_SECONDS: Final = 0.5
_GRACE_SECONDS: Final = 20.0
_AGAIN_SECONDS: Final = 30.0
_PRUNE_SECONDS: Final = 86400.0

log = logging.getLogger(__name__)
# Its informational lines hold the UIDs of the images that a report is about.
logging.getLogger("highdicom").setLevel(logging.WARNING)


class Node:
    """One node in this process. `observe` is told of every change of a job, in the thread that makes it.

    `engine` is for whoever has one loaded already; else the model that the settings name is loaded at start.
    """

    def __init__(
        self, settings: Settings, observe: Observer | None = None, engine: NeedEngine | None = None
    ) -> None:
        self._settings = settings
        self._observe = observe
        self._engine = engine
        self._spool = Spool(settings.node.spool, settings.node.reserve_bytes)
        self._receiver = Receiver(settings, self._spool, self._on_stored, self._on_association_end)
        self._handed_over: queue.SimpleQueue[News] = queue.SimpleQueue()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watch", daemon=True)
        self._journey: Journey | None = None
        self._desk: Desk | None = None
        self._asking: Asking | None = None
        self._pulling: Pulling | None = None
        self._web: WebServer | None = None
        self._retrying = threading.Lock()
        self._unheard: Counter[str] = Counter()
        self._unheard_guard = threading.Lock()
        self._counting = Counting(settings, lambda *count: self._handed_over.put(Count(*count)))

    # --- life -----------------------------------------------------------------------------

    def start(self) -> None:
        """Take up what was left, then open the port. Raises DicomnodeError."""
        removed = self._spool.claim()
        node, engine = self._settings.node, self._settings.engine
        log.info("dicomnode %s, spool %s, %d leftovers removed", __version__, self._spool.root, removed)
        try:
            model = self._engine or load_engine(
                engine.models_folder, engine.model, engine.device, engine.threads
            )
            self._journey = Journey(self._settings, self._spool, model, self._on_change)
            self._desk = Desk(self._settings, self._spool, self._journey, self._counting, _AGAIN_SECONDS)
            self._desk.sweep(time.monotonic())  # first: the journey wants to know the dose reports
            filing, wanted = self._receiver.filing, self._journey.late.wanted
            self._asking = Asking(self._settings, filing, self._on_stored, wanted)
            self._journey.start()
            for job in self._journey.book.jobs() if self._settings.sources else ():
                self._want_report(job)
            for series_key in self._journey.senders.noted():
                self._handed_over.put(FurtherSender(series_key))
            self._asking.start()
            self._counting.start()
            self._start_pulling()
            self._thread.start()
            self._receiver.start()
            self._start_web()
        except BaseException:
            self.stop(grace_seconds=0.0)
            raise
        log.info("%s is ready on port %d", node.ae_title, self.port)

    def _start_pulling(self) -> None:
        if self._settings.web_sources:
            from dicomnode.journey.pulling import Pulling

            self._pulling = Pulling(
                self._settings,
                self._spool,
                self._receiver.filing,
                self._on_stored,
                told=lambda *count: self._handed_over.put(Count(*count)),
                awaits=lambda *count: self._handed_over.put(Awaited(*count)),
                has_too=self._on_sender,
            )
            self._pulling.start()

    def _start_web(self) -> None:
        if self._settings.web.port is not None:
            from dicomnode.web.server import WebServer

            self._web = WebServer(self._settings.web, self)
            self._web.start()

    def stop(self, grace_seconds: float = _GRACE_SECONDS) -> bool:
        """Close the port, break off what is being worked on so that it goes on at the next start, let go.

        Returns whether everything has come to rest; if not, a thread is still busy (with a peer that does
        not answer, for example) and the process should end without waiting for it.
        """
        self._receiver.stop()
        rested = self._web is None or self._web.stop()
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(timeout=max(grace_seconds, 1.0))
        rested = (self._pulling is None or self._pulling.stop(1.0)) and rested
        rested = (self._journey is None or self._journey.stop(grace_seconds)) and rested
        rested = rested and not self._thread.is_alive()
        rested = (self._asking is None or self._asking.stop(1.0)) and rested
        rested = self._counting.stop(1.0) and rested
        if rested:
            self._spool.release()
        return rested

    def run(self) -> int:
        """Start, work until SIGTERM or SIGINT, stop; return the exit status. For the main thread."""
        asked = threading.Event()

        def on_signal(number: int, _: FrameType | None) -> None:
            log.info("stopping (%s); once more to stop at once", signal.Signals(number).name)
            signal.signal(number, signal.SIG_DFL)
            asked.set()

        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, on_signal)
        self.start()
        while not asked.wait(_TICK_SECONDS):
            if not self._thread.is_alive():
                log.critical("the watch over arriving series has ended by an error; the node stops")
                self.stop()
                return 1
        if not self.stop():
            log.warning("a thread is still busy; what it does goes on at the next start")
        return 0

    def __enter__(self) -> "Node":
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.stop()

    # --- looking and asking -----------------------------------------------------------------

    @property
    def port(self) -> int:
        """The DICOM port that is open."""
        return self._receiver.port

    def jobs(self) -> list[Job]:
        """Every job in the spool, oldest first."""
        return self._journey.book.jobs() if self._journey is not None else read_jobs(self._spool.root)

    def retry(self, job_id: str) -> Job:
        """Start a job again that has ended without its result everywhere. Raises JobError."""
        if self._journey is None:
            raise JobError("the node is not running")
        with self._retrying:  # asked for twice at once it starts again once
            return self._journey.retry(job_id)

    @property
    def web_port(self) -> int | None:
        """The HTTP port that is open, if any."""
        return self._web.port if self._web is not None else None

    @property
    def ae_title(self) -> str:
        """The name of this node in the network."""
        return self._settings.node.ae_title

    def jobs_of(self, series_uid: str) -> list[Job]:
        """The newest job of each stack of a series."""
        return self._journey.book.of_series(key(series_uid)) if self._journey is not None else []

    def instances_of(self, series_uid: str) -> list[Path]:
        """Every file that is held for a series."""
        return self._spool.instances(series_uid)

    def is_receiving(self, series_uid: str) -> bool:
        """Whether images of a series are here that are not a job yet, because more are waited for."""
        unheard = series_uid in self._unheard
        return unheard or (self._desk is not None and self._desk.is_watching(series_uid))

    def pulls_of(self, series_uid: str) -> list["Pull"]:
        """The requests to fetch a series."""
        return self._pulling.of_series(series_uid) if self._pulling is not None else []

    def fetch(self, source: str, study_uid: str, series_uid: str) -> None:
        """Ask a web source for what is not here of a series. Raises SourceUnknown, DiskFull, SpoolError."""
        if self._pulling is None:
            raise SourceUnknown("web_sources: the configuration has no source to fetch from")
        self._pulling.ask(source, study_uid, series_uid)

    # --- what arrives -----------------------------------------------------------------------

    def _on_change(self, job: Job) -> None:
        self._want_report(job)
        if self._observe is not None:
            self._observe(job)

    def _want_report(self, job: Job) -> None:
        """Ask for the dose report of a series that was refused without one."""
        if (job.status, job.rule) == ("refused", DoseUnknown.rule) and self._asking and self._journey:
            self._asking.want(self._journey.book.study(job.job_id))

    def _on_stored(self, received: ReceivedInstance) -> None:
        if received.new:
            self._count_unheard(received.series_instance_uid, 1)
        elif self._journey is not None and self._journey.senders.came_again(received):
            self._handed_over.put(FurtherSender(key(received.series_instance_uid)))
        self._handed_over.put(received)

    def _on_sender(self, series_uid: str, calling_ae: str) -> None:
        if self._journey is not None and self._journey.senders.note(series_uid, calling_ae):
            self._handed_over.put(FurtherSender(key(series_uid)))

    def _count_unheard(self, series_uid: str, change: int) -> None:
        """Images that are safe on the disk, and that the thread which decides does not know of yet."""
        with self._unheard_guard:
            self._unheard[series_uid] += change
            if not self._unheard[series_uid]:
                del self._unheard[series_uid]

    def _on_association_end(self, outcome: AssociationOutcome, series_uids: frozenset[str]) -> None:
        self._handed_over.put(End(outcome, series_uids))

    def _watch(self) -> None:
        """The node's own thread: arrivals in the order they came, then what is due, then requests."""
        assert self._desk is not None
        looked_at = pruned_at = taken_up_at = time.monotonic()
        while not self._stopping.is_set():
            try:
                news = self._handed_over.get(timeout=_TICK_SECONDS)
            except queue.Empty:
                news = None
            now = time.monotonic()
            if news is not None:
                self._desk.hear(news, now)
                if isinstance(news, ReceivedInstance) and news.new:
                    self._count_unheard(news.series_instance_uid, -1)
            if now - looked_at >= _TICK_SECONDS:
                self._desk.hand_in(now)
                self._answer_requests()
                looked_at = now
            if now - taken_up_at >= _AGAIN_SECONDS:
                self._desk.journey.take_up_left()
                taken_up_at = now
            if now - pruned_at >= _PRUNE_SECONDS:
                self._desk.journey.prune()
                pruned_at = now

    def _answer_requests(self) -> None:
        """What other processes ask for by leaving a file: `dicomnode retry` runs beside the node."""
        for path, job_id in retry_requests(self._spool.root):
            try:
                log.info("job %s: starts again on request", self.retry(job_id).job_id)
            except (DicomnodeError, OSError) as error:
                log.warning("job %s: cannot start again (%s)", job_id, error)
            path.unlink(missing_ok=True)
