"""Work that survives: DBOS on SQLite or PostgreSQL, and the only module that knows it.

Two workflows: `series`, one at a time, and `deliver`, one at a time for each destination. A pause is a
delayed workflow and not a sleeping one: a sleeping workflow would keep its place in the queue (one that
waits for a destination would stop the others), and its thread would outlive the node.

Queues and workflow ids carry the executor's name: nodes may share one PostgreSQL server, but the files of
a job lie in the spool of one of them.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Final, ParamSpec, TypeVar

from dbos import DBOS, DBOSConfig, DBOSPortableJSONSerializer, SetEnqueueOptions, SetWorkflowID
from sqlalchemy import make_url
from sqlalchemy.exc import SQLAlchemyError

from dicomnode.errors import JobError
from dicomnode.settings import Settings

VERSION: Final = "1"
"""Version of the steps, not of the program: after an upgrade that leaves the order of the steps alone, the
unfinished jobs go on. Raise it when the order changes: they are then started anew from their records."""
_POLL_SECONDS: Final = 0.5
_ACTIVE: Final = ["ENQUEUED", "DELAYED", "PENDING"]
_only_one: Final = threading.Lock()

Input = ParamSpec("Input")
Output = TypeVar("Output")
Active = frozenset[tuple[str, ...]]
"""(job,) or (job, destination) of workflows that will still run."""


class Durable:
    """The queues of one node. DBOS is one in a process, so this is too."""

    def __init__(self, settings: Settings) -> None:
        self._database_url = settings.node.database_url
        self._executor = settings.node.executor_id
        self._debug = settings.node.log_level == "DEBUG"
        self._series_queue = f"series-{self._executor}"
        self._deliver_queue = f"deliver-{self._executor}"
        self._open = False

    # --- life -----------------------------------------------------------------------------

    def open(self, series: Callable[[str, int], None], deliver: Callable[[str, str, int], None]) -> None:
        """Open the database and begin to work: `series(job, run)` and `deliver(job, destination, attempt)`.

        What was running when the process ended is taken up from its last finished step. Raises JobError.
        """
        if not _only_one.acquire(blocking=False):
            raise JobError("another node runs in this process; give it a process of its own")
        self._open = True
        DBOS(config=self._config())
        self._register(series, deliver)
        DBOS.listen_queues([self._series_queue, self._deliver_queue])
        with self._database():
            DBOS.launch()
            self._make_queues()

    def close(self) -> None:
        """Take nothing more from the queues and close the database. Running steps are not waited for."""
        if self._open:
            DBOS.destroy(destroy_registry=True)
            self._open = False
            _only_one.release()

    @contextmanager
    def _database(self) -> Iterator[None]:
        """Trouble of the database as a JobError."""
        try:
            yield
        except SQLAlchemyError as error:
            place = make_url(self._database_url).render_as_string(hide_password=True)
            raise JobError(f"node.database: {place} cannot be used: {str(error).splitlines()[0]}") from error

    def _config(self) -> DBOSConfig:
        """No conductor and no telemetry: nothing leaves the machine but to the database."""
        return DBOSConfig(
            name="dicomnode",
            system_database_url=self._database_url,
            application_version=VERSION,
            executor_id=self._executor,
            enable_otlp=False,
            log_level="DEBUG" if self._debug else "ERROR",
            serializer=DBOSPortableJSONSerializer(),
            notification_listener_polling_interval_sec=_POLL_SECONDS,
        )

    def _register(self, series: Callable[[str, int], None], deliver: Callable[[str, str, int], None]) -> None:
        """DBOS marks what it registers, and a bound method cannot be marked: hence two plain functions."""

        def travel(job_id: str, run: int) -> None:
            series(job_id, run)

        def bring(job_id: str, name: str, attempt: int) -> None:
            deliver(job_id, name, attempt)

        # Our own count of crashes decides (`Job.starts`): the one of DBOS counts orderly stops too, and a
        # delivery that goes on for days lives through many of those.
        self._series = DBOS.workflow(name="series", max_recovery_attempts=None)(travel)
        self._deliver = DBOS.workflow(name="deliver", max_recovery_attempts=None)(bring)

    def _make_queues(self) -> None:
        DBOS.register_queue(
            self._series_queue,
            worker_concurrency=1,
            polling_interval_sec=_POLL_SECONDS,
            on_conflict="always_update",
        )
        DBOS.register_queue(
            self._deliver_queue,
            partition_worker_concurrency=1,
            polling_interval_sec=_POLL_SECONDS,
            on_conflict="always_update",
        )

    # --- work -----------------------------------------------------------------------------

    def step(
        self, name: str, do: Callable[Input, Output], *args: Input.args, **named: Input.kwargs
    ) -> Output:
        """Inside a workflow: do it once. What it returned (JSON) is kept and is the answer after a crash."""
        return DBOS.run_step({"name": name}, do, *args, **named)

    def queue_series(self, job_id: str, run: int, pause_seconds: float | None = None) -> None:
        """Queue a run of a job, after a pause; the same run again is the same. Raises JobError."""
        with (
            self._database(),
            SetWorkflowID(f"{self._executor}/{job_id}/{run}"),
            SetEnqueueOptions(delay_seconds=pause_seconds),
        ):
            DBOS.enqueue_workflow(self._series_queue, self._series, job_id, run)

    def queue_delivery(
        self, job_id: str, name: str, attempt: int, pause_seconds: float | None = None
    ) -> None:
        """Queue an attempt to deliver to one destination; the same again is the same. Raises JobError."""
        with (
            self._database(),
            SetWorkflowID(f"{self._executor}/{job_id}/{name}/{attempt}"),
            SetEnqueueOptions(queue_partition_key=name, delay_seconds=pause_seconds),
        ):
            DBOS.enqueue_workflow(self._deliver_queue, self._deliver, job_id, name, attempt)

    def unused_run(self, job_id: str, run: int) -> int:
        """The first number from `run` on that no run has had: an ended one is not run again."""
        return self._unused(job_id, run)

    def unused_attempt(self, job_id: str, name: str, attempt: int) -> int:
        """The first number from `attempt` on that no attempt has had."""
        return self._unused(f"{job_id}/{name}", attempt)

    def _unused(self, what: str, number: int) -> int:
        with self._database():
            while DBOS.get_workflow_status(f"{self._executor}/{what}/{number}"):
                number += 1
        return number

    # --- looking back -----------------------------------------------------------------------

    def active(self) -> Active:
        """What will still run. Workflows of another version, which nobody can take up, are cancelled."""
        found = set()
        queues = [self._series_queue, self._deliver_queue]
        with self._database():
            for workflow in DBOS.list_workflows(status=_ACTIVE, queue_name=queues, load_output=False):
                if workflow.app_version != VERSION:
                    DBOS.cancel_workflow(workflow.workflow_id)
                elif workflow.input is not None:
                    found.add(tuple(str(part) for part in workflow.input["args"][:-1]))
        return frozenset(found)

    def prune(self, before: datetime) -> None:
        """Forget what ended before a time; that a job has ended stands in its record."""
        ended = DBOS.list_workflows(
            completed_before=before.isoformat(),
            workflow_id_prefix=f"{self._executor}/",
            load_input=False,
            load_output=False,
        )
        if ended:
            DBOS.delete_workflows([workflow.workflow_id for workflow in ended])
