"""The functions that newer Orthancs give to Python, as their public documentation describes them.

Orthanc 1.12.10 with its Python plugin 7.0 could not be installed here: these stand in for exactly its queues,
key-value stores and global properties. `Database` outlives a process; `OldSdk` and `NewSdk` are processes.
"""

import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass
class Database:
    """What is durable."""

    properties: dict[int, str] = field(default_factory=dict)
    queues: dict[str, dict[int, tuple[bytes, float]]] = field(default_factory=dict)
    """Name of a queue -> ticket -> value, and reserved until when."""
    stores: dict[str, dict[str, bytes]] = field(default_factory=dict)
    tickets: "itertools.count[int]" = field(default_factory=itertools.count)


class OldSdk:
    """Of Orthanc 1.10.1: global properties alone."""

    OrthancException = RuntimeError

    def __init__(self, database: Database, clock: Callable[[], float] = time.monotonic) -> None:
        self._database, self._clock = database, clock

    def GetGlobalProperty(self, number: int, default: str) -> str:
        return self._database.properties.get(number, default)

    def SetGlobalProperty(self, number: int, value: str) -> None:
        self._database.properties[number] = value

    def LogWarning(self, message: str) -> None:
        pass


class _QueueOrigin:
    FRONT, BACK = 0, 1


class _Iterator:
    """Keys in lexicographical order; Next before the first key, and false at the end."""

    def __init__(self, kept: dict[str, bytes]) -> None:
        self._left = sorted(kept.items())
        self._at: tuple[str, bytes] | None = None

    def Next(self) -> bool:
        self._at = self._left.pop(0) if self._left else None
        return self._at is not None

    def GetKey(self) -> str:
        assert self._at is not None
        return self._at[0]

    def GetValue(self) -> bytes:
        assert self._at is not None
        return self._at[1]


class NewSdk(OldSdk):
    """Of Orthanc 1.12.10. Asked for what is not there it fails: the published bindings are unsafe there."""

    QueueOrigin = _QueueOrigin

    def EnqueueValue(self, queue_id: str, value: bytes) -> None:
        assert isinstance(value, bytes)
        self._database.queues.setdefault(queue_id, {})[next(self._database.tickets)] = (value, 0.0)

    def GetQueueSize(self, queue_id: str) -> int:
        return len(self._database.queues.get(queue_id, {}))

    def ReserveQueueValue(
        self, queue_id: str, origin: int, release_timeout: int
    ) -> tuple[bytes, int] | tuple[None, None]:
        queue = self._database.queues.get(queue_id, {})
        assert queue, "an empty queue is not to be reserved from"
        assert origin == _QueueOrigin.FRONT
        now = self._clock()
        for ticket in sorted(queue):
            value, until = queue[ticket]
            if until <= now:
                queue[ticket] = (value, now + release_timeout)
                return value, ticket
        return None, None

    def AcknowledgeQueueValue(self, queue_id: str, value_id: int) -> None:
        del self._database.queues[queue_id][value_id]

    def StoreKeyValue(self, store_id: str, key: str, value: bytes) -> None:
        assert value, "an empty value cannot be stored"
        self._database.stores.setdefault(store_id, {})[key] = value

    def DeleteKeyValue(self, store_id: str, key: str) -> None:
        self._database.stores.get(store_id, {}).pop(key, None)

    def CreateKeysValuesIterator(self, store_id: str) -> _Iterator:
        return _Iterator(self._database.stores.get(store_id, {}))
