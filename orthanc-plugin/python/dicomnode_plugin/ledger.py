"""What is still to do, kept in Orthanc's own database: series announced, and series under way.

Two ways of keeping it, with one meaning. Where Orthanc has durable queues and key-value stores they are used
(`QueueLedger`); else two global properties (`PropertyLedger`). An announcement that was taken and never
acknowledged comes again after a restart.
"""

from __future__ import annotations

import json
import threading
from typing import Any, Protocol, Sequence, Tuple

INSTALLED_PROPERTY, OPEN_PROPERTY, ANNOUNCED_PROPERTY = 4310, 4311, 4312
"""Numbers of Orthanc's global properties, of those left to plugins (1024 and above)."""

QUEUE, STORE = "dicomnode-announced", "dicomnode-open"
RELEASE_SECONDS = 60
"""After that an announcement that was not acknowledged is offered again; looking at one takes far less."""

QUEUE_FUNCTIONS = (
    "EnqueueValue",
    "ReserveQueueValue",
    "AcknowledgeQueueValue",
    "GetQueueSize",
    "StoreKeyValue",
    "DeleteKeyValue",
    "CreateKeysValuesIterator",
)

Taken = Tuple[str, Any]
"""An announcement and the ticket that acknowledges it."""


class Ledger(Protocol):
    """What is still to do; every method may be called from any thread."""

    def announce(self, text: str) -> None:
        """Remember an announcement; return once it is durable."""

    def take(self) -> Taken | None:
        """The oldest announcement that was not taken, or None."""

    def acknowledge(self, ticket: Any) -> None:
        """Forget an announcement that was taken."""

    def open(self, series_id: str) -> None:
        """Count a series as under way."""

    def close(self, series_id: str) -> None:
        """Count it no longer."""

    def opened(self) -> tuple[str, ...]:
        """All series under way."""


def make_ledger(sdk: Any) -> Ledger:
    """The best that this Orthanc offers; found by looking, not by version."""
    if all(hasattr(sdk, name) for name in QUEUE_FUNCTIONS):
        try:
            return QueueLedger(sdk)
        except (TypeError, sdk.OrthancException):  # a database that has neither queues nor stores
            sdk.LogWarning("dicomnode: this database has no queues; global properties are used")
    return PropertyLedger(sdk)


class QueueLedger:
    """Orthanc 1.12.10 and later: a durable queue of announcements, a key-value store of what is under way.

    The queue is only reserved from when it is not empty, and the store only read by its iterator: the
    published bindings answer "nothing there" with a None that they do not count, which Python before 3.12
    does not survive for ever.
    """

    def __init__(self, sdk: Any, release_seconds: int = RELEASE_SECONDS) -> None:
        self._sdk = sdk
        self._release_seconds = release_seconds
        self._opened = self._read()
        self._sdk.GetQueueSize(QUEUE)

    def announce(self, text: str) -> None:
        """Remember an announcement; return once it is durable."""
        self._sdk.EnqueueValue(QUEUE, text.encode())

    def take(self) -> Taken | None:
        """The oldest announcement that was not taken, or None."""
        if not self._sdk.GetQueueSize(QUEUE):
            return None
        origin = self._sdk.QueueOrigin.FRONT
        value, ticket = self._sdk.ReserveQueueValue(QUEUE, origin, self._release_seconds)
        return None if value is None else (value.decode("utf-8", "replace"), ticket)

    def acknowledge(self, ticket: Any) -> None:
        """Forget an announcement that was taken."""
        self._sdk.AcknowledgeQueueValue(QUEUE, ticket)

    def open(self, series_id: str) -> None:
        """Count a series as under way."""
        if series_id not in self._opened:
            self._sdk.StoreKeyValue(STORE, series_id, b"1")
            self._opened.add(series_id)

    def close(self, series_id: str) -> None:
        """Count it no longer."""
        if series_id in self._opened:
            self._sdk.DeleteKeyValue(STORE, series_id)
            self._opened.discard(series_id)

    def opened(self) -> tuple[str, ...]:
        """All series under way."""
        return tuple(sorted(self._opened))

    def _read(self) -> set[str]:
        found, iterator = set(), self._sdk.CreateKeysValuesIterator(STORE)
        while iterator.Next():
            found.add(str(iterator.GetKey()))
        return found


class PropertyLedger:
    """Any Orthanc: two lists as JSON in global properties, each written whole when it changes."""

    def __init__(self, sdk: Any) -> None:
        self._sdk = sdk
        self._guard = threading.Lock()
        self._announced: dict[int, str] = dict(enumerate(self._read(ANNOUNCED_PROPERTY)))
        self._next = len(self._announced)
        self._taken: set[int] = set()
        self._opened = dict.fromkeys(self._read(OPEN_PROPERTY))

    def announce(self, text: str) -> None:
        """Remember an announcement; return once it is durable."""
        with self._guard:
            self._announced[self._next] = text
            self._next += 1
            self._write(ANNOUNCED_PROPERTY, list(self._announced.values()))

    def take(self) -> Taken | None:
        """The oldest announcement that was not taken, or None."""
        with self._guard:
            ticket = next((one for one in self._announced if one not in self._taken), None)
            if ticket is None:
                return None
            self._taken.add(ticket)
            return self._announced[ticket], ticket

    def acknowledge(self, ticket: Any) -> None:
        """Forget an announcement that was taken."""
        with self._guard:
            self._taken.discard(ticket)
            if self._announced.pop(ticket, None) is not None:
                self._write(ANNOUNCED_PROPERTY, list(self._announced.values()))

    def open(self, series_id: str) -> None:
        """Count a series as under way."""
        with self._guard:
            if series_id not in self._opened:
                self._opened[series_id] = None
                self._write(OPEN_PROPERTY, list(self._opened))

    def close(self, series_id: str) -> None:
        """Count it no longer."""
        with self._guard:
            if series_id in self._opened:
                del self._opened[series_id]
                self._write(OPEN_PROPERTY, list(self._opened))

    def opened(self) -> tuple[str, ...]:
        """All series under way."""
        with self._guard:
            return tuple(sorted(self._opened))

    def _read(self, number: int) -> list[str]:
        try:
            told = json.loads(self._sdk.GetGlobalProperty(number, "[]") or "[]")
        except ValueError:
            return []
        return [str(one) for one in told] if isinstance(told, list) else []

    def _write(self, number: int, told: Sequence[str]) -> None:
        self._sdk.SetGlobalProperty(number, json.dumps(list(told)))
